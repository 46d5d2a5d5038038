"""What a run asks for, and whether quotas and limit ranges have room for it."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from raytune_hpo.cluster.kuberay import demand, room
from raytune_hpo.cluster.kuberay.demand import Demand, PodNeed
from raytune_hpo.cluster.kuberay.quantities import parse, shown
from raytune_hpo.errors import SpecError

GIB = 2**30
MIB = 2**20


def pod(cpu: str | None = "1", memory: str | None = "2Gi", **more: str) -> dict[str, Any]:
    amounts = {"cpu": cpu, "memory": memory, **more}
    given = {name: amount for name, amount in amounts.items() if amount is not None}
    resources = {"requests": given, "limits": given}
    return {"spec": {"containers": [{"name": "main", "resources": resources}]}}


def rayjob(
    head: dict[str, Any] | None = None,
    worker: dict[str, Any] | None = None,
    mode: str = "SidecarMode",
    scaled: bool = True,
    most: int = 8,
    least: int = 0,
) -> dict[str, Any]:
    group = {
        "groupName": "trials",
        "replicas": least,
        "minReplicas": least,
        "maxReplicas": most,
        "template": pod("2") if worker is None else worker,
    }
    cluster = {
        "enableInTreeAutoscaling": scaled,
        "headGroupSpec": {"template": pod() if head is None else head},
        "workerGroupSpecs": [group],
    }
    return {"spec": {"submissionMode": mode, "rayClusterSpec": cluster}}


def cpu_of(pod: PodNeed) -> Decimal:
    return pod.requests["cpu"]


def memory_of(pod: PodNeed) -> Decimal:
    return pod.requests["memory"]


def quota(hard: dict[str, str], used: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    status = {"hard": hard, "used": used or {}}
    return {"metadata": {"name": "team-a"}, "spec": {"hard": hard, **spec}, "status": status}


def fit(run: Demand, hard: dict[str, str], used: dict[str, str] | None = None, **spec: Any) -> str:
    found = room.within_quota(run, quota(hard, used, **spec))
    return "" if found is None else f"{found.verdict}: {found.text}"


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("500m", "0.5"),
        ("1.5Gi", str(3 * GIB // 2)),
        ("1e3", "1000"),
        ("2E", "2000000000000000000"),
        ("1E3", "1000"),
        ("100n", "0.0000001"),
        ("+1k", "1000"),
        (".5", "0.5"),
        (3, "3"),
    ],
)
def test_amounts(text: str | int, amount: str) -> None:
    assert parse(text) == Decimal(amount)


@pytest.mark.parametrize("text", ["", "1.5 Gi", "1GiB", "abc", "1m5", "--1"])
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(SpecError, match="no amount as Kubernetes writes it"):
        parse(text)


def test_amounts_as_a_person_says_them() -> None:
    assert shown("requests.memory", parse("2764Mi")) == "2.7Gi"
    assert shown("cpu", parse("1000m")) == "1"
    assert shown("limits.cpu", parse("1500m")) == "1.5"
    assert shown("memory", 1000) == "1000"


@pytest.mark.parametrize(
    ("mode", "scaled", "cpu", "memory"),
    [
        ("SidecarMode", True, "2", 2 * GIB + 712 * MIB),
        ("SidecarMode", False, "1.5", 2 * GIB + 200 * MIB),
        ("K8sJobMode", True, "1.5", 2 * GIB + 512 * MIB),
        ("HTTPMode", False, "1", 2 * GIB),
    ],
)
def test_what_kuberay_adds_to_the_head_counts(
    mode: str, scaled: bool, cpu: str, memory: int
) -> None:
    found = demand.of_rayjob(rayjob(mode=mode, scaled=scaled))
    assert (found.head.requests["cpu"], found.head.requests["memory"]) == (
        Decimal(cpu),
        Decimal(memory),
    )
    assert (found.submitter is not None) == (mode == "K8sJobMode")


def test_the_autoscaler_as_it_is_written() -> None:
    job = rayjob(mode="HTTPMode")
    options = {"resources": {"limits": {"cpu": "1"}}}
    job["spec"]["rayClusterSpec"]["autoscalerOptions"] = options
    assert cpu_of(demand.of_rayjob(job).head) == 2


def test_workers_between_least_and_most() -> None:
    found = demand.of_rayjob(rayjob(least=2, most=8))
    assert (found.least["trials"], found.most["trials"]) == (2, 8)
    fixed = demand.of_rayjob(rayjob(least=3, most=8, scaled=False))
    assert (fixed.least["trials"], fixed.most["trials"]) == (3, 3)
    job = rayjob(least=1, most=2)
    job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["numOfHosts"] = 4
    found = demand.of_rayjob(job)
    assert (found.least["trials"], found.most["trials"]) == (4, 8)


def test_a_first_container_counts_when_it_asks_for_more() -> None:
    worker = pod("100m", "100Mi")
    found = demand.of_rayjob(rayjob(worker=worker)).groups[0].pod
    # The one that waits for the head.
    assert (cpu_of(found), memory_of(found)) == (Decimal("0.2"), Decimal(256 * MIB))
    big = {"name": "fetch", "resources": {"requests": {"cpu": "3"}}}
    worker["spec"]["initContainers"] = [big, {**big, "restartPolicy": "Always"}]
    assert cpu_of(demand.of_rayjob(rayjob(worker=worker)).groups[0].pod) == Decimal("3.1")


RUN = demand.of_rayjob(rayjob())


def test_a_quota_with_room_for_some_workers() -> None:
    assert fit(RUN, {"requests.cpu": "18"}, {"requests.cpu": "4"}) == (
        "warn: quota team-a allows 18 CPUs, 4 are in use; head 2 + 8 workers of 2 ask for 18: "
        "2 workers too many; runs with fewer"
    )


@pytest.mark.parametrize(
    ("hard", "used", "text"),
    [
        ({"cpu": "18"}, {}, "ok: quota team-a has room for the head and 8 workers"),
        (
            {"requests.cpu": "18"},
            {"requests.cpu": "17"},
            "fail: quota team-a allows 18 CPUs, 17 are in use; head 2 asks for 2: it cannot start",
        ),
        (
            {"requests.cpu": "18"},
            {"requests.cpu": "15"},
            "fail: quota team-a allows 18 CPUs, 15 are in use; head 2 + 8 workers of 2 ask for 18: "
            "not even one worker fits",
        ),
        (
            {"limits.memory": "10Gi"},
            {},
            "warn: quota team-a allows 10Gi of memory as limits, 0 are in use; head 3.5Gi + 8 "
            "workers of 2Gi ask for 19.5Gi: 5 workers too many; runs with fewer",
        ),
        (
            {"pods": "5"},
            {"pods": "1"},
            "warn: quota team-a allows 5 pods, 1 are in use; head 1 + 8 workers of 1 ask for 9: "
            "5 workers too many; runs with fewer",
        ),
        (
            {"count/rayjobs.ray.io": "2"},
            {"count/rayjobs.ray.io": "2"},
            "fail: quota team-a allows 2 rayjobs.ray.io, 2 are in use; a run needs 1: delete what "
            "is over, or ask for a larger quota",
        ),
        (
            {"services": "3"},
            {"services": "2"},
            "fail: quota team-a allows 3 services, 2 are in use; a run needs 2: delete what is "
            "over, or ask for a larger quota",
        ),
        (
            {"requests.nvidia.com/gpu": "0"},
            {},
            "ok: quota team-a has room for the head and 8 workers",
        ),
    ],
)
def test_quotas(hard: dict[str, str], used: dict[str, str], text: str) -> None:
    assert fit(RUN, hard, used) == text


def test_the_quota_that_was_recorded() -> None:
    file = Path(__file__).parent / "kuberay_recorded" / "quota_object.json"
    found = room.within_quota(RUN, json.loads(file.read_text()))
    assert found is not None
    assert found.text.startswith("quota compute allows 1 CPUs, 0.7 are in use; head 2 asks")


def test_a_submitter_of_its_own_is_counted() -> None:
    run = demand.of_rayjob(rayjob(mode="K8sJobMode", least=1, most=1))
    assert fit(run, {"requests.cpu": "3"}).endswith(
        "head 1.5 + submitter 0.5 + 1 worker of 2 ask for 4: it cannot start"
    )


def test_a_quota_wants_what_is_not_set() -> None:
    run = demand.of_rayjob(rayjob(worker=pod(cpu=None)))
    assert "wants what is not set: requests.cpu of container main of a worker" in fit(
        run, {"requests.cpu": "100"}
    )


@pytest.mark.parametrize(
    ("spec", "concerned"),
    [
        ({"scopes": ["BestEffort"]}, False),
        ({"scopes": ["NotBestEffort"]}, True),
        ({"scopes": ["Terminating"]}, False),
        ({"scopes": ["NotTerminating", "NotBestEffort"]}, True),
        (
            {
                "scopeSelector": {
                    "matchExpressions": [
                        {"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}
                    ]
                }
            },
            False,
        ),
        (
            {
                "scopeSelector": {
                    "matchExpressions": [{"scopeName": "PriorityClass", "operator": "DoesNotExist"}]
                }
            },
            True,
        ),
    ],
)
def test_quotas_that_concern_other_pods(spec: dict[str, Any], concerned: bool) -> None:
    assert bool(fit(RUN, {"requests.cpu": "1"}, None, **spec)) == concerned


def test_a_quota_for_the_priority_of_workers_only() -> None:
    worker = pod("2")
    worker["spec"]["priorityClassName"] = "low"
    run = demand.of_rayjob(rayjob(worker=worker))
    rules = [{"scopeName": "PriorityClass", "operator": "In", "values": ["low"]}]
    text = fit(run, {"cpu": "6"}, None, scopeSelector={"matchExpressions": rules})
    assert text.endswith("8 workers of 2 ask for 16: 5 workers too many; runs with fewer")


def limit_range(**entry: Any) -> list[dict[str, Any]]:
    item = {"type": "Container", **entry}
    return [{"metadata": {"name": "sizes"}, "spec": {"limits": [item]}}]


def breaches(run: Demand, ranges: list[dict[str, Any]]) -> list[str]:
    return [found.text for found in room.within_ranges(room.with_defaults(run, ranges), ranges)]


def test_limit_ranges() -> None:
    assert breaches(RUN, limit_range(max={"cpu": "1"})) == [
        "LimitRange sizes allows container main of a worker of group trials at most 1 CPUs, 2 is "
        "asked"
    ]
    assert breaches(RUN, limit_range(min={"memory": "300Mi"})) == [
        "LimitRange sizes allows container ray-job-submitter of the head at least 300Mi of memory, "
        "200Mi is asked",
        "LimitRange sizes allows container wait-gcs-ready of a worker of group trials at least "
        "300Mi of memory, 256Mi is asked",
    ]
    assert breaches(RUN, limit_range(type="Pod", max={"memory": "3Gi"})) == [
        "LimitRange sizes allows the head at most 3Gi of memory, 3.5Gi is asked"
    ]
    assert breaches(RUN, limit_range(maxLimitRequestRatio={"memory": "2"})) == [
        "LimitRange sizes allows container ray-job-submitter of the head a limit of 2 times the "
        "request of memory at most"
    ]


def test_defaults_of_limit_ranges_fill_in_what_is_absent() -> None:
    run = demand.of_rayjob(rayjob(worker=pod(cpu=None)))
    ranges = limit_range(default={"cpu": "4"}, defaultRequest={"cpu": "1"})
    filled = room.with_defaults(run, ranges).groups[0].pod
    assert (filled.requests["cpu"], filled.limits["cpu"]) == (Decimal(1), Decimal(4))
    only_limit = room.with_defaults(run, limit_range(default={"cpu": "4"})).groups[0].pod
    assert only_limit.requests["cpu"] == 4
    assert breaches(run, limit_range(max={"cpu": "3"})) == [
        "LimitRange sizes allows container main of a worker of group trials at most 3 CPUs, no "
        "limit is set"
    ]
