"""Where a run on KubeRay stands, in plain words with the next step: a pure function."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from raytune_hpo.cluster.kuberay import troubles
from raytune_hpo.cluster.kuberay.names import (
    KUEUE,
    MODES,
    NODE_TYPE,
    OPERATOR,
    QUEUE,
    SUBMITTER,
    WAITER,
)
from raytune_hpo.cluster.kuberay.troubles import Trouble

Object = Mapping[str, Any]
State = Literal[
    "absent",
    "waiting",
    "starting",
    "running",
    "retrying",
    "suspending",
    "suspended",
    "ending",
    "succeeded",
    "stopped",
    "failed",
    "unknown",
]

_JOB_STATUSES = ("", "PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED")
_OVER: frozenset[State] = frozenset({"absent", "succeeded", "stopped", "failed"})
_HEAD_LOST = "Ray head pod not found."
_NO_JOB = "Submitter completed but Ray job not found in RayCluster."
_OPERATOR_S = 30.0
"""The operator takes up a new RayJob within seconds; after so long it may not be there."""
_JOINS_S = 60.0
"""A worker gets through to a head that is ready within seconds."""
_CHECK_TIMEOUT_S = 300
"""The operator gives a head that does not answer up after this. Source: KubeRay 1.7.0."""
_SHOWN = 300
_NO_OPERATOR = (
    "is the KubeRay operator running, and does it watch this namespace? Look: kubectl get pods -A "
    f"-l {OPERATOR}"
)


@dataclass(frozen=True)
class Standing:
    """Where a run stands.

    Attributes:
        state: One word for it.
        text: The same in plain words, as the end of a sentence that begins with the run's name.
        step: What to do next; empty when there is nothing to do.
        attempt: Which try this is, from 1.
        attempts: How many tries there may be.
        cluster: Name of the Ray cluster of this try; empty when there is none.
        head: Name of the pod of its head; empty when there is none.
        workers: Workers that are ready.
        wanted: Workers that there should be now.
        troubles: What keeps pods from working now; the text has the first one already.
    """

    state: State
    text: str
    step: str = ""
    attempt: int = 1
    attempts: int = 1
    cluster: str = ""
    head: str = ""
    workers: int = 0
    wanted: int = 0
    troubles: tuple[Trouble, ...] = ()

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in _OVER


def stand(
    job: Object | None,
    cluster: Object | None = None,
    pods: Sequence[Object] = (),
    events: Sequence[Object] = (),
    now: datetime | None = None,
) -> Standing:
    """Return where a run stands.

    Args:
        job: The RayJob, or None when there is none.
        cluster: The RayCluster of its present try.
        pods: Of this cluster, and of the submitter where it is a pod of its own.
        events: About all of these, and about the run's Workload in Kueue; oldest first.
        now: Time of the observation, with its zone; without it nothing is said about durations.
    """
    if job is None:
        return Standing(
            "absent",
            "is not in the cluster: it was never submitted, was deleted, or its time to live after "
            "its end is over",
            "its results are in its storage",
        )
    seen = _Seen(job, cluster, pods, events, now)
    state, text, step = _told(seen)
    return Standing(
        state,
        text,
        step,
        attempt=min(seen.failed + (0 if seen.phase in _BETWEEN else 1), seen.attempts),
        attempts=seen.attempts,
        cluster=str(seen.status.get("rayClusterName") or ""),
        head=seen.head_name,
        workers=int(seen.cluster_status.get("readyWorkerReplicas") or 0),
        wanted=int(seen.cluster_status.get("desiredWorkerReplicas") or 0),
        troubles=tuple(seen.troubles),
    )


_BETWEEN = frozenset({"Retrying", "Failed"})
"""Phases in which the failed try is counted already."""
_Told = tuple[State, str, str]


class _Seen:
    """What was seen of a run, taken apart."""

    def __init__(
        self,
        job: Object,
        cluster: Object | None,
        pods: Sequence[Object],
        events: Sequence[Object],
        now: datetime | None,
    ) -> None:
        self.meta: Object = job["metadata"]
        self.spec: Object = job.get("spec") or {}
        self.status: Object = job.get("status") or {}
        self.events = events
        self.now = now
        self.phase = str(self.status.get("jobDeploymentStatus") or "")
        self.job_status = str(self.status.get("jobStatus") or "")
        self.reason = str(self.status.get("reason") or "")
        self.message = str(self.status.get("message") or "")
        self.failed = int(self.status.get("failed") or 0)
        self.attempts = int(self.spec.get("backoffLimit") or 0) + 1
        kept = {"status": self.status.get("rayClusterStatus") or {}}
        self.cluster: Object = cluster if cluster is not None else kept
        self.cluster_status: Object = self.cluster.get("status") or {}
        self.pods = pods
        self.queue = str((self.meta.get("labels") or {}).get(QUEUE) or "")
        self.heads = [pod for pod in pods if _type(pod) == "head"]
        self.head_name = str(self.heads[-1]["metadata"]["name"]) if self.heads else ""
        self.has_cluster = cluster is not None
        self.troubles = self._troubles()

    def _troubles(self) -> list[Trouble]:
        submitters = [pod for pod in self.pods if not _type(pod)]
        workers = [pod for pod in self.pods if _type(pod) == "worker"]
        found = troubles.of_cluster(self.cluster, self.events)
        apart = self._apart(workers)
        return [
            *troubles.of_pods(self.heads, self.events, "head"),
            *([found] if found is not None else []),
            *troubles.of_pods(submitters, self.events, "submitter"),
            *troubles.of_pods(workers, self.events, "worker"),
            *([troubles.of_join(apart)] if apart is not None else []),
        ]

    def _apart(self, workers: Sequence[Object]) -> Object | None:
        """Return a worker that has waited long for a head that is ready."""
        if not _ready(self.heads, "head"):
            return None
        for pod in workers:
            for state in (pod.get("status") or {}).get("initContainerStatuses") or ():
                running = (state.get("state") or {}).get("running") or {}
                age_s = self.age_s("startedAt", running)
                if state.get("name") == WAITER and age_s is not None and age_s > _JOINS_S:
                    return pod
        return None

    def age_s(self, name: str = "creationTimestamp", of: Object | None = None) -> float | None:
        """Return how long ago a time of the RayJob was, in seconds."""
        text = (self.meta if of is None else of).get(name)
        if self.now is None or not text:
            return None
        return (self.now - datetime.fromisoformat(str(text))).total_seconds()

    @property
    def retry(self) -> str:
        """Which retry this is, as the end of a sentence; empty for the first try."""
        return f" (retry {self.failed} of {self.attempts - 1})" if self.failed else ""


def _type(pod: Object) -> str:
    return str((pod["metadata"].get("labels") or {}).get(NODE_TYPE) or "")


def _told(seen: _Seen) -> _Told:
    if seen.meta.get("deletionTimestamp"):
        return _deleting(seen)
    return _PHASES.get(seen.phase, _unknown)(seen)


def _deleting(seen: _Seen) -> _Told:
    age_s = seen.age_s("deletionTimestamp")
    if age_s is not None and age_s > 2 * _OPERATOR_S:
        return ("ending", "has been waiting to be deleted for a while", _NO_OPERATOR)
    return ("ending", "is being deleted", "")


def _unknown(seen: _Seen) -> _Told:
    return ("unknown", f"is in a state that is not known here: {seen.phase}", "")


def _new(seen: _Seen) -> _Told:
    if seen.spec.get("managedBy") == f"{KUEUE}/multikueue":
        return ("waiting", "waits for MultiKueue to give it to a cluster", "")
    if seen.queue and seen.spec.get("suspend"):
        return _in_queue(seen)
    age_s = seen.age_s()
    if age_s is not None and age_s > _OPERATOR_S and not seen.failed:
        return ("waiting", "has not been taken up by KubeRay's operator", _NO_OPERATOR)
    return ("starting", f"has been taken by the cluster and is about to start{seen.retry}", "")


def _in_queue(seen: _Seen) -> _Told:
    said = [
        " ".join(str(event.get("message") or "").split())
        for event in seen.events
        if event.get("involvedObject", {}).get("kind") == "Workload"
        and event.get("reason")
        in ("Pending", "QuotaReserved", "Inadmissible", "Preempted", "Evicted")
    ]
    why = f": {said[-1]}" if said else ""
    step = f"look: kubectl describe localqueue {seen.queue} -n {seen.meta.get('namespace')}"
    return ("waiting", f"waits in Kueue's queue {seen.queue}{why}", step)


def _initializing(seen: _Seen) -> _Told:
    code = _early_end(seen)
    if code is not None:
        # The operator looks at the driver only once the head counts as ready, which a pod with a
        # container that has ended never does.
        text = (
            f"is stuck: its driver has ended (exit code {code} of its submitter) before its head "
            "counted as ready, which KubeRay does not notice"
        )
        return ("ending", text, "read its log, then stop it; resume the run if it is not done")
    if not seen.head_name and not seen.troubles:
        return ("starting", f"is starting: its Ray cluster is being made{seen.retry}", "")
    if seen.troubles:
        first = seen.troubles[0]
        word: State = "waiting"
        return (word, f"cannot start yet: {first.who} {first.what}{seen.retry}", first.step)
    if _ready(seen.pods, "head"):
        return ("starting", f"is starting: its head is ready{_workers(seen)}{seen.retry}", "")
    return ("starting", f"is starting: its head {seen.head_name} is not ready yet{seen.retry}", "")


def _early_end(seen: _Seen) -> int | None:
    """Return the exit code of the submitter in the head's pod, if that is over."""
    for pod in seen.heads:
        for state in (pod.get("status") or {}).get("containerStatuses") or ():
            ended = (state.get("state") or {}).get("terminated")
            if state.get("name") == SUBMITTER and ended:
                return int(ended.get("exitCode") or 0)
    return None


def _ready(pods: Sequence[Object], kind: str) -> bool:
    return any(
        condition.get("type") == "Ready" and condition.get("status") == "True"
        for pod in pods
        if _type(pod) == kind
        for condition in (pod.get("status") or {}).get("conditions") or ()
    )


def _workers(seen: _Seen) -> str:
    ready = int(seen.cluster_status.get("readyWorkerReplicas") or 0)
    wanted = int(seen.cluster_status.get("desiredWorkerReplicas") or 0)
    return f", {ready} of {wanted} workers are ready" if wanted else ""


def _running(seen: _Seen) -> _Told:
    if seen.spec.get("suspend"):
        return ("suspending", "is about to be suspended", "")
    mode = seen.spec.get("submissionMode", "K8sJobMode")
    if mode not in MODES:
        text = f"will never do anything: submissionMode {mode} is none that KubeRay knows"
        return ("waiting", text, f"delete it and submit it with one of {', '.join(MODES)}")
    silent = seen.status.get("jobStatusCheckFailureStartTime")
    if silent:
        text = (
            f"its head has not answered the operator since {silent}, and counts as failed after "
            f"{_CHECK_TIMEOUT_S} s"
        )
        return _running_without_head(seen, text)
    if seen.job_status not in _JOB_STATUSES:
        # Through the API server's proxy the operator takes its refusal for an answer of Ray.
        text = f"its head does not answer the operator ({_shown(seen.message)})"
        return _running_without_head(seen, text)
    text = {
        "": "is being handed to the head",
        "PENDING": "is being prepared on the head",
        "RUNNING": "runs",
    }.get(seen.job_status, f"has ended ({seen.job_status.lower()}) and is being wound up")
    state: State = "starting" if seen.job_status in ("", "PENDING") else "running"
    state = state if seen.job_status in ("", "PENDING", "RUNNING") else "ending"
    text = f"{text}{_workers(seen)}{seen.retry}"
    if not seen.troubles or state == "ending":
        return (state, text, "")
    first = seen.troubles[0]
    return (state, f"{text}; {first.who} {first.what}", first.step)


def _running_without_head(seen: _Seen, text: str) -> _Told:
    of_head = next((trouble for trouble in seen.troubles if trouble.who == "the head"), None)
    if of_head is not None:
        text = f"{of_head.who} {of_head.what}"
    return ("running", f"runs, but {text}{seen.retry}", of_head.step if of_head else "")


def _suspended(seen: _Seen) -> _Told:
    if seen.queue:
        return _in_queue(seen)
    if not seen.spec.get("suspend"):
        return ("starting", "is about to go on", "")
    return ("suspended", "is suspended: it has no pods, its results stay", "go on: resume it")


def _suspending(seen: _Seen) -> _Told:
    return ("suspending", "is being suspended: its pods are ending", "")


def _waiting(seen: _Seen) -> _Told:
    return (
        "waiting",
        "has its Ray cluster and waits for you to submit a job to it (InteractiveMode)",
        "submit it with ray job submit, and write its id to spec.jobId",
    )


def _complete(seen: _Seen) -> _Told:
    if seen.job_status == "STOPPED":
        return ("stopped", "was stopped", "go on with it: resume it")
    if seen.reason == "JobDeploymentStatusTransitionGracePeriodExceeded":
        return ("succeeded", "has succeeded; its submitter had to be ended", "")
    return ("succeeded", "has succeeded", "")


def _retrying(seen: _Seen) -> _Told:
    why, _ = _why_failed(seen)
    text = f"{why}; a new Ray cluster is made: retry {seen.failed} of {seen.attempts - 1}"
    return ("retrying", text, "")


def _failed(seen: _Seen) -> _Told:
    why, step = _why_failed(seen)
    tries = f" after {seen.failed} tries" if seen.failed > 1 else ""
    return ("failed", f"has failed{tries}: {why}", step)


def _not_valid(seen: _Seen) -> _Told:
    said = seen.message.removeprefix("The RayJob spec is invalid: ")
    return (
        "failed",
        f"was refused by KubeRay's operator: {' '.join(said.split())}",
        "correct targets.kuberay, delete the RayJob and submit it again",
    )


_PHASES: Mapping[str, Callable[[_Seen], _Told]] = {
    "": _new,
    "Initializing": _initializing,
    "Running": _running,
    "Complete": _complete,
    "Failed": _failed,
    "ValidationFailed": _not_valid,
    "Suspending": _suspending,
    "Suspended": _suspended,
    "Retrying": _retrying,
    "Waiting": _waiting,
}


def _why_failed(seen: _Seen) -> tuple[str, str]:
    """Return why a try failed, and what to do when there is no other."""
    found = _REASONS.get(seen.reason)
    if found is None:
        return (seen.reason or "for a reason that KubeRay does not say"), _LOOK
    return found(seen)


_LOGS = ", last available logs"
_EXIT = re.compile(r"failed with exit code (\d+)")
_LOOK = "look at what it wrote: raytune-hpo logs; then resume the run"
_RESUME = "go on with it: resume the run"
_EXITS = {
    "1": ("no trial succeeded", _LOOK),
    "2": ("the experiment file is wrong", "correct it, and submit it again"),
    "3": ("Ray or the storage could not be used", _LOOK),
    "130": ("it was asked to stop", _RESUME),
}


def _app_failed(seen: _Seen) -> tuple[str, str]:
    killed = next((t for t in seen.troubles if "more memory" in t.what), None)
    if killed is not None:
        return f"{killed.who} {killed.what}", f"{killed.step}; then resume the run"
    if seen.message == _HEAD_LOST:
        return "its head was lost", _RESUME
    if seen.message == _NO_JOB:
        return "its head lost the job, as when it was started again", _RESUME
    code = _EXIT.search(seen.message)
    if code is not None and code[1] in _EXITS:
        text, step = _EXITS[code[1]]
        return f"the driver ended: {text} (exit code {code[1]}){_last_line(seen.message)}", step
    return f"the driver ended: {_shown(seen.message) or 'KubeRay does not say how'}", _LOOK


def _submission_failed(seen: _Seen) -> tuple[str, str]:
    first = seen.troubles[0] if seen.troubles else None
    if first is not None and first.stays:
        return f"the job could not be handed to the head: {first.who} {first.what}", first.step
    if seen.has_cluster and not _heads_that_stay(seen):
        # Its containers are told to end first, so the submitter's end is seen before the pod's.
        return "its head was lost", _RESUME
    if not seen.has_cluster and "terminated with exit code" in seen.message:
        # Nothing is left to tell the two from one another.
        return f"its head was lost, or the driver failed: {_shown(seen.message)}", _LOOK
    return f"the driver failed, or could not be started on the head: {_shown(seen.message)}", _LOOK


def _heads_that_stay(seen: _Seen) -> list[Object]:
    return [pod for pod in seen.heads if not pod["metadata"].get("deletionTimestamp")]


def _deadline(seen: _Seen) -> tuple[str, str]:
    limit = seen.spec.get("activeDeadlineSeconds")
    return (
        f"its time limit is over ({limit} s, counted from its start)",
        "raise targets.kuberay.deadline, and resume the run",
    )


def _pre_running(seen: _Seen) -> tuple[str, str]:
    limit = seen.spec.get("preRunningDeadlineSeconds")
    first = seen.troubles[0] if seen.troubles else None
    why = f": {first.who} {first.what}" if first is not None else ""
    step = first.step if first is not None and first.step else "look at quotas and free nodes"
    return f"its head was not ready in {limit} s{why}", f"{step}; then resume the run"


def _grace(seen: _Seen) -> tuple[str, str]:
    if "submitter finished" in seen.message:
        return (
            "the connection of its submitter to the driver ended while the driver still ran, "
            "which KubeRay takes for its end",
            _RESUME,
        )
    return "its submitter did not end after the driver had", _RESUME


def _check_timeout(seen: _Seen) -> tuple[str, str]:
    return (
        f"its head did not answer the operator for {_CHECK_TIMEOUT_S} s, and KubeRay does not try "
        "again after that",
        "look whether the head had enough memory; then resume the run",
    )


_REASONS: Mapping[str, Callable[[_Seen], tuple[str, str]]] = {
    "AppFailed": _app_failed,
    "DeadlineExceeded": _deadline,
    "JobDeploymentStatusTransitionGracePeriodExceeded": _grace,
    "JobStatusCheckTimeoutExceeded": _check_timeout,
    "PreRunningDeadlineExceeded": _pre_running,
    "SubmissionFailed": _submission_failed,
}


def _shown(message: str) -> str:
    r"""Return a message without the many lines of logs that Ray appends to it.

    >>> _shown("Job entrypoint command failed with exit code 9, last available logs (...):\nA\nB")
    'Job entrypoint command failed with exit code 9; its last line: B'
    """
    text = " ".join(message.partition(_LOGS)[0].split())
    return (text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...") + _last_line(message)


def _last_line(message: str) -> str:
    lines = [line.strip() for line in message.partition(_LOGS)[2].splitlines()[1:] if line.strip()]
    return f"; its last line: {lines[-1][:_SHOWN]}" if lines else ""
