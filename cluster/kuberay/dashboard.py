"""The dashboard of the Ray that carries a run, through a forwarded port."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import urllib3

from raytune_hpo.cluster.kuberay.api import Api
from raytune_hpo.cluster.kuberay.handle import Handle
from raytune_hpo.cluster.kuberay.kinds import POD, RAYCLUSTER, RAYJOB, SECRET
from raytune_hpo.cluster.kuberay.names import NODE_TYPE
from raytune_hpo.cluster.kuberay.reasons import stand
from raytune_hpo.cluster.kuberay.refused import KubernetesError

Object = Mapping[str, Any]

PORT = 8265
_TOKEN = "auth_token"
_NAME_MOST = 50
_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Dashboard:
    """A dashboard that can be reached from here.

    Attributes:
        url: Its address.
        token_command: Prints the token that it asks for; empty when it asks for none.
    """

    url: str
    token_command: str = ""


@contextmanager
def opened(api: Api, handle: Handle, local_port: int = 0) -> Iterator[Dashboard]:
    """Give the dashboard of a run while in the context.

    Args:
        api: Where.
        handle: Which.
        local_port: Port of this machine; 0 for one that is free.

    Raises:
        KubernetesError: The run has no head now, or its port cannot be forwarded.
    """
    job = api.get(RAYJOB, handle.name)
    mine = job if job is not None and job["metadata"]["uid"] == handle.uid else None
    name = _cluster_name(mine)
    head = _head(api, name)
    if head is None:
        raise KubernetesError(
            f"RayJob {handle.name} has no head that runs now: it {stand(mine).text}"
        )
    secret = _secret(api, name)
    command = ""
    if secret:
        command = (
            f"kubectl get secret -n {handle.namespace} {secret} "
            f"-o jsonpath='{{.data.{_TOKEN}}}' | base64 -d"
        )
    with api.forward(head, PORT, local_port) as port:
        yield Dashboard(f"http://127.0.0.1:{port}", command)


def job_log(api: Api, job: Object) -> str | None:
    """Return all that the driver of the present try has written, or None when nobody says.

    Args:
        api: Where.
        job: The RayJob.

    Raises:
        KubernetesError: The port of its head cannot be forwarded, or its token not be read.
    """
    name, job_id = _cluster_name(job), (job.get("status") or {}).get("jobId")
    head = _head(api, name)
    if head is None or not job_id:
        return None
    headers = {"X-Ray-Authorization": f"Bearer {token}"} if (token := _token(api, name)) else {}
    with api.forward(head, PORT) as port, urllib3.PoolManager() as pool:
        try:
            answer = pool.request(
                "GET",
                f"http://127.0.0.1:{port}/api/jobs/{job_id}/logs",
                headers=headers,
                retries=False,
                timeout=_TIMEOUT_S,
            )
        except urllib3.exceptions.HTTPError as error:
            raise KubernetesError(
                f"pod {head}: Ray's dashboard does not answer: {error}"
            ) from error
    if answer.status != 200:
        return None
    return str(json.loads(answer.data).get("logs") or "")


def _cluster_name(job: Object | None) -> str:
    status = (job.get("status") or {}) if job is not None else {}
    return str(status.get("rayClusterName") or "")


def _head(api: Api, cluster: str) -> str | None:
    """Return the name of a Ray cluster's head that runs, or None."""
    labels = f"ray.io/cluster={cluster},{NODE_TYPE}=head"
    pods = api.all(POD, labels=labels) if cluster else []
    running = [
        str(pod["metadata"]["name"])
        for pod in pods
        if (pod.get("status") or {}).get("phase") == "Running"
        and not pod["metadata"].get("deletionTimestamp")
    ]
    return running[0] if running else None


def _secret(api: Api, cluster: str) -> str:
    """Return the name of the secret with a Ray cluster's token; empty when it has none."""
    found = api.get(RAYCLUSTER, cluster)
    options = ((found or {}).get("spec") or {}).get("authOptions") or {}
    if options.get("mode") != "token":
        return ""
    # Source: KubeRay 1.7.0, CheckName in controllers/ray/utils/util.go.
    return str(options.get("secretName") or cluster[-_NAME_MOST:])


def _token(api: Api, cluster: str) -> str:
    secret = _secret(api, cluster)
    found = api.get(SECRET, secret) if secret else None
    return base64.b64decode(((found or {}).get("data") or {}).get(_TOKEN, "")).decode()
