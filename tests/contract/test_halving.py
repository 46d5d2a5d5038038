"""The successive-halving family passes the contract in all its forms."""

from typing import Any, ClassVar

from raytune_hpo.objective import Objective
from raytune_hpo.schedulers.asha import Asha
from raytune_hpo.schedulers.base import Scheduler
from raytune_hpo.schedulers.hyperband import Hyperband
from raytune_hpo.schedulers.sha import Sha
from raytune_hpo.space import SearchSpace
from raytune_hpo.testing.schedulers import SchedulerContract


class _Asha(SchedulerContract):
    settings: ClassVar[dict[str, Any]]

    def make(self, space: SearchSpace, objective: Objective) -> Scheduler:
        return Asha(space, objective, 1, **self.settings)


class _Sha(SchedulerContract):
    settings: ClassVar[dict[str, Any]]

    def make(self, space: SearchSpace, objective: Objective) -> Scheduler:
        return Sha(space, objective, 1, **self.settings)


class _Hyperband(SchedulerContract):
    settings: ClassVar[dict[str, Any]]

    def make(self, space: SearchSpace, objective: Objective) -> Scheduler:
        return Hyperband(space, objective, 1, **self.settings)


class TestAsha(_Asha):
    settings: ClassVar = {"max_resource": 27}


class TestAshaWithBrackets(_Asha):
    settings: ClassVar = {
        "resource": "epoch", "min_resource": 2, "reduction_factor": 2, "brackets": 3,
    }  # fmt: skip


class TestAshaThatStops(_Asha):
    settings: ClassVar = {"form": "stop", "max_resource": 27}


class TestAshaThatStopsWithBrackets(_Asha):
    settings: ClassVar = {
        "form": "stop", "resource": "epoch", "min_resource": 2, "reduction_factor": 2,
        "brackets": 3,
    }  # fmt: skip


class TestAshaThatPromotes(_Asha):
    settings: ClassVar = {"form": "promote", "max_resource": 27}


class TestAshaThatPromotesWithFractions(_Asha):
    settings: ClassVar = {
        "form": "promote", "min_resource": 1.5, "max_resource": 27, "reduction_factor": 2.5,
    }  # fmt: skip


class TestSha(_Sha):
    settings: ClassVar = {"max_resource": 27}


class TestShaOfSmallBrackets(_Sha):
    settings: ClassVar = {"resource": "epoch", "max_resource": 27, "size": 4}


class TestShaOfOneTrial(_Sha):
    settings: ClassVar = {"max_resource": 27, "size": 1}


class TestShaWithoutMaximum(_Sha):
    settings: ClassVar = {"min_resource": 2, "reduction_factor": 1.5, "size": 5}


class TestHyperband(_Hyperband):
    settings: ClassVar = {"max_resource": 27}


class TestHyperbandOfManyBrackets(_Hyperband):
    settings: ClassVar = {
        "resource": "epoch", "min_resource": 2, "max_resource": 27, "reduction_factor": 2,
    }  # fmt: skip


class TestHyperbandOfSmallBrackets(_Hyperband):
    settings: ClassVar = {"min_resource": 9, "max_resource": 27}
