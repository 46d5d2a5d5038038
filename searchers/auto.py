"""The default searcher: Bayesian optimisation, and a second opinion while it is stuck."""

from __future__ import annotations

from raytune_hpo.objective import Objective
from raytune_hpo.searchers.bo import BoSearcher
from raytune_hpo.searchers.tpe import TpeSearcher
from raytune_hpo.searchers.untried import UntriedSearcher
from raytune_hpo.space import SearchSpace
from raytune_hpo.standing import Standing, standing
from raytune_hpo.trial import Config, Outcome

_PATIENCE = 15
"""After so many ended trials without a better one the Gaussian process counts as stuck."""
_EVERY = 3
"""So often TPE proposes then."""


class AutoSearcher(UntriedSearcher):
    """Proposes what ``bo`` does, and each third time what ``tpe`` does while ``bo`` is stuck.

    A Gaussian process that misses the shape of the objective is stuck in its error; densities of
    good and bad trials err elsewhere. Both learn from all trials. With several goals it is ``bo``
    alone. In a finite space no config is proposed twice.

    Args:
        space: What to search.
        objective: One goal or several, with or without constraints.
        seed: Of both.

    Source: those of ``bo`` and ``tpe``; their mixture is our own, see docs/search-quality.md.

    Example:
        >>> from raytune_hpo.objective import Objective
        >>> from raytune_hpo.space import Float, SearchSpace
        >>> searcher = AutoSearcher(SearchSpace({"x": Float(0, 1)}), Objective.of("loss"), seed=1)
        >>> 0 <= searcher.suggest(0)["x"] <= 1
        True
    """

    def __init__(self, space: SearchSpace, objective: Objective, seed: int) -> None:
        super().__init__(space, objective, seed)
        self._bo = BoSearcher(space, objective, seed)
        self._tpe = TpeSearcher(space, objective, seed)
        self._best: Standing | None = None
        self._since_best = 0

    def propose(self, trial: int) -> Config | None:
        """Return the config of the searcher whose turn it is."""
        stuck = not self.objective.multi and self._since_best >= _PATIENCE
        searcher = self._tpe if stuck and trial % _EVERY == 0 else self._bo
        return searcher.propose(trial)

    def adopt(self, trial: int, config: Config) -> None:
        """Keep a config as pending."""
        super().adopt(trial, config)
        self._bo.adopt(trial, config)
        self._tpe.adopt(trial, config)

    def observe(self, trial: int, outcome: Outcome) -> None:
        """Keep the outcome of a trial."""
        super().observe(trial, outcome)
        self._bo.observe(trial, outcome)
        self._tpe.observe(trial, outcome)
        found = standing(self.objective, outcome)
        self._since_best += 1
        if found is not None and (self._best is None or found < self._best):
            self._best, self._since_best = found, 0

    def expected_improvement(self) -> float | None:
        """Return what ``bo`` expects the next trial to gain; see there."""
        return self._bo.expected_improvement()
