"""What the schedulers of the successive-halving family share."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from typing import Any

from raytune_hpo.errors import Problem, did_you_mean
from raytune_hpo.nondominated import places
from raytune_hpo.objective import BadMetric, Objective
from raytune_hpo.standing import FAILED, Standing, standing
from raytune_hpo.trial import FailureKind, Outcome, Result, TrialState

SETTINGS = "scheduler.settings."

Ranked = list[tuple[tuple[Any, ...], int]]
"""Key and number of trials, the best first; equal keys are equally good."""


class Rung:
    """The entries of trials at one rung, how they rank, and which of the trials wait there.

    Args:
        several_goals: Rank by non-dominated front and crowding distance.
    """

    def __init__(self, *, several_goals: bool) -> None:
        self._several_goals = several_goals
        self._standings: dict[int, Standing] = {}
        self._keys: dict[int, tuple[Any, ...]] = {}
        self._ranked: Ranked = []
        self._waiting: Ranked = []

    def __len__(self) -> int:
        return len(self._standings)

    def enter(self, trial: int, entry: Standing) -> None:
        """Take in the entry of a trial that does not wait, in place of the one it may have."""
        before = self._standings.get(trial)
        self._standings[trial] = entry
        if self._several_goals:
            self._ranked = ranked(self._standings, several_goals=True)
            self._keys = {trial: key for key, trial in self._ranked}
            self._waiting = sorted((self._keys[trial], trial) for _, trial in self._waiting)
            return
        if before is not None:
            del self._ranked[bisect_left(self._ranked, (before, trial))]
        insort(self._ranked, (entry, trial))
        self._keys[trial] = entry

    def better(self, trial: int) -> int:
        """Return how many entries are better than that of a trial."""
        return bisect_left(self._ranked, (self._keys[trial], -1))

    def rank(self, trial: int) -> int:
        """Return the rank of a trial, from 0; of equal ones the lowest number comes first."""
        return bisect_left(self._ranked, (self._keys[trial], trial))

    def wait(self, trial: int) -> None:
        """Take note that a trial with an entry waits."""
        insort(self._waiting, (self._keys[trial], trial))

    def leave(self, trial: int) -> None:
        """Take note that a trial does not wait any more."""
        del self._waiting[bisect_left(self._waiting, (self._keys[trial], trial))]

    def promotable(self, count: int, paused: Sequence[int]) -> int | None:
        """Return the best trial that waits, stands paused, and has a rank below ``count``."""
        for _, trial in self._waiting:
            if self.rank(trial) >= count:
                return None
            if stands(trial, paused):
                return trial
        return None


def stands(trial: int, paused: Sequence[int]) -> bool:
    """Return whether a trial is one of the paused ones, which come in ascending order."""
    place = bisect_left(paused, trial)
    return place < len(paused) and paused[place] == trial


def ranked(entries: Mapping[int, Standing], *, several_goals: bool) -> Ranked:
    """Return trials with what they rank by, the best first.

    Source: with several goals, Deb et al. 2002, doi:10.1109/4235.996017, section III (front, then
    crowding distance).
    """
    keys = places(list(entries.values())) if several_goals else list(entries.values())
    return sorted(zip(keys, entries, strict=True))


def entry_of(objective: Objective, result: Result) -> Standing:
    """Return how good a trial is by one report."""
    outcome = Outcome(TrialState.COMPLETED, result.values, result.violations, result.step)
    return standing(objective, outcome) or FAILED


def used_by(result: Result, resource: str | None) -> float:
    """Return how much of the resource a trial has used.

    Args:
        result: Of the trial.
        resource: The metric that says so; None counts the trial's reports.

    Raises:
        BadMetric: The metric was not reported, or is no finite number.
    """
    if resource is None:
        return result.step
    seen = result.metrics.get(resource)
    if isinstance(seen, (int, float)) and not isinstance(seen, bool) and math.isfinite(seen):
        return seen
    if resource in result.metrics:
        raise BadMetric(
            FailureKind.METRIC_NOT_NUMBER,
            f"metric '{resource}', the scheduler's resource, has to be a finite number, "
            f"not {seen!r}",
        )
    reported = ", ".join(sorted(result.metrics)) or "nothing"
    raise BadMetric(
        FailureKind.METRIC_MISSING,
        f"metric '{resource}', the scheduler's resource, has to come with or before the objective; "
        f"reported: {reported}{did_you_mean(resource, result.metrics)}",
    )


def wrong_numbers(**settings: float | None) -> list[Problem]:
    """Return a problem for each setting that is out of range; None is in range.

    ``reduction_factor`` has to be above 1, all others above 0.
    """
    problems = []
    for name, number in settings.items():
        least = 1 if name == "reduction_factor" else 0
        if number is not None and not (number > least and math.isfinite(number)):
            problems.append(Problem(SETTINGS + name, f"must be above {least}, not {number!r}"))
    return problems


def wrong_counts(**settings: int | None) -> list[Problem]:
    """Return a problem for each setting that is below 1; None is in range."""
    return [
        Problem(SETTINGS + name, f"must be at least 1, not {number!r}")
        for name, number in settings.items()
        if number is not None and number < 1
    ]
