"""Whether a run fits into the quotas and limit ranges of its namespace: pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Literal

from raytune_hpo.cluster.kuberay.demand import Container, Demand, PodNeed, amount
from raytune_hpo.cluster.kuberay.quantities import Amounts, bare, noun, parse_all, shown

Object = Mapping[str, Any]
_WANTED = ("cpu", "memory")
"""What each container has to say when a quota counts it; of other resources it need not."""
_PODS = ("pods", "count/pods")


@dataclass(frozen=True)
class Fit:
    """How a run fits.

    Attributes:
        verdict: ``fail`` when it cannot run, ``warn`` when it runs with less than it may have.
        text: Why, with the numbers.
    """

    verdict: Literal["ok", "warn", "fail"]
    text: str


@dataclass(frozen=True)
class Counts:
    """What a quota allows, and what is in use of it."""

    hard: Amounts
    used: Amounts


def with_defaults(demand: Demand, ranges: Sequence[Object]) -> Demand:
    """Return what a run asks for once the namespace's limit ranges have filled in what is absent.

    Args:
        demand: What is written.
        ranges: LimitRange objects.
    """
    limits: dict[str, Decimal] = {}
    requests: dict[str, Decimal] = {}
    for one in _items(ranges, "Container"):
        limits |= parse_all(one.get("default"))
        requests |= parse_all(one.get("defaultRequest"))

    def filled(pod: PodNeed) -> PodNeed:
        return replace(pod, containers=tuple(_filled(c, requests, limits) for c in pod.containers))

    return replace(
        demand,
        head=filled(demand.head),
        groups=tuple(replace(group, pod=filled(group.pod)) for group in demand.groups),
        submitter=None if demand.submitter is None else filled(demand.submitter),
    )


def _filled(one: Container, requests: Amounts, limits: Amounts) -> Container:
    """Return a container as the server would complete it."""
    most = {**limits, **one.limits}
    # A limit that is written is the request too, before a default one is.
    kept = {**limits, **requests, **one.limits, **one.requests}
    return replace(one, requests=kept, limits=most)


def within_ranges(demand: Demand, ranges: Sequence[Object]) -> Iterator[Fit]:
    """Yield what the limit ranges of a namespace do not allow.

    Args:
        demand: What a run asks for, with their defaults.
        ranges: LimitRange objects.
    """
    for limit_range in ranges:
        name = limit_range["metadata"]["name"]
        for where, pod in demand.kinds.items():
            yield from _breaches(name, where, pod, limit_range)


def _breaches(name: str, where: str, pod: PodNeed, limit_range: Object) -> Iterator[Fit]:
    for one in _items([limit_range], "Pod"):
        yield from _outside(name, where, pod.requests, pod.limits, one)
    for one in _items([limit_range], "Container"):
        for container in pod.containers:
            part = f"container {container.name} of {where}"
            yield from _outside(name, part, container.requests, container.limits, one)


def _outside(
    name: str, where: str, requests: Amounts, limits: Amounts, one: Object
) -> Iterator[Fit]:
    """Yield how a container or pod leaves the bounds of an entry of a limit range."""
    said = f"LimitRange {name} allows {where}"
    for resource, least in parse_all(one.get("min")).items():
        asked = requests.get(resource)
        if asked is None or asked < least:
            seen = "none is set" if asked is None else f"{shown(resource, asked)} is asked"
            bound = f"at least {shown(resource, least)} {noun(resource)}"
            yield Fit("fail", f"{said} {bound}, {seen}")
    for resource, most in parse_all(one.get("max")).items():
        asked = limits.get(resource)
        if asked is None or asked > most:
            seen = "no limit is set" if asked is None else f"{shown(resource, asked)} is asked"
            bound = f"at most {shown(resource, most)} {noun(resource)}"
            yield Fit("fail", f"{said} {bound}, {seen}")
    for resource, times in parse_all(one.get("maxLimitRequestRatio")).items():
        kept, most_used = requests.get(resource), limits.get(resource)
        if kept and most_used and most_used / kept > times:
            yield Fit("fail", f"{said} a limit of {times} times the request of {resource} at most")


def within_quota(demand: Demand, quota: Object) -> Fit | None:
    """Return how a run fits into a quota, or None when the quota does not concern it.

    Args:
        demand: What the run asks for, with the defaults of limit ranges.
        quota: ResourceQuota object.
    """
    covered = _covered(demand, quota)
    if covered is None:
        return None
    demand, name = covered, quota["metadata"]["name"]
    status = quota.get("status") or {}
    hard = parse_all(status.get("hard") or quota["spec"].get("hard"))
    if not hard:
        return None
    used = parse_all(status.get("used"))
    room = {resource: most - used.get(resource, Decimal(0)) for resource, most in hard.items()}
    unset = list(_unset(demand, hard))
    if unset:
        return Fit("fail", f"quota {name} wants what is not set: {'; '.join(unset)}")
    most, count = sum(demand.most.values()), Counts(hard, used)
    if short := _short(demand, demand.least, room):
        texts = (_sentence(one, demand, demand.least, count, "it cannot start") for one in short)
        return Fit("fail", f"quota {name} {'; '.join(texts)}")
    if short := _short(demand, demand.most, room):
        fewer = _workers_that_fit(demand, room)
        over = most - fewer
        outcome = f"{over} worker{'s' if over != 1 else ''} too many; runs with fewer"
        outcome = outcome if fewer else "not even one worker fits"
        texts = (_sentence(one, demand, demand.most, count, outcome) for one in short)
        return Fit("warn" if fewer else "fail", f"quota {name} {'; '.join(texts)}")
    held = ["the head"] if demand.head.containers else []
    held += [f"{most} workers"] if demand.groups else []
    return Fit("ok", f"quota {name} has room for {' and '.join(held)}")


def _covered(demand: Demand, quota: Object) -> Demand | None:
    """Return the part of a demand that a quota counts, or None when it counts none of it."""
    spec = quota["spec"]
    rules = [{"scopeName": scope, "operator": "Exists"} for scope in spec.get("scopes") or ()]
    rules += (spec.get("scopeSelector") or {}).get("matchExpressions") or []
    if not rules:
        return demand
    if not any(_in_scope(pod, rules) for pod in demand.kinds.values()):
        return None
    nothing = PodNeed(())
    return replace(
        demand,
        head=demand.head if _in_scope(demand.head, rules) else nothing,
        groups=tuple(group for group in demand.groups if _in_scope(group.pod, rules)),
        submitter=demand.submitter
        if demand.submitter is not None and _in_scope(demand.submitter, rules)
        else None,
        objects={},
    )


def _in_scope(pod: PodNeed, rules: Iterable[Object]) -> bool:
    return all(_matches(pod, rule) for rule in rules)


def _matches(pod: PodNeed, rule: Object) -> bool:
    """Return whether a rule of a quota's scope holds for a pod; pods of Ray have no deadline."""
    scope = rule["scopeName"]
    if scope == "PriorityClass":
        values, operator = rule.get("values") or (), rule.get("operator", "Exists")
        return {
            "In": pod.priority in values,
            "NotIn": pod.priority not in values,
            "Exists": bool(pod.priority),
            "DoesNotExist": not pod.priority,
        }.get(operator, False)
    best_effort = not any(c.requests or c.limits for c in pod.containers)
    return {
        "BestEffort": best_effort,
        "NotBestEffort": not best_effort,
        "NotTerminating": True,
    }.get(scope, False)


def _unset(demand: Demand, hard: Amounts) -> Iterator[str]:
    """Yield the containers that do not say what a quota counts; it refuses their pods."""
    for resource in hard:
        if bare(resource) in _WANTED:
            for where, pod in demand.kinds.items():
                for name in pod.unset(resource):
                    yield f"{resource} of container {name} of {where}"


def _short(demand: Demand, workers: Mapping[str, int], room: Amounts) -> list[str]:
    """Return the resources of which there is not enough."""
    return [
        resource
        for resource, free in room.items()
        if (asked := _asked(resource, demand, workers)) and asked > free
    ]


def _asked(resource: str, demand: Demand, workers: Mapping[str, int]) -> Decimal:
    """Return how much of a resource, as a quota names it, a run asks for."""
    if resource in _PODS:
        # One without containers is in the scope of another quota.
        return Decimal(sum(count for pod, count in demand.pods(workers) if pod.containers))
    name = resource.removeprefix("count/")
    if resource.startswith("count/") or name in demand.objects:
        return Decimal(demand.objects.get(name, 0))
    total = demand.total(workers, "limits" if resource.startswith("limits.") else "requests")
    return total.get(bare(resource), Decimal(0))


def _workers_that_fit(demand: Demand, room: Amounts) -> int:
    """Return how many workers there is room for, taking from the groups in turn."""
    most = demand.most
    workers = dict.fromkeys(most, 0)
    if _short(demand, workers, room):
        return 0
    open_groups = [name for name, count in most.items() if count]
    while open_groups:
        for name in list(open_groups):
            more = {**workers, name: workers[name] + 1}
            if more[name] > most[name] or _short(demand, more, room):
                open_groups.remove(name)
            else:
                workers = more
    return sum(workers.values())


def _sentence(
    resource: str, demand: Demand, workers: Mapping[str, int], count: Counts, outcome: str
) -> str:
    """Return what does not fit, such as: allows 18 CPUs, 4 are in use; head 2 + 8 workers of ..."""
    most, taken = count.hard[resource], count.used.get(resource, Decimal(0))
    named = resource.removeprefix("count/")
    text = f"allows {shown(resource, most)} {noun(named)}, {shown(resource, taken)} are in use"
    asked = shown(resource, _asked(resource, demand, workers))
    if resource.startswith("count/") or resource in demand.objects:
        return f"{text}; a run needs {asked}: delete what is over, or ask for a larger quota"
    parts = [f"head {_share(resource, demand.head)}"] if demand.head.containers else []
    if demand.submitter is not None:
        parts.append(f"submitter {_share(resource, demand.submitter)}")
    for group in demand.groups:
        if number := workers[group.name]:
            plural = "worker" if number == 1 else "workers"
            parts.append(f"{number} {plural} of {_share(resource, group.pod)}")
    verb = "asks" if len(parts) == 1 and not parts[0][0].isdecimal() else "ask"
    return f"{text}; {' + '.join(parts)} {verb} for {asked}: {outcome}"


def _share(resource: str, pod: PodNeed) -> str:
    return "1" if resource in _PODS else shown(resource, amount(pod, resource) or Decimal(0))


def _items(ranges: Iterable[Object], kind: str) -> Iterator[Object]:
    for one in ranges:
        yield from (item for item in one["spec"].get("limits") or () if item.get("type") == kind)
