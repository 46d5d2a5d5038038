"""Real drivers in processes of their own, killed, interrupted and started twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raytune_hpo import journal
from raytune_hpo.state import RunState
from raytune_hpo.trial import TrialState
from tests.ray.conftest import driver_environment, folder, ray_address  # noqa: F401

pytestmark = [
    pytest.mark.ray,
    pytest.mark.faults,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

EXPERIMENT = """
run: trial:train
objective: {metric: loss}
parameters:
  x: {min: 0.0, max: 1.0}
trials: 12
parallel: 3
search: {algorithm: tpe, seed: 1}
scheduler: {algorithm: asha, settings: {max_resource: 6}}
resources: {cpu: 0.5}
mlflow: false
"""
TRIAL = """
import time
from pathlib import Path
import raytune_hpo as rh

def train(config):
    before = rh.get_checkpoint()
    first = 1 + (int((before / "epoch").read_text()) if before else 0)
    for epoch in range(first, 7):
        time.sleep(0.25)
        own = Path(f"epoch-{rh.trial_number()}") / "epoch"
        own.parent.mkdir(exist_ok=True)
        own.write_text(str(epoch))
        rh.report(loss=config["x"] + 1 / epoch, epoch=epoch, checkpoint=own.parent)
"""


def start(where: Path, environment: dict[str, str], *words: str) -> subprocess.Popen[str]:
    """Start a driver."""
    command = [sys.executable, "-m", "raytune_hpo", *words]
    return subprocess.Popen(
        command,
        cwd=where,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(driver: subprocess.Popen[str], timeout_s: float = 500.0) -> str:
    """Wait for a driver and return what it printed."""
    output, _ = driver.communicate(timeout=timeout_s)
    return output


def wait_for(run_dir: Path, type: str, count: int, timeout_s: float = 300.0) -> None:
    """Wait until the journal of a run has so many records of a type."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if (
            journal.exists(run_dir)
            and sum(r["type"] == type for r in journal.read(run_dir)) >= count
        ):
            return
        time.sleep(0.05)
    raise AssertionError(f"no {count} records of type {type} in {timeout_s} s")


def check_each_trial_finished_once(run_dir: Path, trials: int) -> list[dict[str, Any]]:
    """Check the promise on the journal's records, without this package's own fold."""
    records = journal.read(run_dir)
    finished: Counter[int] = Counter()
    for record in records:
        if record["type"] in ("start", "report"):
            assert not finished[record["trial"]], f"trial {record['trial']} went on after its end"
        if record["type"] == "end" and TrialState(record["state"]).finished:
            finished[record["trial"]] += 1
    assert finished == Counter(range(trials))
    return records


@pytest.fixture
def run_folder(folder: Path) -> Path:  # noqa: F811
    (folder / "experiment.yaml").write_text(EXPERIMENT)
    (folder / "trial.py").write_text(TRIAL)
    return folder


def test_killed_three_times_each_trial_still_finishes_once(
    run_folder: Path,
    driver_environment: dict[str, str],  # noqa: F811
) -> None:
    run_dir = run_folder / "raytune-results/experiment"
    words = ("run", "experiment.yaml", "--resume")
    for kill, (type, count) in enumerate([("report", 2), ("end", 3), ("report", 15)]):
        driver = start(run_folder, driver_environment, *words)
        wait_for(run_dir, type, count)
        time.sleep(0.1 * kill)
        driver.kill()
        finish(driver)
    driver = start(run_folder, driver_environment, *words)
    output = finish(driver)
    assert driver.returncode == 0, output
    records = check_each_trial_finished_once(run_dir, 12)
    assert sum(r["type"] == "session" for r in records) == 4
    resumed = [r for r in records if r["type"] == "start" and r["attempt"] > 1]
    assert any(r["checkpoint"] for r in resumed)
    acknowledged = {(r["trial"], r["step"]) for r in records if r["type"] == "report"}
    for trial in RunState.replay(records).trials.values():
        assert {step for t, step in acknowledged if t == trial.number} == set(
            range(1, trial.step + 1)
        )


def test_signals_stop_safely_and_resume_goes_on(
    run_folder: Path,
    driver_environment: dict[str, str],  # noqa: F811
) -> None:
    # Slow ones, so that none of the sessions comes to the end.
    (run_folder / "trial.py").write_text(TRIAL.replace("sleep(0.25)", "sleep(3)"))
    run_dir = run_folder / "raytune-results/experiment"
    words: tuple[str, ...] = ("run", "experiment.yaml", "--trials", "30")
    reports = 0
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        driver = start(run_folder, driver_environment, *words)
        wait_for(run_dir, "report", reports + 3)
        second = start(run_folder, driver_environment, "run", "experiment.yaml", "--resume")
        refusal = finish(second)
        assert second.returncode == 3
        assert f"process {driver.pid} on " in refusal
        driver.send_signal(number)
        began_s = time.monotonic()
        output = finish(driver)
        assert driver.returncode == 130, output
        # Goal G12: out within 10 seconds; some more for a machine that does other work too.
        assert time.monotonic() - began_s < 12
        assert "raytune-hpo resume experiment" in output
        records = journal.read(run_dir)
        assert records[-1]["reason"] == "interrupted"
        reports = sum(record["type"] == "report" for record in records)
        words = ("resume", "experiment")
    (run_folder / "trial.py").write_text(TRIAL.replace("sleep(0.25)", "sleep(0)"))
    last = start(run_folder, driver_environment, *words)
    output = finish(last)
    assert last.returncode == 0, output
    check_each_trial_finished_once(run_dir, 30)
    again = start(run_folder, driver_environment, "run", "experiment.yaml")
    assert "raytune-hpo resume experiment" in finish(again)
    assert again.returncode == 2


CLOCK = """
import time

_real, _ahead = time.time, 0.0

def jumping():
    hours = int(time.monotonic() * 2) % 3 - 1
    return _real() + 3600.0 * hours

time.time = jumping
"""


def test_a_clock_that_jumps_by_an_hour_changes_nothing(
    run_folder: Path,
    driver_environment: dict[str, str],  # noqa: F811
) -> None:
    """Goal G15: twice a second the driver's clock goes an hour ahead or back."""
    (run_folder / "clock").mkdir()
    (run_folder / "clock/sitecustomize.py").write_text(CLOCK)
    limits = "trial_time_limit: 5m\nsilent_limit: 5m\ntime_limit: 30m\n"
    (run_folder / "experiment.yaml").write_text(EXPERIMENT + limits)
    environment = {**driver_environment, "PYTHONPATH": str(run_folder / "clock")}
    driver = start(run_folder, environment, "run", "experiment.yaml", "--trials", "6")
    output = finish(driver)
    assert driver.returncode == 0, output
    records = check_each_trial_finished_once(run_folder / "raytune-results/experiment", 6)
    times = [record["t"] for record in records]
    assert max(times) - min(times) > 3600, "the clock did not jump"
    assert records[-1]["reason"] == "trials"
    assert not [record for record in records if record.get("failure")]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a folder with room for some megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, check=False).returncode != 0:
        pytest.skip("a file system of a given size can be made by root only")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_loses_nothing(
    run_folder: Path,
    driver_environment: dict[str, str],  # noqa: F811
    small_disk: Path,
) -> None:
    """Goal G13: checkpoints of 400 kB on a disk of 3 MB."""
    trial = TRIAL.replace(
        "own.write_text(str(epoch))", "own.write_text(str(epoch) + ' ' * 400_000)"
    )
    (run_folder / "trial.py").write_text(trial)
    words = ("run", "experiment.yaml", "--storage", str(small_disk))
    driver = start(run_folder, driver_environment, *words)
    output = finish(driver)
    assert driver.returncode == 3, output
    assert "No space left on device" in output
    assert "raytune-hpo resume" in output
    run_dir = small_disk / "experiment"
    before = journal.read(run_dir)
    assert any(record["type"] == "report" for record in before)
    assert not [record for record in before if record["type"] == "end" and record["charged"]]
    command = ["mount", "-o", "remount,size=64m", str(small_disk)]
    subprocess.run(command, check=True)
    again = start(run_folder, driver_environment, "resume", str(run_dir))
    output = finish(again)
    assert again.returncode == 0, output
    assert journal.read(run_dir)[: len(before)] == before
    check_each_trial_finished_once(run_dir, 12)
