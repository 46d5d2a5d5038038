"""Which Ray a driver in a RayJob uses, and what it asks the autoscaler for."""

from __future__ import annotations

from typing import Any

import pytest
from ray.autoscaler import sdk

from raytune_hpo.cluster import here
from raytune_hpo.cluster.base import Room
from raytune_hpo.cluster.kuberay import inside
from raytune_hpo.cluster.kuberay.connection import KubeRay, bundle
from raytune_hpo.cluster.local import LocalRay
from raytune_hpo.experiment import Experiment
from raytune_hpo.space import Float

EXPERIMENT = Experiment.from_python(run="noop", parameters={"x": Float(0.0, 1.0)}, metric="loss")
ROOM = Room({"CPU": 4.0, "memory": 2.0**30}, 3)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[dict[str, float]]]:
    """Note what Ray's autoscaler is asked for."""
    noted: list[list[dict[str, float]]] = []
    monkeypatch.setattr(sdk, "request_resources", lambda bundles: noted.append(bundles))
    return noted


def connection(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]) -> Any:
    for name in (inside.RAYJOB_ENV, inside.ROOM_ENV, "RAY_ADDRESS", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return here.connection(EXPERIMENT)


def test_a_driver_in_its_own_rayjob_knows_what_may_come(monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {inside.RAYJOB_ENV: "digits", inside.ROOM_ENV: inside.write_room(ROOM)}
    found = connection(monkeypatch, {**environ, "RAY_ADDRESS": "10.0.0.1:6379"})
    assert isinstance(found, KubeRay)
    assert found.room() == ROOM


def test_any_other_ray_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    found = connection(monkeypatch, {"RAY_ADDRESS": "10.0.0.1:6379"})
    assert type(found) is LocalRay


def test_workers_are_asked_for_while_trials_wait_and_given_back_at_the_tail(
    asked: list[list[dict[str, float]]],
) -> None:
    found = KubeRay(inside.Inside("digits", "team", "digits-x", "pod", ROOM))
    found.note(frozenset(), wanting=True)
    found.note(frozenset({"a", "b"}), wanting=True)
    found.note(frozenset({"a", "b"}), wanting=False)
    found.note(frozenset({"b"}), wanting=False)
    found.note(frozenset(), wanting=False)
    assert [len(bundles) for bundles in asked] == [3, 2, 1, 0]
    assert asked[0][0] == {"CPU": 4.0}


def test_a_worker_without_cpus_is_asked_for_by_its_memory() -> None:
    assert bundle(Room({"CPU": 0.0, "memory": 5.0}, 1)) == {"memory": 5.0}
