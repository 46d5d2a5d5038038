"""The dashboard through a forwarded port, and the driver's output that only it has."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from raytune_hpo.cluster.kuberay import api as kube
from raytune_hpo.cluster.kuberay import dashboard, output
from raytune_hpo.cluster.kuberay.api import Api
from raytune_hpo.cluster.kuberay.handle import Handle
from raytune_hpo.cluster.kuberay.refused import KubernetesError
from tests.unit.kuberay_server import Server, serving

TEAM = "/namespaces/team-a"
JOBS = f"/apis/ray.io/v1{TEAM}/rayjobs"
CLUSTERS = f"/apis/ray.io/v1{TEAM}/rayclusters"
CORE = f"/api/v1{TEAM}"
TOKEN = "the-token-of-ray"
HANDLE = Handle("team-a", "digits", "1")
OVER: dict[str, Any] = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}


class Ray(BaseHTTPRequestHandler):
    """The part of Ray's dashboard that gives the output of jobs."""

    logs: ClassVar[dict[str, str]] = {}
    then: ClassVar[list[Any]] = []

    def do_GET(self) -> None:
        if self.headers.get("X-Ray-Authorization") != f"Bearer {TOKEN}":
            self.send_error(401)
            return
        job = self.path.removeprefix("/api/jobs/").removesuffix("/logs")
        body = json.dumps({"logs": self.logs[job]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        if self.then:
            self.then.pop(0)()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server_and_api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Server, Api]]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(output, "_POLL_S", 0.02)
    monkeypatch.setattr(Ray, "logs", {})
    monkeypatch.setattr(Ray, "then", [])
    with serving(tmp_path) as (server, file), ThreadingHTTPServer(("127.0.0.1", 0), Ray) as ray:
        thread = threading.Thread(target=ray.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        for name in ("one", "two"):
            server.forwards[f"{CORE}/pods/{name}-head/portforward"] = ray.server_address[1]
        yield server, kube.connect(kubeconfig=file)
        ray.shutdown()
        thread.join()


@pytest.fixture
def server(server_and_api: tuple[Server, Api]) -> Server:
    return server_and_api[0]


@pytest.fixture
def api(server_and_api: tuple[Server, Api]) -> Api:
    return server_and_api[1]


def runs(server: Server, name: str, failed: int = 0, **status: Any) -> None:
    """Let a run be on a Ray cluster of a name."""
    meta = {"name": "digits", "uid": "1"}
    told = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING", "failed": failed}
    told |= {"rayClusterName": name, "jobId": f"{name}-job", **status}
    spec = {"submissionMode": "HTTPMode", "backoffLimit": 1}
    server.put(JOBS, metadata=meta, spec=spec, status=told)
    server.put(CLUSTERS, metadata={"name": name}, spec={"authOptions": {"mode": "token"}})
    data = {"auth_token": base64.b64encode(TOKEN.encode()).decode()}
    server.put(f"{CORE}/secrets", metadata={"name": name}, data=data)
    labels = {"ray.io/cluster": name, "ray.io/node-type": "head"}
    meta_of_head = {"name": f"{name}-head", "labels": labels}
    server.put(f"{CORE}/pods", metadata=meta_of_head, status={"phase": "Running"})


def test_the_dashboard_of_a_run(api: Api, server: Server) -> None:
    runs(server, "one")
    with dashboard.opened(api, HANDLE) as there:
        assert there.url.startswith("http://127.0.0.1:")
        assert there.token_command == (
            "kubectl get secret -n team-a one -o jsonpath='{.data.auth_token}' | base64 -d"
        )


def test_a_dashboard_without_a_token(api: Api, server: Server) -> None:
    runs(server, "one")
    server.put(CLUSTERS, metadata={"name": "one"}, spec={})
    with dashboard.opened(api, HANDLE) as there:
        assert there.token_command == ""


def test_a_run_without_a_head_has_no_dashboard(api: Api, server: Server) -> None:
    runs(server, "one", **OVER)
    server.drop(f"{CORE}/pods/one-head")
    with (
        pytest.raises(KubernetesError, match="has no head that runs now: it has succeeded"),
        dashboard.opened(api, HANDLE),
    ):
        pass


def test_output_that_only_the_dashboard_has(api: Api, server: Server) -> None:
    runs(server, "one")
    Ray.logs = {"one-job": "a\nb", "two-job": "c\n"}
    assert list(output.driver_lines(api, HANDLE)) == [b"a\n", b"b"]

    def next_try() -> None:
        server.drop(f"{CORE}/pods/one-head")
        runs(server, "two", failed=1)

    def end() -> None:
        Ray.logs["two-job"] = "c\nd\u2028e\nf"
        runs(server, "two", failed=1, **OVER)

    Ray.then = [lambda: Ray.logs.update({"one-job": "a\nb\nc\n"}), next_try, end]
    assert list(output.driver_lines(api, HANDLE, follow=True)) == [
        b"a\n",
        b"b\n",
        b"c\n",
        b"--- try 2 of 2, Ray cluster two ---\n",
        b"c\n",
        "d\u2028e\n".encode(),
        b"f",
    ]


def test_output_that_is_gone_with_the_head(api: Api, server: Server) -> None:
    runs(server, "one", **OVER)
    server.drop(f"{CORE}/pods/one-head")
    with pytest.raises(KubernetesError, match="is in its storage"):
        list(output.driver_lines(api, HANDLE))
