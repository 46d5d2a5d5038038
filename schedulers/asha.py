"""Asynchronous successive halving, in the form that stops trials."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from typing import Any

from raytune_hpo.errors import Problem, SpecError, did_you_mean
from raytune_hpo.objective import BadMetric, Objective
from raytune_hpo.schedulers.base import Decision, Move
from raytune_hpo.space import SearchSpace
from raytune_hpo.trial import Config, FailureKind, Outcome, Result

_GOLDEN = (math.sqrt(5) - 1) / 2


class Asha:
    """Stops the trials that are not among the best ``1/reduction_factor`` at a rung.

    The rungs of bracket ``s`` stand at ``min_resource * reduction_factor ** (s + k)`` for
    k = 0, 1, ..., below ``max_resource``. The first report at or beyond a rung is the trial's
    entry there; a report that skips rungs is its entry in each of them. A trial goes on when it is
    among the best ``max(1, floor(n / reduction_factor))`` of the n entries so far, its own
    included, or equal to one of them; so the first to reach a rung always goes on. Entries stay
    whatever becomes of their trial. At ``max_resource`` a trial is complete.

    Args:
        objective: Has to have one goal.
        resource: The metric that counts what a trial has used, such as ``epoch``; None counts its
            reports with an objective value.
        min_resource: No trial is stopped before.
        max_resource: Trials are complete here; None lets the best run to their own end.
        reduction_factor: Of so many trials about one passes a rung.
        brackets: Groups of trials; each begins one rung later than the one before and gets
            ``1/reduction_factor`` of its trials. More than 1 for curves that cross early.

    Raises:
        SpecError: When settings are out of range or the objective has several goals.

    Source: Li et al. 2020, arXiv:1810.05934, Algorithm 2 (stopping in place of promotion).

    Example:
        >>> from raytune_hpo.objective import Objective
        >>> from raytune_hpo.space import Float, SearchSpace
        >>> space = SearchSpace({"x": Float(0, 1)})
        >>> asha = Asha(space, Objective.of("loss", "min"), seed=1, max_resource=9)
        >>> asha.on_result(Result(trial=0, step=1, values=(0.5,)))
        <Decision.CONTINUE: 'continue'>
        >>> asha.on_result(Result(trial=1, step=1, values=(0.7,)))
        <Decision.STOP: 'stop'>
    """

    def __init__(
        self,
        space: SearchSpace,
        objective: Objective,
        seed: int,
        *,
        resource: str | None = None,
        min_resource: float = 1,
        max_resource: float | None = None,
        reduction_factor: float = 3,
        brackets: int = 1,
    ) -> None:
        self.objective = objective
        self.resource = resource
        self.min_resource = min_resource
        self.max_resource = max_resource
        self.reduction_factor = reduction_factor
        self.brackets = brackets
        problems = self._problems()
        if problems:
            raise SpecError(problems)
        self._rungs: dict[tuple[int, int], list[float]] = {}
        self._passed: dict[int, int] = {}

    def on_trial(self, trial: int, config: Config, parent: int | None) -> None:
        """Take no note: nothing depends on it."""

    def on_result(self, result: Result) -> Decision:
        """Stop the trial if it fails at a rung that this report reaches first.

        Raises:
            BadMetric: The metric named by ``resource`` was not reported as a number.
        """
        value = self.objective.minimized(result.values)[0]
        survived = [self._enter(rung, value) for rung in self._new_rungs(result)]
        if self.max_resource is not None and self._used(result) >= self.max_resource:
            return Decision.COMPLETE
        return Decision.CONTINUE if all(survived) else Decision.STOP

    def on_end(self, trial: int, outcome: Outcome) -> None:
        """Forget how far the trial got; its entries stay."""
        self._passed.pop(trial, None)

    def next_move(self, paused: Sequence[int], *, more: bool) -> Move | None:
        """Return None: nothing is ever paused."""
        return None

    def _new_rungs(self, result: Result) -> list[tuple[int, int]]:
        """Return bracket and index of each rung that the trial had not reached before."""
        bracket = bracket_of(result.trial, self.brackets, self.reduction_factor)
        first = self.min_resource * self.reduction_factor**bracket
        used = self._used(result)
        reached = rungs_reached(used, first, self.max_resource, self.reduction_factor)
        before = self._passed.get(result.trial, 0)
        self._passed[result.trial] = max(before, reached)
        return [(bracket, index) for index in range(before, reached)]

    def _enter(self, rung: tuple[int, int], value: float) -> bool:
        """Add the value to a rung and return whether it survives there."""
        entries = self._rungs.setdefault(rung, [])
        insort(entries, value)
        return survives(value, entries, self.reduction_factor)

    def _used(self, result: Result) -> float:
        if self.resource is None:
            return result.step
        return _resource(result.metrics, self.resource)

    def _problems(self) -> list[Problem]:
        where = "scheduler.settings."
        problems = []
        if self.objective.multi:
            text = "asha ranks trials by one goal; use scheduler none for several goals"
            problems.append(Problem("scheduler.algorithm", text))
        for name in ("min_resource", "max_resource", "reduction_factor"):
            number = getattr(self, name)
            least = 1 if name == "reduction_factor" else 0
            if number is not None and not (number > least and math.isfinite(number)):
                text = f"must be above {least}, not {number!r}"
                problems.append(Problem(where + name, text))
        if self.brackets < 1:
            text = f"must be at least 1, not {self.brackets!r}"
            problems.append(Problem(where + "brackets", text))
        return problems or self._no_room()

    def _no_room(self) -> list[Problem]:
        """Return the problem that the last bracket has no rung below ``max_resource``."""
        first = self.min_resource * self.reduction_factor ** (self.brackets - 1)
        if self.max_resource is None or first < self.max_resource:
            return []
        text = (
            f"must be above {first:g}, the first rung of the last bracket "
            f"(min_resource * reduction_factor ** (brackets - 1)), not {self.max_resource!r}"
        )
        return [Problem("scheduler.settings.max_resource", text)]


def survives(value: float, entries: Sequence[float], reduction_factor: float) -> bool:
    """Return whether a value is good enough to pass a rung.

    Args:
        value: Lower is better; one of ``entries``.
        entries: All values at the rung so far, in ascending order.
        reduction_factor: One of so many passes.
    """
    better = bisect_left(entries, value)
    return better < max(1, math.floor(len(entries) / reduction_factor))


def rungs_reached(
    used: float, first: float, max_resource: float | None, reduction_factor: float
) -> int:
    """Return how many rungs a trial has reached that used so much of the resource.

    Args:
        used: The resource used.
        first: Where the lowest rung stands.
        max_resource: There is no rung here or above; None sets no bound.
        reduction_factor: Ratio between neighbouring rungs.
    """
    count = 0
    level = first
    while level <= used and (max_resource is None or level < max_resource):
        count += 1
        level = first * reduction_factor**count
    return count


def bracket_of(trial: int, brackets: int, reduction_factor: float) -> int:
    """Return the bracket of a trial, from 0.

    Bracket s gets a share proportional to ``reduction_factor ** -s`` of the trials, evenly spread:
    the fractional parts of the multiples of the golden ratio fill the unit interval evenly.
    """
    shares = [reduction_factor**-s for s in range(brackets)]
    point = (trial * _GOLDEN) % 1.0 * sum(shares)
    for bracket, share in enumerate(shares[:-1]):
        if point < share:
            return bracket
        point -= share
    return brackets - 1


def _resource(metrics: Mapping[str, Any], name: str) -> float:
    seen = metrics.get(name)
    if isinstance(seen, (int, float)) and not isinstance(seen, bool) and math.isfinite(seen):
        return seen
    if name in metrics:
        raise BadMetric(
            FailureKind.METRIC_NOT_NUMBER,
            f"metric '{name}', the scheduler's resource, has to be a finite number, not {seen!r}",
        )
    reported = ", ".join(sorted(metrics)) or "nothing"
    raise BadMetric(
        FailureKind.METRIC_MISSING,
        f"metric '{name}', the scheduler's resource, has to come with or before the objective; "
        f"reported: {reported}{did_you_mean(name, metrics)}",
    )
