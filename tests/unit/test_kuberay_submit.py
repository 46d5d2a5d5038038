"""Submitting, suspending, resuming and taking back, against a server on loopback."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raytune_hpo.cluster.kuberay import api as kube
from raytune_hpo.cluster.kuberay import handle as handles
from raytune_hpo.cluster.kuberay import submit as submitting
from raytune_hpo.cluster.kuberay import wire
from raytune_hpo.cluster.kuberay.api import Api
from raytune_hpo.cluster.kuberay.handle import Handle
from raytune_hpo.cluster.kuberay.refused import KubernetesError
from tests.unit.kuberay_server import Answer, Call, Server, refusal, serving

JOBS = "/apis/ray.io/v1/namespaces/team-a/rayjobs"
MAPS = "/api/v1/namespaces/team-a/configmaps"
LABELS = {"raytune-hpo/experiment": "digits"}
JOB = {
    "apiVersion": "ray.io/v1",
    "kind": "RayJob",
    "metadata": {"name": "digits", "labels": LABELS},
    "spec": {"entrypoint": "raytune-hpo run", "shutdownAfterJobFinishes": True},
}
MAP = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "digits", "labels": LABELS},
    "data": {"experiment.yaml": "name: digits"},
}


@pytest.fixture
def server_and_api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Server, Api]]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(wire, "_RETRY_WAIT_S", 0.01)
    monkeypatch.setattr(submitting, "_LOOK_S", 0.01)
    with serving(tmp_path) as (server, file):
        yield server, kube.connect(kubeconfig=file)


@pytest.fixture
def server(server_and_api: tuple[Server, Api]) -> Server:
    return server_and_api[0]


@pytest.fixture
def api(server_and_api: tuple[Server, Api]) -> Api:
    return server_and_api[1]


def submit(api: Api) -> Handle:
    return submitting.submit(api, [copy.deepcopy(MAP), copy.deepcopy(JOB)])


def stands(server: Server, **status: Any) -> None:
    server.objects[f"{JOBS}/digits"]["status"] = status


def over(server: Server) -> None:
    stands(server, jobDeploymentStatus="Complete", jobStatus="SUCCEEDED")


def test_the_server_checks_all_before_it_keeps_any(api: Api, server: Server) -> None:
    handle = submit(api)
    changes = [call for call in server.calls if call.method != "GET"]
    checks, kept = changes[:2], changes[2:]
    assert all(call.query["dryRun"] == "All" for call in checks)
    assert [call.path for call in kept] == [JOBS, MAPS]
    assert handle == Handle("team-a", "digits", server.objects[f"{JOBS}/digits"]["metadata"]["uid"])
    assert handles.find(api, "digits") == handle


def test_the_config_map_goes_with_its_rayjob(api: Api, server: Server) -> None:
    handle = submit(api)
    (owner,) = server.objects[f"{MAPS}/digits"]["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("RayJob", handle.uid)


def test_what_the_server_would_refuse_is_not_sent(api: Api, server: Server) -> None:
    said = "RayJob.ray.io is invalid"
    cause = {"field": "spec.backoffLimit", "message": "must be an integer"}
    server.on("POST", JOBS, refusal(422, "Invalid", said, causes=[cause]))
    with pytest.raises(KubernetesError, match=r"spec.backoffLimit: must be an integer"):
        submit(api)
    assert server.writes() == []


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({}, "is about to start"),
        ({"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}, "it runs"),
        ({"jobDeploymentStatus": "Suspended"}, "is about to go on"),
        ({"jobDeploymentStatus": "Retrying", "failed": 1}, "a new Ray cluster is made"),
    ],
)
def test_a_run_that_is_not_over_is_left_alone(
    api: Api, server: Server, status: dict[str, Any], words: str
) -> None:
    first = submit(api)
    stands(server, **status)
    before = server.writes()
    with pytest.raises(KubernetesError, match=f"there is a RayJob digits already.*{words}") as no:
        submit(api)
    assert "raytune-hpo status digits" in str(no.value)
    assert server.writes() == before
    assert handles.find(api, "digits") == first


def test_a_run_that_is_over_makes_room(api: Api, server: Server) -> None:
    first = submit(api)
    over(server)
    second = submit(api)
    assert second.uid != first.uid
    (owner,) = server.objects[f"{MAPS}/digits"]["metadata"]["ownerReferences"]
    assert owner["uid"] == second.uid
    # Its name was still taken when the server checked the new one.
    names = [call.body["metadata"]["name"] for call in server.called("POST", JOBS)]
    assert names == ["digits", "digits", "digits-check", "digits"]


def test_the_quota_of_runs_is_not_asked_while_the_old_one_counts(api: Api, server: Server) -> None:
    submit(api)
    over(server)
    full = (
        'rayjobs.ray.io "digits-check" is forbidden: exceeded quota: q, requested: '
        "count/rayjobs.ray.io=1, used: count/rayjobs.ray.io=1, limited: count/rayjobs.ray.io=1"
    )
    server.on("POST", JOBS, refusal(403, "Forbidden", full))
    submit(api)


def test_what_an_earlier_try_left_is_replaced(api: Api, server: Server) -> None:
    old = server.put(MAPS, **MAP, immutable=True)
    submit(api)
    assert server.objects[f"{MAPS}/digits"]["metadata"]["uid"] != old["metadata"]["uid"]


def test_what_others_have_made_is_not_touched(api: Api, server: Server) -> None:
    server.put(MAPS, metadata={"name": "digits"}, data={"mine": "x"})
    with pytest.raises(KubernetesError, match="that is not of this run; delete it, or give"):
        submit(api)
    assert server.writes() == []


def after_the_check(what: Callable[[], None], answer: Answer | None = None) -> Any:
    """Return what happens when a RayJob is really created: something first, then an answer."""

    def answers(call: Call) -> Answer | None:
        if "dryRun" in call.query:
            return None
        what()
        return answer

    return answers


def test_of_two_at_the_same_moment_one_gets_the_name(api: Api, server: Server) -> None:
    def other() -> None:
        stored = server.put(JOBS, **JOB)
        server.put(MAPS, **{**MAP, "data": {"experiment.yaml": "of the other"}})
        assert stored["metadata"]["uid"]

    server.on("POST", JOBS, after_the_check(other))
    with pytest.raises(KubernetesError, match="there is a RayJob digits already"):
        submit(api)
    assert server.objects[f"{MAPS}/digits"]["data"] == {"experiment.yaml": "of the other"}


def test_somebody_else_is_quicker_than_the_check(api: Api, server: Server) -> None:
    def answer(call: Call) -> None:
        if "dryRun" in call.query and f"{JOBS}/digits" not in server.objects:
            server.put(JOBS, **JOB)

    server.on("POST", JOBS, answer)
    with pytest.raises(KubernetesError, match="there is a RayJob digits already"):
        submit(api)
    assert server.writes() == []


def test_a_lost_answer_is_no_lost_run(api: Api, server: Server) -> None:
    broken = refusal(504, "Timeout", "context deadline exceeded")
    call_of: list[Call] = []

    def keep(call: Call) -> Answer | None:
        if "dryRun" in call.query:
            return None
        call_of.append(call)
        server.put(JOBS, **call.body)
        return broken

    server.on("POST", JOBS, keep)
    handle = submit(api)
    assert len(call_of) == 1
    assert handle.uid == server.objects[f"{JOBS}/digits"]["metadata"]["uid"]


def test_a_run_whose_files_are_refused_is_taken_back(api: Api, server: Server) -> None:
    full = (
        'configmaps "digits" is forbidden: exceeded quota: q, requested: configmaps=1, used: '
        "configmaps=5, limited: configmaps=5"
    )
    server.on("POST", MAPS, refusal(403, "Forbidden", full))
    with pytest.raises(KubernetesError, match="quota q is used up"):
        submit(api)
    assert handles.find(api, "digits") is None


def test_another_namespace_than_that_of_the_objects_is_refused(api: Api) -> None:
    job = {**JOB, "metadata": {**JOB["metadata"], "namespace": "team-b"}}  # type: ignore[dict-item]
    with pytest.raises(KubernetesError, match="is for namespace team-b"):
        submitting.submit(api, [job])


def test_one_rayjob_is_submitted(api: Api) -> None:
    with pytest.raises(ValueError, match="one RayJob and config maps"):
        submitting.submit(api, [MAP])
    with pytest.raises(ValueError, match="Secret"):
        submitting.submit(api, [JOB, {**MAP, "kind": "Secret"}])


def test_a_run_is_suspended_and_resumed_once_each(api: Api, server: Server) -> None:
    handle = submit(api)
    stands(server, jobDeploymentStatus="Running", jobStatus="RUNNING")
    assert submitting.suspend(api, handle)
    assert not submitting.suspend(api, handle)
    assert server.objects[f"{JOBS}/digits"]["spec"]["suspend"] is True
    assert submitting.resume(api, handle)
    assert not submitting.resume(api, handle)
    sent = [call.body for call in server.called("PATCH", f"{JOBS}/digits")]
    assert [body["spec"] for body in sent] == [{"suspend": True}, {"suspend": False}]


def test_what_cannot_be_suspended(api: Api, server: Server) -> None:
    handle = submit(api)
    job = server.objects[f"{JOBS}/digits"]
    job["spec"]["shutdownAfterJobFinishes"] = False
    with pytest.raises(KubernetesError, match="only with shutdownAfterJobFinishes"):
        submitting.suspend(api, handle)
    over(server)
    with pytest.raises(KubernetesError, match="has succeeded; it cannot be suspended"):
        submitting.suspend(api, handle)
    with pytest.raises(KubernetesError, match="submit the run again, it goes on from its journal"):
        submitting.resume(api, handle)


def test_a_run_in_a_queue_is_left_to_the_queue(api: Api, server: Server) -> None:
    handle = submit(api)
    stands(server, jobDeploymentStatus="Running", jobStatus="RUNNING")
    submitting.label(api, handle, {"kueue.x-k8s.io/queue-name": "small"})
    with pytest.raises(KubernetesError, match=r"queue small.*\"active\":false"):
        submitting.suspend(api, handle)


def test_a_run_is_taken_back_once(api: Api, server: Server) -> None:
    handle = submit(api)
    assert submitting.cancel(api, handle, wait_s=5)
    assert not submitting.cancel(api, handle)
    (call, _) = server.called("DELETE", f"{JOBS}/digits")
    assert call.body["propagationPolicy"] == "Foreground"
    assert call.body["preconditions"] == {"uid": handle.uid}


def test_another_run_of_the_same_name_is_not_meant(api: Api, server: Server) -> None:
    old = submit(api)
    over(server)
    submit(api)
    assert not submitting.cancel(api, old)
    with pytest.raises(KubernetesError, match="is not in the cluster"):
        submitting.suspend(api, old)
    with pytest.raises(KubernetesError, match="is not in the cluster"):
        submitting.resume(api, old)
    submitting.wait_until_gone(api, old, 0.0)


def test_a_run_that_does_not_go_away(api: Api, server: Server) -> None:
    handle = submit(api)
    server.on("DELETE", f"{JOBS}/digits", lambda _: Answer(200, {}))
    with pytest.raises(KubernetesError, match=r"not gone after 0.05 s. Is the KubeRay operator"):
        submitting.cancel(api, handle, wait_s=0.05)
