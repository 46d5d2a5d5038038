from raytune_hpo.objective import Objective
from raytune_hpo.schedulers.asha import Asha
from raytune_hpo.schedulers.base import Scheduler
from raytune_hpo.schedulers.none import NoScheduler
from raytune_hpo.space import SearchSpace
from raytune_hpo.testing.schedulers import SchedulerContract


class TestNone(SchedulerContract):
    def make(self, space: SearchSpace, objective: Objective) -> Scheduler:
        return NoScheduler(space, objective, 1)


class TestAsha(SchedulerContract):
    def make(self, space: SearchSpace, objective: Objective) -> Scheduler:
        return Asha(space, objective, 1, max_resource=27)


class TestAshaWithBrackets(SchedulerContract):
    def make(self, space: SearchSpace, objective: Objective) -> Scheduler:
        return Asha(
            space, objective, 1, resource="epoch", min_resource=2, reduction_factor=2, brackets=3
        )
