"""Tree-structured Parzen estimators, computed by Optuna."""

from __future__ import annotations

import math
from typing import Literal

from raytune_hpo.objective import Objective
from raytune_hpo.searchers.base import check_at_least_one
from raytune_hpo.searchers.parzen import ParzenModel
from raytune_hpo.searchers.untried import UntriedSearcher
from raytune_hpo.space import SearchSpace
from raytune_hpo.trial import Config, Outcome, TrialState


class TpeSearcher(UntriedSearcher):
    """Proposes configs that are likely among the good trials and unlikely among the others.

    A value counts whatever the state it came with, so pruned trials teach too; a trial that was
    stopped without a value teaches nothing. Pending trials count among the others. In a finite
    space no config is proposed twice.

    Args:
        space: What to search; priors shape the first proposals and the scale of the later ones.
        objective: One goal or several, with or without constraints.
        seed: Each proposal draws from its own generator, seeded by this and the trial's number.
        startup_trials: Proposals are random until so many trials have ended with a value.
        candidates: Configs drawn for each proposal, of which the most promising is taken.
        multivariate: Model parameters jointly; None does so for one goal only, as Optuna does.
        constant_liar: Keep away from the configs of pending trials.
        failures: ``avoid`` ranks failed trials as worse than all others; ``ignore`` forgets them,
            for failures that have nothing to do with the config.

    Raises:
        SpecError: When a setting is out of range.

    Source: Bergstra et al. 2011, Algorithms for Hyper-Parameter Optimization; Watanabe 2023,
    arXiv:2304.11127; Ozaki et al. 2022, doi:10.1613/jair.1.13188 (several goals).

    Example:
        >>> from raytune_hpo.objective import Objective
        >>> from raytune_hpo.space import Float, SearchSpace
        >>> searcher = TpeSearcher(SearchSpace({"x": Float(0, 1)}), Objective.of("loss"), seed=1)
        >>> for trial in range(30):
        ...     loss = searcher.suggest(trial)["x"] ** 2
        ...     searcher.observe(trial, Outcome(TrialState.COMPLETED, (loss,)))
        >>> min(config["x"] for config, _ in searcher.trials.values()) < 0.05
        True
    """

    def __init__(
        self,
        space: SearchSpace,
        objective: Objective,
        seed: int,
        *,
        startup_trials: int = 10,
        candidates: int = 24,
        multivariate: bool | None = None,
        constant_liar: bool = True,
        failures: Literal["avoid", "ignore"] = "avoid",
    ) -> None:
        super().__init__(space, objective, seed)
        check_at_least_one(startup_trials=startup_trials, candidates=candidates)
        self.startup_trials = startup_trials
        self.failures = failures
        self._model = ParzenModel(
            space,
            objective,
            candidates=candidates,
            multivariate=multivariate,
            constant_liar=constant_liar,
        )
        self._with_value = 0

    def propose(self, trial: int) -> Config | None:
        """Return the most promising config, or a random one in the beginning."""
        rng = self.random(trial)
        if self.exhausted:
            return None
        if self._with_value < self.startup_trials or not self.space.dimensions:
            return self.untried(lambda: self.space.sample(rng), rng)
        config = self._model.promising(int(rng.integers(2**32)))
        if not self.tried(config):
            return config
        return self.untried(lambda: self.neighbour(config, rng), rng)

    def adopt(self, trial: int, config: Config) -> None:
        """Keep a config as pending."""
        super().adopt(trial, config)
        self._model.add(trial, config)

    def observe(self, trial: int, outcome: Outcome) -> None:
        """Keep the outcome of a trial."""
        super().observe(trial, outcome)
        if outcome.values is not None and all(map(math.isfinite, outcome.values)):
            self._with_value += 1
            self._model.end(trial, outcome.values, outcome.violations)
        elif outcome.state is TrialState.FAILED and self.failures == "avoid":
            self._model.end_as_worst(trial)
        else:
            self._model.forget(trial)
