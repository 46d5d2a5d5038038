"""Random search."""

from __future__ import annotations

from raytune_hpo.searchers.untried import UntriedSearcher
from raytune_hpo.trial import Config


class RandomSearcher(UntriedSearcher):
    """Draws every config from the priors, without looking at outcomes.

    In a finite space no config is proposed twice, and there is none when all were tried.

    Source: Bergstra and Bengio 2012, Journal of Machine Learning Research 13, 281-305.

    Example:
        >>> from raytune_hpo.objective import Objective
        >>> from raytune_hpo.space import Float, SearchSpace
        >>> searcher = RandomSearcher(SearchSpace({"x": Float(0, 1)}), Objective.of("loss"), seed=1)
        >>> 0 <= searcher.suggest(0)["x"] <= 1
        True
    """

    def propose(self, trial: int) -> Config | None:
        """Return a random config."""
        rng = self.random(trial)
        return self.untried(lambda: self.space.sample(rng), rng)
