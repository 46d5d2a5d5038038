"""What makes a trial good: goals, targets and constraints over its metrics."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, get_args

from raytune_hpo.errors import ExpressionError, Problem, RaytuneHpoError, SpecError, did_you_mean
from raytune_hpo.expression import Expression, ExpressionValueError, MissingName
from raytune_hpo.trial import FailureKind

Mode = Literal["min", "max"]
At = Literal["last", "best", "mean"]
Candidate = tuple[int, tuple[float, ...], tuple[float, ...]]
"""Number, values and violations of a trial."""


class BadMetric(RaytuneHpoError):
    """Metrics from which no objective or constraint can be computed.

    Attributes:
        kind: The class of failure that it makes of the trial.
    """

    def __init__(self, kind: FailureKind, message: str) -> None:
        self.kind = kind
        super().__init__(message)


@dataclass(frozen=True)
class Goal:
    """One thing to make small or large.

    Attributes:
        expression: Of metrics; a single name for a plain metric.
        mode: ``min`` or ``max``.
        name: The metric's name, or the expression's text.
        target: The run may end once the value is as good as this, or None.
        at: Whether a trial's last report, its best one or the mean of all counts.

    Raises:
        SpecError: The mode is neither ``min`` nor ``max``, or the target is not finite.

    Example:
        >>> goal = Goal(Expression.parse("hits / calls"), "max", "hit rate", target=0.9)
        >>> goal.reached(0.95)
        True
    """

    expression: Expression
    mode: Mode
    name: str
    target: float | None = None
    at: At = "last"

    def __post_init__(self) -> None:
        problems = []
        if self.mode not in get_args(Mode):
            near = did_you_mean(str(self.mode), get_args(Mode))
            problems.append(Problem("mode", f"must be min or max, not {self.mode!r}{near}"))
        if self.target is not None and not math.isfinite(self.target):
            problems.append(Problem("target", f"must be a finite number, not {self.target!r}"))
        if problems:
            raise SpecError(problems)

    def reached(self, value: float) -> bool:
        """Return whether the value is as good as the target; True without one."""
        if self.target is None:
            return True
        return value <= self.target if self.mode == "min" else value >= self.target


@dataclass(frozen=True)
class Constraint:
    """A comparison that a good trial meets, such as ``p99_ms <= 20``.

    Example:
        >>> Constraint.parse("p99_ms <= 20").violation({"p99_ms": 23.0})
        3.0
    """

    text: str
    left: Expression
    sign: str
    right: Expression

    @classmethod
    def parse(cls, text: str) -> Constraint:
        """Return the constraint that ``text`` says.

        Raises:
            ExpressionError: It is no single comparison by ``<=``, ``<``, ``>=``, ``>`` or ``==``.
        """
        parts = Expression.parse(text, truth=True).comparison()
        if parts is None or parts[1] not in ("<=", "<", ">=", ">", "=="):
            message = (
                "a constraint is one comparison by <=, <, >=, > or ==, such as p99_ms <= 20; "
                "write several constraints for several comparisons"
            )
            raise ExpressionError([Problem("", message, line=1, column=1, snippet=text)])
        return cls(text, *parts)

    @property
    def names(self) -> frozenset[str]:
        """The metrics it needs."""
        return self.left.names | self.right.names

    def violation(self, values: Mapping[str, Any]) -> float:
        """Return by how much it is missed: above 0 is violated, 0 or below is met."""
        left, right = float(self.left(values)), float(self.right(values))
        over = left - right if self.sign in ("<=", "<", "==") else right - left
        if self.sign == "==":
            over = abs(over)
        if math.isinf(over) and math.isfinite(left) and math.isfinite(right):
            over = math.copysign(sys.float_info.max, over)
        strict = self.sign in ("<", ">")
        return math.nextafter(0.0, 1.0) if strict and over == 0 else over


@dataclass
class StepMean:
    """The mean of a trial's reports, each step counted once however often it is reported.

    Attributes:
        steps: How many are counted.
        last: The highest of them, from 1.
        mean: One number for each of a report; empty before the first.

    Example:
        >>> mean = StepMean()
        >>> [mean.take(step, (value,)) for step, value in [(1, 2.0), (2, 4.0), (1, 9.0)]]
        [(2.0,), (3.0,), (3.0,)]
    """

    steps: int = 0
    last: int = 0
    mean: tuple[float, ...] = ()

    def take(self, step: int, values: tuple[float, ...]) -> tuple[float, ...]:
        """Return the mean with a report.

        Args:
            step: Of the report. Steps come in order, except that some may come again.
            values: Finite numbers, always as many.
        """
        if step > self.last:
            self.steps, self.last = self.steps + 1, step
            # In this form nothing overflows, and the mean of equal numbers is exact.
            pairs = zip(self.mean or values, values, strict=True)
            self.mean = tuple(m + (v / self.steps - m / self.steps) for m, v in pairs)
        return self.mean


class Objective:
    """All goals and constraints of an experiment.

    Args:
        goals: At least one.
        constraints: May be none.

    Attributes:
        inputs: The metrics that the goals need.
        constraint_inputs: The metrics that the constraints need.

    Example:
        >>> objective = Objective.of("loss", "min", target=0.1)
        >>> objective.values({"loss": 0.5, "epoch": 3}), objective.reached((0.05,))
        ((0.5,), True)
    """

    def __init__(self, goals: Sequence[Goal], constraints: Sequence[Constraint] = ()) -> None:
        if not goals:
            raise ExpressionError("an objective needs at least one goal")
        self.goals = tuple(goals)
        self.constraints = tuple(constraints)
        self.inputs = frozenset().union(*(goal.expression.names for goal in self.goals))
        self.constraint_inputs: frozenset[str] = frozenset().union(
            *(constraint.names for constraint in self.constraints)
        )

    @classmethod
    def of(cls, metric: str, mode: Mode = "min", target: float | None = None) -> Objective:
        """Return the objective of one plain metric."""
        return cls([Goal(Expression.name(metric), mode, metric, target)])

    @property
    def names(self) -> tuple[str, ...]:
        """The goals' names."""
        return tuple(goal.name for goal in self.goals)

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The goals' modes."""
        return tuple(goal.mode for goal in self.goals)

    @property
    def multi(self) -> bool:
        """Whether there are several goals."""
        return len(self.goals) > 1

    def values(self, metrics: Mapping[str, Any]) -> tuple[float, ...]:
        """Return the goals' values.

        Raises:
            BadMetric: A metric is missing or no finite number, or a formula has no value.
        """
        numbers = _numbers(self.inputs, metrics)
        return tuple(_finite(g.name, g.expression, numbers) for g in self.goals)

    def violations(self, metrics: Mapping[str, Any]) -> tuple[float, ...]:
        """Return the constraints' violations: above 0 is violated.

        Raises:
            BadMetric: As ``values`` does.
        """
        numbers = _numbers(self.constraint_inputs, metrics)
        return tuple(_finite(c.text, c.violation, numbers) for c in self.constraints)

    def minimized(self, values: Sequence[float]) -> tuple[float, ...]:
        """Return the values with signs turned so that lower is better."""
        pairs = zip(values, self.modes, strict=True)
        return tuple(value if mode == "min" else -value for value, mode in pairs)

    def better(self, a: Sequence[float], b: Sequence[float]) -> bool:
        """Return whether ``a`` is strictly better than ``b``: it dominates, with several goals."""
        return _dominates(self.minimized(a), self.minimized(b))

    def reached(self, values: Sequence[float]) -> bool:
        """Return whether every target is reached, and there is one."""
        if all(goal.target is None for goal in self.goals):
            return False
        return all(goal.reached(value) for goal, value in zip(self.goals, values, strict=True))

    def best(self, candidates: Iterable[Candidate]) -> list[int]:
        """Return the numbers of the best feasible trials: one, or the Pareto front; maybe none.

        Of equal ones the lowest number comes first; with one goal it is the only one returned.
        """
        ranked = sorted(
            (self.minimized(values), number)
            for number, values, violations in candidates
            if values and all(violation <= 0 for violation in violations)
        )
        if not self.multi:
            return [number for _, number in ranked[:1]]
        # In this order no trial is dominated by a later one.
        front: list[tuple[tuple[float, ...], int]] = []
        for values, number in ranked:
            if not any(_dominates(better, values) for better, _ in front):
                front.append((values, number))
        return sorted(number for _, number in front)


def _dominates(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """Return whether ``a`` is nowhere higher than ``b`` and lower somewhere."""
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))


def _finite(
    name: str, formula: Callable[[Mapping[str, float]], float], numbers: Mapping[str, float]
) -> float:
    """Return the value of a formula.

    Raises:
        BadMetric: There is none, or it is not finite.
    """
    try:
        value = float(formula(numbers))
    except ExpressionValueError as error:
        shown = ", ".join(f"{metric} = {number:g}" for metric, number in numbers.items())
        raise BadMetric(FailureKind.METRIC_NAN, f"{error} (with {shown})") from error
    if math.isnan(value):
        raise BadMetric(FailureKind.METRIC_NAN, f"'{name}' is not a number (nan)")
    if math.isinf(value):
        raise BadMetric(FailureKind.METRIC_INFINITE, f"'{name}' is infinite")
    return value


def _numbers(names: Iterable[str], metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: _number(name, metrics) for name in sorted(names)}


def _number(name: str, metrics: Mapping[str, Any]) -> float:
    if name not in metrics:
        reported = ", ".join(sorted(metrics)) or "nothing"
        raise BadMetric(
            FailureKind.METRIC_MISSING,
            f"metric '{name}' was not reported; reported: {reported}{did_you_mean(name, metrics)}",
        )
    value = _plain(metrics[name])
    if isinstance(value, bool) or not isinstance(value, Real):
        shown = repr(metrics[name])[:60]
        raise BadMetric(
            FailureKind.METRIC_NOT_NUMBER, f"metric '{name}' is {shown}, which is no number"
        )
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if math.isnan(number):
        raise BadMetric(FailureKind.METRIC_NAN, f"metric '{name}' is not a number (nan)")
    if math.isinf(number):
        raise BadMetric(FailureKind.METRIC_INFINITE, f"metric '{name}' is infinite")
    return number


def _plain(value: Any) -> Any:
    """Return the one number in an array or tensor, or the value itself."""
    item = getattr(value, "item", None)
    if not callable(item):
        return value
    try:
        return item()
    except (TypeError, ValueError, RuntimeError):
        return value


__all__ = [
    "At",
    "BadMetric",
    "Constraint",
    "Goal",
    "MissingName",
    "Mode",
    "Objective",
    "StepMean",
]
