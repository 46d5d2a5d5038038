"""What the schedulers share that stop a trial by its learning curve."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass

from raytune_hpo.errors import Problem, SpecError
from raytune_hpo.objective import Objective
from raytune_hpo.schedulers.base import Decision, Move
from raytune_hpo.schedulers.halving import SETTINGS, used_by
from raytune_hpo.trial import Config, Outcome, Result


@dataclass
class Curve:
    """One trial's curve; lower values are better.

    Attributes:
        used: Of the resource, at the latest new report.
        value: Of that report.
        best: Lowest value so far.
        best_at: Of the resource, where that was.
        mean: Of all values so far.
        count: Reports so far.
    """

    used: float = -math.inf
    value: float = math.inf
    best: float = math.inf
    best_at: float = -math.inf
    mean: float = 0.0
    count: int = 0

    def add(self, used: float, value: float, min_delta: float = 0.0) -> None:
        """Take in a report; a best value has to be lower by more than ``min_delta``."""
        self.used, self.value = used, value
        self.count += 1
        # In this form nothing overflows, and the mean of equal numbers is exact.
        self.mean += value / self.count - self.mean / self.count
        if value < self.best - min_delta:
            self.best, self.best_at = value, used


class CurveScheduler(ABC):
    """Looks at each new report of a trial once, and stops the trial or not; nothing is paused.

    Args:
        objective: Has to have one goal. Constraints are not looked at.
        name: Of the scheduler, for errors.
        resource: The metric that counts what a trial has used; None counts its reports.
        min_resource: No trial is stopped before.
        problems: What is wrong with further settings.

    Raises:
        SpecError: When settings are out of range or the objective has several goals.
    """

    def __init__(
        self,
        objective: Objective,
        name: str,
        resource: str | None,
        min_resource: float,
        problems: Sequence[Problem],
    ) -> None:
        self.objective = objective
        self.resource = resource
        self.min_resource = min_resource
        found = [*_one_goal(objective, name), *problems]
        if not (min_resource >= 0 and math.isfinite(min_resource)):
            text = f"must be 0 or above, not {min_resource!r}"
            found.append(Problem(SETTINGS + "min_resource", text))
        if found:
            raise SpecError(found)
        self._curves: dict[int, Curve] = {}

    @abstractmethod
    def add(self, curve: Curve, used: float, value: float) -> bool:
        """Take in a report of a trial and return whether the trial is hopeless.

        Args:
            curve: The trial's, without this report.
            used: Of the resource.
            value: Lower is better.
        """

    def on_trial(self, trial: int, config: Config, parent: int | None) -> None:
        """Begin a curve."""
        self._curves[trial] = Curve()

    def on_result(self, result: Result) -> Decision:
        """Stop the trial if it is hopeless.

        Raises:
            BadMetric: The metric named by ``resource`` was not reported as a number.
        """
        used = used_by(result, self.resource)
        curve = self._curves[result.trial]
        if used <= curve.used:
            # It goes on from an older checkpoint and was judged here before.
            return Decision.CONTINUE
        hopeless = self.add(curve, used, self.objective.minimized(result.values)[0])
        return Decision.STOP if hopeless and used >= self.min_resource else Decision.CONTINUE

    def on_end(self, trial: int, outcome: Outcome) -> None:
        """Forget the trial's curve; what others compare with stays."""
        self._curves.pop(trial, None)

    def next_move(self, paused: Sequence[int], *, more: bool) -> Move | None:
        """Return None: nothing is ever paused."""
        return None


class Places:
    """The entries of trials at places 1, 2, 3, ...; a trial enters several places in a row at once.

    Places that the same trials have entered alike share one list, so the memory depends on how many
    reports there are and not on how many places a report skips.

    Example:
        >>> places = Places()
        >>> places.enter(0, 50_000, 0.5)
        >>> places.enter(0, 20_000, 0.3)
        >>> places.at(20_000), places.at(20_001), places.at(50_001)
        ([0.3, 0.5], [0.5], [])
    """

    def __init__(self) -> None:
        self._ends: list[int] = []
        self._entries: list[list[float]] = []

    def at(self, place: int) -> Sequence[float]:
        """Return the entries at a place, ascending."""
        index = bisect_left(self._ends, place)
        return self._entries[index] if index < len(self._ends) else []

    def enter(self, before: int, last: int, entry: float) -> None:
        """Enter the places after ``before`` up to ``last``.

        Args:
            before: 0, or the last place that the trial has entered.
            last: Above ``before``.
            entry: Of the trial.
        """
        self._cut(last)
        for index in range(bisect_right(self._ends, before), bisect_right(self._ends, last)):
            insort(self._entries[index], entry)

    def _cut(self, place: int) -> None:
        """Have a list end at a place."""
        index = bisect_left(self._ends, place)
        if index == len(self._ends) or self._ends[index] != place:
            entries = list(self.at(place))
            self._ends.insert(index, place)
            self._entries.insert(index, entries)


class ComparingScheduler(CurveScheduler):
    """Compares a trial with others at the same place, at each multiple of ``interval``.

    A trial's entry there is made by its first report at or beyond it.

    Args:
        objective: Has to have one goal.
        name: Of the scheduler, for errors.
        resource: The metric that counts what a trial has used; None counts its reports.
        min_resource: No trial is stopped before.
        interval: Of the resource, between two comparisons.
        min_trials: So many others have to have an entry.
        problems: What is wrong with further settings.
    """

    def __init__(
        self,
        objective: Objective,
        name: str,
        resource: str | None,
        min_resource: float,
        interval: float,
        min_trials: int,
        problems: Sequence[Problem] = (),
    ) -> None:
        found = list(problems)
        if not (interval > 0 and math.isfinite(interval)):
            found.append(Problem(SETTINGS + "interval", f"must be above 0, not {interval!r}"))
        if min_trials < 1:
            found.append(Problem(SETTINGS + "min_trials", f"must be at least 1, not {min_trials}"))
        super().__init__(objective, name, resource, min_resource, found)
        self.interval = interval
        self.min_trials = min_trials
        self._places = Places()

    @abstractmethod
    def entry(self, curve: Curve) -> float:
        """Return what others are compared with."""

    @abstractmethod
    def limit(self, entries: Sequence[float]) -> float:
        """Return the highest best value that goes on, from other trials' entries, ascending."""

    def add(self, curve: Curve, used: float, value: float) -> bool:
        """Take in a report and compare, if it is the first one at a place."""
        before, place = self._place(curve.used), self._place(used)
        curve.add(used, value)
        if place == before:
            return False
        others = self._places.at(place)
        hopeless = len(others) >= self.min_trials and curve.best > self.limit(others)
        self._places.enter(before, place, self.entry(curve))
        return hopeless

    def _place(self, used: float) -> int:
        # Multiples such as 3 * 0.1 are not exact.
        return 0 if used <= 0 else math.floor(used / self.interval * (1 + 1e-12))


def quantile(entries: Sequence[float], share: float) -> float:
    """Return a quantile, interpolated linearly between two entries.

    Args:
        entries: At least one; ascending.
        share: From 0 to 1.

    Example:
        >>> quantile([1.0, 2.0, 4.0, 8.0], 0.5)
        3.0
    """
    place, part = divmod(share * (len(entries) - 1), 1)
    low = entries[int(place)]
    if part == 0:
        return low
    high = entries[int(place) + 1]
    # The difference of huge numbers overflows.
    return min(low + part * (high - low), high)


def _one_goal(objective: Objective, name: str) -> list[Problem]:
    if not objective.multi:
        return []
    text = f"{name} judges trials by one goal; asha, sha and hyperband take several"
    return [Problem("scheduler.algorithm", text)]
