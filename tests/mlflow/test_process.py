"""The driver's side, with a scripted process in place of the tracker."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raytune_hpo.tracking.process import TrackerProcess

READY = '{"ready": {"uri": "http://u:pw@h:5000", "experiment_id": "4", "parent_run_id": "p"}}'
Start = Callable[..., TrackerProcess]


class Clock:
    """A time that the test sets."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def start(tmp_path: Path, clock: Clock) -> Iterator[Start]:
    started: list[TrackerProcess] = []

    def begin(*lines: str, at_end: str = '{"behind": 0}', mlflow: bool = True) -> TrackerProcess:
        script = "import sys\n" + "".join(f"print({line!r}, flush=True)\n" for line in lines)
        script += f"sys.stdin.read()\nprint({at_end!r}, flush=True)\n"
        process = TrackerProcess(
            tmp_path, ahead=2, mlflow=mlflow, clock=clock, command=[sys.executable, "-c", script]
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.close()


def until(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + 20
    while not condition():
        if time.monotonic() > deadline_s:
            raise AssertionError("it did not come about")
        time.sleep(0.01)


def test_a_trial_is_told_its_run(start: Start) -> None:
    process = start(READY, '{"trial": 3, "run_id": "r3"}')
    until(lambda: process.environment(3))
    assert process.environment(3) == {
        "MLFLOW_TRACKING_URI": "http://u:pw@h:5000",
        "MLFLOW_RUN_ID": "r3",
        "MLFLOW_EXPERIMENT_ID": "4",
    }
    assert process.environment(4) == {}
    assert process.may_start(3)
    assert process.line() == "MLflow: http://***@h:5000/#/experiments/4"


def test_the_first_trial_waits_for_the_store_but_not_for_ever(start: Start, clock: Clock) -> None:
    process = start()
    assert not process.may_start(0)
    clock.now_s += 14.9
    assert not process.may_start(0)
    clock.now_s += 0.2
    assert process.may_start(0)
    assert process.line() is None


def test_each_trial_waits_a_little_and_none_after_three_in_vain(start: Start, clock: Clock) -> None:
    process = start(READY)
    until(process.line)
    for trial in range(3):
        assert not process.may_start(trial)
        clock.now_s += 2.0
        assert process.may_start(trial)
    assert process.may_start(3)


def test_no_trial_waits_for_a_store_that_is_away(start: Start) -> None:
    process = start('{"error": "no route"}')
    until(process.line)
    assert process.may_start(0)
    assert process.line() == "MLflow unreachable, results are kept: no route"


def test_a_store_that_is_back_is_waited_for_again(start: Start) -> None:
    process = start(
        READY, '{"error": "no route"}', '{"recovered": true}', '{"trial": 0, "run_id": "r"}'
    )
    until(lambda: process.environment(0))
    assert process.may_start(0)
    assert not process.may_start(1)


def test_no_trial_waits_for_a_process_that_has_died(tmp_path: Path, clock: Clock) -> None:
    process = TrackerProcess(
        tmp_path, ahead=1, clock=clock, command=[sys.executable, "-c", "raise SystemExit(1)"]
    )
    until(lambda: process.may_start(0))
    assert "has ended early" in (process.line() or "")
    assert "which are kept" in (process.close() or "")


def test_no_trial_waits_without_mlflow(start: Start) -> None:
    process = start(mlflow=False)
    assert process.may_start(0)
    assert process.close() is None


def test_all_well(start: Start) -> None:
    assert start(READY).close() is None


def test_records_that_were_kept(start: Start, tmp_path: Path) -> None:
    assert start(READY, at_end='{"behind": 212}').close() == (
        f"MLflow unreachable: 212 records kept; later: raytune-hpo mlflow sync {tmp_path}"
    )


def test_writes_that_were_refused(start: Start, tmp_path: Path) -> None:
    warning = start(READY, at_end='{"behind": 0, "refused": 3}').close() or ""
    assert warning.startswith(f"MLflow did not take 3 writes, see {tmp_path / 'mlflow.log'}; later")


def test_a_process_that_hangs_is_ended(tmp_path: Path) -> None:
    script = "import time, signal\nsignal.signal(15, signal.SIG_IGN)\ntime.sleep(600)"
    process = TrackerProcess(tmp_path, ahead=1, command=[sys.executable, "-c", script])
    assert "which are kept" in (process.close(timeout_s=0.2) or "")
    assert process._process.poll() is not None


def test_the_driver_s_side_imports_no_mlflow() -> None:
    import subprocess

    script = (
        "import sys, raytune_hpo.tracking.process\n"
        "print(sorted({'mlflow', 'ray', 'numpy', 'tensorboardX'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "[]\n"
