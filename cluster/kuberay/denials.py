"""What the API server says when it does not take an object, in plain words."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from raytune_hpo.cluster.kuberay.names import SUBMITTER
from raytune_hpo.cluster.kuberay.quantities import noun, parse, shown

_OBJECT = re.compile(r'([\w.-]+) "([^"]+)" is forbidden: (.*)', re.DOTALL)
_QUOTA = re.compile(r"exceeded quota: ([^,]+), requested: (\S+), used: (\S+), limited: (\S+)")
_UNSET = re.compile(r"failed quota: ([^:]+): must specify (.+)", re.DOTALL)
_UNKNOWN = re.compile(r"status unknown for quota: ([^,]+), resources: (\S+)")
_RANGE = re.compile(
    r"(maximum|minimum) (\S+) usage per (Container|Pod|PersistentVolumeClaim) is ([^,\]]+?)"
    r"(?:, but (limit|request) is ([^,\]\s]+)|\.\s+No (limit|request) is specified)"
)
_RATIO = re.compile(r"(\S+) max limit to request ratio per (Container|Pod) is ([\w.]+), but (.+)")
_SECURITY = re.compile(r'violates PodSecurity "([^":]+)[^"]*": (.+)', re.DOTALL)
_ACCOUNT = re.compile(r'serviceaccount "([^"]+)" not found')
_PRIORITY = re.compile(r"no PriorityClass with name (\S+) was found")
_WEBHOOK = re.compile(r'admission webhook "([^"]+)" denied the request: (.+)', re.DOTALL)
_POLICY = re.compile(r"ValidatingAdmissionPolicy '([^']+)'.* denied request: (.+)", re.DOTALL)
_BROKEN = re.compile(r'failed calling webhook "([^"]+)": (.+)', re.DOTALL)
_TERMINATED = re.compile(r"in namespace (\S+) because it is being terminated")
_RIGHT = re.compile(
    r'User "([^"]*)" cannot (\w+) resource "([^"]+)" in API group "([^"]*)"'
    r'(?: in the namespace "([^"]+)")?'
)


@dataclass(frozen=True)
class Denial:
    """Why something was not taken.

    Attributes:
        what: Why, as the end of a sentence.
        step: What to do next; empty when there is nothing to do but wait.
    """

    what: str
    step: str = ""

    @property
    def text(self) -> str:
        """Both, in two sentences."""
        return f"{self.what}. {self.step[0].upper()}{self.step[1:]}" if self.step else self.what


def read(message: str) -> Denial | None:
    """Return what a refusal of the API server means, or None when it is of an unknown kind.

    Args:
        message: As the server wrote it, or as a condition or event of KubeRay repeats it.
    """
    for form, explain in _FORMS:
        match = form.search(message)
        if match is not None:
            return explain(match)
    return None


def plain(message: str) -> Denial:
    """Return what a refusal means; one of an unknown kind is passed on on one line."""
    return read(message) or Denial(" ".join(_without_object(message).split()))


def role_rule(verb: str, group: str, resource: str) -> str:
    """Return the rule of a Role that gives a right.

    >>> role_rule("create", "ray.io", "rayjobs")
    '{apiGroups: ["ray.io"], resources: ["rayjobs"], verbs: ["create"]}'
    """
    return f'{{apiGroups: ["{group}"], resources: ["{resource}"], verbs: ["{verb}"]}}'


def _without_object(message: str) -> str:
    match = _OBJECT.search(message)
    return message if match is None else match[3]


def _quota(match: re.Match[str]) -> Denial:
    name, *lists = match.groups()
    asked, used, most = (dict(_amounts(text)) for text in lists)
    parts = []
    for resource, amount in asked.items():
        values = [most.get(resource, Decimal(0)), used.get(resource, Decimal(0)), amount]
        allows, uses, asks = (shown(resource, value) for value in values)
        parts.append(f"of {allows} {noun(resource)}, {uses} are in use and {asks} more were asked")
    if any(resource.startswith("count/") for resource in asked):
        step = "delete runs that are over, or ask for a larger quota"
    else:
        step = "wait until something ends, ask for fewer or smaller workers, or for a larger quota"
    return Denial(f"quota {name} is used up: {'; '.join(parts)}", step)


def _amounts(text: str) -> list[tuple[str, Decimal]]:
    pairs = (pair.partition("=") for pair in text.split(","))
    return [(name, parse(value)) for name, _, value in pairs]


def _unset(match: re.Match[str]) -> Denial:
    return Denial(
        f"quota {match[1]} wants each container to say its {' '.join(match[2].split())}",
        "set both requests and limits, or ask for a LimitRange with defaults",
    )


def _unknown(match: re.Match[str]) -> Denial:
    return Denial(
        f"quota {match[1]} is new, and Kubernetes has not counted yet what is in use",
        "try again in a minute",
    )


def _range(match: re.Match[str]) -> Denial:
    kind, resource, unit, bound, _, value, unset = match.groups()
    least = "at least" if kind == "minimum" else "at most"
    seen = f"no {unset} is set" if unset else f"{value} is asked"
    return Denial(
        f"a LimitRange of the namespace allows {least} {bound.strip()} {noun(resource)} "
        f"a {unit.lower()}, and {seen}",
        "ask for an amount in these bounds, or have the LimitRange changed",
    )


def _ratio(match: re.Match[str]) -> Denial:
    return Denial(
        f"a LimitRange of the namespace allows limits of at most {match[3]} times the request of "
        f"{match[1]} a {match[2].lower()}",
        "set the same amount as request and limit, or have the LimitRange changed",
    )


def _security(match: re.Match[str]) -> Denial:
    step = "set the security context that it wants, or ask for a namespace with a lower level"
    if SUBMITTER in match[2]:
        step = f"{step}; KubeRay's submitter has one with submission_mode: K8sJobMode only"
    return Denial(
        f"the namespace enforces the Pod Security level {match[1]}, and the pod breaks it: "
        f"{' '.join(match[2].split())}",
        step,
    )


def _account(match: re.Match[str]) -> Denial:
    return Denial(
        f"there is no service account {match[1]} in the namespace",
        f"create it (kubectl create serviceaccount {match[1]}), or change "
        "targets.kuberay.service_account",
    )


def _priority(match: re.Match[str]) -> Denial:
    return Denial(
        f"there is no priority class {match[1]}",
        "look which there are: kubectl get priorityclasses",
    )


def _webhook(match: re.Match[str]) -> Denial:
    return Denial(f"the cluster's own check {match[1]} refuses it: {' '.join(match[2].split())}")


def _broken(match: re.Match[str]) -> Denial:
    return Denial(
        f"the cluster's own check {match[1]} could not be asked: {' '.join(match[2].split())}",
        "try again; if it stays, tell the administrators of the cluster",
    )


def _terminated(match: re.Match[str]) -> Denial:
    return Denial(
        f"namespace {match[1]} is being deleted", "wait until it is gone, or use another namespace"
    )


def _right(match: re.Match[str]) -> Denial:
    user, verb, resource, group, namespace = match.groups()
    full = f"{resource}.{group}" if group else resource
    where = f" in namespace {namespace}" if namespace else " in the whole cluster"
    kind = "Role" if namespace else "ClusterRole"
    return Denial(
        f"{user or 'nobody'} may not {verb} {full}{where}",
        f"ask for a {kind} with the rule {role_rule(verb, group, resource)}",
    )


_FORMS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], Denial]], ...] = (
    (_RIGHT, _right),
    (_QUOTA, _quota),
    (_UNSET, _unset),
    (_UNKNOWN, _unknown),
    (_RATIO, _ratio),
    (_RANGE, _range),
    (_SECURITY, _security),
    (_ACCOUNT, _account),
    (_PRIORITY, _priority),
    (_TERMINATED, _terminated),
    (_WEBHOOK, _webhook),
    (_POLICY, _webhook),
    (_BROKEN, _broken),
)
