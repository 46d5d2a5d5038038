"""What keeps the pods of a run from working, in plain words: pure functions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from raytune_hpo.cluster.kuberay import denials
from raytune_hpo.cluster.kuberay.names import WAITER

Object = Mapping[str, Any]

_IMAGE = frozenset(
    {
        "ErrImageNeverPull",
        "ErrImagePull",
        "ImageInspectError",
        "ImagePullBackOff",
        "InvalidImageName",
        "RegistryUnavailable",
        "SignatureValidationFailed",
    }
)
_START = frozenset(
    {"CreateContainerError", "RunContainerError", "StartError", "PostStartHookError"}
)
_MOUNT = frozenset({"FailedMount", "FailedAttachVolume", "FailedMapVolume"})
_LOST = {
    "Evicted": "was evicted from its node",
    "NodeLost": "was lost with its node",
    "NodeShutdown": "was ended because its node was shut down",
    "Terminated": "was ended because its node was shut down",
    "Preempting": "was preempted by a pod that goes first",
    "PreemptionByScheduler": "was preempted by a pod that goes first",
    "EvictionByEvictionAPI": "was evicted from its node, as when a node is drained",
    "DeletionByTaintManager": "was taken off a node that is not usable any more",
    "DeletionByPodGC": "was lost with its node",
    "TerminationByKubelet": "was ended by its node",
    "UnexpectedAdmissionError": "was refused by its node",
}
_INSUFFICIENT = re.compile(r"(\d+) Insufficient ([^\s,]+?)[.,]?(?=\s|$)")
_NODES = re.compile(r"(\d+)/(\d+) nodes are available")
_TAINT = re.compile(r"untolerated taint(?:\(s\)|s)?(?: \{([^}]*)\})?")
_CLAIM = re.compile(r'persistentvolumeclaim "([^"]+)" not found')
_KEY = re.compile(r"couldn't find key (\S+) in (ConfigMap|Secret) (\S+)")
_OBJECT = re.compile(r'(configmap|secret) "([^"]+)" not found')
_KINDS = {"configmap": "config map", "secret": "secret"}
_MADE = {"FailedToCreateHeadPod": "the head", "FailedToCreateWorkerPod": "a worker"}
_EXITS = {
    126: "its command cannot be run (exit code 126)",
    127: "its command is not there (exit code 127)",
    137: "it was killed (exit code 137)",
    139: "it crashed (exit code 139)",
    143: "it was ended (exit code 143)",
}


@dataclass(frozen=True)
class Trouble:
    """Something that keeps a pod, or several alike, from working.

    Attributes:
        who: Which, such as ``the head`` or ``each of 2 workers``.
        what: What is wrong, as the end of a sentence.
        step: What to do next; empty when there is nothing to do but wait.
        stays: Whether it will not go away by itself.
    """

    who: str
    what: str
    step: str = ""
    stays: bool = False


def of_pods(
    pods: Sequence[Object], events: Sequence[Object], who: str = "worker"
) -> Iterator[Trouble]:
    """Yield what is wrong with pods that do the same, each thing once.

    Args:
        pods: The pods.
        events: Events about them, oldest first.
        who: What they are.
    """
    alike: dict[str, list[Trouble]] = {}
    for pod in pods:
        uid = pod["metadata"].get("uid")
        own = [event for event in events if event.get("involvedObject", {}).get("uid") == uid]
        found = of_pod(pod, own, who)
        if found is not None:
            alike.setdefault(found.what, []).append(found)
    for same in alike.values():
        yield same[0] if len(same) == 1 else replace(same[0], who=f"each of {len(same)} {who}s")


def of_pod(pod: Object, events: Sequence[Object], who: str = "head") -> Trouble | None:
    """Return what is wrong with a pod, or None when it works or may be about to.

    Args:
        pod: The pod.
        events: Events about it, oldest first.
        who: What it is.
    """
    status = pod.get("status") or {}
    lost = _lost(status)
    found = lost or _unscheduled(status, events)
    if found is None:
        states = [*(status.get("initContainerStatuses") or ())]
        states += status.get("containerStatuses") or ()
        found = next((t for state in states if (t := _of_container(state, pod, who))), None)
    if found is None and status.get("phase") == "Pending":
        found = _of_events(events)
    if found is None and pod["metadata"].get("deletionTimestamp"):
        found = ("is being deleted", "", False)
    return None if found is None else Trouble(_one(who), *found)


_Found = tuple[str, str, bool]
"""What is wrong, what to do, and whether it stays."""


def _one(who: str) -> str:
    return {"worker": "a worker"}.get(who, f"the {who}")


def _lost(status: Object) -> _Found | None:
    """Return how a pod was taken away from the outside."""
    conditions = [c for c in status.get("conditions") or () if c.get("status") == "True"]
    targets = [c.get("reason", "") for c in conditions if c.get("type") == "DisruptionTarget"]
    for reason in (*targets, status.get("reason", "")):
        if reason in _LOST:
            said = " ".join(str(status.get("message") or "").split())
            low = "low on resource: memory" in said
            step = "ask for more memory" if low else ""
            return (f"{_LOST[reason]}{f' ({said})' if said else ''}", step, False)
        if reason.startswith("OutOf"):
            return (f"was refused by its node: no {reason[5:]} left there", "", False)
    return None


def _unscheduled(status: Object, events: Sequence[Object]) -> _Found | None:
    """Return why no node takes a pod."""
    for condition in status.get("conditions") or ():
        if condition.get("type") != "PodScheduled" or condition.get("status") != "False":
            continue
        if condition.get("reason") == "SchedulingGated":
            return ("is held back by a scheduling gate, as a queue sets it", "", False)
        return _unschedulable(str(condition.get("message") or ""), events)
    return None


def _unschedulable(message: str, events: Sequence[Object]) -> _Found:
    claim = _CLAIM.search(message)
    if claim is not None:
        return _no_claim(claim[1])
    if "unbound immediate PersistentVolumeClaims" in message:
        return (
            "waits for a volume that has not been made yet",
            "look why: kubectl describe pvc; a storage class or its provisioner may be missing",
            True,
        )
    short = list(dict.fromkeys(_noun(match[2]) for match in _INSUFFICIENT.finditer(message)))
    nodes = _NODES.search(message)
    of_all = f" (of {nodes[2]} nodes none fits)" if nodes else ""
    others = list(_other_reasons(message))
    if not short and not others:
        return (f"finds no node: {' '.join(message.split())}", "", False)
    lacks = [f"no node has enough {' and '.join(short)} free"] if short else []
    what = f"finds no node: {'; '.join([*lacks, *others])}{of_all}"
    reasons = [str(event.get("reason")) for event in events]
    if "TriggeredScaleUp" in reasons:
        return (f"{what}; a new node is on its way", "", False)
    if "NotTriggerScaleUp" in reasons:
        step = "no new node would help: ask for less, or for another kind of node"
        return (f"{what}; the cluster cannot grow for it", step, True)
    return (what, _scheduling_step(bool(short), bool(others)), bool(others) and not short)


def _other_reasons(message: str) -> Iterator[str]:
    for match in _TAINT.finditer(message):
        taint = f" ({match[1].strip().rstrip(':')})" if match[1] else ""
        yield f"nodes have taints that the pod does not tolerate{taint}"
    if "didn't match Pod's node affinity/selector" in message:
        yield "nodes do not match its node selector"
    if "volume node affinity conflict" in message:
        yield "its volume is tied to another node or zone"
    if "were unschedulable" in message:
        yield "nodes are closed for new pods (cordoned)"
    if "Too many pods" in message:
        yield "nodes have as many pods as they may"


def _scheduling_step(short: bool, others: bool) -> str:
    if others and not short:
        return "look at node_selector and tolerations in targets.kuberay"
    return "wait until something ends, or ask for less"


def _noun(resource: str) -> str:
    return {"cpu": "CPUs", "memory": "memory"}.get(resource, resource)


def _of_container(state: Object, pod: Object, who: str) -> _Found | None:
    """Return what is wrong with a container."""
    waiting = (state.get("state") or {}).get("waiting") or {}
    ended = (state.get("state") or {}).get("terminated") or {}
    before = (state.get("lastState") or {}).get("terminated") or {}
    reason, said = str(waiting.get("reason", "")), " ".join(str(waiting.get("message", "")).split())
    name = state.get("name")
    if reason in _IMAGE:
        return _image(str(state.get("image") or _image_of(pod, name)), reason, said)
    if reason == "CreateContainerConfigError":
        return _config(said)
    if reason in _START:
        return (f"cannot be started: {said or reason}", "look at the image and its command", True)
    if reason == "CrashLoopBackOff":
        what = f"ends again and again: {_end(before, name)}"
        return (what, _look(pod, name, previous=True), True)
    if ended and (ended.get("exitCode") or ended.get("reason") == "OOMKilled"):
        return (_end(ended, name), _end_step(ended, pod, name), False)
    if before.get("reason") == "OOMKilled":
        return (f"{_end(before, name)}, and was started again", _end_step(before, pod, name), False)
    return None


def _image(image: str, reason: str, said: str) -> _Found:
    if reason == "InvalidImageName":
        return (f"has an image name that is none: {image}", "change targets.kuberay.image", True)
    why = said
    for signs, text in (
        (("not found", "manifest unknown", "does not exist"), "there is none of that name"),
        (("unauthorized", "denied", "forbidden", "authentication"), "its registry refuses it"),
        (("no such host", "timeout", "connection refused", "i/o"), "its registry does not answer"),
        (("toomanyrequests", "rate limit"), "its registry wants fewer pulls"),
    ):
        if any(sign in said.lower() for sign in signs):
            why = text
            break
    # While it waits before the next try, the server repeats no more than the name.
    why = "" if why.startswith("Back-off pulling image") and "Err" not in why else why
    step = "look at targets.kuberay.image and image_pull_secrets"
    return (f"cannot get its image {image}{f': {why}' if why else ''}", step, True)


def _image_of(pod: Object, name: Any) -> str:
    containers = (pod.get("spec") or {}).get("containers") or ()
    return next((str(c.get("image")) for c in containers if c.get("name") == name), "")


def _config(said: str) -> _Found:
    key = _KEY.search(said)
    if key is not None:
        kind = key[2].lower()
        where = key[3].rpartition("/")[2]
        return (
            f"waits: {kind} {where} has no key {key[1]}",
            f"look: kubectl get {kind} {where}",
            True,
        )
    missing = _OBJECT.search(said)
    if missing is not None:
        kind, name = missing.groups()
        text = f"waits: there is no {_KINDS[kind]} {name}"
        return (text, f"create it; look: kubectl get {kind}s", True)
    return (f"cannot be configured: {said}", "", True)


def _end(ended: Object, name: Any) -> str:
    """Return how a container ended."""
    if ended.get("reason") == "OOMKilled":
        return f"used more memory than its limit and was killed (container {name})"
    code = ended.get("exitCode")
    text = _EXITS.get(code, f"exit code {code}") if isinstance(code, int) else "an error"
    said = " ".join(str(ended.get("message") or "").split())
    return f"container {name} ended: {text}{f': {said}' if said else ''}"


def _end_step(ended: Object, pod: Object, name: Any) -> str:
    if ended.get("reason") == "OOMKilled":
        return "give it more memory: targets.kuberay.head.memory or worker.memory"
    return _look(pod, name)


def _look(pod: Object, name: Any, *, previous: bool = False) -> str:
    meta = pod["metadata"]
    more = " --previous" if previous else ""
    return f"look: kubectl logs -n {meta.get('namespace')} {meta['name']} -c {name}{more}"


def _of_events(events: Iterable[Object]) -> _Found | None:
    """Return what events say of a pod that does not begin; the last word counts."""
    found = None
    for event in events:
        reason, said = event.get("reason"), " ".join(str(event.get("message") or "").split())
        if reason in _MOUNT:
            found = _mount(said)
        elif reason == "FailedCreatePodSandBox":
            found = (f"gets no network on its node: {said}", "tell the administrators", True)
        elif reason in ("Pulling", "Pulled", "Created", "Started"):
            found = None
        if reason == "Pulling":
            found = ("gets its image, which takes minutes when it is large", "", False)
    return found


def _mount(said: str) -> _Found:
    missing = _OBJECT.search(said)
    if missing is not None:
        kind, name = missing.groups()
        text = f"waits: there is no {_KINDS[kind]} {name} to mount"
        return (text, f"create it; look: kubectl get {kind}s", True)
    claim = _CLAIM.search(said)
    if claim is not None:
        return _no_claim(claim[1])
    if "Multi-Attach" in said:
        return (
            "cannot mount its volume, which is on another node",
            "the volume must be ReadWriteMany; see targets.kuberay.pvc",
            True,
        )
    return (f"cannot mount a volume: {said}", "look: kubectl describe pod", True)


def _no_claim(name: str) -> _Found:
    return (
        f"waits: there is no volume claim {name}",
        "create it, or change targets.kuberay.pvc; look: kubectl get pvc",
        True,
    )


def of_join(pod: Object) -> Trouble:
    """Return what may be wrong where a worker does not get through to a head that is ready."""
    step = (
        "if the secret with Ray's token was made anew, which the head does not know, "
        f"suspend the run and resume it; else {_look(pod, WAITER)}"
    )
    return Trouble("a worker", "does not get through to the head", step)


def of_cluster(cluster: Object, events: Sequence[Object]) -> Trouble | None:
    """Return why pods of a Ray cluster could not be made.

    Args:
        cluster: The RayCluster; KubeRay says it nowhere else than in its conditions and events.
        events: Events about it, oldest first.
    """
    for condition in (cluster.get("status") or {}).get("conditions") or ():
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            who = "the head" if "Head" in str(condition.get("reason")) else "a worker"
            return _refused(who, str(condition.get("message") or ""))
    for event in reversed(events):
        reason, said = str(event.get("reason")), str(event.get("message") or "")
        if reason.startswith("FailedToCreate") and event.get("type") == "Warning":
            return _refused(_MADE.get(reason, "the cluster"), said)
        if reason in ("InvalidRayClusterSpec", "InvalidRayClusterMetadata"):
            return Trouble("the cluster", f"is not valid: {' '.join(said.split())}", stays=True)
        if reason == "AutoscalerServiceAccountNotFound":
            step = "create it; see targets.kuberay.service_account"
            return Trouble("the cluster", "waits: its service account is missing", step, stays=True)
        if reason in ("CreatedHeadPod", "CreatedWorkerPod"):
            break
    return None


def _refused(who: str, said: str) -> Trouble:
    denial = denials.plain(said)
    return Trouble(who, f"could not be made: {denial.what}", denial.step, stays=True)
