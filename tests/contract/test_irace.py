"""Racing and the sampling around elites pass the contracts."""

from raytune_hpo.objective import Objective
from raytune_hpo.schedulers.base import Scheduler
from raytune_hpo.schedulers.irace import Irace
from raytune_hpo.space import SearchSpace
from raytune_hpo.testing.schedulers import SchedulerContract


class TestIrace(SchedulerContract):
    def make(self, space: SearchSpace, objective: Objective) -> Scheduler:
        return Irace(space, objective, 1, instances=27)


class TestIraceByPairedTests(SchedulerContract):
    def make(self, space: SearchSpace, objective: Objective) -> Scheduler:
        return Irace(space, objective, 1, test="t", first_test=4, each_test=3, elites=1)
