"""Hyperband: successive halving with ever fewer trials that are compared ever later."""

from __future__ import annotations

import math
from collections.abc import Sequence

from raytune_hpo.errors import Problem, SpecError
from raytune_hpo.objective import Objective
from raytune_hpo.schedulers.halving import SETTINGS, wrong_numbers
from raytune_hpo.schedulers.synchronous import SynchronousHalving
from raytune_hpo.space import SearchSpace


class Hyperband(SynchronousHalving):
    """Runs brackets of successive halving from the boldest to one that cuts nobody, and over again.

    With R for ``max_resource`` and eta for ``reduction_factor``, bracket ``s`` has ``s`` rungs, at
    ``R * eta ** -s`` to ``R / eta``, and takes ``ceil((s_max + 1) / (s + 1) * eta ** s)`` trials.
    ``s`` goes down from ``s_max = floor(log(R / min_resource) / log(eta))`` to 0. So each bracket
    uses about as much of the resource. Trials are assigned to brackets in the order of their
    numbers.

    A bracket's trials wait, paused, at each rung until all of them are there or have ended. Then
    the best ``max(1, floor(n / eta))`` of the n go on and the others are dropped. Meanwhile trials
    of the next bracket start, so no worker is idle. When no more trials follow, the last bracket is
    decided with those that it has.

    A trial that ends by itself stands with its last value at all rungs that it did not reach; one
    that fails is the worst there. With several goals trials rank by front and crowding distance,
    and those that violate constraints behind all others.

    Args:
        objective: One goal or several, with or without constraints.
        resource: The metric that counts what a trial has used, such as ``epoch``; None counts its
            reports with an objective value.
        min_resource: No rung stands below.
        max_resource: Trials are complete here; has to be given.
        reduction_factor: Of so many trials one passes a rung.

    Raises:
        SpecError: When settings are out of range, or ``max_resource`` is not given.

    Source: Li et al. 2018, JMLR 18(185), arXiv:1603.06560, Algorithm 1.

    Example:
        >>> from raytune_hpo.objective import Objective
        >>> from raytune_hpo.space import Float, SearchSpace
        >>> space = SearchSpace({"x": Float(0, 1)})
        >>> hyperband = Hyperband(space, Objective.of("loss"), seed=1, max_resource=81)
        >>> for number in range(5):
        ...     print(*hyperband.shape(number))
        81 [1.0, 3.0, 9.0, 27.0]
        34 [3.0, 9.0, 27.0]
        15 [9.0, 27.0]
        8 [27.0]
        5 []
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
    ) -> None:
        super().__init__(objective, resource, max_resource, reduction_factor)
        problems = wrong_numbers(
            min_resource=min_resource,
            max_resource=max_resource,
            reduction_factor=reduction_factor,
        )
        least = min_resource * reduction_factor
        if not problems and (max_resource is None or max_resource < least):
            text = f"must be at least {least:g} (min_resource * reduction_factor), so that there is"
            text += " a rung" + ("" if max_resource is None else f", not {max_resource!r}")
            problems = [Problem(SETTINGS + "max_resource", text)]
        if problems or max_resource is None:
            raise SpecError(problems)
        self._shapes = shapes(min_resource, max_resource, reduction_factor)

    def shape(self, number: int) -> tuple[int, Sequence[float]]:
        """Return the size and the rungs of a bracket; after the last one comes the first again."""
        return self._shapes[number % len(self._shapes)]


def shapes(
    min_resource: float, max_resource: float, reduction_factor: float
) -> list[tuple[int, list[float]]]:
    """Return the number of trials and the rungs of each bracket, from ``s_max`` down to 0.

    Source: Li et al. 2018, arXiv:1603.06560, Algorithm 1, lines 1 to 5, with r in the unit of
    ``min_resource``.
    """
    s_max = 0
    # The tolerance is for 0.9 / 3**2 and the like, which have to be 0.1.
    while max_resource / reduction_factor ** (s_max + 1) >= min_resource * (1 - 1e-9):
        s_max += 1
    return [
        (
            math.ceil((s_max + 1) / (s + 1) * reduction_factor**s - 1e-9),
            [max_resource / reduction_factor**k for k in range(s, 0, -1)],
        )
        for s in range(s_max, -1, -1)
    ]
