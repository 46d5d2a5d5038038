from raytune_hpo.objective import Objective
from raytune_hpo.searchers.base import Searcher
from raytune_hpo.searchers.bo import Acquisition
from raytune_hpo.searchers.mfbo import MfboSearcher
from raytune_hpo.space import SearchSpace
from raytune_hpo.testing.searchers import SearcherContract


class TestMfbo(SearcherContract):
    def make(self, space: SearchSpace, objective: Objective, seed: int) -> Searcher:
        return MfboSearcher(space, objective, seed)


class TestMfboOtherwise(SearcherContract):
    """The settings that the other class leaves at their defaults."""

    trials = 24

    def make(self, space: SearchSpace, objective: Objective, seed: int) -> Searcher:
        acquisition: Acquisition = "thompson" if objective.multi else "hedge"
        return MfboSearcher(
            space, objective, seed, startup_trials=4, acquisition=acquisition, failures="ignore"
        )
