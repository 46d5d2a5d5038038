"""Following a run and its driver's output over tries, breaks and lost pods."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from raytune_hpo.cluster.kuberay import api as kube
from raytune_hpo.cluster.kuberay import follow as following
from raytune_hpo.cluster.kuberay import output, watch, wire
from raytune_hpo.cluster.kuberay.api import Api
from raytune_hpo.cluster.kuberay.handle import Handle
from raytune_hpo.cluster.kuberay.refused import KubernetesError
from tests.unit.kuberay_server import BROKEN, Answer, Server, refusal, serving

TEAM = "/namespaces/team-a"
JOBS = f"/apis/ray.io/v1{TEAM}/rayjobs"
CLUSTERS = f"/apis/ray.io/v1{TEAM}/rayclusters"
PODS = f"/api/v1{TEAM}/pods"
EVENTS = f"/api/v1{TEAM}/events"
OVER = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
FOLDER = Path(__file__).parent / "kuberay_recorded"


@pytest.fixture
def server_and_api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Server, Api]]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(wire, "_RETRY_WAIT_S", 0.01)
    monkeypatch.setattr(watch, "_RETRY_WAIT_S", 0.01)
    monkeypatch.setattr(watch, "_LEAST_S", 0.01)
    monkeypatch.setattr(output, "_POLL_S", 0.02)
    monkeypatch.setattr(output, "_BREAK_S", 0.02)
    with serving(tmp_path) as (server, file):
        yield server, kube.connect(kubeconfig=file)


@pytest.fixture
def server(server_and_api: tuple[Server, Api]) -> Server:
    return server_and_api[0]


@pytest.fixture
def api(server_and_api: tuple[Server, Api]) -> Api:
    return server_and_api[1]


def recorded(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return found


def show(server: Server, name: str, uid: str = "1") -> Handle:
    """Put what was recorded on the server, and return the handle of its RayJob."""
    seen = recorded(name)
    job = copy.deepcopy(seen["job"])
    job["metadata"]["uid"] = uid
    for path in [path for path in server.objects if path.startswith((PODS, CLUSTERS))]:
        server.drop(path)
    if seen["cluster"] is not None:
        server.put(CLUSTERS, **seen["cluster"])
    for pod in seen["pods"]:
        server.put(PODS, **pod)
    for number, event in enumerate(seen["events"]):
        server.put(EVENTS, **{**event, "metadata": {"name": f"{name}-{number}"}})
    server.put(JOBS, **job)
    return Handle("team-a", job["metadata"]["name"], uid)


def test_one_look(api: Api, server: Server) -> None:
    told = following.observe(api, show(server, "quota"))
    assert told.state == "waiting"
    assert "quota compute is used up" in told.text


def test_events_are_asked_for_of_pods_that_do_not_work(api: Api, server: Server) -> None:
    handle = show(server, "image")
    following.observe(api, handle)
    asked = {call.query["fieldSelector"] for call in server.called("GET", EVENTS)}
    seen = recorded("image")
    idle = [pod for pod in seen["pods"] if pod["status"]["phase"] == "Pending"]
    uids = [handle.uid, seen["cluster"]["metadata"]["uid"]]
    uids += [pod["metadata"]["uid"] for pod in idle]
    assert asked == {f"involvedObject.uid={uid}" for uid in uids}


def test_what_one_may_not_see_is_said(api: Api, server: Server) -> None:
    handle = show(server, "quota")
    said = 'pods is forbidden: User "bob" cannot list resource "pods" in API group "" in the '
    server.on("GET", PODS, refusal(403, "Forbidden", f'{said}namespace "team-a"'))
    told = following.observe(api, handle)
    assert told.text.endswith("(you may not see its pods)")
    assert "quota compute is used up" in told.text


def test_a_run_that_is_gone_and_one_that_took_its_name(api: Api, server: Server) -> None:
    handle = show(server, "running", uid="2")
    other = Handle(handle.namespace, handle.name, "1")
    assert "another RayJob has its name" in following.observe(api, other).text
    server.drop(f"{JOBS}/{handle.name}")
    assert following.observe(api, handle).state == "absent"


def test_each_change_is_told_once_until_the_end(api: Api, server: Server) -> None:
    handle = show(server, "head_starting")
    seen = following.follow(api, handle, look_s=1)
    states = [next(seen).text]
    for name in ("running", "running", "head_lost", "second_try", "head_lost_for_good"):
        show(server, name)
        if len(states) == 1 or name != "running":
            states.append(next(seen).text)
    assert [text.partition(";")[0] for text in states[1:]] == [
        "runs",
        "its head was lost",
        "runs (retry 1 of 1)",
        "has failed after 2 tries: its head was lost",
    ]
    assert list(seen) == []


def test_pods_are_looked_at_also_when_the_rayjob_stays_as_it_is(api: Api, server: Server) -> None:
    handle = show(server, "head_starting")
    seen = following.follow(api, handle, look_s=1)
    assert next(seen).state == "starting"
    pod = next(iter(recorded("head_starting")["pods"]))
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    condition["message"] = "0/2 nodes are available: 2 Insufficient cpu."
    pod["status"] = {"phase": "Pending", "conditions": [condition]}
    server.put(PODS, **pod)
    assert "no node has enough CPUs free" in next(seen).text


def test_a_run_that_is_deleted_while_it_is_followed(api: Api, server: Server) -> None:
    handle = show(server, "running")
    seen = following.follow(api, handle, look_s=1)
    assert next(seen).state == "running"
    server.drop(f"{JOBS}/{handle.name}")
    assert next(seen).state == "absent"
    assert list(seen) == []


def test_a_run_that_was_never_there(api: Api, server: Server) -> None:
    told = list(following.follow(api, Handle("team-a", "none", "1"), look_s=1))
    assert [one.state for one in told] == ["absent"]


def test_a_server_that_is_away_is_told_and_waited_for(api: Api, server: Server) -> None:
    handle = show(server, "second_try")
    seen = following.follow(api, handle, look_s=1)
    assert next(seen).state == "running"
    busy = refusal(503, "ServiceUnavailable", "apiserver is shutting down")
    server.on("GET", JOBS, *[busy] * 4)
    away = next(seen)
    assert (away.state, away.attempt) == ("unknown", 2)
    assert "cannot be seen now" in away.text
    assert next(seen).state == "running"


def line(number: int) -> bytes:
    return f"2026-11-26T17:00:{number // 4:02d}.{number % 4}00000000Z epoch {number}\n".encode()


def lines(start: int, end: int) -> list[bytes]:
    return [line(number) for number in range(start, end)]


def texts(start: int, end: int) -> list[bytes]:
    return [f"epoch {number}\n".encode() for number in range(start, end)]


def log_of(name: str) -> str:
    return f"{PODS}/{head(name)}/log"


def head(name: str) -> str:
    return str(recorded(name)["pods"][0]["metadata"]["name"])


def ended(server: Server, name: str) -> None:
    """Let the submitter of a recorded head be over."""
    pod = server.objects[f"{PODS}/{head(name)}"]
    for state in pod["status"]["containerStatuses"]:
        if state["name"] == "ray-job-submitter":
            state["state"] = {"terminated": {"exitCode": 0}}


def test_the_output_so_far(api: Api, server: Server) -> None:
    handle = show(server, "running")
    server.on("GET", log_of("running"), Answer(stream=lines(0, 5)))
    assert list(output.driver_lines(api, handle)) == texts(0, 5)
    (call,) = server.called("GET", log_of("running"))
    assert call.query["container"] == "ray-job-submitter"
    assert call.query["follow"] == "false"


def test_output_that_breaks_off_is_taken_up_again(api: Api, server: Server) -> None:
    handle = show(server, "running")
    half = line(9)[:30]
    server.on(
        "GET",
        log_of("running"),
        Answer(stream=[*lines(0, 9), half, BROKEN]),
        # From the second before the last one on.
        Answer(stream=lines(4, 12)),
        Answer(503, b""),
        Answer(stream=[*lines(4, 20), lambda: ended(server, "running")]),
        Answer(stream=lines(16, 20)),
    )
    found = output.driver_lines(api, handle, follow=True)
    assert list(islice(found, 20)) == texts(0, 20)
    asked = [call.query.get("sinceTime") for call in server.called("GET", log_of("running"))]
    assert asked[:2] == [None, "2026-11-26T17:00:01Z"]


def test_output_goes_on_with_the_next_try(api: Api, server: Server) -> None:
    handle = show(server, "running")
    first, second = log_of("running"), log_of("second_try")

    def lose() -> None:
        show(server, "head_lost")
        threading.Timer(0.1, show, (server, "second_try")).start()

    def end() -> None:
        ended(server, "second_try")
        server.objects[f"{JOBS}/{handle.name}"]["status"] |= OVER

    server.on("GET", first, Answer(stream=[*lines(0, 3), lose, BROKEN]))
    server.on("GET", second, Answer(stream=[*lines(0, 2), end]), Answer(stream=lines(0, 4)))
    pod = head("second_try")
    assert list(output.driver_lines(api, handle, follow=True)) == [
        *texts(0, 3),
        f"--- try 2 of 2, pod {pod} ---\n".encode(),
        *texts(0, 4),
    ]


def test_output_of_a_submitter_that_is_a_pod_of_its_own(api: Api, server: Server) -> None:
    handle = show(server, "job_mode")
    pods = recorded("job_mode")["pods"]
    (own,) = [p for p in pods if "ray.io/node-type" not in p["metadata"]["labels"]]
    path = f"{PODS}/{own['metadata']['name']}/log"
    server.on("GET", path, Answer(stream=[*lines(0, 3), line(3)[:-1]]))
    found = list(output.driver_lines(api, handle, follow=True))
    assert found == [*texts(0, 3), b"epoch 3"]


def test_output_that_is_gone(api: Api, server: Server) -> None:
    handle = show(server, "head_lost_for_good")
    with pytest.raises(KubernetesError, match=r"has failed after 2 tries.*is in its storage"):
        list(output.driver_lines(api, handle))
    server.drop(f"{JOBS}/{handle.name}")
    with pytest.raises(KubernetesError, match=r"is not in the cluster.*is in its storage"):
        list(output.driver_lines(api, handle, follow=True))


def test_output_waits_for_a_server_that_is_away(api: Api, server: Server) -> None:
    handle = show(server, "running")
    busy = refusal(503, "ServiceUnavailable", "apiserver is shutting down")
    server.on("GET", f"{JOBS}/{handle.name}", *[busy] * 7)
    ended(server, "running")
    server.objects[f"{JOBS}/{handle.name}"]["status"] |= OVER
    server.on("GET", log_of("running"), *[busy] * 4, Answer(stream=lines(0, 3)))
    assert list(output.driver_lines(api, handle, follow=True)) == texts(0, 3)
    server.on("GET", f"{JOBS}/{handle.name}", *[busy] * 3)
    with pytest.raises(KubernetesError, match="cannot answer now"):
        list(output.driver_lines(api, handle))


def test_output_that_one_may_not_read(api: Api, server: Server) -> None:
    handle = show(server, "running")
    said = (
        'pods "x" is forbidden: User "bob" cannot get resource "pods/log" in API group "" in the '
    )
    server.on("GET", log_of("running"), refusal(403, "Forbidden", f'{said}namespace "team-a"'))
    with pytest.raises(KubernetesError, match="bob may not get pods/log"):
        list(output.driver_lines(api, handle, follow=True))


def test_a_run_in_a_queue_says_what_the_queue_says(api: Api, server: Server) -> None:
    handle = show(server, "suspended")
    job = server.objects[f"{JOBS}/{handle.name}"]
    job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "small"
    job["spec"]["suspend"] = True
    about = {"kind": "Workload", "name": f"rayjob-{handle.name}-1a2b3", "uid": "9"}
    said = {"reason": "Pending", "message": "insufficient unused quota for cpu", "type": "Warning"}
    server.put(EVENTS, metadata={"name": "of-it"}, involvedObject=about, **said)
    other = {**about, "name": "rayjob-another-4c5d6"}
    server.put(EVENTS, metadata={"name": "of-another"}, involvedObject=other, **said, count=2)
    told = following.observe(api, handle)
    assert told.text == "waits in Kueue's queue small: insufficient unused quota for cpu"


def test_pods_that_cannot_be_seen_for_a_moment_change_nothing(api: Api, server: Server) -> None:
    handle = show(server, "running")
    seen = following.follow(api, handle, look_s=1)
    assert next(seen).state == "running"
    busy = refusal(503, "ServiceUnavailable", "apiserver is shutting down")
    server.on("GET", PODS, *[busy] * 3)
    show(server, "succeeded")
    job = {**recorded("succeeded")["job"], "metadata": recorded("running")["job"]["metadata"]}
    job["metadata"]["uid"] = handle.uid
    server.put(JOBS, **job)
    assert next(seen).state == "succeeded"
