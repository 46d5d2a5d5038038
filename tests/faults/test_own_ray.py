"""Drivers with a Ray of their own, of which one part after the other is killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raytune_hpo import journal
from tests.faults.test_driver import (
    EXPERIMENT,
    TRIAL,
    check_each_trial_finished_once,
    finish,
    start,
    wait_for,
)

pytestmark = [
    pytest.mark.ray,
    pytest.mark.faults,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
TRIALS = 12


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    """Return the environment of a driver that starts its own Ray, in a folder of its own."""
    temporary = tempfile.mkdtemp(prefix="t-", dir="/tmp")
    hidden = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")
    outside = {name: value for name, value in os.environ.items() if name not in hidden}
    yield {**outside, "TMPDIR": temporary}
    shutil.rmtree(temporary)


def children(pid: int) -> dict[str, int]:
    """Return the children of a process by the name of their program."""
    found = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                parent = int((path / "stat").read_bytes().rpartition(b")")[2].split()[1])
                program = (path / "cmdline").read_bytes().split(b"\0")[0]
            except OSError:
                continue
            if parent == pid:
                found[Path(program.decode()).name] = int(path.name)
    return found


def users(temporary: str) -> list[int]:
    """Return the processes that work in a folder."""
    found = []
    for path in Path("/proc").iterdir():
        if not path.name.isdigit():
            continue
        try:
            links = [*(path / "fd").iterdir(), path / "cwd"]
            if any(str(link.readlink()).startswith(temporary) for link in links):
                found.append(int(path.name))
        except OSError:
            continue
    return found


def check_nothing_left(environment: dict[str, str]) -> None:
    """Goal G12: no orphan ten seconds later, and no folder either."""
    temporary = environment["TMPDIR"]
    deadline = time.monotonic() + 10
    while (left := users(temporary)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left
    assert not list(Path(temporary).glob("rth-*"))


def test_each_part_killed_in_turn(tmp_path: Path, environment: dict[str, str]) -> None:
    """The driver, Ray's head (goal G14) and its daemon by SIGKILL: nothing is lost or repeated."""
    # All trials to their end, so that there is always something to lose.
    lines = [line for line in EXPERIMENT.splitlines() if not line.startswith("scheduler")]
    (tmp_path / "experiment.yaml").write_text("\n".join(lines))
    # Slow ones: workers go on for seconds when Ray is gone, and are not to come to the end.
    (tmp_path / "trial.py").write_text(TRIAL.replace("sleep(0.25)", "sleep(1.0)"))
    run_dir = tmp_path / "raytune-results/experiment"
    words = ("run", "experiment.yaml", "--trials", str(TRIALS), "--resume")
    reports = 0
    for victim in ("driver", "gcs_server", "raylet"):
        driver = start(tmp_path, environment, *words)
        wait_for(run_dir, "report", reports + 4)
        began_s = time.monotonic()
        pid = driver.pid if victim == "driver" else children(driver.pid)[victim]
        os.kill(pid, signal.SIGKILL)
        output = finish(driver)
        if victim == "driver":
            assert driver.returncode == -signal.SIGKILL
        else:
            assert driver.returncode == 3, output
            assert "Ray does not answer any more" in output
            assert "raytune-hpo resume experiment" in output
            assert time.monotonic() - began_s < 90
        check_nothing_left(environment)
        reports = sum(record["type"] == "report" for record in journal.read(run_dir))
    (tmp_path / "trial.py").write_text(TRIAL)
    driver = start(tmp_path, environment, *words)
    output = finish(driver)
    assert driver.returncode == 0, output
    check_nothing_left(environment)
    check_each_trial_finished_once(run_dir, TRIALS)


HOG = """
run: hog:train
objective: {metric: loss}
parameters:
  size: {values: [0, 5000, 1], ordered: true}
search: {algorithm: grid}
parallel: 1
mlflow: false
"""
HOG_TRIAL = """
import time
import raytune_hpo as rh

def train(config):
    held = []
    for _ in range(config["size"]):
        held.append(b"1" * 1_000_000)
        time.sleep(0.001)
    rh.report(loss=config["size"])
    if config["size"] > 1:
        time.sleep(60)
"""


def test_a_memory_hog_costs_its_own_trial_only(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "experiment.yaml").write_text(HOG)
    (tmp_path / "hog.py").write_text(HOG_TRIAL)
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total, free = (int(lines[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    if free < 6_000_000:
        pytest.skip("needs 6 GB of free memory")
    # Room for Ray, the first trials and what else runs here, but not for five gigabytes more.
    threshold = (total - free + 3_000_000) / total
    limited = {
        **environment,
        "RAY_memory_usage_threshold": f"{threshold:.3f}",
        "RAY_memory_monitor_refresh_ms": "100",
    }
    driver = start(tmp_path, limited, "run", "experiment.yaml")
    output = finish(driver)
    assert driver.returncode == 0, output
    records = check_each_trial_finished_once(tmp_path / "raytune-results/experiment", 3)
    failures = {r["trial"]: r["failure"] for r in records if r["type"] == "end" and r["failure"]}
    (hog,) = [r["trial"] for r in records if r["type"] == "trial" and r["config"]["size"] == 5000]
    assert failures.keys() == {hog}
    assert failures[hog]["kind"] == "worker_died"
    assert "memory" in failures[hog]["message"]


def test_a_lost_machine_is_not_charged(tmp_path: Path, environment: dict[str, str]) -> None:
    """Goal G8: trials of a machine that goes away run again on another one, without retries."""
    script = Path(__file__).with_name("lose_a_node.py")
    # A Ray that listens on loopback only refuses further machines.
    several = {**environment, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=several,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    records = check_each_trial_finished_once(tmp_path / "raytune-results/lost", 2)
    ends = [record for record in records if record["type"] == "end"]
    assert all(end["state"] in ("pending", "completed") for end in ends)
    assert "node_lost" in {end["failure"]["kind"] for end in ends if end["failure"]}
    assert not [end for end in ends if end["charged"]]
    check_nothing_left(environment)
