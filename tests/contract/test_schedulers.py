from raytune_hpo.objective import Objective
from raytune_hpo.schedulers.base import Scheduler
from raytune_hpo.schedulers.none import NoScheduler
from raytune_hpo.space import SearchSpace
from raytune_hpo.testing.schedulers import SchedulerContract


class TestNone(SchedulerContract):
    def make(self, space: SearchSpace, objective: Objective) -> Scheduler:
        return NoScheduler(space, objective, 1)
