"""Follows a run on KubeRay: where it stands, now and at each change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from raytune_hpo.cluster.kuberay.api import Api
from raytune_hpo.cluster.kuberay.handle import Handle
from raytune_hpo.cluster.kuberay.kinds import EVENT, POD, RAYCLUSTER, RAYJOB
from raytune_hpo.cluster.kuberay.names import QUEUE
from raytune_hpo.cluster.kuberay.reasons import Standing, stand
from raytune_hpo.cluster.kuberay.refused import KubernetesError

Object = Mapping[str, Any]

LOOK_S = 10.0
"""Pods and events are looked at so often when the RayJob itself does not change."""
PATIENCE_S = 900.0
"""The API server may be unreachable so long."""
_PODS_ASKED = 4
"""Events are asked for of so many pods that do not work; the others have the same ones."""
_UNKNOWN = Standing("unknown", "")
_WORKING = ("Running", "Succeeded")


def observe(api: Api, handle: Handle) -> Standing:
    """Return where a run stands; asks the API server a few times.

    Raises:
        KubernetesError: It does not answer, or one may not look at RayJobs.
    """
    return _standing(api, handle, api.get(RAYJOB, handle.name))


def follow(
    api: Api, handle: Handle, *, look_s: float = LOOK_S, patience_s: float = PATIENCE_S
) -> Iterator[Standing]:
    """Yield where a run stands, now and whenever that changes, until it is over.

    Args:
        api: Where.
        handle: Which.
        look_s: Pods and events are looked at so often.
        patience_s: So long the API server may be unreachable, which is yielded as ``unknown``.

    Raises:
        KubernetesError: One may not look, or the API server is gone for too long.
    """
    last: Standing | None = None
    job: Object | None = None
    changes = api.watch(
        RAYJOB, fields=f"metadata.name={handle.name}", quiet_s=look_s, patience_s=patience_s
    )
    begun = False
    for change in changes:
        if change.what == "lost":
            text = f"cannot be seen now: {change.message}"
            now = replace(last or _UNKNOWN, state="unknown", text=text, step="it is tried again")
        else:
            if change.what != "quiet":
                job = None if change.what == "deleted" else change.object
            elif not begun:
                # A watch of what is not there begins with silence.
                job = None
            begun = True
            now = _standing_if_reachable(api, handle, job, last)
        if _news(now) != _news(last):
            yield now
        last = now
        if now.over:
            return


def _news(standing: Standing | None) -> tuple[object, ...] | None:
    """Return what of a standing is worth a line when it changes."""
    if standing is None:
        return None
    return (standing.state, standing.text, standing.step, standing.attempt, standing.troubles)


def _standing_if_reachable(
    api: Api, handle: Handle, job: Object | None, last: Standing | None
) -> Standing:
    try:
        return _standing(api, handle, job)
    except KubernetesError as error:
        # The watch itself notices when this lasts.
        if not error.passing or last is None:
            raise
        return last


def _standing(api: Api, handle: Handle, job: Object | None) -> Standing:
    if job is None:
        return stand(None)
    if job["metadata"]["uid"] != handle.uid:
        return Standing(
            "absent",
            "is not in the cluster any more: another RayJob has its name now",
            f"look at that one: raytune-hpo status {handle.name}",
        )
    around = _around(api, job)
    told = stand(job, around.cluster, around.pods, around.events, datetime.now(UTC))
    if not around.hidden:
        return told
    hidden = " and ".join(around.hidden)
    step = told.step or f"ask for the right to list {hidden}, and more can be said"
    return replace(told, text=f"{told.text} (you may not see its {hidden})", step=step)


@dataclass
class _Around:
    """What belongs to a RayJob."""

    cluster: Object | None
    pods: list[Object]
    events: list[Object]
    hidden: list[str]


def _around(api: Api, job: Object) -> _Around:
    """Return what belongs to a RayJob; what one may not see is named instead."""
    around = _Around(None, [], [], [])
    name = str((job.get("status") or {}).get("rayClusterName") or "")
    if name:
        around.cluster = _seen(around, "Ray cluster", lambda: api.get(RAYCLUSTER, name), None)
        labels = f"ray.io/cluster={name}"
        around.pods = _seen(around, "pods", lambda: api.all(POD, labels=labels), [])
    if job["spec"].get("submissionMode", "K8sJobMode") == "K8sJobMode":
        labels = f"job-name={job['metadata']['name']}"
        around.pods += _seen(around, "pods", lambda: api.all(POD, labels=labels), [])
    around.pods.sort(key=lambda pod: str(pod["metadata"].get("creationTimestamp")))
    around.events = _seen(around, "events", lambda: _events(api, job, around), [])
    around.hidden = list(dict.fromkeys(around.hidden))
    return around


def _seen(around: _Around, what: str, look: Callable[[], Any], nothing: Any) -> Any:
    try:
        return look()
    except KubernetesError as error:
        if error.status != 403:
            raise
        around.hidden.append(what)
        return nothing


def _events(api: Api, job: Object, around: _Around) -> list[Object]:
    """Return the events about a run that explain something, oldest first of each object."""
    idle = [pod for pod in around.pods if (pod.get("status") or {}).get("phase") not in _WORKING]
    objects = [job, *([around.cluster] if around.cluster is not None else []), *idle[:_PODS_ASKED]]
    found: list[Object] = [event for one in objects for event in api.events(one["metadata"]["uid"])]
    queued = (job["metadata"].get("labels") or {}).get(QUEUE)
    if queued and job["spec"].get("suspend"):
        prefix = f"rayjob-{job['metadata']['name']}-"
        about = api.all(EVENT, fields="involvedObject.kind=Workload")
        found += [e for e in about if e["involvedObject"]["name"].startswith(prefix)]
    return found
