"""What the pods of a run ask for in all, counted as Kubernetes counts them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from raytune_hpo.cluster.kuberay import quantities

Amounts = Mapping[str, Decimal]

# What KubeRay 1.7 adds to the pods by itself (controllers/ray/common/job.go, pod.go).
_SUBMITTER = {
    "resources": {
        "requests": {"cpu": "500m", "memory": "200Mi"},
        "limits": {"cpu": "1", "memory": "1Gi"},
    }
}
_AUTOSCALER = {
    "resources": {
        "requests": {"cpu": "500m", "memory": "512Mi"},
        "limits": {"cpu": "500m", "memory": "512Mi"},
    }
}
_WAIT_FOR_HEAD = {
    "resources": {
        "requests": {"cpu": "200m", "memory": "256Mi"},
        "limits": {"cpu": "200m", "memory": "256Mi"},
    }
}


@dataclass(frozen=True)
class Pod:
    """What one pod asks for.

    Attributes:
        requests: By Kubernetes' names; CPUs, bytes or pieces.
        limits: The same; only what every container has a limit of.
        priority_class: By which quotas may tell pods apart, or None.
        unset: Of ``cpu`` and ``memory``, what a container says nothing of: ``requests.cpu``.
    """

    requests: Amounts
    limits: Amounts
    priority_class: str | None = None
    unset: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Demand:
    """What a run asks for in all.

    Attributes:
        head: The pod with the head, with all that KubeRay adds to it.
        worker: One worker.
        submitter: The pod that submits the job, where there is one.
        min: Workers that are always there.
        max: Workers at the most.
    """

    head: Pod
    worker: Pod
    submitter: Pod | None
    min: int
    max: int

    def pods(self, workers: int) -> list[Pod]:
        """Return all pods with so many workers."""
        others = [self.head] if self.submitter is None else [self.head, self.submitter]
        return others + [self.worker] * workers


def total(pods: Iterable[Pod], kind: str = "requests") -> dict[str, Decimal]:
    """Return what pods ask for together.

    Args:
        pods: Such as ``demand.pods(demand.min)``.
        kind: ``requests`` or ``limits``.
    """
    found: dict[str, Decimal] = {}
    for pod in pods:
        for name, amount in getattr(pod, kind).items():
            found[name] = found.get(name, Decimal(0)) + amount
    return found


def demand(objects: Iterable[Mapping[str, Any]]) -> Demand:
    """Return what the RayJob among some objects asks for.

    Raises:
        ValueError: There is none, or a quantity in it is wrong.
    """
    job = next((one for one in objects if one.get("kind") == "RayJob"), None)
    if job is None:
        raise ValueError("there is no RayJob among these objects")
    spec = job["spec"]
    cluster = spec["rayClusterSpec"]
    mode = spec.get("submissionMode", "K8sJobMode")
    added = [_SUBMITTER] if mode == "SidecarMode" else []
    if cluster.get("enableInTreeAutoscaling"):
        options = cluster.get("autoscalerOptions") or {}
        added.append({"resources": options["resources"]} if "resources" in options else _AUTOSCALER)
    if len(cluster["workerGroupSpecs"]) != 1:
        raise ValueError("there is not exactly one group of workers in this RayJob")
    group = cluster["workerGroupSpecs"][0]
    return Demand(
        head=_pod(cluster["headGroupSpec"]["template"]["spec"], added, []),
        worker=_pod(group["template"]["spec"], [], [_WAIT_FOR_HEAD]),
        submitter=_submitter(spec) if mode == "K8sJobMode" else None,
        min=group.get("minReplicas", 0),
        max=group["maxReplicas"],
    )


def _submitter(spec: Mapping[str, Any]) -> Pod:
    template = spec.get("submitterPodTemplate")
    return _pod({"containers": [_SUBMITTER]} if template is None else template["spec"], [], [])


def _pod(
    spec: Mapping[str, Any], added: Sequence[Mapping[str, Any]], first: Sequence[Mapping[str, Any]]
) -> Pod:
    """Return what a pod asks for: its containers together, or a larger one that runs before."""
    containers = [*spec["containers"], *added]
    initial = [*spec.get("initContainers", ()), *first]
    # One that is started before and goes on is one of the containers.
    containers += [one for one in initial if one.get("restartPolicy") == "Always"]
    initial = [one for one in initial if one.get("restartPolicy") != "Always"]
    sums = {}
    for kind in ("requests", "limits"):
        found = _sum(_amounts(one, kind) for one in containers)
        for one in initial:
            for name, amount in _amounts(one, kind).items():
                found[name] = max(found.get(name, Decimal(0)), amount)
        sums[kind] = found
    unset = frozenset(
        f"{kind}.{name}"
        for kind in ("requests", "limits")
        for name in ("cpu", "memory")
        for one in [*containers, *initial]
        if name not in _amounts(one, kind)
    )
    limits = {n: a for n, a in sums["limits"].items() if f"limits.{n}" not in unset}
    return Pod(sums["requests"], limits, spec.get("priorityClassName"), unset)


def _amounts(container: Mapping[str, Any], kind: str) -> dict[str, Decimal]:
    """Return requests or limits of a container; what has a limit and no request asks for it."""
    resources = container.get("resources") or {}
    found = dict(resources.get(kind) or {})
    if kind == "requests":
        found = {**(resources.get("limits") or {}), **found}
    return {name: quantities.parse(amount) for name, amount in found.items()}


def _sum(many: Iterable[Mapping[str, Decimal]]) -> dict[str, Decimal]:
    found: dict[str, Decimal] = {}
    for one in many:
        for name, amount in one.items():
            found[name] = found.get(name, Decimal(0)) + amount
    return found
