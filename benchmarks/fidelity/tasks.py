"""Jobs that report on their way: a surrogate asked at several fidelities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np

from benchmarks.quality.spaces import Config, Space
from benchmarks.quality.surrogates import Surrogate
from benchmarks.quality.tasks import Evaluation

TASKS = (
    "lcbench:167168",
    "lcbench:189906",
    "rbv2_xgboost:40499",
    "rbv2_xgboost:1501:logloss",
    "rbv2_rpart:40499",
)
_SAMPLED = 1000
_LEAST_S = 1e-3


class Fidelities(Protocol):
    """What is true of configs at any fidelity."""

    space: Space
    full: float

    def evaluate_at(
        self, configs: Sequence[Config], fidelities: Sequence[float]
    ) -> list[Evaluation]:
        """Return what is true of each config at a fidelity of its own."""
        ...


@dataclass(frozen=True)
class Point:
    """One report of a job.

    Attributes:
        used: The resource used so far.
        value: To be made small.
        seconds: Since the report before.
    """

    used: int
    value: float
    seconds: float


@dataclass(frozen=True)
class Task:
    """A problem, and how its jobs report.

    Attributes:
        name: Also its name in ``quality/reference.json``.
        problem: Answers at once.
        steps: The resource at each report of a job, the last being a full job. A fidelity is the
            same share of the full one.
        milestones: The resources at which configs are compared in the report.
        first: The least resource at which tuners may stop a job.
        again: Whether each step begins anew: a learner that gets more data is trained from the
            start, and its steps add up; one that gets more epochs goes on.
    """

    name: str
    problem: Fidelities
    steps: tuple[int, ...]
    milestones: tuple[int, ...]
    first: int
    again: bool

    @property
    def space(self) -> Space:
        """What to search."""
        return self.problem.space

    @property
    def full(self) -> int:
        """The resource of a full job."""
        return self.steps[-1]

    def job(self, config: Config) -> list[Point]:
        """Return all reports of a job that nobody stops."""
        found = self._at(config, self.steps)
        spent = [truth.seconds or 0.0 for truth in found]
        if not self.again:
            spent = [later - earlier for earlier, later in pairwise([0.0, *spent])]
        return [
            Point(used, truth.value, max(seconds, _LEAST_S))
            for used, truth, seconds in zip(self.steps, found, spent, strict=True)
        ]

    def full_job(self, config: Config) -> list[Point]:
        """Return the reports of a job of a tuner that stops none."""
        return self.job_until(config, self.full)

    def job_until(self, config: Config, used: int) -> list[Point]:
        """Return the reports of a job that is known from the start to end at a step."""
        if not self.again:
            return [point for point in self.job(config) if point.used <= used]
        truth = self._at(config, [used])[0]
        return [Point(used, truth.value, max(truth.seconds or 0.0, _LEAST_S))]

    def milestone(self, used: int) -> int:
        """Return the last milestone that is reached, or 0."""
        return max((m for m in self.milestones if m <= used), default=0)

    @cached_property
    def unit_s(self) -> float:
        """The median seconds of a full job of random configs."""
        rng = np.random.default_rng(0)
        configs = [self.space.sample(rng) for _ in range(_SAMPLED)]
        found = self.problem.evaluate_at(configs, [self.problem.full] * _SAMPLED)
        return float(np.median([truth.seconds for truth in found if truth.seconds is not None]))

    def _at(self, config: Config, steps: Sequence[int]) -> list[Evaluation]:
        fidelities = [
            self.problem.full if used == self.full else self.problem.full * used / self.full
            for used in steps
        ]
        return self.problem.evaluate_at([config] * len(steps), fidelities)


def make_task(name: str, data: Path) -> Task:
    """Return a task by the name of its surrogate, such as ``lcbench:167168``.

    Args:
        name: ``scenario:instance[:output]``, see ``benchmarks/quality/surrogates.py``.
        data: Folder with the surrogates.

    Raises:
        ValueError: There is no such task.
    """
    problem = Surrogate(data, *name.split(":"))
    if name.startswith("lcbench"):
        # After one epoch the order of configs says nothing: its rank correlation with the last is
        # 0.05 and -0.11 on the two data sets, after three it is 0.87 and 0.91.
        epochs = tuple(range(1, int(problem.full) + 1))
        return Task(name, problem, epochs, (3, 9, 27, epochs[-1]), first=3, again=False)
    # In twenty-sevenths of the training data.
    return Task(name, problem, (1, 3, 9, 27), (1, 3, 9, 27), first=1, again=True)
