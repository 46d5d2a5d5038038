"""The namespaces of teams that share a cluster: a pure function to Kubernetes' objects.

A run has a head besides its trials. In one quota with them it would cost trials: of 18 CPUs, 9
trials of 2 CPUs would become 8. Kubernetes' quotas can tell pods apart by their priority class, so
heads have one class and one quota, trials the others, and pods without either class are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from raytune_hpo.cluster.kuberay import names, quantities
from raytune_hpo.cluster.kuberay.tenants_file import Queues, Tenant, Tenants

QUEUE = "default"
"""Kueue puts what names no queue into the one of this name."""
_TENANT = f"{names.PREFIX}tenant"
_USERS = "raytune-hpo-users"
_DASHBOARD = 8265
_HEADS_FIRST = 1000
_READ = ["get", "list", "watch"]
_WRITE = [*_READ, "create", "patch", "update", "delete"]
_KUEUE = f"{names.KUEUE}/v1beta2"
_RBAC = "rbac.authorization.k8s.io"

Object = dict[str, Any]


def render(tenants: Tenants) -> list[Object]:
    """Return the objects of all teams, in the order in which they are to be made."""
    objects = [
        _priority(tenants.heads, _HEADS_FIRST, "Heads of Ray clusters, each with a driver"),
        _priority(tenants.trials, 0, "Workers of Ray clusters, with trials"),
    ]
    if tenants.queues is not None:
        objects.append(_object(_KUEUE, "ResourceFlavor", tenants.queues.flavor))
    for name, tenant in tenants.tenants.items():
        objects += _tenant(tenants, name, tenant)
    return objects


def _tenant(tenants: Tenants, name: str, tenant: Tenant) -> Iterator[Object]:
    yield _namespace(name)
    account = _object("v1", "ServiceAccount", tenant.service_account, name)
    if tenant.service_account_annotations:
        account["metadata"]["annotations"] = dict(tenant.service_account_annotations)
    yield account
    yield _role(name, queued=tenants.queues is not None)
    yield _role_binding(name, tenant)
    yield from _quotas(tenants, name, tenant)
    yield _limit_range(name)
    yield _network_policy(tenants, name)
    if tenants.queues is not None:
        yield _cluster_queue(tenants.queues, name, tenant)
        queue = _object(_KUEUE, "LocalQueue", QUEUE, name)
        yield queue | {"spec": {"clusterQueue": name}}


def _object(version: str, kind: str, name: str, namespace: str | None = None) -> Object:
    metadata: Object = {"name": name}
    if namespace is not None:
        metadata["namespace"] = namespace
    metadata["labels"] = {names.MANAGED_BY: names.MANAGER}
    return {"apiVersion": version, "kind": kind, "metadata": metadata}


def _priority(name: str, value: int, description: str) -> Object:
    return _object("scheduling.k8s.io/v1", "PriorityClass", name) | {
        "value": value,
        "globalDefault": False,
        "description": description,
    }


def _namespace(name: str) -> Object:
    namespace = _object("v1", "Namespace", name)
    # Not restricted: the submitter that KubeRay adds to a head says nothing of its rights.
    own = {_TENANT: name, names.SECURITY_LEVEL: "baseline"}
    namespace["metadata"]["labels"] |= own
    return namespace


def _role(namespace: str, *, queued: bool) -> Object:
    rules = [
        {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": _WRITE},
        {"apiGroups": ["ray.io"], "resources": ["rayclusters"], "verbs": _READ},
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": _WRITE},
        {
            "apiGroups": [""],
            "resources": [
                "events",
                "limitranges",
                "persistentvolumeclaims",
                "pods",
                "pods/log",
                "resourcequotas",
                "serviceaccounts",
                "services",
            ],
            "verbs": _READ,
        },
        {"apiGroups": [""], "resources": ["pods/portforward"], "verbs": ["get", "create"]},
        # Of the token that Ray's dashboard wants; who makes pods can read secrets by them anyway.
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]},
    ]
    if queued:
        queues = ["localqueues", "workloads"]
        rules.append({"apiGroups": [names.KUEUE], "resources": queues, "verbs": _READ})
    return _object(f"{_RBAC}/v1", "Role", _USERS, namespace) | {"rules": rules}


def _role_binding(namespace: str, tenant: Tenant) -> Object:
    named = [*(("User", n) for n in tenant.users), *(("Group", n) for n in tenant.groups)]
    return _object(f"{_RBAC}/v1", "RoleBinding", _USERS, namespace) | {
        "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": _USERS},
        "subjects": [{"apiGroup": _RBAC, "kind": kind, "name": name} for kind, name in named],
    }


def _quotas(tenants: Tenants, namespace: str, tenant: Tenant) -> Iterator[Object]:
    yield _quota("runs", namespace, {"count/rayjobs.ray.io": str(tenant.runs)}, None)
    if tenants.queues is not None:
        # Kueue counts, and may lend more than that.
        return
    if not tenant.own_heads:
        yield _quota("trials", namespace, _trials(tenant), None)
        return
    yield _quota("trials", namespace, _trials(tenant), ("In", tenants.trials))
    yield _quota("heads", namespace, _heads(tenant), ("In", tenants.heads))
    if not tenant.others:
        classes = ("NotIn", tenants.trials, tenants.heads)
        yield _quota("others", namespace, {"pods": "0"}, classes)


def _trials(tenant: Tenant) -> dict[str, str]:
    return {
        "requests.cpu": quantities.cpus(tenant.cpus),
        "requests.memory": quantities.memory(tenant.bytes),
        f"requests.{tenant.gpu_resource}": str(tenant.gpus),
        "pods": str(tenant.pods),
    }


def _heads(tenant: Tenant) -> dict[str, str]:
    return {
        "requests.cpu": quantities.cpus(tenant.head.cpus * tenant.runs),
        "requests.memory": quantities.memory(tenant.head.memory * tenant.runs),
        # In K8sJobMode a run has a pod that submits it, too.
        "pods": str(2 * tenant.runs),
    }


def _quota(
    name: str, namespace: str, hard: Mapping[str, str], classes: tuple[str, ...] | None
) -> Object:
    spec: Object = {"hard": dict(hard)}
    if classes is not None:
        operator, *values = classes
        rule = {"scopeName": "PriorityClass", "operator": operator, "values": values}
        spec["scopeSelector"] = {"matchExpressions": [rule]}
    return _object("v1", "ResourceQuota", name, namespace) | {"spec": spec}


def _limit_range(namespace: str) -> Object:
    """Return what containers get that say nothing, which a quota would refuse."""
    limit = {
        "type": "Container",
        "default": {"memory": "1Gi"},
        "defaultRequest": {"cpu": "100m", "memory": "256Mi"},
    }
    return _object("v1", "LimitRange", "defaults", namespace) | {"spec": {"limits": [limit]}}


def _network_policy(tenants: Tenants, namespace: str) -> Object:
    """Return what keeps others out: who reaches a Ray can run code in it."""
    operator = {"kubernetes.io/metadata.name": tenants.operator_namespace}
    ingress = [
        {"from": [{"podSelector": {}}]},
        {
            "from": [{"namespaceSelector": {"matchLabels": operator}}],
            "ports": [{"protocol": "TCP", "port": _DASHBOARD}],
        },
    ]
    spec = {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": ingress}
    version = "networking.k8s.io/v1"
    return _object(version, "NetworkPolicy", "own-pods-and-kuberay", namespace) | {"spec": spec}


def _cluster_queue(queues: Queues, name: str, tenant: Tenant) -> Object:
    # Room for one head: further runs share what there is, or wait.
    heads = 1 if tenant.own_heads else 0
    amounts = {
        "cpu": quantities.cpus(tenant.cpus + heads * tenant.head.cpus),
        "memory": quantities.memory(tenant.bytes + heads * tenant.head.memory),
        tenant.gpu_resource: str(tenant.gpus),
    }
    resources = [{"name": key, "nominalQuota": amount} for key, amount in amounts.items()]
    flavor = {"name": queues.flavor, "resources": resources}
    spec = {
        "cohortName": queues.cohort,
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}},
        # What was lent comes back when its owner wants it: runs go on from their journal.
        "preemption": {"reclaimWithinCohort": "Any"},
        "resourceGroups": [{"coveredResources": list(amounts), "flavors": [flavor]}],
    }
    return _object(_KUEUE, "ClusterQueue", name) | {"spec": spec}
