"""Stopping trials that no longer improve."""

from __future__ import annotations

from raytune_hpo.errors import Problem
from raytune_hpo.objective import Objective
from raytune_hpo.schedulers.curves import Curve, CurveScheduler
from raytune_hpo.schedulers.halving import SETTINGS, wrong_numbers
from raytune_hpo.space import SearchSpace


class Patient(CurveScheduler):
    """Stops a trial that has not improved on itself for a while, whatever other trials do.

    Constraints are not looked at. With ``at: best`` in the objective the trial keeps its best
    value, and not the one that it ended with.

    Args:
        objective: Has to have one goal.
        patience: Of the resource, without a better value: reports, where ``resource`` is None.
        min_delta: A value has to be better than the best one by more than so much, in the unit of
            the objective.
        resource: The metric that counts what a trial has used, such as ``epoch``; None counts its
            reports with an objective value.
        min_resource: No trial is stopped before.

    Raises:
        SpecError: When settings are out of range or the objective has several goals.

    Source: Prechelt 1998, Early stopping - but when?, doi:10.1007/3-540-49430-8_3 (criterion UP).

    Example:
        >>> from raytune_hpo.objective import Objective
        >>> from raytune_hpo.space import Float, SearchSpace
        >>> from raytune_hpo.trial import Result
        >>> space = SearchSpace({"x": Float(0, 1)})
        >>> rule = Patient(space, Objective.of("loss"), seed=1, patience=2)
        >>> rule.on_trial(0, {"x": 0.5}, None)
        >>> losses = enumerate([0.3, 0.2, 0.2, 0.25], start=1)
        >>> [rule.on_result(Result(0, step, (loss,))).value for step, loss in losses]
        ['continue', 'continue', 'continue', 'stop']
    """

    def __init__(
        self,
        space: SearchSpace,
        objective: Objective,
        seed: int,
        *,
        patience: float = 10,
        min_delta: float = 0.0,
        resource: str | None = None,
        min_resource: float = 1,
    ) -> None:
        problems = wrong_numbers(patience=patience)
        if not min_delta >= 0:
            text = f"must be 0 or above, not {min_delta!r}"
            problems.append(Problem(SETTINGS + "min_delta", text))
        super().__init__(objective, "patient", resource, min_resource, problems)
        self.patience = patience
        self.min_delta = min_delta

    def add(self, curve: Curve, used: float, value: float) -> bool:
        """Take in a report and look how long the best value has stood."""
        curve.add(used, value, self.min_delta)
        return used - curve.best_at >= self.patience
