"""The tracker's process, started as a driver starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from raytune_hpo.tracking import memory
from raytune_hpo.tracking.process import TrackerProcess
from tests.mlflow.made import MadeRun, View

pytestmark = pytest.mark.mlflow

DRIVER = """\
import os, sys, pathlib, time
from raytune_hpo.tracking.process import TrackerProcess
process = TrackerProcess(pathlib.Path(sys.argv[1]), ahead=1)
while not process.environment(0):
    time.sleep(0.05)
os.kill(os.getpid(), 9)
"""


def until(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline_s:
            raise AssertionError("it did not come about")
        time.sleep(0.05)


def test_a_run_is_followed_to_its_end(run: MadeRun, view: View) -> None:
    run.header()
    run.session()
    process = TrackerProcess(run.path, ahead=2, tensorboard=True)
    until(lambda: process.may_start(0) and process.environment(0))
    given = process.environment(0)
    assert process.line() == f"MLflow: {view.uri} (mlflow ui --backend-store-uri {view.uri})"
    run.whole_trial(0, 0.5)
    run.finish()
    assert process.close() is None
    assert view.statuses() == {"parent": "FINISHED", "0": "FINISHED"}
    assert given == {
        "MLFLOW_TRACKING_URI": view.uri,
        "MLFLOW_RUN_ID": view.run(0).info.run_id,
        "MLFLOW_EXPERIMENT_ID": view.experiment_id,
    }
    assert list((run.path / "tensorboard" / "0000").iterdir())


def test_signals_to_a_driver_s_group_do_not_end_the_tracker(run: MadeRun, view: View) -> None:
    run.header()
    run.session()
    process = TrackerProcess(run.path, ahead=1)
    until(lambda: process.environment(0))
    os.kill(process._process.pid, signal.SIGTERM)
    os.kill(process._process.pid, signal.SIGINT)
    run.whole_trial(0, 0.5)
    run.finish("interrupted")
    assert process.close() is None
    assert view.statuses() == {"parent": "KILLED", "0": "FINISHED"}


def test_a_driver_that_is_killed_leaves_no_running_runs(run: MadeRun, view: View) -> None:
    run.header()
    run.session()
    run.trial(0)
    run.start(0)
    done = subprocess.run([sys.executable, "-c", DRIVER, str(run.path)], check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    with memory.exclusive(run.path, 60):
        assert view.statuses() == {"parent": "KILLED", "0": "KILLED"}
        assert view.run("parent").data.tags["raytune.state"] == "interrupted"
