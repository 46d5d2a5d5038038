"""Synchronous successive halving."""

from __future__ import annotations

import math
from collections.abc import Sequence

from raytune_hpo.errors import Problem, SpecError
from raytune_hpo.objective import Objective
from raytune_hpo.schedulers.halving import (
    SETTINGS,
    wrong_counts,
    wrong_numbers,
)
from raytune_hpo.schedulers.synchronous import SynchronousHalving
from raytune_hpo.space import SearchSpace


class Sha(SynchronousHalving):
    """Runs successive halving on ``size`` trials, and then on the next ones.

    The rungs stand at ``min_resource * reduction_factor ** k`` for k = 0, 1, ..., below
    ``max_resource``, where a trial is complete. The trials of a bracket wait, paused, at each rung
    until all of them are there or have ended. Then the best ``max(1, floor(n / reduction_factor))``
    of the n go on and the others are dropped. Meanwhile trials of the next bracket start, so no
    worker is idle. When no more trials follow, the last bracket is decided with those that it has.

    A trial that ends by itself stands with its last value at all rungs that it did not reach; one
    that fails is the worst there. With several goals trials rank by front and crowding distance,
    and those that violate constraints behind all others.

    Args:
        objective: One goal or several, with or without constraints.
        resource: The metric that counts what a trial has used, such as ``epoch``; None counts its
            reports with an objective value.
        min_resource: Where the lowest rung stands.
        max_resource: Trials are complete here; None lets the best of a bracket run to its own end.
        reduction_factor: Of so many trials one passes a rung.
        size: Trials of a bracket; None for as many as leave one at ``max_resource``: with rungs at
            1, 3, 9 and 27 these are 81.

    Raises:
        SpecError: When settings are out of range, or neither ``max_resource`` nor ``size`` is
            given.

    Source: Jamieson and Talwalkar 2016, arXiv:1502.07943; Li et al. 2020, arXiv:1810.05934,
    Algorithm 1.

    Example:
        >>> from raytune_hpo.objective import Objective
        >>> from raytune_hpo.space import Float, SearchSpace
        >>> from raytune_hpo.trial import Result
        >>> sha = Sha(SearchSpace({"x": Float(0, 1)}), Objective.of("loss"), seed=1, size=3)
        >>> for trial in range(3):
        ...     sha.on_trial(trial, {"x": 0.5}, None)
        >>> [sha.on_result(Result(trial, 1, (loss,))).value for trial, loss in enumerate([3, 1, 2])]
        ['pause', 'pause', 'stop']
        >>> sha.next_move([0, 1], more=True), sha.next_move([1], more=True)
        (Drop(trial=0), Resume(trial=1))
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
        size: int | None = None,
    ) -> None:
        super().__init__(objective, resource, max_resource, reduction_factor)
        self.min_resource = min_resource
        problems = wrong_numbers(
            min_resource=min_resource,
            max_resource=max_resource,
            reduction_factor=reduction_factor,
        ) + wrong_counts(size=size)
        problems = problems or _no_room(min_resource, max_resource, size)
        if problems:
            raise SpecError(problems)
        self.levels = self._levels(size)
        self.size = size or math.ceil(reduction_factor ** len(self.levels) - 1e-9)

    def shape(self, number: int) -> tuple[int, Sequence[float]]:
        """Return ``size`` and ``levels``: all brackets are alike."""
        return self.size, self.levels

    def _levels(self, size: int | None) -> list[float]:
        """Return where the rungs stand; without a maximum, those that leave one trial."""
        levels: list[float] = []
        level, left = self.min_resource, size or 1
        while left > 1 if self.max_resource is None else level < self.max_resource:
            levels.append(level)
            level = self.min_resource * self.reduction_factor ** len(levels)
            left = math.floor(left / self.reduction_factor)
        return levels


def _no_room(min_resource: float, max_resource: float | None, size: int | None) -> list[Problem]:
    """Return the problem that there is no rung, or that their number is open."""
    text = None
    if max_resource is None and size is None:
        text = "must be given, or else size: they say how many rungs there are"
    elif max_resource is not None and max_resource <= min_resource:
        text = f"must be above min_resource, which is {min_resource:g}, not {max_resource!r}"
    return [] if text is None else [Problem(SETTINGS + "max_resource", text)]
