"""The script that shows what a store has of a run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.mlflow.made import MadeRun

pytestmark = pytest.mark.mlflow

SCRIPT = Path(__file__).parents[2] / "scripts" / "show_mlflow.py"


def show(path: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, str(SCRIPT), str(path)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_what_a_store_has(run: MadeRun) -> None:
    run.header()
    run.session()
    run.whole_trial(0, 0.5)
    run.whole_trial(1, 0.25)
    run.whole_trial(2, 0.75, "pruned")
    run.trial(3)
    run.start(3)
    run.end(3, "failed", "exit code 1", charged=True)
    run.finish()
    run.track()
    done = show(run.path)
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(maxsplit=2)[::2] for line in done.stdout.splitlines()[1:3])
    assert lines["parent"] == "tiny: FINISHED"
    assert lines["child"] == "4: 1 FAILED, 3 FINISHED (trials: 2 completed, 1 failed, 1 pruned)"
    assert "best           trial 1: [0.25]\n               layers = 2\n" in done.stdout


def test_a_run_that_is_not_there(run: MadeRun, tmp_path: Path) -> None:
    done = show(tmp_path / "nowhere")
    assert done.returncode == 1
    assert "is no run directory" in done.stderr
    run.header()
    done = show(run.path)
    assert done.returncode == 1
    assert "has no experiment 'tiny'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_without_tracking(run: MadeRun) -> None:
    run.header(mlflow=False)
    done = show(run.path)
    assert done.returncode == 1
    assert "tracking is off" in done.stderr
