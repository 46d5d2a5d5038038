"""Stopping all but the best so many per cent at each step."""

from __future__ import annotations

from collections.abc import Sequence

from raytune_hpo.errors import Problem
from raytune_hpo.objective import Objective
from raytune_hpo.schedulers.curves import ComparingScheduler, Curve, quantile
from raytune_hpo.schedulers.halving import SETTINGS
from raytune_hpo.space import SearchSpace


class Percentile(ComparingScheduler):
    """Stops a trial whose best value is not among the best so many per cent at the same place.

    At each multiple of ``interval`` a trial's best value so far is compared with the values that
    other trials had there, whatever has become of them. Constraints are not looked at.

    Args:
        objective: Has to have one goal.
        percentile: Above 0 and below 100; with 25, the best quarter goes on.
        resource: The metric that counts what a trial has used, such as ``epoch``; None counts its
            reports with an objective value.
        min_resource: No trial is stopped before.
        interval: Of the resource, between two comparisons; about what a report adds, or more.
        min_trials: So many other trials have to have come there.

    Raises:
        SpecError: When settings are out of range or the objective has several goals.

    Source: as Optuna's PercentilePruner; the percentile between two values is interpolated.

    Example:
        >>> from raytune_hpo.objective import Objective
        >>> from raytune_hpo.space import Float, SearchSpace
        >>> from raytune_hpo.trial import Result
        >>> space = SearchSpace({"x": Float(0, 1)})
        >>> rule = Percentile(space, Objective.of("loss"), seed=1, percentile=25, min_trials=3)
        >>> for trial in range(4):
        ...     rule.on_trial(trial, {"x": 0.5}, None)
        >>> losses = enumerate([0.1, 0.2, 0.3, 0.2])
        >>> [rule.on_result(Result(t, 1, (loss,))).value for t, loss in losses]
        ['continue', 'continue', 'continue', 'stop']
    """

    def __init__(
        self,
        space: SearchSpace,
        objective: Objective,
        seed: int,
        *,
        percentile: float = 25,
        resource: str | None = None,
        min_resource: float = 1,
        interval: float = 1,
        min_trials: int = 5,
    ) -> None:
        problems = []
        if not 0 < percentile < 100:
            text = f"must be above 0 and below 100, not {percentile!r}"
            problems = [Problem(SETTINGS + "percentile", text)]
        super().__init__(
            objective, "percentile", resource, min_resource, interval, min_trials, problems
        )
        self.percentile = percentile

    def entry(self, curve: Curve) -> float:
        """Return the latest value."""
        return curve.value

    def limit(self, entries: Sequence[float]) -> float:
        """Return the percentile."""
        return quantile(entries, self.percentile / 100)
