"""What a RayJob asks of its namespace, counted with all that KubeRay adds to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from raytune_hpo.cluster.kuberay.quantity import parse

Object = Mapping[str, Any]
Amounts = Mapping[str, Decimal]
"""Resources by name, such as ``cpu`` (cores), ``memory`` (bytes) and ``nvidia.com/gpu``."""

AUTOSCALER = "autoscaler"
SUBMITTER = "ray-job-submitter"
WAITER = "wait-gcs-ready"
"""Of workers: ends when the head is there."""
# Source: KubeRay 1.7.0, controllers/ray/common/pod.go and job.go.
_AUTOSCALER_ASKS = {"cpu": "500m", "memory": "512Mi"}
_WAITER_ASKS = {"cpu": "200m", "memory": "256Mi"}
_SUBMITTER_REQUESTS = {"cpu": "500m", "memory": "200Mi"}
_SUBMITTER_LIMITS = {"cpu": "1", "memory": "1Gi"}


@dataclass(frozen=True)
class Container:
    """What a container asks for.

    Attributes:
        name: Its name.
        requests: What is kept free for it.
        limits: What it may use at most; what is absent has no limit.
        first: Whether it runs and ends before the others.
    """

    name: str
    requests: Amounts
    limits: Amounts
    first: bool = False


@dataclass(frozen=True)
class PodNeed:
    """What a pod asks for.

    Attributes:
        containers: Those that are written and those that KubeRay adds.
        priority: Name of its priority class; empty for the usual one.
    """

    containers: tuple[Container, ...]
    priority: str = ""

    @property
    def requests(self) -> Amounts:
        """What is kept free for the whole pod."""
        return _whole((c.first, c.requests) for c in self.containers)

    @property
    def limits(self) -> Amounts:
        """What the whole pod may use."""
        return _whole((c.first, c.limits) for c in self.containers)

    @property
    def cpu(self) -> Decimal:
        """Cores."""
        return self.requests.get("cpu", Decimal(0))

    @property
    def memory(self) -> Decimal:
        """Bytes."""
        return self.requests.get("memory", Decimal(0))

    @property
    def gpus(self) -> Decimal:
        """GPUs of any make."""
        named = (a for name, a in self.requests.items() if "gpu" in name or "/mig-" in name)
        return sum(named, Decimal(0))


@dataclass(frozen=True)
class Group:
    """Workers that are alike.

    Attributes:
        name: Name of the group.
        pod: What one asks for.
        least: How many there are always.
        most: How many there may be.
    """

    name: str
    pod: PodNeed
    least: int
    most: int


@dataclass(frozen=True)
class Demand:
    """What a run asks for.

    Attributes:
        head: The pod with the driver.
        groups: The workers.
        submitter: The pod that hands the job to the head, when there is one.
        objects: How many objects of which kind come with it, as quotas name them.
    """

    head: PodNeed
    groups: tuple[Group, ...] = ()
    submitter: PodNeed | None = None
    objects: Mapping[str, int] = field(default_factory=dict)

    @property
    def least_workers(self) -> int:
        """Workers that there are always."""
        return sum(group.least for group in self.groups)

    @property
    def most_workers(self) -> int:
        """Workers that there may be at once."""
        return sum(group.most for group in self.groups)

    @property
    def fixed(self) -> tuple[PodNeed, ...]:
        """The pods that are there whatever the workers do."""
        return (self.head, *([self.submitter] if self.submitter is not None else []))


def of_rayjob(job: Object) -> Demand:
    """Return what a RayJob asks for.

    Args:
        job: The object as it will be sent.
    """
    spec = job["spec"]
    cluster = spec["rayClusterSpec"]
    scaled = bool(cluster.get("enableInTreeAutoscaling"))
    mode = spec.get("submissionMode", "K8sJobMode")
    head = cluster["headGroupSpec"]["template"]["spec"]
    added = [_autoscaler(cluster)] if scaled else []
    added += [_submitter_container()] if mode == "SidecarMode" else []
    return Demand(
        head=_pod(head, added),
        groups=tuple(_group(group, scaled) for group in cluster.get("workerGroupSpecs") or ()),
        submitter=_submitter(spec) if mode == "K8sJobMode" else None,
        objects=_objects(spec, cluster, scaled=scaled, mode=mode),
    )


def _group(group: Object, scaled: bool) -> Group:
    hosts = int(group.get("numOfHosts") or 1)
    fixed = int(group.get("replicas") or 0)
    least = int(group.get("minReplicas") or 0) if scaled else fixed
    most = int(group.get("maxReplicas") or 0) if scaled else fixed
    waiter = _asking(WAITER, _WAITER_ASKS, _WAITER_ASKS, first=True)
    pod = _pod(group["template"]["spec"], [waiter])
    return Group(str(group["groupName"]), pod, least * hosts, max(least, most) * hosts)


def _pod(spec: Object, added: Iterable[Container]) -> PodNeed:
    # A container of the first ones that restarts always runs beside the others.
    early = spec.get("initContainers") or ()
    first = [_container(one, first=one.get("restartPolicy") != "Always") for one in early]
    usual = [_container(one) for one in spec.get("containers") or ()]
    return PodNeed((*first, *usual, *added), str(spec.get("priorityClassName") or ""))


def _container(one: Object, *, first: bool = False) -> Container:
    asked = one.get("resources") or {}
    return _asking(str(one["name"]), asked.get("requests"), asked.get("limits"), first=first)


def _asking(
    name: str, requests: Object | None, limits: Object | None, *, first: bool = False
) -> Container:
    most = {resource: parse(amount) for resource, amount in (limits or {}).items()}
    # What has a limit only is requested in the same amount.
    kept = most | {resource: parse(amount) for resource, amount in (requests or {}).items()}
    return Container(name, kept, most, first)


def _autoscaler(cluster: Object) -> Container:
    asked = (cluster.get("autoscalerOptions") or {}).get("resources")
    if asked is None:
        return _asking(AUTOSCALER, _AUTOSCALER_ASKS, _AUTOSCALER_ASKS)
    return _asking(AUTOSCALER, asked.get("requests"), asked.get("limits"))


def _submitter_container() -> Container:
    return _asking(SUBMITTER, _SUBMITTER_REQUESTS, _SUBMITTER_LIMITS)


def _submitter(spec: Object) -> PodNeed:
    template = spec.get("submitterPodTemplate")
    return _pod({}, [_submitter_container()]) if template is None else _pod(template["spec"], [])


def _objects(spec: Object, cluster: Object, *, scaled: bool, mode: str) -> dict[str, int]:
    """Return the objects of a run by the names that quotas count them under."""
    head = cluster["headGroupSpec"]["template"]["spec"]
    token = (cluster.get("authOptions") or {}).get("mode") == "token"
    found = Counter({"rayjobs.ray.io": 1, "rayclusters.ray.io": 1})
    # One service of the cluster's head and one of the RayJob.
    found["services"] = 2
    found["configmaps"] = 1
    found["secrets"] = int(token)
    found["jobs.batch"] = int(mode == "K8sJobMode")
    if scaled:
        found["serviceaccounts"] = int(not head.get("serviceAccountName"))
        found["roles.rbac.authorization.k8s.io"] = 1
        found["rolebindings.rbac.authorization.k8s.io"] = 1
    return {name: count for name, count in found.items() if count}


def _whole(parts: Iterable[tuple[bool, Amounts]]) -> dict[str, Decimal]:
    """Return what a pod asks for: its containers together, or its largest first one."""
    first: dict[str, Decimal] = {}
    together: dict[str, Decimal] = {}
    for early, amounts in parts:
        for name, amount in amounts.items():
            if early:
                first[name] = max(first.get(name, Decimal(0)), amount)
            else:
                together[name] = together.get(name, Decimal(0)) + amount
    names = [*together, *(name for name in first if name not in together)]
    zero = Decimal(0)
    return {name: max(together.get(name, zero), first.get(name, zero)) for name in names}


def pods_of(demand: Demand, workers: Mapping[str, int]) -> Iterator[tuple[PodNeed, int]]:
    """Yield the pods of a run and how many there are of each.

    Args:
        demand: What the run asks for.
        workers: How many workers of which group.
    """
    yield from ((pod, 1) for pod in demand.fixed)
    yield from ((group.pod, workers.get(group.name, 0)) for group in demand.groups)
