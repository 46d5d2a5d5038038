"""Racing and the sampling around elites pass the contracts."""

from dataclasses import replace

from raytune_hpo.objective import Objective
from raytune_hpo.schedulers.base import Scheduler
from raytune_hpo.schedulers.irace import Irace
from raytune_hpo.searchers.base import Searcher
from raytune_hpo.searchers.irace import IraceSearcher
from raytune_hpo.space import SearchSpace
from raytune_hpo.testing.schedulers import SchedulerContract
from raytune_hpo.testing.searchers import SearcherContract


class TestIrace(SchedulerContract):
    def make(self, space: SearchSpace, objective: Objective) -> Scheduler:
        return Irace(space, objective, 1, instances=27)


class TestIraceByPairedTests(SchedulerContract):
    def make(self, space: SearchSpace, objective: Objective) -> Scheduler:
        return Irace(space, objective, 1, test="t", first_test=4, each_test=3, elites=1)


class TestIraceSearcher(SearcherContract):
    def make(self, space: SearchSpace, objective: Objective, seed: int) -> Searcher:
        return IraceSearcher(space, objective, seed, iteration_trials=8)


class TestIraceSearcherOfMeans(SearcherContract):
    """Trials that still run count too, and there is one parent only."""

    def make(self, space: SearchSpace, objective: Objective, seed: int) -> Searcher:
        goals = [replace(goal, at="mean") for goal in objective.goals]
        averaged = Objective(goals, objective.constraints)
        return IraceSearcher(space, averaged, seed, iteration_trials=5, elites=1)
