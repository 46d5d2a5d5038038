from raytune_hpo.objective import Objective
from raytune_hpo.schedulers.base import Scheduler
from raytune_hpo.schedulers.pb2 import Pb2
from raytune_hpo.schedulers.pbt import Pbt
from raytune_hpo.space import SearchSpace
from raytune_hpo.testing.schedulers import SchedulerContract


class TestPbt(SchedulerContract):
    def make(self, space: SearchSpace, objective: Objective) -> Scheduler:
        return Pbt(space, objective, 1, interval=4, max_resource=27)


class TestPbtSynchronous(SchedulerContract):
    def make(self, space: SearchSpace, objective: Objective) -> Scheduler:
        return Pbt(
            space, objective, 1, interval=3, resource="epoch", max_resource=27, synchronous=True
        )


class TestPbtToTheOwnEnd(SchedulerContract):
    """Trials are interrupted by their own end between two intervals."""

    def make(self, space: SearchSpace, objective: Objective) -> Scheduler:
        return Pbt(space, objective, 1, interval=4, burn_in=10, quantile=0.5)


class TestPb2(SchedulerContract):
    def make(self, space: SearchSpace, objective: Objective) -> Scheduler:
        return Pb2(space, objective, 1, interval=4, max_resource=27)


class TestPb2Synchronous(SchedulerContract):
    def make(self, space: SearchSpace, objective: Objective) -> Scheduler:
        return Pb2(space, objective, 1, interval=4, synchronous=True)
