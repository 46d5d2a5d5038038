from raytune_hpo.objective import Objective
from raytune_hpo.searchers.base import Searcher
from raytune_hpo.searchers.grid import GridSearcher
from raytune_hpo.searchers.random import RandomSearcher
from raytune_hpo.searchers.sobol import SobolSearcher
from raytune_hpo.searchers.tpe import TpeSearcher
from raytune_hpo.space import SearchSpace
from raytune_hpo.testing.searchers import SearcherContract


class TestRandom(SearcherContract):
    def make(self, space: SearchSpace, objective: Objective, seed: int) -> Searcher:
        return RandomSearcher(space, objective, seed)


class TestSobol(SearcherContract):
    def make(self, space: SearchSpace, objective: Objective, seed: int) -> Searcher:
        return SobolSearcher(space, objective, seed)


class TestGrid(SearcherContract):
    def make(self, space: SearchSpace, objective: Objective, seed: int) -> Searcher:
        return GridSearcher(space, objective, seed, resolution=3)


class TestGridInOrder(SearcherContract):
    seeded = False

    def make(self, space: SearchSpace, objective: Objective, seed: int) -> Searcher:
        return GridSearcher(space, objective, seed, resolution=3, shuffle=False)


class TestTpe(SearcherContract):
    def make(self, space: SearchSpace, objective: Objective, seed: int) -> Searcher:
        return TpeSearcher(space, objective, seed, startup_trials=8)


class TestTpeOtherwise(SearcherContract):
    """The settings that the other class leaves at their defaults."""

    trials = 24

    def make(self, space: SearchSpace, objective: Objective, seed: int) -> Searcher:
        multivariate = objective.multi
        return TpeSearcher(
            space,
            objective,
            seed,
            startup_trials=5,
            candidates=8,
            multivariate=multivariate,
            constant_liar=False,
            failures="ignore",
        )
