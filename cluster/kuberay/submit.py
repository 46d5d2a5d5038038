"""Submits a run to KubeRay, suspends it, resumes it and takes it back.

A RayJob is created once. Afterwards its spec belongs to KubeRay's operator, and only what is ours
is changed: whether it is suspended, and labels.
"""

from __future__ import annotations

import copy
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from raytune_hpo.cluster.kuberay.api import Api
from raytune_hpo.cluster.kuberay.handle import Handle
from raytune_hpo.cluster.kuberay.kinds import CONFIG_MAP, RAYJOB
from raytune_hpo.cluster.kuberay.names import EXPERIMENT, OPERATOR, QUEUE, SUBMISSION
from raytune_hpo.cluster.kuberay.reasons import Standing, stand
from raytune_hpo.cluster.kuberay.refused import KubernetesError
from raytune_hpo.cluster.kuberay.wire import Object

GONE_TIMEOUT_S = 120.0
_LOOK_S = 1.0


def submit(api: Api, objects: Sequence[Mapping[str, Any]]) -> Handle:
    """Create the objects of a run and return the RayJob among them.

    The server checks all of them before it keeps any. A RayJob of the same name that is over makes
    room for the new one; the run itself goes on from its journal.

    Args:
        api: Where.
        objects: One RayJob, and the config maps that it mounts, which are deleted with it.

    Raises:
        KubernetesError: There is such a RayJob that is not over, or the server refuses an object.
    """
    job, others = _parted(api, objects)
    old = api.get(RAYJOB, job["metadata"]["name"])
    if old is not None:
        _refuse_unless_over(old)
    left = [found for other in others if (found := _left_over(api, other)) is not None]
    _check(api, job, others, there=old is not None)
    if old is not None:
        before = Handle(api.namespace, old["metadata"]["name"], old["metadata"]["uid"])
        cancel(api, before, wait_s=GONE_TIMEOUT_S)
    for one in left:
        meta = one["metadata"]
        api.delete(CONFIG_MAP, meta["name"], uid=meta["uid"], propagation="Background")
    # First the RayJob, whose name only one of two at the same moment gets; its pods wait for the
    # rest, which goes with it from the beginning.
    made = _create_once(api, job)
    handle = Handle(api.namespace, job["metadata"]["name"], made["metadata"]["uid"])
    for other in others:
        _create_with(api, handle, other)
    return handle


def cancel(api: Api, handle: Handle, *, wait_s: float = 0.0) -> bool:
    """Delete a RayJob with all its pods; return whether it was there.

    Args:
        api: Where.
        handle: Which.
        wait_s: Wait so long until all of it is gone.

    Raises:
        KubernetesError: It may not be deleted, or is not gone in this time.
    """
    there = api.delete(RAYJOB, handle.name, uid=handle.uid)
    if wait_s:
        wait_until_gone(api, handle, wait_s)
    return there


def wait_until_gone(api: Api, handle: Handle, timeout_s: float = GONE_TIMEOUT_S) -> None:
    """Wait until a RayJob is gone.

    Raises:
        KubernetesError: It is still there.
    """
    deadline_s = time.monotonic() + timeout_s
    while (job := api.get(RAYJOB, handle.name)) and job["metadata"]["uid"] == handle.uid:
        if time.monotonic() >= deadline_s:
            raise KubernetesError(
                f"RayJob {handle.name} is being deleted and is not gone after {timeout_s:g} s. Is "
                f"the KubeRay operator running? kubectl get pods -A -l {OPERATOR}; pods that are "
                f"ending: kubectl get pods -n {handle.namespace} "
                f"-l ray.io/originated-from-cr-name={handle.name}"
            )
        time.sleep(_LOOK_S)


def suspend(api: Api, handle: Handle) -> bool:
    """Take the pods of a run away and keep its RayJob; return False when that was done before.

    Its trials are not asked to stop first.

    Raises:
        KubernetesError: There is no such RayJob, or it cannot be suspended; says why.
    """
    job = _there(api, handle)
    if job["spec"].get("suspend"):
        return False
    _refuse_queued(job, "suspend", active=False)
    standing = stand(job)
    if standing.over:
        raise KubernetesError(f"RayJob {handle.name} {standing.text}; it cannot be suspended")
    if not job["spec"].get("shutdownAfterJobFinishes") or job["spec"].get("clusterSelector"):
        # The operator would fail the whole RayJob.
        raise KubernetesError(
            f"RayJob {handle.name} cannot be suspended: KubeRay allows it only with "
            "shutdownAfterJobFinishes and a Ray cluster of its own. Stop it, and resume the run"
        )
    api.patch(RAYJOB, handle.name, _change(handle, {"spec": {"suspend": True}}))
    return True


def resume(api: Api, handle: Handle) -> bool:
    """Let a suspended run go on; return False when it was not suspended.

    Raises:
        KubernetesError: There is no such RayJob, or it is over.
    """
    job = _there(api, handle)
    standing = stand(job)
    if standing.over:
        raise KubernetesError(
            f"RayJob {handle.name} {standing.text}; submit the run again, it goes on from its "
            "journal"
        )
    if not job["spec"].get("suspend"):
        return False
    _refuse_queued(job, "resume", active=True)
    api.patch(RAYJOB, handle.name, _change(handle, {"spec": {"suspend": False}}))
    return True


def label(api: Api, handle: Handle, labels: Mapping[str, str | None]) -> None:
    """Set labels of a RayJob; a value of None removes one.

    Raises:
        KubernetesError: There is no such RayJob, or it may not be changed.
    """
    _there(api, handle)
    api.patch(RAYJOB, handle.name, _change(handle, {"metadata": {"labels": dict(labels)}}))


def _parted(api: Api, objects: Sequence[Mapping[str, Any]]) -> tuple[Object, list[Object]]:
    """Return the RayJob and the other objects, as they are sent to a namespace."""
    ready = [_placed(api, one) for one in objects]
    jobs = [one for one in ready if one["kind"] == RAYJOB.name]
    others = [one for one in ready if one["kind"] != RAYJOB.name]
    wrong = [one["kind"] for one in others if one["kind"] != CONFIG_MAP.name]
    if len(jobs) != 1 or wrong:
        raise ValueError(f"one RayJob and config maps are submitted, not {[*jobs, *wrong]}")
    notes = jobs[0]["metadata"].setdefault("annotations", {})
    notes[SUBMISSION] = str(uuid.uuid4())
    return jobs[0], others


def _placed(api: Api, one: Mapping[str, Any]) -> Object:
    placed: Object = copy.deepcopy(dict(one))
    meta = placed["metadata"]
    if meta.setdefault("namespace", api.namespace) != api.namespace:
        raise KubernetesError(
            f"{one['kind']} {meta['name']} is for namespace {meta['namespace']}, and the run is "
            f"submitted to {api.namespace}: set targets.kuberay.namespace or --namespace alike"
        )
    return placed


def _refuse_unless_over(old: Object) -> None:
    standing: Standing = stand(old)
    name = old["metadata"]["name"]
    if not standing.over and standing.state != "ending":
        raise KubernetesError(
            f"there is a RayJob {name} already, and it {standing.text}. Follow it: raytune-hpo "
            f"status {name}; end it: raytune-hpo stop {name}; or start another one: --name OTHER",
            status=409,
            reason="AlreadyExists",
        )


def _left_over(api: Api, wanted: Object) -> Object | None:
    """Return what an earlier run has left under a name, or None.

    Raises:
        KubernetesError: Something else has made it.
    """
    name = wanted["metadata"]["name"]
    old = api.get(api.kind_of(wanted), name)
    if old is None:
        return None
    mine, its = _own_labels(wanted), _own_labels(old)
    if not mine or mine != its:
        raise KubernetesError(
            f"there is a {wanted['kind']} {name} in namespace {api.namespace} that is not of this "
            "run; delete it, or give the run another name: --name OTHER",
            status=409,
            reason="AlreadyExists",
        )
    return old


def _own_labels(one: Object) -> Object:
    labels = one["metadata"].get("labels") or {}
    return {name: value for name, value in labels.items() if name == EXPERIMENT}


def _check(api: Api, job: Object, others: Sequence[Object], *, there: bool) -> None:
    """Have the server check all objects.

    Raises:
        KubernetesError: It would not take one.
    """
    for other in others:
        api.apply(other, dry_run=True, force=True)
    if there:
        # Its name is still taken by the one that is over.
        name = f"{job['metadata']['name']}-check"
        job = {**job, "metadata": {**job["metadata"], "name": name}}
    try:
        api.create(job, dry_run=True)
    except KubernetesError as error:
        # The one that is over still counts.
        if there and "count/rayjobs.ray.io" in str(error):
            return
        _refuse_taken(api, job, error)
        raise


def _create_once(api: Api, job: Object) -> Object:
    """Create a RayJob, also when the connection breaks before the answer.

    Raises:
        KubernetesError: It is refused, or somebody else has just created one of that name.
    """
    try:
        return api.create(job)
    except KubernetesError as error:
        unclear = error.passing or error.reason == "AlreadyExists"
        made = api.get(RAYJOB, job["metadata"]["name"]) if unclear else None
        if made is None:
            raise
        ours = job["metadata"]["annotations"][SUBMISSION]
        if (made["metadata"].get("annotations") or {}).get(SUBMISSION) == ours:
            return made
        _refuse_taken(api, job, error)
        raise


def _refuse_taken(api: Api, job: Object, error: KubernetesError) -> None:
    """Raise when somebody else has just taken the name of a RayJob."""
    found = api.get(RAYJOB, job["metadata"]["name"]) if error.reason == "AlreadyExists" else None
    if found is not None:
        _refuse_unless_over(found)


def _create_with(api: Api, handle: Handle, one: Object) -> None:
    """Create an object that is deleted with a RayJob; without it there shall be no RayJob either.

    Raises:
        KubernetesError: It is refused.
    """
    owner = {"apiVersion": RAYJOB.version, "kind": RAYJOB.name}
    owner |= {"name": handle.name, "uid": handle.uid}
    owned = {**one, "metadata": {**one["metadata"], "ownerReferences": [owner]}}
    try:
        api.create(owned)
    except KubernetesError as error:
        made = api.get(api.kind_of(one), one["metadata"]["name"]) if error.passing else None
        if made is not None and made["metadata"].get("ownerReferences") == [owner]:
            return
        cancel(api, handle)
        raise


def _there(api: Api, handle: Handle) -> Object:
    job = api.get(RAYJOB, handle.name)
    if job is None or job["metadata"]["uid"] != handle.uid:
        raise KubernetesError(
            f"RayJob {handle.name} in namespace {handle.namespace} {stand(None).text}; submit the "
            "run again, it goes on from its journal",
            status=404,
            reason="NotFound",
        )
    return job


def _refuse_queued(job: Object, verb: str, *, active: bool) -> None:
    queue = (job["metadata"].get("labels") or {}).get(QUEUE)
    if queue:
        name, namespace = job["metadata"]["name"], job["metadata"]["namespace"]
        raise KubernetesError(
            f"RayJob {name} is in Kueue's queue {queue}, which decides when it runs. To {verb} it: "
            f"kubectl get workloads -n {namespace} | grep {name}, then kubectl patch workload NAME "
            f"-n {namespace} --type merge -p "
            f'\'{{"spec":{{"active":{str(active).lower()}}}}}\''
        )


def _change(handle: Handle, change: Object) -> Object:
    """Return a change that only this very RayJob takes."""
    return {**change, "metadata": {**change.get("metadata", {}), "uid": handle.uid}}
