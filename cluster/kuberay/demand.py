"""What a RayJob asks of its namespace, counted with all that KubeRay adds to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from typing import Any, Literal

from raytune_hpo.cluster.kuberay.names import AUTOSCALER, SUBMITTER, WAITER
from raytune_hpo.cluster.kuberay.quantities import Amounts, bare, parse_all

Object = Mapping[str, Any]

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

    @cached_property
    def requests(self) -> Amounts:
        """What is kept free for the whole pod."""
        return _whole((c.first, c.requests) for c in self.containers)

    @cached_property
    def limits(self) -> Amounts:
        """What the whole pod may use, as far as its containers have limits."""
        return _whole((c.first, c.limits) for c in self.containers)

    def unset(self, resource: str) -> tuple[str, ...]:
        """Return the containers that say nothing of a resource, named as in a quota."""
        return tuple(c.name for c in self.containers if amount(c, resource) is None)


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
    def least(self) -> dict[str, int]:
        """Workers of each group that there are always."""
        return {group.name: group.least for group in self.groups}

    @property
    def most(self) -> dict[str, int]:
        """Workers of each group that there may be."""
        return {group.name: group.most for group in self.groups}

    @property
    def kinds(self) -> dict[str, PodNeed]:
        """One pod of each kind, by what it is called in a sentence."""
        submitter = {} if self.submitter is None else {"the submitter": self.submitter}
        workers = {f"a worker of group {group.name}": group.pod for group in self.groups}
        return {"the head": self.head, **submitter, **workers}

    def pods(self, workers: Mapping[str, int]) -> Iterator[tuple[PodNeed, int]]:
        """Yield the pods and how many there are of each.

        Args:
            workers: How many workers of which group; none of those that are not named.
        """
        yield self.head, 1
        if self.submitter is not None:
            yield self.submitter, 1
        yield from ((group.pod, workers.get(group.name, 0)) for group in self.groups)

    def total(
        self, workers: Mapping[str, int], kind: Literal["requests", "limits"] = "requests"
    ) -> dict[str, Decimal]:
        """Return what all pods ask for together.

        Args:
            workers: How many workers of which group, such as ``demand.most``.
            kind: What is counted.
        """
        found: dict[str, Decimal] = {}
        for pod, count in self.pods(workers):
            for name, each in (pod.limits if kind == "limits" else pod.requests).items():
                found[name] = found.get(name, Decimal(0)) + each * count
        return found


def amount(of: Container | PodNeed, resource: str) -> Decimal | None:
    """Return how much a container or pod says of a resource, or None when it says nothing.

    Args:
        of: The container or pod.
        resource: As in a quota: ``limits.cpu``; ``cpu`` is the same as ``requests.cpu``.
    """
    return (of.limits if resource.startswith("limits.") else of.requests).get(bare(resource))


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
    most = parse_all(limits)
    # What has a limit only is requested in the same amount.
    return Container(name, most | parse_all(requests), most, first)


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
        for name, each in amounts.items():
            if early:
                first[name] = max(first.get(name, Decimal(0)), each)
            else:
                together[name] = together.get(name, Decimal(0)) + each
    names = [*together, *(name for name in first if name not in together)]
    zero = Decimal(0)
    return {name: max(together.get(name, zero), first.get(name, zero)) for name in names}
