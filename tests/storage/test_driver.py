"""Real drivers whose run is in a store: they die, wait, lose their disk, and nothing is lost."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from raytune_hpo import failpoints, journal, lock
from raytune_hpo.errors import RunError
from raytune_hpo.journal import Record
from raytune_hpo.results import RunResult
from raytune_hpo.storage import objects, place, reading, segments
from raytune_hpo.trial import TrialState
from tests.faults import inline
from tests.storage.s3 import Server

pytestmark = pytest.mark.faults

TRIALS = 5
DEATHS = [
    *(f"{point}:1:{action}" for point in failpoints.STORE_POINTS for action in ("kill", "exit")),
    *(f"journal.append:{nth}:kill" for nth in (1, 2, 5, 14, 27)),
    *(f"store.batch:{nth}:kill" for nth in (2, 3, 5, 9)),
    *(f"store.added:{nth}:kill" for nth in (2, 3, 5, 9)),
    *(f"store.checkpoint:{nth}:kill" for nth in (2, 5, 9)),
]


class Run:
    """An experiment whose runs go to a bucket, and its drivers."""

    def __init__(self, folder: Path, bucket: str, cache: Path) -> None:
        self.folder = folder
        self.url = f"{bucket}/runs/{inline.NAME}"
        self.cache = cache
        self.drivers: list[BaseProcess] = []
        self.write(bucket)

    def write(self, bucket: str, text: str = inline.EXPERIMENT) -> None:
        (self.folder / "experiment.yaml").write_text(f"{text}storage: {bucket}/runs\n")

    def start(self, failpoint: str | None = None, **world: Any) -> BaseProcess:
        env = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        env |= {
            place.CACHE_ENV: str(world.pop("cache", self.cache)),
            objects.PATIENCE_ENV: os.environ[objects.PATIENCE_ENV],
        }
        env |= world.pop("more", {})
        driver = inline.start(self.folder, failpoint, env=env, **{"lease_s": 1.0, **world})
        self.drivers.append(driver)
        return driver

    def close(self) -> None:
        """End what is left of the drivers, also of those that sleep."""
        for driver in self.drivers:
            driver.kill()
            driver.join()

    def records(self) -> list[Record]:
        try:
            return journal.read(reading.pull(self.url))
        except RunError:
            return []

    @property
    def output(self) -> str:
        return (self.folder / "output").read_text()

    def began(self) -> list[int]:
        path = self.folder / "began"
        lines = path.read_text().splitlines() if path.exists() else []
        return [int(line.split()[0]) for line in lines]

    def wait_for(self, count: int) -> None:
        deadline_s = time.monotonic() + 30
        while len(self.records()) < count:
            assert time.monotonic() < deadline_s, self.output
            time.sleep(0.05)

    def check_whole(self, before: list[Record]) -> None:
        """Check the promise after the last session."""
        records = self.records()
        assert records[: len(before)] == before
        assert [record["n"] for record in records] == list(range(len(records)))
        assert Counter(finished(records)) == Counter(range(TRIALS))
        assert records[-1]["reason"] == "trials"
        assert set(self.began()) == set(range(TRIALS))
        assert journal.read(place.working_copy(self.url)) == records


def finished(records: list[Record]) -> list[int]:
    ends = (record for record in records if record["type"] == "end")
    return [record["trial"] for record in ends if TrialState(record["state"]).finished]


def lasting(records: list[Record]) -> list[Record]:
    """Return the records that stay; a header under which nothing ever ran is written anew."""
    return records if any(record["type"] == "session" for record in records) else []


@pytest.fixture
def run(tmp_path: Path, bucket: str, cache: Path) -> Iterator[Run]:
    folder = tmp_path / "experiment"
    folder.mkdir()
    made = Run(folder, bucket, cache)
    yield made
    made.close()


@pytest.mark.parametrize("death", DEATHS)
def test_death_at_a_point_repeats_and_loses_nothing(run: Run, death: str) -> None:
    code = inline.finish(run.start(death))
    assert code in (-signal.SIGKILL, failpoints.EXIT_CODE), run.output
    before = lasting(run.records())
    done, runs_before = set(finished(before)), Counter(run.began())
    assert inline.finish(run.start()) == 0, run.output
    run.check_whole(before)
    again = Counter(run.began()) - runs_before
    assert not done & again.keys(), "a finished trial ran again"


def test_each_driver_on_a_new_machine_with_nothing_on_its_disk(run: Run, tmp_path: Path) -> None:
    """Six drivers in a row, each killed, each with a disk of its own that is lost with it."""
    before: list[Record] = []
    for number in range(6):
        here = tmp_path / f"disk-{number}"
        code = inline.finish(
            run.start(f"store.added:{3 + number}:kill", cache=here, host=f"machine-{number}")
        )
        assert code == -signal.SIGKILL, run.output
        shutil.rmtree(here)
        records = run.records()
        assert records[: len(before)] == before
        before = lasting(records)
    assert inline.finish(run.start()) == 0, run.output
    run.check_whole(before)
    resumed = [r for r in run.records() if r["type"] == "start" and r["attempt"] > 1]
    assert any(record["checkpoint"] for record in resumed)


def test_the_store_is_away_for_a_while_and_the_run_waits(run: Run, s3: Server, go: Path) -> None:
    driver = run.start(f"journal.written:20:until={go}")
    run.wait_for(8)
    with s3.away():
        go.touch()
        time.sleep(3)
        assert driver.is_alive(), run.output
    assert inline.finish(driver) == 0, run.output
    run.check_whole([])
    assert sum(record["type"] == "session" for record in run.records()) == 1
    assert Counter(run.began()) == Counter(range(TRIALS))


def test_answers_get_lost_all_the_time(run: Run, s3: Server) -> None:
    s3.flaky = 0.3
    assert inline.finish(run.start()) == 0, run.output
    s3.calm()
    run.check_whole([])
    assert sum(record["type"] == "session" for record in run.records()) == 1


def test_a_store_that_stays_away_ends_the_driver_and_loses_nothing(
    run: Run, s3: Server, go: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(objects.PATIENCE_ENV, "1")
    driver = run.start(f"journal.written:20:until={go}")
    run.wait_for(8)
    with s3.away():
        go.touch()
        assert inline.finish(driver) == inline.EXIT_REFUSED
    assert "the store does not answer" in run.output
    assert f"raytune-hpo resume {run.url}" in run.output
    before = run.records()
    monkeypatch.setenv(objects.PATIENCE_ENV, "20")
    assert inline.finish(run.start()) == 0, run.output
    run.check_whole(before)


def test_a_store_that_begins_to_refuse_ends_the_driver_and_fails_no_trial(
    run: Run, s3: Server, go: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(objects.PATIENCE_ENV, "1")
    driver = run.start(f"journal.written:20:until={go}")
    run.wait_for(8)
    s3.refuse_writes = True
    go.touch()
    assert inline.finish(driver) == inline.EXIT_REFUSED
    s3.calm()
    assert "Access Denied" in run.output
    before = run.records()
    assert not [record for record in before if record["type"] == "end" and record["charged"]]
    assert inline.finish(run.start()) == 0, run.output
    run.check_whole(before)


def test_a_store_that_cannot_be_written_is_told_before_anything_runs(run: Run, s3: Server) -> None:
    s3.refuse_writes = True
    assert inline.finish(run.start()) == inline.EXIT_REFUSED
    assert f"{run.url}: cannot be written: PermissionError: Access Denied" in run.output
    assert f"raytune-hpo doctor {run.url}" in run.output
    assert run.began() == []


# Two drivers


def test_a_second_driver_is_refused_while_the_first_lives(run: Run, go: Path) -> None:
    first = run.start(f"journal.written:8:until={go}")
    run.wait_for(4)
    assert inline.finish(run.start()) == inline.EXIT_REFUSED
    assert f"process {first.pid} on " in run.output
    go.touch()
    assert inline.finish(first) == 0, run.output
    run.check_whole([])


def test_a_driver_of_another_machine_is_refused_while_the_first_lives(run: Run, go: Path) -> None:
    first = run.start(f"journal.written:8:until={go}", lease_s=2.0)
    run.wait_for(4)
    assert inline.finish(run.start(host="other", lease_s=60.0)) == inline.EXIT_REFUSED
    go.touch()
    assert inline.finish(first) == 0, run.output
    run.check_whole([])


@pytest.mark.parametrize("point", ["journal.append", "store.batch", "store.added"])
def test_a_driver_that_wakes_up_after_it_was_given_up_does_no_harm(
    run: Run, tmp_path: Path, point: str
) -> None:
    nth = 9 if point == "journal.append" else 4
    first = run.start(f"{point}:{nth}:pause")
    assert first.pid is not None
    inline.wait_until_stopped(first.pid)
    taken = run.start(host="other", cache=tmp_path / "disk of the other")
    assert inline.finish(taken) == 0, run.output
    before = run.records()
    os.kill(first.pid, signal.SIGCONT)
    assert inline.finish(first) == inline.EXIT_REFUSED
    assert "another driver has taken this run over" in run.output
    assert run.records() == before
    assert Counter(finished(before)) == Counter(range(TRIALS))


def test_a_successor_replaces_a_living_driver_at_once(run: Run, tmp_path: Path, go: Path) -> None:
    """As when a batch system has started the same job again on another machine."""
    first = run.start(f"journal.written:12:until={go}", lease_s=2.0)
    run.wait_for(8)
    more = {lock.SUCCESSOR_ENV: "1"}
    second = run.start(cache=tmp_path / "another disk", host="other", lease_s=600.0, more=more)
    assert inline.finish(second) == 0, run.output
    assert "looking for" not in run.output
    go.touch()
    assert inline.finish(first) == inline.EXIT_REFUSED
    assert Counter(finished(run.records())) == Counter(range(TRIALS))


# Many batches, and what people see


def test_sessions_that_roll_over_keep_all(run: Run) -> None:
    for nth in (6, 7):
        code = inline.finish(run.start(f"store.added:{nth}:kill", roll=2))
        assert code == -signal.SIGKILL, run.output
    assert inline.finish(run.start(roll=2)) == 0, run.output
    run.check_whole([])
    assert len(segments.sessions(objects.open_at(run.url))) > 6


def test_the_result_is_read_from_the_store_alone(run: Run, cache: Path) -> None:
    assert inline.finish(run.start()) == 0, run.output
    shutil.rmtree(cache)
    result = RunResult.load(run.url)
    assert len(result.trials) == TRIALS
    assert result.best.values is not None
    assert run.url in repr(result)


def test_a_wish_to_stop_ends_the_driver_and_the_run_goes_on_later(run: Run, bucket: str) -> None:
    run.write(bucket, inline.EXPERIMENT.replace("for step in 1 2 3", "sleep 1; for step in 1 2 3"))
    driver = run.start()
    run.wait_for(6)
    reading.request_stop(run.url)
    assert inline.finish(driver) == 0, run.output
    assert run.records()[-1]["reason"] == "stopped"
    run.write(bucket)
    before = run.records()
    assert inline.finish(run.start()) == 0, run.output
    run.check_whole(before)


def test_no_secret_is_in_the_store_or_on_the_disk(run: Run, s3: Server, cache: Path) -> None:
    assert inline.finish(run.start()) == 0, run.output
    there = objects.open_at(run.url)
    kept = b"".join(data or b"" for data in there.get_all(there.list("")))
    files = [path for path in (*cache.rglob("*"), *run.folder.rglob("*")) if path.is_file()]
    found = kept + b"".join(path.read_bytes() for path in files)
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"):
        assert s3.environment()[name].encode() not in found
