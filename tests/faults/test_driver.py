"""Real drivers in processes of their own, killed, interrupted and started twice."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
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


def finish(driver: subprocess.Popen[str], timeout_s: float = 120.0) -> str:
    """Wait for a driver and return what it printed."""
    output, _ = driver.communicate(timeout=timeout_s)
    return output


def wait_for(run_dir: Path, type: str, count: int, timeout_s: float = 90.0) -> None:
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
    for kill, (type, count) in enumerate([("report", 2), ("end", 3), ("report", 25)]):
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_stops_safely_and_resume_goes_on(
    run_folder: Path,
    driver_environment: dict[str, str],  # noqa: F811
    number: signal.Signals,
) -> None:
    run_dir = run_folder / "raytune-results/experiment"
    driver = start(run_folder, driver_environment, "run", "experiment.yaml", "--trials", "4")
    wait_for(run_dir, "report", 3)
    driver.send_signal(number)
    began = time.monotonic()
    output = finish(driver)
    assert driver.returncode == 130, output
    assert time.monotonic() - began < 30
    assert "raytune-hpo resume experiment" in output
    assert journal.read(run_dir)[-1]["reason"] == "interrupted"
    again = start(run_folder, driver_environment, "resume", "experiment")
    output = finish(again)
    assert again.returncode == 0, output
    check_each_trial_finished_once(run_dir, 4)


def test_a_second_driver_is_refused_with_who_holds_the_run(
    run_folder: Path,
    driver_environment: dict[str, str],  # noqa: F811
) -> None:
    run_dir = run_folder / "raytune-results/experiment"
    first = start(run_folder, driver_environment, "run", "experiment.yaml", "--trials", "3")
    wait_for(run_dir, "report", 1)
    second = start(run_folder, driver_environment, "run", "experiment.yaml", "--resume")
    output = finish(second)
    assert second.returncode == 3
    assert f"process {first.pid} on " in output
    finish(first)
    assert first.returncode == 0
    third = start(run_folder, driver_environment, "run", "experiment.yaml")
    assert "raytune-hpo resume experiment" in finish(third)
    assert third.returncode == 2


def test_a_driver_alone_on_the_machine_leaves_no_process_behind(run_folder: Path) -> None:
    """With a Ray of its own, killed by SIGKILL: all of it is gone soon after."""
    temporary = tempfile.mkdtemp(prefix="t-", dir="/tmp")
    environment = {**os.environ, "TMPDIR": temporary}
    driver = start(run_folder, environment, "run", "experiment.yaml", "--trials", "3")
    run_dir = run_folder / "raytune-results/experiment"
    wait_for(run_dir, "report", 2)
    driver.kill()
    finish(driver)
    deadline = time.monotonic() + 30
    while (left := _mentioning(temporary)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left
    again = start(run_folder, environment, "resume", "experiment")
    output = finish(again)
    assert again.returncode == 0, output
    check_each_trial_finished_once(run_dir, 3)
    shutil.rmtree(temporary)


def _mentioning(text: str) -> list[str]:
    """Return the command lines of living processes that mention a text."""
    found = []
    for path in Path("/proc").iterdir():
        if not path.name.isdigit() or int(path.name) == os.getpid():
            continue
        try:
            line = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in line:
            found.append(line)
    return found
