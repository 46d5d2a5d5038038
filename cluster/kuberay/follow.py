"""Follows a run on KubeRay: where it stands, and what its driver writes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from raytune_hpo.cluster.kuberay.api import Api
from raytune_hpo.cluster.kuberay.handle import Handle
from raytune_hpo.cluster.kuberay.kinds import EVENT, POD, RAYCLUSTER, RAYJOB
from raytune_hpo.cluster.kuberay.lines import Once
from raytune_hpo.cluster.kuberay.names import NODE_TYPE, QUEUE, SUBMITTER
from raytune_hpo.cluster.kuberay.reasons import Standing, stand
from raytune_hpo.cluster.kuberay.refused import KubernetesError

Object = Mapping[str, Any]

LOOK_S = 10.0
"""Pods and events are looked at so often when the RayJob itself does not change."""
PATIENCE_S = 900.0
"""The API server may be unreachable so long."""
_POLL_S = 2.0
_BREAK_S = 0.5
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


@dataclass(frozen=True)
class _Source:
    """The container whose log is the driver's output in one try of a run."""

    pod: str
    uid: str
    container: str
    attempt: int
    attempts: int


def driver_lines(api: Api, handle: Handle, *, follow: bool = False) -> Iterator[bytes]:
    """Yield what the driver of a run writes, line by line; each once.

    The driver's output comes through the container that has handed the job to the head. A run that
    is tried again after its head was lost goes on in another pod, which a line announces.

    Args:
        api: Where.
        handle: Which.
        follow: Go on until the run is over, also over new tries and broken connections.

    Raises:
        KubernetesError: Its pods are gone, or there is no such container; says where to look.
    """
    done: set[str] = set()
    patience = _Patience(PATIENCE_S if follow else 0.0)
    while True:
        try:
            job = api.get(RAYJOB, handle.name)
            mine = job if job is not None and job["metadata"]["uid"] == handle.uid else None
            source = None if mine is None else _source(api, mine)
        except KubernetesError as error:
            patience.wait(error)
            continue
        patience.reset()
        if source is not None and source.uid not in done:
            if source.attempt > 1 and (done or not follow):
                yield _headline(source)
            yield from _one_pod(api, source, patience, follow=follow)
            done.add(source.uid)
        elif follow and not stand(mine).over:
            time.sleep(_POLL_S)
        else:
            break
    if not done:
        raise KubernetesError(_nothing(handle, mine))


class _Patience:
    """Waits for an API server that cannot be reached, for a while."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._since_s: float | None = None

    def wait(self, error: KubernetesError) -> None:
        """Wait before the next try.

        Raises:
            KubernetesError: The error, if another try is of no use.
        """
        now_s = time.monotonic()
        self._since_s = now_s if self._since_s is None else self._since_s
        if not error.passing or now_s - self._since_s >= self._patience_s:
            raise error
        time.sleep(_POLL_S)

    def reset(self) -> None:
        """Begin anew: it was reached."""
        self._since_s = None


def _headline(source: _Source) -> bytes:
    text = f"--- try {source.attempt} of {source.attempts}, pod {source.pod} ---\n"
    return text.encode()


def _nothing(handle: Handle, job: Object | None) -> str:
    if job is not None and job["spec"].get("submissionMode") in ("HTTPMode", "InteractiveMode"):
        return (
            f"RayJob {handle.name} has no submitter whose log could be read "
            f"({job['spec']['submissionMode']}); the driver's output is on its dashboard"
        )
    return (
        f"no pod of RayJob {handle.name} that has the driver's output is there: it "
        f"{stand(job).text}. What the run has written itself is in its storage"
    )


def _source(api: Api, job: Object) -> _Source | None:
    """Return where the present try's output is, or None when that has not begun."""
    mode = job["spec"].get("submissionMode", "K8sJobMode")
    name = str((job.get("status") or {}).get("rayClusterName") or "")
    if mode == "SidecarMode":
        labels = f"ray.io/cluster={name},{NODE_TYPE}=head" if name else ""
    elif mode == "K8sJobMode":
        labels = f"job-name={job['metadata']['name']}"
    else:
        labels = ""
    pods = api.all(POD, labels=labels) if labels else []
    pods.sort(key=lambda pod: str(pod["metadata"].get("creationTimestamp")))
    for pod in reversed(pods):
        state = _container(pod)
        if state is not None and _has_begun(state):
            standing = stand(job)
            meta = pod["metadata"]
            return _Source(
                meta["name"], meta["uid"], state["name"], standing.attempt, standing.attempts
            )
    return None


def _container(pod: Object) -> Object | None:
    """Return the state of the container that hands the job over; in a pod of its own, the first."""
    states = (pod.get("status") or {}).get("containerStatuses") or ()
    named = next((state for state in states if state.get("name") == SUBMITTER), None)
    own = not (pod["metadata"].get("labels") or {}).get(NODE_TYPE)
    return named if named is not None or not own else next(iter(states), None)


def _has_begun(state: Object) -> bool:
    now = state.get("state") or {}
    return "running" in now or "terminated" in now


def _one_pod(api: Api, source: _Source, patience: _Patience, *, follow: bool) -> Iterator[bytes]:
    """Yield the output of one try until its container has ended, or is gone."""
    once = Once()
    while True:
        try:
            # Looked at before reading, so that nothing written before the end is missed.
            goes_on = follow and _runs(api, source)
            lines = api.log_lines(source.pod, source.container, since=once.since, follow=goes_on)
            for text in once.text(lines, last=not goes_on):
                patience.reset()
                yield text
        except KubernetesError as error:
            if follow and error.status in (400, 404):
                # The pod is gone, or about to be.
                return
            patience.wait(error)
            continue
        if not goes_on:
            return
        time.sleep(_BREAK_S)


def _runs(api: Api, source: _Source) -> bool:
    pod = api.get(POD, source.pod)
    if pod is None or pod["metadata"]["uid"] != source.uid:
        return False
    state = _container(pod)
    return state is not None and "running" in (state.get("state") or {})
