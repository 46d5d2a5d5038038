"""What the tuners have to solve: problems, noise and failures over them, and suites of tasks."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from .spaces import Config, Space

SIX = (
    "lcbench:167168",
    "rbv2_xgboost:40499",
    "rbv2_rpart:40499",
    "nb201:cifar100",
    "bbob:f8:d5:i1",
    "bbob:f10:d5:i1:noise0.1",
)
BBOB = (
    "bbob:f1:d5:i1",
    "bbob:f3:d5:i1",
    "bbob:f8:d2:i1",
    "bbob:f8:d5:i1",
    "bbob:f10:d10:i1",
    "bbob:f15:d5:i1",
    "bbob:f21:d5:i1",
    "bbob:f6:d20:i1",
    "bbob:f10:d5:i1:noise0.1",
    "bbob:f15:d5:i1:noise0.1",
)
CONSTRAINED = ("gardner", "g4", "g8", "vessel", "spring")
FULL = (
    *SIX,
    "bbob:f3:d2:i1",
    "bbob:f15:d5:i1",
    "bbob:f6:d10:i1",
    "bbob:f10:d20:i1",
    "bbob:f15:d5:i1:noise0.1",
    "lcbench:189906",
    "lcbench:167168:noise0.05",
    "rbv2_xgboost:1501:logloss",
    "rbv2_rpart:1501",
    "nb201:imagenet",
    *(f"constrained:{name}" for name in CONSTRAINED),
    "bbob:f8:d5:i1:fail",
    "lcbench:167168:fail",
    "rbv2_xgboost:1501:logloss:fail",
    "rbv2_rpart:40499:fail",
)
SUITES = {"six": SIX, "bbob": BBOB, "full": FULL}

_CORNER = 0.15
_RANDOM_FAILURES = 0.06


@dataclass(frozen=True)
class Evaluation:
    """What is true of a config.

    Attributes:
        value: To be made small.
        violations: Above 0 is violated.
        seconds: How long a trial takes, or None when the problem does not say.
    """

    value: float
    violations: tuple[float, ...] = ()
    seconds: float | None = None

    @property
    def feasible(self) -> bool:
        """Whether no constraint is violated."""
        return all(violation <= 0 for violation in self.violations)


class Problem(ABC):
    """A function over a space.

    Attributes:
        space: What to search.
        constraints: How many there are.
        optimum: The least feasible value, or None when only a search can tell.
    """

    space: Space
    constraints = 0
    optimum: float | None = None

    @abstractmethod
    def evaluate_many(self, configs: Sequence[Config]) -> list[Evaluation]:
        """Return what is true of each config."""


@dataclass(frozen=True)
class Task:
    """A problem with the noise and the failures that its name asks for.

    Attributes:
        noise: Standard deviation as a share of the distance from random to good configs.
        fails: Whether trials fail in a corner of the space, and some of the others at random.

    Example:
        >>> make_task("bbob:f1:d2:i1:fail").kind
        'failing'
    """

    name: str
    problem: Problem
    noise: float = 0.0
    fails: bool = False

    @property
    def space(self) -> Space:
        """What to search."""
        return self.problem.space

    @property
    def kind(self) -> str:
        """The class in the report."""
        return kind_of(self.name)

    def evaluate(self, config: Config) -> Evaluation:
        """Return what is true of a config."""
        return self.problem.evaluate_many([config])[0]

    def observed(self, truth: Evaluation, rng: np.random.Generator) -> float:
        """Return the value that a trial reports."""
        return truth.value + (rng.normal() * self.noise * self.spread if self.noise else 0.0)

    def failing(self, config: Config, rng: np.random.Generator) -> bool:
        """Return whether a trial of the config fails."""
        return self.fails and (self.in_corner(config) or rng.random() < _RANDOM_FAILURES)

    def in_corner(self, config: Config) -> bool:
        """Return whether all trials of the config fail."""
        return self.fails and self._height(config) > self._corner[2]

    @cached_property
    def spread(self) -> float:
        """The median of random configs less their best, of 2000."""
        rng = np.random.default_rng(0)
        configs = [self.space.sample(rng) for _ in range(2000)]
        values = [truth.value for truth in self.problem.evaluate_many(configs)]
        return float(np.median(values) - np.min(values))

    @cached_property
    def _corner(self) -> tuple[list[int], list[float], float]:
        """The axes of the corner, the direction along each, and where it begins."""
        rng = np.random.default_rng(zlib.crc32(self.name.encode()))
        free = [i for i, axis in enumerate(self.space.axes) if axis.parent is None]
        axes = [int(i) for i in rng.permutation(free)[:2]]
        signs = [float(sign) for sign in rng.choice([-1.0, 1.0], len(axes))]
        return axes, signs, float(np.quantile(rng.random((10_000, 2)) @ [1.0, 1.0], 1 - _CORNER))

    def _height(self, config: Config) -> float:
        axes, signs, _ = self._corner
        places = [self.space.axes[i].unit(config[self.space.axes[i].name]) for i in axes]
        return sum(u if sign > 0 else 1 - u for u, sign in zip(places, signs, strict=True))


def make_task(name: str, data: Path | None = None) -> Task:
    """Return a task by its name: ``problem[:noiseSHARE][:fail]``.

    Args:
        name: Such as ``bbob:f8:d5:i1``, ``lcbench:167168``, ``rbv2_xgboost:1501:logloss:fail``,
            ``nb201:cifar100`` or ``constrained:g4``.
        data: Folder with the surrogates and tables; only bbob and constrained need none.

    Raises:
        ValueError: There is no such task.
    """
    parts = name.split(":")
    fails = parts[-1] == "fail"
    parts = parts[:-1] if fails else parts
    noise = 0.0
    if parts[-1].startswith("noise"):
        noise = float(parts.pop().removeprefix("noise"))
    return Task(name, _problem(parts, data), noise, fails)


def _problem(parts: list[str], data: Path | None) -> Problem:
    family = parts[0]
    if family == "bbob":
        from .functions import Bbob

        return Bbob(*(int(part[1:]) for part in parts[1:]))
    if family == "constrained":
        from .constrained import make

        return make(parts[1])
    if data is None:
        raise ValueError(f"task {':'.join(parts)!r} needs --data")
    if family == "nb201":
        from .surrogates import NasBench

        return NasBench(data, parts[1])
    from .surrogates import Surrogate

    return Surrogate(data, *parts)


_KINDS = {
    "bbob": "continuous",
    "lcbench": "continuous",
    "rbv2_rpart": "mixed",
    "rbv2_xgboost": "conditional",
    "nb201": "categorical",
    "constrained": "constrained",
}


def kind_of(name: str) -> str:
    """Return the class of a task in the report, by its name alone.

    Example:
        >>> kind_of("lcbench:167168:noise0.05"), kind_of("nb201:cifar100")
        ('noisy', 'categorical')
    """
    family, *parts = name.split(":")
    if "fail" in parts:
        return "failing"
    return "noisy" if any(part.startswith("noise") for part in parts) else _KINDS[family]
