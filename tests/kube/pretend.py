"""Runs whose head only plays a Ray: what KubeRay does with them is real, and takes seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raytune_hpo.cluster.kuberay import follow
from raytune_hpo.cluster.kuberay.api import Api
from raytune_hpo.cluster.kuberay.handle import Handle
from raytune_hpo.cluster.kuberay.reasons import Standing

Object = dict[str, Any]

LONG_S = 600.0
READY_S = 14.0
"""A job that ends before its head counts as ready is not noticed by KubeRay 1.7."""
_HEAD = Path(__file__).with_name("pretend_head.py")
_SMALL = {"cpu": "100m", "memory": "100Mi"}


def objects(
    name: str,
    *,
    seconds: float = LONG_S,
    outcome: str = "SUCCEEDED",
    head: Object | None = None,
    worker: Object | None = None,
    workers: int = 0,
    cpu: str = "100m",
    **spec: Any,
) -> list[Object]:
    """Return a config map and a RayJob.

    Args:
        name: Of both.
        seconds: So long the job runs.
        outcome: How it ends.
        head: More of the head's pod.
        worker: More of the workers' pods.
        workers: How many there are; they never get ready.
        cpu: Of a worker.
        spec: More of the RayJob.
    """
    labels = {"raytune-hpo/experiment": name}
    command = f"exec {sys.executable} /pretend/pretend_head.py {seconds:g} {outcome}"
    port = {"containerPort": 8265, "name": "dashboard"}
    main = {**_container("ray-head", command, _SMALL), "ports": [port]}
    group = {
        "groupName": "trials",
        "replicas": workers,
        "minReplicas": 0,
        "maxReplicas": 4,
        "rayStartParams": {},
        "template": _template(
            name, _container("ray-worker", "sleep 10000", {**_SMALL, "cpu": cpu}), worker
        ),
    }
    job = {
        "submissionMode": "SidecarMode",
        "entrypoint": "raytune-hpo run",
        "backoffLimit": 1,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 600,
        "rayClusterSpec": {
            "rayVersion": "2.60.0",
            "headGroupSpec": {"rayStartParams": {}, "template": _template(name, main, head)},
            "workerGroupSpecs": [group],
        },
        **spec,
    }
    about = {"name": name, "labels": labels}
    files = {_HEAD.name: _HEAD.read_text()}
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": dict(about), "data": files},
        {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": dict(about), "spec": job},
    ]


def _container(name: str, command: str, amounts: Object) -> Object:
    return {
        "name": name,
        "image": "pretend:1",
        "command": ["/bin/bash", "-c", command],
        "resources": {"requests": amounts, "limits": amounts},
        "volumeMounts": [{"name": "files", "mountPath": "/pretend"}],
    }


def _template(name: str, container: Object, more: Object | None) -> Object:
    spec = {
        "terminationGracePeriodSeconds": 2,
        "containers": [container],
        "volumes": [{"name": "files", "configMap": {"name": name}}],
        **(more or {}),
    }
    # Otherwise KubeRay would start a Ray in it.
    return {"metadata": {"annotations": {"ray.io/overwrite-container-cmd": "true"}}, "spec": spec}


def wait_for(
    api: Api, handle: Handle, wanted: Callable[[Standing], object], timeout_s: float = 300.0
) -> Standing:
    """Wait until a run stands as wanted, and return how.

    Raises:
        TimeoutError: It does not in time; says how it stands.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        told = follow.observe(api, handle)
        if wanted(told):
            return told
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{told.state}: {told.text}")
        time.sleep(0.3)
