"""Population-based training."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from raytune_hpo.errors import Problem
from raytune_hpo.objective import Objective
from raytune_hpo.schedulers.perturb import perturbed
from raytune_hpo.schedulers.population import Population, share_problem
from raytune_hpo.space import SearchSpace
from raytune_hpo.trial import Config


class Pbt(Population):
    """Replaces the worst trials by forks of the best ones, with perturbed configs.

    In a fork each parameter is drawn anew with the chance ``resample``; else a number is multiplied
    by one of ``factors``, an ordered value moves to a neighbour, and any other value stays.
    ``Population`` says who is replaced and when.

    Args:
        space: That configs belong to.
        objective: Has to have one goal.
        seed: Each fork draws from its own generator, seeded by this and the trial it replaces.
        interval: Of the resource, between two comparisons; a checkpoint is needed as often.
        resource: The metric that counts what a trial has used, such as ``epoch``; None counts its
            reports with an objective value.
        burn_in: No trial is replaced before it has used so much.
        quantile: Share of the population that is replaced, and share that is forked; at least one
            trial.
        max_resource: Trials are complete here; None leaves their end to them.
        resample: Chance of a parameter to be drawn anew from the space.
        factors: A number is multiplied by one of these.
        synchronous: All wait for one another at the end of each interval.
        fixed: Parameters that a fork keeps from its parent, such as the number of layers.

    Raises:
        SpecError: When settings are out of range or the objective has several goals.

    Source: Jaderberg et al. 2017, arXiv:1711.09846, Algorithm 1 and section 4.1.1 (truncation
    selection; perturb and resample).

    Example:
        >>> from raytune_hpo.space import Float
        >>> from raytune_hpo.trial import Outcome, Result, TrialState
        >>> space = SearchSpace({"lr": Float(0.001, 1.0, log=True)})
        >>> pbt = Pbt(space, Objective.of("loss"), seed=1, interval=1)
        >>> for trial, lr in enumerate((0.1, 0.01)):
        ...     pbt.on_trial(trial, {"lr": lr}, None)
        ...     pbt.on_result(Result(trial, step=1, values=(lr,), checkpoint=True))
        <Decision.PAUSE: 'pause'>
        <Decision.PAUSE: 'pause'>
        >>> pbt.next_move([0, 1], more=False)
        Drop(trial=0)
        >>> pbt.on_end(0, Outcome(TrialState.PRUNED, (0.1,), step=1))
        >>> pbt.next_move([1], more=False)
        Fork(parent=1, config={'lr': 0.012})
    """

    name = "pbt"

    def __init__(
        self,
        space: SearchSpace,
        objective: Objective,
        seed: int,
        *,
        interval: float = 5,
        resource: str | None = None,
        burn_in: float = 0,
        quantile: float = 0.25,
        max_resource: float | None = None,
        resample: float = 0.25,
        factors: Sequence[float] = (0.8, 1.2),
        synchronous: bool = False,
        fixed: Sequence[str] = (),
    ) -> None:
        self.resample = resample
        self.factors = factors
        super().__init__(
            space,
            objective,
            seed,
            interval=interval,
            resource=resource,
            burn_in=burn_in,
            quantile=quantile,
            max_resource=max_resource,
            synchronous=synchronous,
            fixed=fixed,
        )

    def explored(self, parent: int, interval: int, rng: np.random.Generator) -> Config:
        """Return the parent's config, perturbed."""
        return perturbed(
            self.space,
            self.members[parent].config,
            rng,
            factors=self.factors,
            resample=self.resample,
            fixed=self.fixed,
        )

    def _problems(self) -> list[Problem]:
        problems = super()._problems() + share_problem("resample", self.resample)
        if not _are_factors(self.factors):
            text = f"must be a list of numbers above 0, not {self.factors!r}"
            problems.append(Problem("scheduler.settings.factors", text))
        return problems


def _are_factors(seen: object) -> bool:
    return (
        isinstance(seen, list | tuple)
        and len(seen) > 0
        and all(
            isinstance(one, int | float) and not isinstance(one, bool) and 0 < one < math.inf
            for one in seen
        )
    )
