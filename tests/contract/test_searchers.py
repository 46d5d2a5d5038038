from raytune_hpo.objective import Objective
from raytune_hpo.searchers.auto import AutoSearcher
from raytune_hpo.searchers.base import Searcher
from raytune_hpo.searchers.bo import Acquisition, BoSearcher
from raytune_hpo.searchers.bohb import BohbSearcher
from raytune_hpo.searchers.cmaes import CmaesSearcher
from raytune_hpo.searchers.evolution import EvolutionSearcher
from raytune_hpo.searchers.grid import GridSearcher
from raytune_hpo.searchers.hyperopt import HyperoptSearcher
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


class TestHyperopt(SearcherContract):
    def make(self, space: SearchSpace, objective: Objective, seed: int) -> Searcher:
        return HyperoptSearcher(space, objective, seed, startup_trials=8)


class TestHyperoptOtherwise(SearcherContract):
    """The settings that the other class leaves at their defaults."""

    trials = 24

    def make(self, space: SearchSpace, objective: Objective, seed: int) -> Searcher:
        return HyperoptSearcher(
            space,
            objective,
            seed,
            startup_trials=5,
            candidates=8,
            gamma=1.0,
            prior_weight=0.5,
            failures="ignore",
        )


class TestBohb(SearcherContract):
    def make(self, space: SearchSpace, objective: Objective, seed: int) -> Searcher:
        return BohbSearcher(space, objective, seed, startup_trials=6)


class TestBohbOtherwise(SearcherContract):
    """The settings that the other class leaves at their defaults."""

    def make(self, space: SearchSpace, objective: Objective, seed: int) -> Searcher:
        return BohbSearcher(
            space,
            objective,
            seed,
            startup_trials=3,
            reduction_factor=2,
            random_fraction=0.0,
            candidates=8,
            constant_liar=False,
            failures="ignore",
        )


class TestBo(SearcherContract):
    def make(self, space: SearchSpace, objective: Objective, seed: int) -> Searcher:
        return BoSearcher(space, objective, seed)


class TestBoOtherwise(SearcherContract):
    """The settings that the other class leaves at their defaults."""

    trials = 24

    def make(self, space: SearchSpace, objective: Objective, seed: int) -> Searcher:
        acquisition: Acquisition = "thompson" if objective.multi else "hedge"
        return BoSearcher(
            space, objective, seed, startup_trials=4, acquisition=acquisition, failures="ignore"
        )


class TestCmaes(SearcherContract):
    def make(self, space: SearchSpace, objective: Objective, seed: int) -> Searcher:
        return CmaesSearcher(space, objective, seed)


class TestCmaesOtherwise(SearcherContract):
    """The settings that the other class leaves at their defaults."""

    def make(self, space: SearchSpace, objective: Objective, seed: int) -> Searcher:
        return CmaesSearcher(space, objective, seed, population=4, sigma=0.5)


class TestEvolution(SearcherContract):
    def make(self, space: SearchSpace, objective: Objective, seed: int) -> Searcher:
        return EvolutionSearcher(space, objective, seed, population=10)


class TestEvolutionOtherwise(SearcherContract):
    """The settings that the other class leaves at their defaults."""

    def make(self, space: SearchSpace, objective: Objective, seed: int) -> Searcher:
        return EvolutionSearcher(space, objective, seed, population=4, tournament=1, mutations=3.0)


class TestAuto(SearcherContract):
    def make(self, space: SearchSpace, objective: Objective, seed: int) -> Searcher:
        return AutoSearcher(space, objective, seed)
