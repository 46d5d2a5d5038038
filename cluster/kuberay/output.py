"""What the driver of a run on KubeRay writes, over tries and broken connections."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from raytune_hpo.cluster.kuberay import dashboard
from raytune_hpo.cluster.kuberay.api import Api
from raytune_hpo.cluster.kuberay.handle import Handle
from raytune_hpo.cluster.kuberay.kinds import POD, RAYJOB
from raytune_hpo.cluster.kuberay.lines import Once
from raytune_hpo.cluster.kuberay.names import NODE_TYPE, SUBMITTER
from raytune_hpo.cluster.kuberay.reasons import stand
from raytune_hpo.cluster.kuberay.refused import KubernetesError

Object = Mapping[str, Any]

PATIENCE_S = 900.0
"""The API server may be unreachable so long."""
_POLL_S = 2.0
_BREAK_S = 0.5


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

    The driver's output comes through the container that has handed the job to the head, or from
    Ray's dashboard where there is none. A run that is tried again after its head was lost goes on
    in another pod, which a line announces.

    Args:
        api: Where.
        handle: Which.
        follow: Go on until the run is over, also over new tries and broken connections.

    Raises:
        KubernetesError: Its pods are gone, or may not be read; says where to look.
    """
    done: set[str] = set()
    patience = _Patience(PATIENCE_S if follow else 0.0)
    shown = _Shown()
    while True:
        try:
            job = api.get(RAYJOB, handle.name)
            mine = job if job is not None and job["metadata"]["uid"] == handle.uid else None
            # Asked for after it was seen whether the run is over, so that nothing is missed.
            more = shown.more(api, mine) if mine is not None and _has_no_submitter(mine) else []
            source = None if mine is None else _source(api, mine)
        except KubernetesError as error:
            patience.wait(error)
            continue
        patience.reset()
        yield from more
        if source is not None and source.uid not in done:
            if source.attempt > 1 and (done or not follow):
                yield _headline(source.attempt, source.attempts, f"pod {source.pod}")
            yield from _one_pod(api, source, patience, follow=follow)
            done.add(source.uid)
        elif follow and not stand(mine).over:
            time.sleep(_POLL_S)
        else:
            break
    yield from shown.rest
    if not done and not shown.any:
        raise KubernetesError(
            f"nobody has the driver's output of RayJob {handle.name} any more: it "
            f"{stand(mine).text}. What the run has written itself is in its storage"
        )


def _has_no_submitter(job: Object) -> bool:
    return job["spec"].get("submissionMode") in ("HTTPMode", "InteractiveMode")


def _headline(attempt: int, attempts: int, where: str) -> bytes:
    return f"--- try {attempt} of {attempts}, {where} ---\n".encode()


class _Shown:
    """What was shown of the output that Ray's dashboard gives as a whole each time.

    Attributes:
        any: Whether there was any.
        rest: A last line without its end.
    """

    def __init__(self) -> None:
        self.any = False
        self.rest: list[bytes] = []
        self._cluster = ""
        self._length = 0

    def more(self, api: Api, job: Object) -> list[bytes]:
        """Return the lines that are new.

        Raises:
            KubernetesError: The dashboard cannot be asked.
        """
        log = dashboard.job_log(api, job)
        if log is None:
            return []
        cluster, standing = job["status"]["rayClusterName"], stand(job)
        begun: list[bytes] = []
        if cluster != self._cluster:
            if self._cluster or standing.attempt > 1:
                begun = [_headline(standing.attempt, standing.attempts, f"Ray cluster {cluster}")]
            self._cluster, self._length = cluster, 0
        self.any = True
        whole, end, rest = log[self._length :].rpartition("\n")
        self._length += len(whole) + len(end)
        self.rest = [rest.encode()] if rest else []
        return [*begun, *(f"{line}\n".encode() for line in whole.split("\n") if end)]


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
