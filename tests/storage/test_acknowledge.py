"""On Ray, a worker is called again, which acknowledges its reports, when these are safe."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raytune_hpo.attempt import Job
from raytune_hpo.engine import Start
from raytune_hpo.ports import Ports
from raytune_hpo.runner import _Bridge, _Live
from raytune_hpo.trial import Failure

EVENT = {"metrics": {"loss": 1.0}, "checkpoint": None, "failure": None, "stuck": False}


class Engine:
    """Takes note of what it is told; trials go on until a test says otherwise."""

    def __init__(self) -> None:
        self.over: set[int] = set()

    def is_current(self, trial: int, attempt: int) -> bool:
        return trial not in self.over

    def on_begin(self, *args: Any) -> None:
        pass

    def on_report(self, *args: Any) -> None:
        pass

    def on_end(self, trial: int, attempt: int, failure: Failure | None) -> None:
        self.over.add(trial)


class Safe:
    """A journal that is safe when a test says so."""

    def __init__(self) -> None:
        self.asked = self.safe = 0

    def begin_sync(self) -> Callable[[], bool]:
        self.asked += 1
        mark = self.asked
        return lambda: self.safe >= mark


@pytest.fixture
def safe() -> Safe:
    return Safe()


@pytest.fixture
def bridge(safe: Safe, tmp_path: Path) -> _Bridge:
    ports = Ports(
        environment=lambda trial: {},
        ready=lambda trial: True,
        nested=lambda config: config,
        stop_request=lambda: None,
        room=lambda busy, wanting: 1,
        started=lambda: None,
        sync=lambda: pytest.fail("nothing waits for the store"),
        begin_sync=safe.begin_sync,
    )
    job = Job(
        run_dir=tmp_path,
        run="true",
        function=None,
        single_metric=None,
        folder=tmp_path,
        workdir=None,
        env={},
        setup=None,
        time_limit_s=None,
        silent_limit_s=None,
        keep_checkpoints=1,
    )
    return _Bridge(Engine(), job, {"CPU": 1.0}, ports)  # type: ignore[arg-type]


def begin(bridge: _Bridge, number: int) -> Any:
    trial: Any = SimpleNamespace(trial_id=f"{number:05d}-1")
    bridge.live[trial.trial_id] = _Live(Start(number, 1, {}, None), trial)
    return trial


def tell(bridge: _Bridge, trial: Any, *events: dict[str, Any]) -> str:
    return bridge.on_result(trial, {"events": list(events), "node_id": "a"})


def called(bridge: _Bridge) -> list[str]:
    ids: list[str] = []
    bridge.acknowledge(lambda trial: ids.append(trial.trial_id))
    return ids


def test_a_report_is_acknowledged_when_it_is_safe_and_no_other_waits(
    bridge: _Bridge, safe: Safe
) -> None:
    trials = [begin(bridge, number) for number in range(3)]
    assert tell(bridge, trials[0], EVENT) == "NOOP"
    assert tell(bridge, trials[1], EVENT, EVENT) == "NOOP"
    # A sign of life needs no acknowledgement.
    assert tell(bridge, trials[2]) == "CONTINUE"
    assert called(bridge) == []
    safe.safe = 1
    assert called(bridge) == ["00000-1"]
    assert called(bridge) == []
    safe.safe = 2
    assert called(bridge) == ["00001-1"]


def test_a_trial_that_ends_does_not_wait(bridge: _Bridge) -> None:
    trial = begin(bridge, 0)
    assert tell(bridge, trial, {**EVENT, "metrics": None}) == "STOP"
    assert called(bridge) == []


def test_a_worker_that_died_meanwhile_is_not_called(bridge: _Bridge, safe: Safe) -> None:
    trials = [begin(bridge, number) for number in range(2)]
    tell(bridge, trials[0], EVENT)
    bridge.on_over(trials[0])
    safe.safe = 9
    assert called(bridge) == []


def test_the_driver_rests_while_all_workers_wait(bridge: _Bridge) -> None:
    tell(bridge, begin(bridge, 0), EVENT)
    began_s = time.monotonic()
    assert called(bridge) == []
    assert time.monotonic() - began_s > 0.05


def test_waiting_counts_neither_as_silence_nor_as_time_of_the_trial(bridge: _Bridge) -> None:
    trials = [begin(bridge, number) for number in range(2)]
    tell(bridge, trials[0], EVENT)
    live = bridge.live["00000-1"]
    assert live.began_s is not None
    live.heard_s -= 100
    live.began_s -= 130
    called(bridge)
    now_s = time.monotonic()
    assert now_s - live.heard_s < 5
    assert 25 < now_s - live.began_s < 35
