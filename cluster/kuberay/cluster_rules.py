"""What KubeRay 1.7's operator refuses of the Ray cluster in a RayJob.

Source: ray-operator/controllers/ray/utils/validation.go of KubeRay v1.7.0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from raytune_hpo.kuberay_fields import is_label_key, is_label_value

_SIZES = ("num-cpus", "num-gpus", "memory", "resources")
_VERSION = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?(?:[-+.].*)?")
_GATED = {
    "networkPolicy": "RayClusterNetworkPolicy",
    "tlsOptions": "RayClusterMTLS",
    "historyServerOptions": "RayClusterHistoryServer",
}
"""Fields that the operator takes only with a feature gate that is off by default."""
_V2 = "RAY_enable_autoscaler_v2"

Spec = Mapping[str, Any]


def problems(cluster: Spec, annotations: Mapping[str, str]) -> list[str]:
    """Return what the operator would refuse of a Ray cluster, in sentences.

    Args:
        cluster: ``spec.rayClusterSpec`` of a RayJob.
        annotations: Of the RayJob; its cluster gets the same.
    """
    head, groups = cluster.get("headGroupSpec") or {}, cluster.get("workerGroupSpecs") or ()
    found = [*_group("the head", head)]
    for group in groups:
        found += _group(f"the group {group.get('groupName')}", group)
        found += _counts(group, bool(cluster.get("enableInTreeAutoscaling")))
        found += _of_v2_only(group, cluster)
    found += [*_autoscaling(cluster, head, groups), *_fault_tolerance(cluster, head, annotations)]
    found += [*_authentication(cluster)]
    found += [
        f"{key} needs the operator's feature gate {gate}"
        for key, gate in _GATED.items()
        if cluster.get(key)
    ]
    if (cluster.get("upgradeStrategy") or {}).get("type"):
        found.append("upgradeStrategy does not go with a RayJob")
    return found


def restart_policy(group: Spec | None) -> str:
    """Return the restart policy of a group's pods, or an empty text."""
    return str(_pod(group or {}).get("restartPolicy") or "")


def _pod(group: Spec) -> Spec:
    pod: Spec = (group.get("template") or {}).get("spec") or {}
    return pod


def _containers(group: Spec) -> Sequence[Spec]:
    return _pod(group).get("containers") or ()


def _env(group: Spec) -> dict[str, str]:
    """Return the variables of Ray's container, which is the first, with their plain values."""
    variables = next(iter(_containers(group)), {}).get("env") or ()
    return {variable["name"]: str(variable.get("value", "")) for variable in variables}


def _group(name: str, group: Spec) -> Iterator[str]:
    if not _containers(group):
        yield f"{name} must have at least one container"
    params = group.get("rayStartParams") or {}
    if group.get("resources") and any(params.get(key) for key in _SIZES):
        yield f"{name} says its size in resources and in rayStartParams; only one may"
    if "labels" in params:
        yield f"{name} has labels in rayStartParams; they go into labels"
    for key, value in (group.get("labels") or {}).items():
        if not is_label_key(key):
            yield f"{name} has a label that Kubernetes does not take: {key}"
        if not is_label_value(value):
            yield f"{name} has a value of the label {key} that Kubernetes does not take: {value}"


def _counts(group: Spec, autoscaling: bool) -> Iterator[str]:
    name = f"the group {group.get('groupName')}"
    least, most = group.get("minReplicas"), group.get("maxReplicas")
    if not autoscaling and (least is None or most is None):
        yield f"{name} needs minReplicas and maxReplicas where there is no autoscaling"
    for key in ("minReplicas", "maxReplicas", "idleTimeoutSeconds"):
        if (group.get(key) or 0) < 0:
            yield f"{name}: {key} must be 0 or more, not {group[key]}"
    if least is not None and most is not None and least > most:
        yield f"{name}: minReplicas {least} is above maxReplicas {most}"
    if autoscaling and group.get("suspend"):
        yield f"{name} cannot be suspended with autoscaling"


def _of_v2_only(group: Spec, cluster: Spec) -> Iterator[str]:
    name = f"the group {group.get('groupName')}"
    second = _is_v2(cluster) or _env(cluster.get("headGroupSpec") or {}).get(_V2) in ("1", "true")
    if group.get("idleTimeoutSeconds") is not None and not second:
        yield f"{name}: idleTimeoutSeconds needs autoscalerOptions.version: v2"
    if not group.get("priority"):
        return
    if not second:
        yield f"{name}: priority needs autoscalerOptions.version: v2"
    yield from _at_least(cluster, (2, 56, 0), f"{name}: priority")


def _is_v2(cluster: Spec) -> bool:
    return (cluster.get("autoscalerOptions") or {}).get("version") == "v2"


def _autoscaling(cluster: Spec, head: Spec, groups: Sequence[Spec]) -> Iterator[str]:
    options, env = cluster.get("autoscalerOptions") or {}, _env(head)
    if (options.get("idleTimeoutSeconds") or 0) < 0:
        yield "autoscalerOptions.idleTimeoutSeconds must be 0 or more"
    own = "KUBERAY_GEN_AUTOSCALER_START_CMD"
    if any(variable.get("name") == own for variable in options.get("env") or ()):
        yield f"autoscalerOptions.env must not hold {own}, which KubeRay sets"
    if not cluster.get("enableInTreeAutoscaling"):
        if env.get(_V2) in ("1", "true"):
            yield f"{_V2} of the head needs enableInTreeAutoscaling: true"
        return
    if options.get("version") and _V2 in env:
        yield f"autoscalerOptions.version and {_V2} of the head say the same; only one may"
    if _is_v2(cluster):
        named = [("the head", head), *((f"the group {g.get('groupName')}", g) for g in groups)]
        for name, group in named:
            if (policy := restart_policy(group)) not in ("", "Never"):
                yield f"restartPolicy of {name} must be Never with autoscaler v2, not {policy}"


def _fault_tolerance(cluster: Spec, head: Spec, annotations: Mapping[str, str]) -> Iterator[str]:
    env, params = _env(head), head.get("rayStartParams") or {}
    options, noted = cluster.get("gcsFaultToleranceOptions"), annotations.get("ray.io/ft-enabled")
    if "redis-username" in params or "REDIS_USERNAME" in env:
        yield "the name of Redis' user goes into gcsFaultToleranceOptions.redisUsername"
    if options is None:
        if noted != "true" and "RAY_REDIS_ADDRESS" in env:
            yield "RAY_REDIS_ADDRESS of the head needs gcsFaultToleranceOptions"
        return
    if noted:
        yield "gcsFaultToleranceOptions and the annotation ray.io/ft-enabled say the same"
    if params.get("redis-password") or "REDIS_PASSWORD" in env:
        yield "Redis' password goes into gcsFaultToleranceOptions.redisPassword"
    if "RAY_REDIS_ADDRESS" in env:
        yield "Redis' address goes into gcsFaultToleranceOptions.redisAddress"
    if annotations.get("ray.io/external-storage-namespace"):
        yield "Redis' namespace goes into gcsFaultToleranceOptions.externalStorageNamespace"
    if options.get("backend") == "rocksdb":
        gate = "GCSFaultToleranceEmbeddedStorage"
        yield f"the backend rocksdb needs the operator's feature gate {gate}"
    elif options.get("storage") is not None:
        yield "gcsFaultToleranceOptions.storage goes with the backend rocksdb"


def _authentication(cluster: Spec) -> Iterator[str]:
    options = cluster.get("authOptions") or {}
    by_kubernetes = bool(options.get("enableK8sTokenAuth"))
    if options.get("mode") != "token":
        if by_kubernetes:
            yield "authOptions.enableK8sTokenAuth needs authOptions.mode: token"
        return
    yield from _at_least(cluster, (2, 52, 0), "authOptions.mode: token")
    if by_kubernetes:
        yield from _at_least(cluster, (2, 55, 0), "authOptions.enableK8sTokenAuth")
        if options.get("secretName"):
            yield "authOptions.enableK8sTokenAuth does not go with authOptions.secretName"


def _at_least(cluster: Spec, least: tuple[int, int, int], what: str) -> Iterator[str]:
    """Yield what is wrong with the version of Ray for something that needs a certain one."""
    told = str(cluster.get("rayVersion") or "")
    wanted = ".".join(map(str, least))
    match = _VERSION.fullmatch(told)
    if not told:
        yield f"{what} needs rayVersion to say Ray {wanted} or later"
    elif match is None:
        yield f"{what} needs rayVersion to be a version such as {wanted}, not '{told}'"
    elif tuple(int(part or 0) for part in match.groups()) < least:
        yield f"{what} needs Ray {wanted} or later, not {told}"
