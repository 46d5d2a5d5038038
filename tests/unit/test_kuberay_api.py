"""Talking to an API server: objects, errors in plain words, watches and logs that break."""

from __future__ import annotations

import json
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from raytune_hpo.cluster.kuberay import api as kube
from raytune_hpo.cluster.kuberay import kinds, watch, wire
from raytune_hpo.cluster.kuberay.api import Api, Right
from raytune_hpo.cluster.kuberay.kinds import CONFIG_MAP, POD, RAYJOB
from raytune_hpo.cluster.kuberay.lines import Once
from raytune_hpo.cluster.kuberay.refused import KubernetesError, of_answer
from raytune_hpo.cluster.kuberay.watch import Change
from raytune_hpo.errors import InfrastructureError
from tests.unit.kuberay_server import (
    BROKEN,
    TOKEN,
    Answer,
    Call,
    Server,
    kubeconfig,
    refusal,
    serving,
)

JOBS = "/apis/ray.io/v1/namespaces/team-a/rayjobs"
DIGITS = f"{JOBS}/digits"
LOG = "/api/v1/namespaces/team-a/pods/head/log"
JOB = {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": {"name": "digits"}, "spec": {}}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(wire, "_RETRY_WAIT_S", 0.01)
    monkeypatch.setattr(watch, "_RETRY_WAIT_S", 0.01)
    monkeypatch.setattr(watch, "_LEAST_S", 0.01)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Server, Path]]:
    with serving(tmp_path) as both:
        yield both


@pytest.fixture
def server(served: tuple[Server, Path]) -> Server:
    return served[0]


@pytest.fixture
def api(served: tuple[Server, Path]) -> Api:
    return kube.connect(kubeconfig=served[1])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def test_the_package_does_not_import_the_client() -> None:
    code = (
        "import sys, raytune_hpo, raytune_hpo.cluster.kuberay.follow;"
        "import raytune_hpo.cluster.kuberay.submit, raytune_hpo.cluster.kuberay.preflight;"
        "print('kubernetes' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_without_the_client_it_is_said_how_to_get_it(
    served: tuple[Server, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    with pytest.raises(InfrastructureError, match=r"pip install 'raytune-hpo\[kubernetes\]'"):
        kube.connect(kubeconfig=served[1])


def test_the_namespace_is_given_or_that_of_the_context(served: tuple[Server, Path]) -> None:
    file = served[1]
    assert kube.connect(kubeconfig=file).namespace == "team-a"
    assert kube.connect(kubeconfig=file, context="there").namespace == "default"
    assert kube.connect(kubeconfig=file, namespace="team-b").namespace == "team-b"


def test_the_file_of_the_environment_is_used(
    served: tuple[Server, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(served[1]))
    assert "context here" in kube.connect().where


def test_missing_files_and_contexts_are_named(
    served: tuple[Server, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KubernetesError, match="no context elsewhere; there are: here, there"):
        kube.connect(kubeconfig=served[1], context="elsewhere")
    with pytest.raises(KubernetesError, match=r"no-such-file.*kubectl config view"):
        kube.connect(kubeconfig=tmp_path / "no-such-file")
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(KubernetesError, match="there is no kubeconfig: set KUBECONFIG"):
        kube.connect()


def test_a_login_command_that_fails(served: tuple[Server, Path]) -> None:
    file = served[1]
    config = json.loads(file.read_text())
    config["users"][0]["user"] = {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "sh",
            "args": ["-c", "echo your session has expired >&2; exit 1"],
            "interactiveMode": "Never",
        }
    }
    file.write_text(json.dumps(config))
    with pytest.raises(KubernetesError, match=r"logging in failed: .*your session has expired"):
        kube.connect(kubeconfig=file)


def test_something_else_than_an_api_server(api: Api, server: Server) -> None:
    server.on("GET", "/version", Answer(200, b"<html>Welcome</html>"))
    with pytest.raises(KubernetesError, match=r"does not answer as an API server does.*Welcome"):
        api.read("/version")


def test_objects_are_created_changed_and_deleted(api: Api, server: Server) -> None:
    assert api.get(RAYJOB, "digits") is None
    uid = api.create(JOB)["metadata"]["uid"]
    assert api.patch(RAYJOB, "digits", {"spec": {"suspend": True}})["spec"] == {"suspend": True}
    assert [one["metadata"]["uid"] for one in api.all(RAYJOB)] == [uid]
    assert api.all(RAYJOB, fields="metadata.name=other") == []
    assert not api.delete(RAYJOB, "digits", uid="of another one")
    assert api.delete(RAYJOB, "digits", uid=uid)
    assert not api.delete(RAYJOB, "digits")


def test_a_dry_run_is_strict_and_keeps_nothing(api: Api, server: Server) -> None:
    api.create(JOB, dry_run=True)
    api.apply(JOB, dry_run=True, force=True)
    assert api.get(RAYJOB, "digits") is None
    for call in (*server.called("POST", JOBS), *server.called("PATCH", DIGITS)):
        assert call.query["dryRun"] == "All"
        assert call.query["fieldValidation"] == "Strict"
        assert call.query["fieldManager"] == "raytune-hpo"


def test_all_pages_of_a_list_are_read(api: Api, server: Server) -> None:
    pages = [["a", "b"], ["c"]]
    for number, names in enumerate(pages):
        meta = {"resourceVersion": "7", "continue": "more" if not number else ""}
        items = [{"metadata": {"name": name}} for name in names]
        server.on("GET", JOBS, Answer(200, {"metadata": meta, "items": items}))
    assert [one["metadata"]["name"] for one in api.all(RAYJOB)] == ["a", "b", "c"]
    assert [call.query.get("continue") for call in server.called("GET", JOBS)] == [None, "more"]


def test_a_kind_that_is_not_known_is_asked_for_once(api: Api, server: Server) -> None:
    resources = [
        {"name": "localqueues", "kind": "LocalQueue", "namespaced": True},
        {"name": "localqueues/status", "kind": "LocalQueue", "namespaced": True},
    ]
    version = "/apis/kueue.x-k8s.io/v1beta2"
    server.on("GET", version, Answer(200, {"resources": resources}))
    queue = {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "LocalQueue"}
    found = {api.kind_of({**queue, "metadata": {"name": "q"}}) for _ in range(2)}
    assert [kind.plural for kind in found] == ["localqueues"]
    assert len(server.called("GET", version)) == 1


def test_secrets_are_looked_for_without_their_values(api: Api, server: Server) -> None:
    server.put("/api/v1/namespaces/team-a/secrets", metadata={"name": "s3"}, data={"key": "eA=="})
    assert api.metadata(kinds.SECRET, "s3") is not None
    (call,) = server.called("GET", "/api/v1/namespaces/team-a/secrets/s3")
    assert "PartialObjectMetadata" in call.headers["accept"]


def test_rights_are_asked_for_one_by_one(api: Api, server: Server) -> None:
    server.denied.add(("get", "pods/log"))
    assert not api.allowed(Right("get", POD, "log"))
    assert api.allowed(Right("get", POD))
    (call, _) = [call for call in server.calls if call.method == "POST"]
    asked = call.body["spec"]["resourceAttributes"]
    assert asked == {
        "namespace": "team-a",
        "verb": "get",
        "group": "",
        "resource": "pods",
        "subresource": "log",
    }


FORBIDDEN = (
    'rayjobs.ray.io is forbidden: User "bob" cannot create resource "rayjobs" in API group '
    '"ray.io" in the namespace "team-a"'
)
QUOTA = (
    'rayjobs.ray.io "digits" is forbidden: exceeded quota: q, requested: '
    "count/rayjobs.ray.io=1, used: count/rayjobs.ray.io=2, limited: count/rayjobs.ray.io=2"
)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (refusal(401, "Unauthorized", "Unauthorized"), "does not know you.*Log in again"),
        (
            refusal(403, "Forbidden", FORBIDDEN),
            r"bob may not create rayjobs.ray.io in namespace team-a. Ask for a Role with the rule "
            r'{apiGroups: \["ray.io"\], resources: \["rayjobs"\], verbs: \["create"\]}',
        ),
        (
            refusal(403, "Forbidden", QUOTA),
            "quota q is used up: of 2 count/rayjobs.ray.io, 2 are in use and 1 more were asked. "
            "Delete runs that are over",
        ),
        (
            refusal(404, "NotFound", "the server could not find the requested resource"),
            "have KubeRay installed: helm install",
        ),
        (Answer(404, b"404 page not found\n"), "have KubeRay installed: helm install"),
        (
            refusal(404, "NotFound", 'namespaces "team-a" not found'),
            "namespaces .team-a. not found",
        ),
        (refusal(409, "AlreadyExists", 'rayjobs "digits" already exists'), "already exists"),
        (
            refusal(
                422,
                "Invalid",
                "RayJob.ray.io is invalid: ...",
                causes=[
                    {"reason": "FieldValueInvalid", "message": "Invalid value", "field": "spec.a"},
                    {"reason": "FieldValueInvalid", "message": "Required", "field": "spec.b[0]"},
                ],
            ),
            r"does not take it: spec.a: Invalid value; spec.b\[0\]: Required",
        ),
        (
            refusal(
                400,
                "BadRequest",
                'RayJob in version "v1" cannot be handled as a RayJob: strict decoding error: '
                'unknown field "spec.preRunningDeadlineSeconds"',
            ),
            'does not know what stands there: unknown field "spec.preRunningDeadlineSeconds".*old',
        ),
        (
            refusal(500, "InternalError", "etcdserver: leader changed"),
            r"cannot answer now \(HTTP 500\): etcdserver: leader changed. Try again later",
        ),
        (Answer(502, b"<html>\n<b>Bad Gateway</b>"), r"cannot answer now \(HTTP 502\): <html>"),
        (Answer(418, b""), "HTTP 418"),
    ],
)
def test_refusals_in_plain_words(api: Api, server: Server, answer: Answer, words: str) -> None:
    server.on("POST", JOBS, answer)
    with pytest.raises(
        KubernetesError, match=f"create RayJob digits in namespace team-a: .*{words}"
    ):
        api.create(JOB)


def test_a_kind_that_is_missing_is_not_an_object_that_is_missing(api: Api, server: Server) -> None:
    server.on("GET", DIGITS, Answer(404, b"404 page not found\n"))
    with pytest.raises(KubernetesError, match="have KubeRay installed") as caught:
        api.get(RAYJOB, "digits")
    assert caught.value.of_kind


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    api = kube.connect(kubeconfig=kubeconfig(tmp_path, free_port()))
    with pytest.raises(KubernetesError, match=r"refused. Is the cluster up.*VPN") as caught:
        api.get(RAYJOB, "digits")
    assert caught.value.status is None
    assert caught.value.passing
    assert TOKEN not in str(caught.value)


def test_a_host_that_is_not_known(tmp_path: Path) -> None:
    file = kubeconfig(tmp_path, 1)
    file.write_text(file.read_text().replace("127.0.0.1", "no-such-host.invalid"))
    with pytest.raises(KubernetesError, match=r"is not known here; is this machine in its network"):
        kube.connect(kubeconfig=file).read("/version")


def test_a_server_that_is_silent(api: Api, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.on("POST", JOBS, Answer(stream=(0.5,)), Answer(stream=(0.5,)))
    request = wire.Request(JOBS, "create it", "POST", body={}, silence_s=0.1)
    with pytest.raises(KubernetesError, match="was silent for too long"):
        api._wire.json(request)


def test_a_wrong_token_is_not_shown(served: tuple[Server, Path]) -> None:
    file = served[1]
    file.write_text(file.read_text().replace(TOKEN, "my-other-secret"))
    with pytest.raises(KubernetesError, match="does not know you") as caught:
        kube.connect(kubeconfig=file).get(RAYJOB, "digits")
    assert "my-other-secret" not in str(caught.value)


def test_reading_is_tried_again_and_writing_is_not(api: Api, server: Server) -> None:
    busy = refusal(503, "ServiceUnavailable", "apiserver is shutting down")
    server.put(JOBS, **JOB)
    server.on("GET", DIGITS, busy, busy)
    assert api.get(RAYJOB, "digits") is not None
    server.on("GET", DIGITS, busy, busy, busy)
    with pytest.raises(KubernetesError, match="cannot answer now"):
        api.get(RAYJOB, "digits")
    server.on("POST", JOBS, busy)
    with pytest.raises(KubernetesError, match="cannot answer now"):
        api.create({**JOB, "metadata": {"name": "other"}})
    assert len(server.called("POST", JOBS)) == 1


def test_a_server_that_is_too_busy_to_begin_is_asked_again(api: Api, server: Server) -> None:
    full = refusal(429, "TooManyRequests", "too many requests, please try again later")
    full.headers["Retry-After"] = "0"
    server.on("POST", JOBS, full)
    assert api.create(JOB)["metadata"]["uid"]
    assert len(server.called("POST", JOBS)) == 2


def test_errors_of_the_servers_own_time_are_kept() -> None:
    error = of_answer(429, b"{}", "x", "12")
    assert (error.wait_s, error.passing) == (12.0, True)
    assert not of_answer(403, b"{}", "x").passing


def event(what: str, version: int, **spec: Any) -> dict[str, Any]:
    meta = {"name": "digits", "uid": "1", "resourceVersion": str(version)}
    return {"type": what, "object": {"kind": "RayJob", "metadata": meta, "spec": spec}}


def watching(server: Server, *streams: Answer) -> None:
    """Lay out what comes when one watches; lists are answered as usual."""
    waiting = list(streams)

    def answer(call: Call) -> Answer | None:
        if "watch" not in call.query:
            return None
        return waiting.pop(0) if waiting else Answer(stream=(0.2,))

    server.on("GET", JOBS, answer)


def seen(api: Api, count: int, **more: Any) -> list[Change]:
    return list(islice(api.watch(RAYJOB, quiet_s=1, **more), count))


def words(changes: list[Change]) -> list[str]:
    return [change.what for change in changes]


def versions(server: Server) -> list[str | None]:
    return [call.query.get("resourceVersion") for call in server.called("GET", JOBS)]


def test_a_watch_begins_with_what_is_there(api: Api, server: Server) -> None:
    server.put(JOBS, **{**JOB, "metadata": {"name": "digits", "uid": "1"}})
    watching(server, Answer(stream=(event("MODIFIED", 200, suspend=True),)))
    changes = seen(api, 3, fields="metadata.name=digits")
    assert words(changes) == ["seen", "modified", "quiet"]
    assert changes[1].object["spec"] == {"suspend": True}
    first, second = server.called("GET", JOBS)
    assert first.query["fieldSelector"] == second.query["fieldSelector"] == "metadata.name=digits"
    assert second.query["resourceVersion"] == "101"
    assert second.query["timeoutSeconds"] == "1"


def test_a_watch_that_breaks_goes_on_where_it_was(api: Api, server: Server) -> None:
    half = b'{"type": "MODIFIED", "object": {"metadata"'
    watching(
        server,
        Answer(stream=(event("ADDED", 201), half, BROKEN)),
        Answer(stream=(event("BOOKMARK", 300),)),
        Answer(stream=(event("MODIFIED", 301),)),
    )
    changes = seen(api, 4)
    assert words(changes) == ["added", "quiet", "quiet", "modified"]
    assert versions(server) == [None, "100", "201", "300"]


@pytest.mark.parametrize("how", ["in the stream", "at once"])
def test_what_went_unseen_in_a_gap_is_made_up_for(api: Api, server: Server, how: str) -> None:
    gone = refusal(410, "Expired", "too old resource version: 100 (9000)")
    expired = {"type": "ERROR", "object": gone.body}
    # The RayJob of the first stream is not there any more when all are listed again.
    server.put(JOBS, **{**JOB, "metadata": {"name": "other", "uid": "2"}})
    after = gone if how == "at once" else Answer(stream=(expired,))
    watching(server, Answer(stream=(event("ADDED", 201),)), after)
    changes = seen(api, 5)
    assert words(changes) == ["seen", "added", "quiet", "deleted", "seen"]
    assert changes[3].object["metadata"]["uid"] == "1"


def test_a_server_that_is_away_for_a_while_is_waited_for(api: Api, server: Server) -> None:
    busy = refusal(503, "ServiceUnavailable", "apiserver is shutting down")
    watching(server, Answer(stream=(event("ADDED", 201),)), *[busy] * 4)
    changes = seen(api, 4)
    assert words(changes) == ["added", "quiet", "lost", "quiet"]
    assert "cannot answer now" in changes[2].message


def test_patience_ends(api: Api, server: Server) -> None:
    busy = refusal(503, "ServiceUnavailable", "apiserver is shutting down")
    watching(server, Answer(stream=(event("ADDED", 201),)), *[busy] * 50)
    with pytest.raises(KubernetesError, match="cannot answer now"):
        seen(api, 50, patience_s=0.1)


def test_what_may_not_be_watched_is_said_at_once(api: Api, server: Server) -> None:
    server.on("GET", JOBS, refusal(403, "Forbidden", FORBIDDEN.replace("create", "list")))
    with pytest.raises(KubernetesError, match="bob may not list rayjobs"):
        seen(api, 1)


def line(second: float, text: str) -> bytes:
    return f"2026-01-31T12:00:{second:012.9f}Z {text}\n".encode()


def test_log_lines_come_whole_or_not_at_all(api: Api, server: Server) -> None:
    pieces = (line(1, "one") + line(2, "two")[:20], line(2, "two")[20:], line(3, "thr")[:-1])
    server.on("GET", LOG, Answer(stream=pieces), Answer(stream=(*pieces, BROKEN)))
    assert list(api.log_lines("head", "c"))[-1] == line(3, "thr")[:-1]
    lines = api.log_lines("head", "c", follow=True)
    got = [next(lines), next(lines)]
    with pytest.raises(KubernetesError, match="broke"):
        next(lines)
    assert got == [line(1, "one"), line(2, "two")]
    (_, call) = server.called("GET", LOG)
    assert call.query == {"container": "c", "timestamps": "true", "follow": "true"}


def test_lines_that_come_again_are_shown_once() -> None:
    assert Once().since is None
    once = Once()
    first = [line(10.1, "a"), line(11.2, "same"), line(11.2, "same"), line(11.1, "late")]
    assert list(once.text(first)) == [b"a\n", b"same\n", b"same\n", b"late\n"]
    assert once.since == "2026-01-31T12:00:10Z"
    again = [*first, line(11.2, "same"), line(11.05, "later still"), line(15, "end")]
    assert list(once.text(again)) == [b"same\n", b"later still\n", b"end\n"]
    assert once.since == "2026-01-31T12:00:15Z"


def test_a_line_without_its_end_waits_for_the_rest() -> None:
    once = Once()
    assert list(once.text([line(1, "half of it")[:-5]])) == []
    assert list(once.text([line(1, "half of it")])) == [b"half of it\n"]
    assert list(once.text([line(2, "last")[:-1]], last=True)) == [b"last"]


def test_times_of_other_zones_and_lines_without_a_time() -> None:
    once = Once()
    odd = b"2026-01-31T14:00:01.5+02:00 x\n"
    assert list(once.text([odd, b"failed to read: y\n"])) == [b"x\n", b"to read: y\n"]
    assert once.since == "2026-01-31T12:00:01Z"


def test_a_config_map_is_where_it_says(api: Api, server: Server) -> None:
    meta = {"name": "c", "namespace": "team-b"}
    api.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta})
    assert "/api/v1/namespaces/team-b/configmaps/c" in server.objects
    assert api.get(CONFIG_MAP, "c") is None


class Shout(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while line := self.rfile.readline():
            self.wfile.write(line.upper())


@pytest.fixture
def pod(server: Server) -> Iterator[None]:
    """Let port 8265 of the pod named head lead to something that answers in capitals."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Shout) as there:
        there.daemon_threads = True
        thread = threading.Thread(target=there.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        path = "/api/v1/namespaces/team-a/pods/head/portforward"
        server.forwards[path] = there.server_address[1]
        yield
        there.shutdown()
        thread.join()


def test_a_port_leads_to_a_pod(api: Api, pod: None) -> None:
    long = b"x" * 100_000 + b"\n"
    with api.forward("head", 8265) as port:
        for text in (b"first\n", long):
            with socket.create_connection(("127.0.0.1", port), timeout=5) as there:
                there.sendall(text)
                got = there.makefile("rb").readline()
                assert got == text.upper()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_a_port_that_may_not_be_forwarded(api: Api, server: Server) -> None:
    path = "/api/v1/namespaces/team-a/pods/head/portforward"
    said = FORBIDDEN.replace('"rayjobs"', '"pods/portforward"').replace("ray.io", "")
    server.on("GET", path, refusal(403, "Forbidden", said))
    with (
        pytest.raises(KubernetesError, match="bob may not create pods/portforward"),
        api.forward("head", 8265),
    ):
        pass


def test_a_port_that_is_taken_here(api: Api, pod: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(KubernetesError, match=f"port {port} of this machine .*choose another"),
            api.forward("head", 8265, port),
        ):
            pass
