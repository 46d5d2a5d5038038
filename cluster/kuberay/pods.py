"""The pods of a run: the head with the driver, the workers with the trials, the submitter."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raytune_hpo.cluster.kuberay import inside, quantities, sizes
from raytune_hpo.cluster.kuberay.files import Files
from raytune_hpo.cluster.kuberay.names import SUBMITTER
from raytune_hpo.cluster.kuberay.sizes import Worker, Workers
from raytune_hpo.kuberay_parts import KubeRayHead, KubeRayToleration, KubeRayWorker
from raytune_hpo.kuberay_target import KubeRayTarget

GROUP = "trials"
"""Name of the group of workers."""
AUTOSCALER_CPUS, AUTOSCALER_MEMORY = 0.5, 512 * sizes.MIB
SUBMITTER_CPUS, SUBMITTER_MEMORY = 0.5, 512 * sizes.MIB
_STAY = {
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "karpenter.sh/do-not-disrupt": "true",
}
"""Keeps the autoscalers of machines from moving a pod."""
_TAKEN_AWAY = {
    "cloud.google.com/gke-preemptible": "true",
    "cloud.google.com/gke-spot": "true",
    "eks.amazonaws.com/capacityType": "SPOT",
    "karpenter.sh/capacity-type": "spot",
    "kubernetes.azure.com/scalesetpriority": "spot",
}
"""Labels of machines that the cloud may take away at any time."""
_HARDENED = {
    "allowPrivilegeEscalation": False,
    "seccompProfile": {"type": "RuntimeDefault"},
}

_PORTS = {"dashboard-agent-grpc-port": "52366", "runtime-env-agent-port": "52367"}
"""Of its own choice Ray's daemon waits for its agents to tell theirs, for 15 s, and then ends."""

MLFLOW_WAIT = ("RAYTUNE_HPO_MLFLOW_WAIT", "600")
"""Variable that the driver reads, and seconds."""

Object = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """What the pods of a run have in common.

    Attributes:
        target: Settings for KubeRay.
        rayjob: Name of the RayJob.
        files: That all of them have.
        labels: Of all of them.
        size: Of a worker.
        count: Of workers.
    """

    target: KubeRayTarget
    rayjob: str
    files: Files
    labels: Mapping[str, str]
    size: Worker
    count: Workers


def head(run: Run) -> Object:
    """Return the group of the head."""
    given = run.target.head
    memory = quantities.memory(given.memory or sizes.HEAD)
    size = {"cpu": quantities.cpus(given.cpus), "memory": memory}
    container = _container(run, "ray-head", _head_size(size, given.cpus), _head_env(run))
    spec = _spec(run, given, container)
    if not given.spot:
        spec["affinity"] = _not_taken_away()
    params = {
        # No trial, and nothing else of Ray's, may take the place of the driver.
        "num-cpus": "0",
        "num-gpus": "0",
        "object-store-memory": str(sizes.STORE_HEAD),
        **_PORTS,
    }
    return {"rayStartParams": params, "template": _template(run, spec, _STAY)}


def workers(run: Run) -> Object:
    """Return the group of the workers."""
    size, given = run.size, run.target.worker
    amounts = {"cpu": quantities.cpus(size.cpus), "memory": quantities.memory(size.memory)}
    if size.gpus:
        amounts[given.gpu_resource] = str(size.gpus)
    container = _container(run, "ray-worker", _exact(amounts), [])
    # Trials run the user's code, which has nothing to ask of Kubernetes.
    spec = _spec(run, given, container) | {"automountServiceAccountToken": False}
    return {
        "groupName": GROUP,
        "replicas": run.count.least,
        "minReplicas": run.count.least,
        "maxReplicas": run.count.most,
        "rayStartParams": _worker_params(size),
        "template": _template(run, spec, {}),
    }


def submitter(run: Run) -> Object:
    """Return the pod that submits the job, where that is no container of the head."""
    given, target = run.target.head, run.target
    bare = given.cpus == 0
    cpus = quantities.cpus(0 if bare else SUBMITTER_CPUS)
    size = {"cpu": cpus, "memory": quantities.memory(SUBMITTER_MEMORY)}
    container: Object = {"name": SUBMITTER, "image": target.image}
    if target.pull_policy is not None:
        container["imagePullPolicy"] = target.pull_policy
    container["resources"] = _head_size(size, 0 if bare else SUBMITTER_CPUS)
    container["securityContext"] = _HARDENED
    spec = _placing(target, given) | {
        "automountServiceAccountToken": False,
        "restartPolicy": "Never",
        "containers": [container],
    }
    return _template(run, spec, _STAY)


def autoscaler(target: KubeRayTarget) -> Object:
    """Return the options of Ray's autoscaler, a container of the head's pod."""
    bare = target.head.cpus == 0
    cpus = 0 if bare else AUTOSCALER_CPUS
    size = {"cpu": quantities.cpus(cpus), "memory": quantities.memory(AUTOSCALER_MEMORY)}
    options: Object = {
        "version": "v2",
        "idleTimeoutSeconds": round(target.idle_s),
        "resources": _head_size(size, cpus),
        "securityContext": _HARDENED,
    }
    if target.pull_policy is not None:
        options["imagePullPolicy"] = target.pull_policy
    return options


def _exact(amounts: Mapping[str, str]) -> Object:
    """Return a request that is also the limit."""
    return {"requests": dict(amounts), "limits": dict(amounts)}


def _head_size(amounts: Mapping[str, str], cpus: float) -> Object:
    """Return request and limit; a container that asks for no CPU takes what is left over."""
    if cpus:
        return _exact(amounts)
    return {"requests": dict(amounts), "limits": {"memory": amounts["memory"]}}


def _worker_params(size: Worker) -> dict[str, str]:
    params = {
        "num-cpus": str(size.ray_cpus),
        "num-gpus": str(size.gpus),
        "object-store-memory": str(size.object_store),
        **_PORTS,
    }
    if size.for_trials is not None:
        params["memory"] = str(size.for_trials)
    if size.custom:
        # In the quotes that both the shell of `ray start` and Ray's autoscaler take off.
        params["resources"] = f"'{json.dumps(size.custom)}'"
    return params


def _template(run: Run, spec: Object, annotations: Mapping[str, str]) -> Object:
    metadata: Object = {"labels": dict(run.labels)}
    noted = {**annotations, **run.target.annotations}
    if noted:
        metadata["annotations"] = noted
    return {"metadata": metadata, "spec": spec}


def _spec(run: Run, given: KubeRayHead | KubeRayWorker, container: Object) -> Object:
    spec = _placing(run.target, given)
    # Ray's second autoscaler replaces pods, and lets none be started again.
    spec["restartPolicy"] = "Never"
    spec["terminationGracePeriodSeconds"] = round(run.target.grace_s)
    return spec | {"containers": [container], "volumes": run.files.volumes()}


def _placing(target: KubeRayTarget, given: KubeRayHead | KubeRayWorker) -> Object:
    """Return what says as whom and on which machines a pod runs."""
    spec: Object = {}
    if target.service_account is not None:
        spec["serviceAccountName"] = target.service_account
    if target.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in target.image_pull_secrets]
    priority = given.priority_class or target.priority_class
    if priority is not None:
        spec["priorityClassName"] = priority
    if selector := {**target.node_selector, **given.node_selector}:
        spec["nodeSelector"] = selector
    if borne := [*target.tolerations, *given.tolerations]:
        spec["tolerations"] = [_toleration(one) for one in borne]
    return spec


def _toleration(given: KubeRayToleration) -> Object:
    values = {
        "key": given.key,
        "operator": given.operator,
        "value": given.value,
        "effect": given.effect,
        "tolerationSeconds": given.seconds,
    }
    return {name: value for name, value in values.items() if value is not None}


def _not_taken_away() -> Object:
    rules = [
        {"key": key, "operator": "NotIn", "values": [value]} for key, value in _TAKEN_AWAY.items()
    ]
    terms = {"nodeSelectorTerms": [{"matchExpressions": rules}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}


def _container(run: Run, name: str, size: Object, env: Sequence[Object]) -> Object:
    target = run.target
    container: Object = {"name": name, "image": target.image}
    if target.pull_policy is not None:
        container["imagePullPolicy"] = target.pull_policy
    container["env"] = _unique([_plain("RAY_USAGE_STATS_ENABLED", "0"), *env, *_given_env(target)])
    if target.env_from:
        container["envFrom"] = [_env_from(target, index) for index in range(len(target.env_from))]
    container["resources"] = size
    container["securityContext"] = _HARDENED
    container["volumeMounts"] = run.files.mounts()
    return container


def _head_env(run: Run) -> list[Object]:
    room = sizes.room(run.size, run.count)
    at_once = run.size.trials * run.count.most
    return [
        _plain(inside.RAYJOB_ENV, run.rayjob),
        _field(inside.NAMESPACE_ENV, "metadata.namespace"),
        _field(inside.POD_ENV, "metadata.name"),
        _plain(inside.ROOM_ENV, inside.write_room(room)),
        # Ray would take it from the machines that are there at the start, which may be none.
        _plain("TUNE_MAX_PENDING_TRIALS_PG", str(at_once)),
        # What a volume holds is not easily read when the pods are gone, to bring MLflow up to date.
        _plain(*MLFLOW_WAIT),
        # Else it kills the driver 3 s after it has told it to end.
        _plain("RAY_JOB_STOP_WAIT_TIME_S", str(round(run.target.grace_s))),
    ]


def _plain(name: str, value: str) -> Object:
    return {"name": name, "value": literal(value)}


def _field(name: str, path: str) -> Object:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _given_env(target: KubeRayTarget) -> list[Object]:
    plain = [_plain(name, value) for name, value in target.env.items()]
    secret = [
        {
            "name": name,
            "valueFrom": {"secretKeyRef": {"name": source.secret, "key": source.key}},
        }
        for name, source in target.env_from_secret.items()
    ]
    return plain + secret


def _unique(env: Sequence[Object]) -> list[Object]:
    """Return variables without those that a later one of the same name replaces."""
    return list({variable["name"]: variable for variable in env}.values())


def _env_from(target: KubeRayTarget, index: int) -> Object:
    given = target.env_from[index]
    source: Object = {"prefix": given.prefix} if given.prefix is not None else {}
    if given.secret is not None:
        return source | {"secretRef": {"name": given.secret}}
    return source | {"configMapRef": {"name": given.config_map}}


def literal(text: str) -> str:
    """Return a text for a container's variables or arguments, where $(NAME) would be replaced.

    >>> literal("costs $5"), literal("$(HOME) $$")
    ('costs $5', '$$(HOME) $$$$')
    """
    return text.replace("$", "$$") if "$(" in text or "$$" in text else text
