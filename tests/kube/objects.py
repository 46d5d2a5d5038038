"""Objects that tests make."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from tests.kube.api import Json

RAY = version("ray")
IMAGE = f"rayproject/ray:{RAY}-py{sys.version_info.major}{sys.version_info.minor}"
_PATIENT = {"dashboard-agent-grpc-port": "52366", "runtime-env-agent-port": "52367"}
"""With fixed ports Ray does not end itself when its agents need more than 15 s to say theirs."""
SMALL = {"cpu": "500m", "memory": "512Mi"}


def pod(
    name: str,
    script: str,
    *,
    policy: str = "Never",
    volumes: Sequence[Json] = (),
    mounts: Sequence[Json] = (),
    labels: Json | None = None,
    spec: Json | None = None,
    **container: Any,
) -> Json:
    """Return a pod that runs a script of bash.

    Args:
        name: Of the pod.
        script: What it runs.
        policy: Whether it is started again.
        volumes: Its volumes.
        mounts: Where they are.
        labels: Of the pod.
        spec: More of the pod's specification.
        container: More of the container's.
    """
    main = {
        "name": "main",
        "image": IMAGE,
        "command": ["bash", "-c"],
        "args": [script],
        "volumeMounts": list(mounts),
        **container,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels or {}},
        "spec": {
            "restartPolicy": policy,
            "containers": [main],
            "volumes": list(volumes),
            **(spec or {}),
        },
    }


def service(name: str, labels: Json, port: int, target: int, *, headless: bool = False) -> Json:
    """Return a service before the pods with such labels."""
    spec: Json = {"selector": labels, "ports": [{"port": port, "targetPort": target}]}
    if headless:
        spec["clusterIP"] = "None"
    about = {"name": name}
    return {"apiVersion": "v1", "kind": "Service", "metadata": about, "spec": spec}


def data(kind: str, name: str, values: Json) -> Json:
    """Return a ConfigMap or a Secret."""
    field = "stringData" if kind == "Secret" else "data"
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, field: values}


def claim(name: str) -> Json:
    """Return a claim of a volume that all nodes can write to."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }


def quota(name: str, hard: Json) -> Json:
    """Return a limit of a namespace."""
    about = {"name": name}
    return {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": about, "spec": {"hard": hard}}


def rayjob(name: str, entrypoint: str, *, workers: int, autoscale_to: int | None = None) -> Json:
    """Return a RayJob whose head takes no tasks, in SidecarMode, with small pods.

    Args:
        name: Of the job.
        entrypoint: What runs on the head.
        workers: How many at first.
        autoscale_to: How many at most, with the autoscaler v2; None without.
    """
    most = workers if autoscale_to is None else autoscale_to
    cluster: Json = {
        "rayVersion": RAY,
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": "0", **_PATIENT},
            "template": {"spec": {"containers": [_ray("ray-head")]}},
        },
        "workerGroupSpecs": [
            {
                "groupName": "workers",
                "replicas": workers,
                "minReplicas": min(workers, most),
                "maxReplicas": most,
                "rayStartParams": {"num-cpus": "1", **_PATIENT},
                "template": {"spec": {"containers": [_ray("ray-worker")]}},
            }
        ],
    }
    if autoscale_to is not None:
        small = {"requests": SMALL, "limits": SMALL}
        cluster["enableInTreeAutoscaling"] = True
        cluster["autoscalerOptions"] = {"version": "v2", "resources": small}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": name},
        "spec": {
            "submissionMode": "SidecarMode",
            "entrypoint": entrypoint,
            "shutdownAfterJobFinishes": False,
            "rayClusterSpec": cluster,
        },
    }


def _ray(name: str) -> Json:
    """Return a container of Ray."""
    return {"name": name, "image": IMAGE, "resources": {"requests": SMALL, "limits": SMALL}}
