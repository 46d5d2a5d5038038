from raytune_hpo.objective import Objective
from raytune_hpo.schedulers.base import Scheduler
from raytune_hpo.schedulers.median import Median
from raytune_hpo.schedulers.patient import Patient
from raytune_hpo.schedulers.percentile import Percentile
from raytune_hpo.schedulers.threshold import Threshold
from raytune_hpo.space import SearchSpace
from raytune_hpo.testing.schedulers import SchedulerContract


class TestMedian(SchedulerContract):
    def make(self, space: SearchSpace, objective: Objective) -> Scheduler:
        return Median(space, objective, 1, min_trials=2)


class TestMedianByEpoch(SchedulerContract):
    def make(self, space: SearchSpace, objective: Objective) -> Scheduler:
        return Median(space, objective, 1, resource="epoch", interval=3, min_resource=6)


class TestPercentile(SchedulerContract):
    def make(self, space: SearchSpace, objective: Objective) -> Scheduler:
        return Percentile(space, objective, 1, percentile=40, min_trials=3)


class TestThreshold(SchedulerContract):
    compares = False

    def make(self, space: SearchSpace, objective: Objective) -> Scheduler:
        worst = 0.9 if objective.modes == ("min",) else -0.9
        return Threshold(space, objective, 1, worst=worst, min_resource=4)


class TestPatient(SchedulerContract):
    def make(self, space: SearchSpace, objective: Objective) -> Scheduler:
        return Patient(space, objective, 1, patience=25)
