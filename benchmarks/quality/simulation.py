"""A run on a virtual clock: workers take trials and finish them at different times."""

from __future__ import annotations

import heapq
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from .spaces import Config
from .tasks import Evaluation, Task
from .tuners import Told, Tuner

T = TypeVar("T")


@dataclass
class Run:
    """What happened, in the order in which trials ended.

    Attributes:
        values: True values; None for a trial that failed.
        observed: What the tuner was told.
        feasible: Whether a trial has a value and meets all constraints.
        times: Virtual seconds at which each trial ended.
        ask_s: CPU seconds of each suggestion, in the order in which trials began.
        tell_s: CPU seconds of taking each result in.
    """

    values: list[float | None] = field(default_factory=list)
    observed: list[float | None] = field(default_factory=list)
    feasible: list[bool] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    ask_s: list[float] = field(default_factory=list)
    tell_s: list[float] = field(default_factory=list)


@dataclass(frozen=True, order=True)
class _Trial:
    ends: float
    number: int
    handle: Any = field(compare=False)
    truth: Evaluation = field(compare=False)
    told: Told = field(compare=False)


def simulate(tuner: Tuner, task: Task, *, seed: int, budget: int, workers: int) -> Run:
    """Return what a tuner did with a budget of trials.

    A worker that ends a trial reports it and takes the next one. What is random about a trial, such
    as its noise, depends on the task, the seed and the trial's number only.
    """
    run = Run()
    running: list[_Trial] = []
    clock, started, exhausted = 0.0, 0, False
    while running or (started < budget and not exhausted):
        while started < budget and len(running) < workers and not exhausted:
            asked = _timed(tuner.ask, run.ask_s)
            if asked is None:
                exhausted = True
                break
            heapq.heappush(running, _begin(task, seed, started, clock, *asked))
            started += 1
        if running:
            trial = heapq.heappop(running)
            clock = trial.ends
            _end(tuner, trial, run)
    return run


def _begin(task: Task, seed: int, number: int, clock: float, handle: Any, config: Config) -> _Trial:
    rng = np.random.default_rng([zlib.crc32(task.name.encode()), seed, number])
    truth = task.evaluate(config)
    uniform = float(rng.uniform(0.5, 1.5))
    took = truth.seconds or uniform
    value = task.observed(truth, rng)
    if task.failing(config, rng):
        return _Trial(clock + took * uniform / 2, number, handle, truth, Told(None))
    return _Trial(clock + took, number, handle, truth, Told(value, truth.violations))


def _end(tuner: Tuner, trial: _Trial, run: Run) -> None:
    _timed(lambda: tuner.tell(trial.handle, trial.told), run.tell_s)
    failed = trial.told.value is None
    run.values.append(None if failed else trial.truth.value)
    run.observed.append(trial.told.value)
    run.feasible.append(trial.told.feasible)
    run.times.append(trial.ends)


def _timed(call: Callable[[], T], seconds: list[float]) -> T:
    began = time.process_time()
    result = call()
    seconds.append(time.process_time() - began)
    return result
