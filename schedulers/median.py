"""The median stopping rule."""

from __future__ import annotations

from collections.abc import Sequence

from raytune_hpo.objective import Objective
from raytune_hpo.schedulers.curves import ComparingScheduler, Curve, quantile
from raytune_hpo.space import SearchSpace


class Median(ComparingScheduler):
    """Stops a trial whose best value is worse than the median of the other trials' averages.

    At each multiple of ``interval`` a trial's best value so far is compared with the averages that
    other trials had up to there, whatever has become of them. Constraints are not looked at.

    Args:
        objective: Has to have one goal.
        resource: The metric that counts what a trial has used, such as ``epoch``; None counts its
            reports with an objective value.
        min_resource: No trial is stopped before.
        interval: Of the resource, between two comparisons; about what a report adds, or more.
        min_trials: So many other trials have to have come there.

    Raises:
        SpecError: When settings are out of range or the objective has several goals.

    Source: Golovin et al. 2017, Google Vizier, doi:10.1145/3097983.3098043, section 3.2.2, which
    compares with completed trials only.

    Example:
        >>> from raytune_hpo.objective import Objective
        >>> from raytune_hpo.space import Float, SearchSpace
        >>> from raytune_hpo.trial import Result
        >>> space = SearchSpace({"x": Float(0, 1)})
        >>> rule = Median(space, Objective.of("loss"), seed=1, min_trials=2)
        >>> for trial in range(3):
        ...     rule.on_trial(trial, {"x": 0.5}, None)
        >>> [rule.on_result(Result(t, 1, (loss,))).value for t, loss in enumerate([0.1, 0.2, 0.3])]
        ['continue', 'continue', 'stop']
    """

    def __init__(
        self,
        space: SearchSpace,
        objective: Objective,
        seed: int,
        *,
        resource: str | None = None,
        min_resource: float = 1,
        interval: float = 1,
        min_trials: int = 5,
    ) -> None:
        super().__init__(objective, "median", resource, min_resource, interval, min_trials)

    def entry(self, curve: Curve) -> float:
        """Return the average so far."""
        return curve.mean

    def limit(self, entries: Sequence[float]) -> float:
        """Return the median."""
        return quantile(entries, 0.5)
