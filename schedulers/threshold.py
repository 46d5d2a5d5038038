"""Stopping trials beyond a bound."""

from __future__ import annotations

import math

from raytune_hpo.errors import Problem
from raytune_hpo.objective import Objective
from raytune_hpo.schedulers.curves import Curve, CurveScheduler
from raytune_hpo.schedulers.halving import SETTINGS
from raytune_hpo.space import SearchSpace


class Threshold(CurveScheduler):
    """Stops a trial that reports a value beyond a bound, whatever other trials do.

    Constraints are not looked at.

    Args:
        objective: Has to have one goal.
        worst: The worst value that goes on, in the unit of the objective: the highest one where
            the objective is minimised, the lowest one where it is maximised. Has to be given.
        resource: The metric that counts what a trial has used, such as ``epoch``; None counts its
            reports with an objective value.
        min_resource: No trial is stopped before.

    Raises:
        SpecError: When settings are out of range or the objective has several goals.

    Example:
        >>> from raytune_hpo.objective import Objective
        >>> from raytune_hpo.space import Float, SearchSpace
        >>> from raytune_hpo.trial import Result
        >>> space = SearchSpace({"x": Float(0, 1)})
        >>> rule = Threshold(space, Objective.of("acc", "max"), seed=1, worst=0.1)
        >>> rule.on_trial(0, {"x": 0.5}, None)
        >>> rule.on_result(Result(0, 1, (0.09,)))
        <Decision.STOP: 'stop'>
    """

    def __init__(
        self,
        space: SearchSpace,
        objective: Objective,
        seed: int,
        *,
        worst: float | None = None,
        resource: str | None = None,
        min_resource: float = 1,
    ) -> None:
        problems = []
        if worst is None or not math.isfinite(worst):
            seen = "" if worst is None else f", not {worst!r}"
            text = f"has to be given: the worst value that goes on, a finite number{seen}"
            problems = [Problem(SETTINGS + "worst", text)]
        super().__init__(objective, "threshold", resource, min_resource, problems)
        self._highest = 0.0 if worst is None else objective.minimized((worst,))[0]

    def add(self, curve: Curve, used: float, value: float) -> bool:
        """Take in a report and compare it with the bound."""
        curve.add(used, value)
        return value > self._highest
