"""Submitting and following against the real API server and KubeRay's real operator."""

from __future__ import annotations

import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from raytune_hpo.cluster.kuberay import api as kube_api
from raytune_hpo.cluster.kuberay import dashboard, follow, kinds, output, submit
from raytune_hpo.cluster.kuberay import handle as handles
from raytune_hpo.cluster.kuberay.api import Api, Right
from raytune_hpo.cluster.kuberay.handle import Handle
from raytune_hpo.cluster.kuberay.kinds import CONFIG_MAP, POD, RAYJOB
from raytune_hpo.cluster.kuberay.reasons import Standing
from raytune_hpo.cluster.kuberay.refused import KubernetesError
from tests.kube import pretend
from tests.kube.cluster import Cluster, KubeLab
from tests.slurm.machine import wait_until


@pytest.fixture
def api(kube: Cluster, space: str) -> Api:
    """Return the API server, in the test's own namespace."""
    return kube_api.connect(kubeconfig=kube.config, namespace=space)


def epochs(lines: list[bytes]) -> list[int]:
    """Return the numbers of the lines that the driver itself wrote."""
    return [int(line.split()[1]) for line in lines if line.startswith(b"epoch ")]


class Watcher:
    """Follows a run and its driver's output to the end, beside the test."""

    def __init__(self, api: Api, handle: Handle) -> None:
        self._pool = ThreadPoolExecutor(2)
        told = self._pool.submit(lambda: list(follow.follow(api, handle, look_s=2)))
        lines = self._pool.submit(lambda: list(output.driver_lines(api, handle, follow=True)))
        self._found = (told, lines)

    def wait(self, timeout_s: float = 400.0) -> tuple[list[Standing], list[bytes]]:
        """Return all standings and all lines once the run is over."""
        told, lines = self._found
        return told.result(timeout_s), lines.result(timeout_s)


def test_a_run_from_its_start_to_its_end(api: Api) -> None:
    handle = submit.submit(api, pretend.objects("whole", seconds=pretend.READY_S))

    told = list(follow.follow(api, handle, look_s=2))

    states = [one.state for one in told]
    assert states[0] == "starting"
    assert "running" in states
    assert (told[-1].state, told[-1].over) == ("succeeded", True)
    found = epochs(list(output.driver_lines(api, handle)))
    assert found == list(range(len(found)))
    assert len(found) > pretend.READY_S
    owned = api.get(CONFIG_MAP, "whole")
    assert owned is not None
    assert owned["metadata"]["ownerReferences"][0]["uid"] == handle.uid


def test_what_the_operator_knows_is_not_overwritten_by_another_submit(api: Api) -> None:
    objects = pretend.objects("twice")
    handle = submit.submit(api, objects)
    pretend.wait_for(api, handle, lambda told: told.state == "running")

    with pytest.raises(KubernetesError, match="there is a RayJob twice already, and it runs"):
        submit.submit(api, objects)

    assert follow.observe(api, handle).state == "running"


def test_of_many_submits_at_the_same_moment_one_wins(api: Api) -> None:
    def one(number: int) -> str:
        objects = pretend.objects("race")
        objects[0]["data"]["who"] = str(number)
        try:
            return f"{number} {submit.submit(api, objects).uid}"
        except KubernetesError as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(one, range(4)))

    lost = [text for text in said if "there is a RayJob race already" in text]
    (winner,) = set(said) - set(lost)
    assert len(lost) == 3
    number, uid = winner.split()
    job, files = api.get(RAYJOB, "race"), api.get(CONFIG_MAP, "race")
    assert job is not None
    assert files is not None
    assert job["metadata"]["uid"] == uid
    assert files["data"]["who"] == number
    assert files["metadata"]["ownerReferences"][0]["uid"] == uid


def test_a_run_that_is_over_makes_room_for_its_resume(api: Api) -> None:
    objects = pretend.objects("again", seconds=pretend.READY_S)
    first = submit.submit(api, objects)
    pretend.wait_for(api, first, lambda told: told.state == "succeeded")

    second = submit.submit(api, objects)

    assert second.uid != first.uid
    assert follow.observe(api, first).state == "absent"
    files = api.get(CONFIG_MAP, "again")
    assert files is not None
    assert files["metadata"]["ownerReferences"][0]["uid"] == second.uid


def test_a_head_that_is_lost_and_the_next_try(api: Api) -> None:
    handle = submit.submit(api, pretend.objects("lost", seconds=20))
    watcher = Watcher(api, handle)
    running = pretend.wait_for(api, handle, lambda now: now.state == "running")

    api.delete(POD, running.head, propagation="Background")

    told, lines = watcher.wait()
    assert told[-1].state == "succeeded"
    assert (told[-1].attempt, told[-1].attempts) == (2, 2)
    (lost,) = {one.text for one in told if one.state == "retrying"}
    assert lost.startswith("its head was lost")
    assert lost.endswith("a new Ray cluster is made: retry 1 of 1")
    text = b"".join(lines)
    first, second = text.split(b"--- try 2 of 2, pod ")
    for part in (first, second):
        found = epochs(part.splitlines())
        assert found == list(range(len(found)))
    assert len(epochs(second.splitlines())) >= 39


def test_output_and_standing_outlast_an_api_server_that_is_away(lab: KubeLab, api: Api) -> None:
    handle = submit.submit(api, pretend.objects("away", seconds=30))
    watcher = Watcher(api, handle)
    pretend.wait_for(api, handle, lambda now: now.state == "running")

    lab.stop("kube-apiserver")
    time.sleep(6)
    lab.start("kube-apiserver")

    told, lines = watcher.wait()
    assert told[-1].state == "succeeded"
    assert any(one.state == "unknown" and "does not answer" in one.text for one in told)
    found = epochs(lines)
    assert found == list(range(len(found)))
    assert len(found) >= 59


def test_a_run_is_suspended_and_resumed(api: Api) -> None:
    handle = submit.submit(api, pretend.objects("rest"))
    pretend.wait_for(api, handle, lambda told: told.state == "running")

    assert submit.suspend(api, handle)
    assert not submit.suspend(api, handle)

    pretend.wait_for(api, handle, lambda told: told.state == "suspended")
    wait_until(lambda: not api.all(POD), "pods of a suspended run stay")
    assert submit.resume(api, handle)
    assert not submit.resume(api, handle)
    assert pretend.wait_for(api, handle, lambda told: told.state == "running").attempt == 1


def test_a_run_is_taken_back_with_all_that_belongs_to_it(api: Api) -> None:
    handle = submit.submit(api, pretend.objects("back"))
    pretend.wait_for(api, handle, lambda told: told.state == "running")

    assert submit.cancel(api, handle, wait_s=60)

    assert api.all(POD) == []
    assert not submit.cancel(api, handle)
    assert handles.find(api, "back") is None
    wait_until(lambda: api.get(CONFIG_MAP, "back") is None, "the config map stays")


def test_another_runs_handle_changes_nothing(api: Api) -> None:
    handle = submit.submit(api, pretend.objects("mine"))
    with pytest.raises(KubernetesError, match=r"metadata.uid: .*immutable"):
        api.patch(RAYJOB, "mine", {"metadata": {"uid": "another"}, "spec": {"suspend": True}})
    assert not api.delete(RAYJOB, "mine", uid="another")
    assert handles.find(api, "mine") == handle


def test_the_dashboard_through_a_forwarded_port(api: Api) -> None:
    handle = submit.submit(api, pretend.objects("board"))
    pretend.wait_for(api, handle, lambda told: told.state == "running")
    with (
        dashboard.opened(api, handle) as there,
        urllib.request.urlopen(f"{there.url}/api/version", timeout=10) as answer,
    ):
        assert b"2.60.0" in answer.read()
        assert there.token_command == ""


def test_output_of_a_run_without_a_submitter(api: Api) -> None:
    objects = pretend.objects("http", seconds=pretend.READY_S, submissionMode="HTTPMode")
    handle = submit.submit(api, objects)
    found = epochs(list(output.driver_lines(api, handle, follow=True)))
    assert found == list(range(len(found)))
    assert len(found) > pretend.READY_S


WAITING: dict[str, tuple[dict[str, Any], str]] = {
    "image": (
        {"head": {}, "workers": 1, "worker": {"image": "registry.local/does-not-exist:1"}},
        "a worker cannot get its image registry.local/does-not-exist:1",
    ),
    "large": ({"workers": 2, "cpu": "1000"}, "no node has enough CPUs free"),
    "selector": ({"head": {"nodeSelector": {"disk": "fast"}}}, "do not match its node selector"),
    "account": ({"head": {"serviceAccountName": "tuner"}}, "there is no service account tuner"),
    "priority": ({"head": {"priorityClassName": "no-such"}}, "there is no priority class no-such"),
    "invalid": ({"submitterConfig": {"backoffLimit": 1}}, "SidecarMode doesn't support Submitter"),
    "bogus": ({"submissionMode": "Bogus"}, "submissionMode Bogus is none that KubeRay knows"),
}


@pytest.mark.parametrize("name", WAITING)
def test_why_a_run_does_not_start(api: Api, name: str) -> None:
    settings, words = WAITING[name]
    objects = pretend.objects(name, **{k: v for k, v in settings.items() if k != "worker"})
    if "worker" in settings:
        job = objects[1]["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
        job["template"]["spec"]["containers"][0]["image"] = settings["worker"]["image"]
    handle = submit.submit(api, objects)

    told = pretend.wait_for(api, handle, lambda now: words in now.text)

    assert told.step


def test_a_driver_that_fails(api: Api) -> None:
    objects = pretend.objects("wrong", seconds=pretend.READY_S, outcome="FAILED", backoffLimit=0)
    handle = submit.submit(api, objects)
    told = pretend.wait_for(api, handle, lambda now: now.over)
    assert told.state == "failed"
    assert "the driver" in told.text


def test_a_driver_that_ends_before_its_head_is_ready_is_not_noticed(api: Api) -> None:
    objects = pretend.objects("early", seconds=1)
    head = objects[1]["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    probe = {"exec": {"command": ["/bin/true"]}, "initialDelaySeconds": 60}
    head["containers"][0]["readinessProbe"] = probe
    handle = submit.submit(api, objects)
    told = pretend.wait_for(api, handle, lambda now: "is stuck" in now.text)
    assert told.step


def test_what_the_server_says_of_objects_that_are_wrong(api: Api) -> None:
    objects = pretend.objects("wrong")
    objects[1]["spec"]["fields"] = 1
    with pytest.raises(KubernetesError, match=r'unknown field "spec.fields"'):
        submit.submit(api, objects)
    objects = pretend.objects("wrong", backoffLimit="three")
    with pytest.raises(KubernetesError, match=r"spec.backoffLimit: Invalid value"):
        submit.submit(api, objects)
    assert api.all(RAYJOB) == []
    assert api.get(CONFIG_MAP, "wrong") is None


@pytest.fixture
def bob(lab: KubeLab, space: str) -> Api:
    """Return the API server as somebody sees it who has no rights in the namespace."""
    return kube_api.connect(kubeconfig=lab.kubeconfig_of("bob"), namespace=space)


def test_somebody_without_rights(bob: Api) -> None:
    assert not bob.allowed(Right("create", RAYJOB))
    with pytest.raises(KubernetesError, match=r"bob may not get rayjobs.ray.io.*Ask for a Role"):
        submit.submit(bob, pretend.objects("not-mine"))
    with pytest.raises(KubernetesError, match=r"may not list deployments.apps in the whole"):
        bob.all(kinds.DEPLOYMENT, everywhere=True)
