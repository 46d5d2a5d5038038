"""Real drivers that die, wait or fail at named points, and go on: no trial ends twice."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from raytune_hpo import failpoints, journal
from raytune_hpo.journal import Record
from raytune_hpo.trial import TrialState
from tests.faults import inline

pytestmark = pytest.mark.faults

TRIALS = 5
DEATHS = [
    *(f"{point}:1:{action}" for point in failpoints.POINTS for action in ("kill", "exit")),
    *(f"journal.append:{nth}:kill" for nth in range(2, 34, 3)),
    *(f"journal.torn:{nth}:kill" for nth in range(2, 34, 5)),
    *(f"journal.written:{nth}:kill" for nth in range(3, 34, 3)),
    *(f"journal.synced:{nth}:kill" for nth in range(2, 10, 2)),
    *(f"checkpoint.draft:{nth}:kill" for nth in (2, 5, 9)),
    *(f"checkpoint.saved:{nth}:kill" for nth in (3, 7)),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "experiment.yaml").write_text(inline.EXPERIMENT)
    return tmp_path


def run_dir_of(folder: Path) -> Path:
    return folder / "raytune-results" / inline.NAME


def records_of(folder: Path) -> list[Record]:
    return journal.read(run_dir_of(folder)) if journal.exists(run_dir_of(folder)) else []


def finished(records: list[Record]) -> list[int]:
    ends = (record for record in records if record["type"] == "end")
    return [record["trial"] for record in ends if TrialState(record["state"]).finished]


def lasting(records: list[Record]) -> list[Record]:
    """Return the records that stay; a header under which nothing ever ran is written anew."""
    return records if any(record["type"] == "session" for record in records) else []


def began(folder: Path) -> list[int]:
    """Return the trials that ran, by what they noted themselves."""
    path = folder / "began"
    return [int(line.split()[0]) for line in path.read_text().splitlines()] if path.exists() else []


def check_whole(folder: Path, before: list[Record]) -> None:
    """Check the promise after the last session, by what was seen before it and by the trials."""
    records = records_of(folder)
    assert records[: len(before)] == before
    assert Counter(finished(records)) == Counter(range(TRIALS))
    assert records[-1]["reason"] == "trials"
    configs = {record["trial"]: record["config"] for record in records if record["type"] == "trial"}
    lines = (folder / "began").read_text().splitlines()
    assert {int(line.split()[0]): float(line.split()[1]) for line in lines} == {
        trial: pytest.approx(config["x"]) for trial, config in configs.items()
    }
    assert set(began(folder)) == set(range(TRIALS))


@pytest.mark.parametrize("death", DEATHS)
def test_death_at_a_point_repeats_and_loses_nothing(folder: Path, death: str) -> None:
    code = inline.finish(inline.start(folder, death))
    assert code in (-signal.SIGKILL, failpoints.EXIT_CODE), (folder / "output").read_text()
    before = lasting(records_of(folder))
    done = set(finished(before))
    runs_before = Counter(began(folder))
    assert inline.finish(inline.start(folder)) == 0, (folder / "output").read_text()
    check_whole(folder, before)
    again = Counter(began(folder)) - runs_before
    assert not done & again.keys(), "a finished trial ran again"


def test_death_after_death(folder: Path) -> None:
    """Twelve drivers in a row, each killed a little later in its own life."""
    before: list[Record] = []
    done: set[int] = set()
    for nth in range(1, 13):
        runs_before = Counter(began(folder))
        code = inline.finish(inline.start(folder, f"journal.append:{nth}:kill"))
        assert code == -signal.SIGKILL, (folder / "output").read_text()
        again = Counter(began(folder)) - runs_before
        assert not done & again.keys()
        records = records_of(folder)
        assert records[: len(before)] == before
        before, done = lasting(records), set(finished(records))
    assert inline.finish(inline.start(folder)) == 0
    check_whole(folder, before)


@pytest.mark.parametrize("kind", ["full", "broken"])
@pytest.mark.parametrize("nth", [1, 4, 9, 16])
def test_a_disk_that_refuses_ends_the_driver_in_good_order(
    folder: Path, kind: str, nth: int
) -> None:
    code = inline.finish(inline.start(folder, f"journal.append:{nth}:{kind}"))
    assert code == inline.EXIT_REFUSED
    output = (folder / "output").read_text()
    assert "cannot be written" in output
    assert "raytune-hpo resume" in output
    before = lasting(records_of(folder))
    assert inline.finish(inline.start(folder)) == 0
    check_whole(folder, before)


def wait_for_records(folder: Path, count: int) -> None:
    deadline = time.monotonic() + 30
    while len(records_of(folder)) < count:
        assert time.monotonic() < deadline, (folder / "output").read_text()
        time.sleep(0.02)


def test_a_second_driver_is_refused_while_the_first_lives(folder: Path, go: Path) -> None:
    first = inline.start(folder, f"journal.written:6:until={go}")
    wait_for_records(folder, 6)
    second = inline.start(folder)
    assert inline.finish(second) == inline.EXIT_REFUSED
    assert f"process {first.pid} on " in (folder / "output").read_text()
    go.touch()
    assert inline.finish(first) == 0
    check_whole(folder, [])


@pytest.mark.parametrize("locks", [True, False])
def test_a_killed_holder_leaves_no_lock(folder: Path, locks: bool) -> None:
    assert inline.finish(inline.start(folder, "journal.written:6:kill", locks=locks)) == -9
    assert inline.finish(inline.start(folder, locks=locks, lease_s=600.0)) == 0
    # Its process is gone, which needs no lease to see.
    assert "looking for" not in (folder / "output").read_text()
    check_whole(folder, [])


def test_without_locks_a_second_driver_on_the_same_machine_is_refused(
    folder: Path, go: Path
) -> None:
    first = inline.start(folder, f"journal.written:6:until={go}", locks=False)
    wait_for_records(folder, 6)
    assert inline.finish(inline.start(folder, locks=False)) == inline.EXIT_REFUSED
    go.touch()
    assert inline.finish(first) == 0
    check_whole(folder, [])


def test_without_locks_a_driver_on_another_machine_is_refused_while_the_first_lives(
    folder: Path, go: Path
) -> None:
    first = inline.start(folder, f"journal.written:6:until={go}", locks=False, lease_s=2.0)
    wait_for_records(folder, 6)
    second = inline.start(folder, locks=False, lease_s=60.0, host="other")
    assert inline.finish(second) == inline.EXIT_REFUSED
    assert "looking for" in (folder / "output").read_text()
    go.touch()
    assert inline.finish(first) == 0
    check_whole(folder, [])


@pytest.mark.parametrize("point", ["journal.written", "journal.append", "journal.synced"])
def test_a_holder_that_wakes_up_after_it_was_given_up_does_no_harm(
    folder: Path, point: str
) -> None:
    first = inline.start(folder, f"{point}:7:pause", locks=False, lease_s=1.0)
    assert first.pid is not None
    inline.wait_until_stopped(first.pid)
    taken = inline.start(folder, locks=False, lease_s=1.0, host="other")
    assert inline.finish(taken) == 0, (folder / "output").read_text()
    before = records_of(folder)
    os.kill(first.pid, signal.SIGCONT)
    assert inline.finish(first) == inline.EXIT_REFUSED
    assert "another driver has taken this run over" in (folder / "output").read_text()
    assert records_of(folder) == before
    check_whole(folder, before)


# Copies and moves


def _interrupted(folder: Path) -> Path:
    inline.finish(inline.start(folder, "journal.written:14:kill"))
    return run_dir_of(folder)


def test_a_copy_goes_on_as_a_run_of_its_own(folder: Path, tmp_path: Path) -> None:
    original = _interrupted(folder)
    (original / "mlflow.json").write_text("{}")
    before = {path: path.read_bytes() for path in original.rglob("*") if path.is_file()}
    copied = tmp_path / "copy"
    shutil.copytree(folder, copied, ignore=shutil.ignore_patterns("copy"))
    assert inline.finish(inline.start(copied)) == 0, (copied / "output").read_text()
    assert before == {path: path.read_bytes() for path in original.rglob("*") if path.is_file()}
    assert "this is a copy of" in (copied / "output").read_text()
    header, old = records_of(copied)[0], records_of(folder)[0]
    assert header["id"] != old["id"]
    assert header["copy_of"] == old["id"]
    assert header["folder"] == str(copied)
    assert not (run_dir_of(copied) / "mlflow.json").exists()
    assert Counter(finished(records_of(copied))) == Counter(range(TRIALS))
    assert began(folder) == began(copied)[: len(began(folder))]
    assert inline.finish(inline.start(folder)) == 0
    check_whole(folder, [])


def test_a_moved_folder_goes_on_as_the_same_run(folder: Path) -> None:
    original = _interrupted(folder)
    old = records_of(folder)[0]
    moved = folder / "moved"
    moved.mkdir()
    for path in list(folder.iterdir()):
        if path != moved:
            path.rename(moved / path.name)
    assert inline.finish(inline.start(moved)) == 0, (moved / "output").read_text()
    assert not original.exists()
    assert "this run was moved here from" in (moved / "output").read_text()
    assert records_of(moved)[0]["id"] == old["id"]
    assert Counter(finished(records_of(moved))) == Counter(range(TRIALS))
