from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from raytune_hpo import doctor


class Answer(BaseHTTPRequestHandler):
    code = 200
    body = b"OK"

    def do_GET(self) -> None:
        self.send_response(self.code)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with HTTPServer(("127.0.0.1", 0), Answer) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()
        thread.join()


def test_server_that_answers(server: str) -> None:
    assert doctor.store(server).verdict == "ok"


@pytest.mark.parametrize(
    ("code", "body", "words"),
    [
        (403, b"Invalid Host header - possible DNS rebinding attack detected", "--allowed-hosts"),
        (401, b"who?", "MLFLOW_TRACKING_USERNAME"),
        (500, b"", "HTTP 500"),
    ],
)
def test_server_that_refuses(
    server: str, monkeypatch: pytest.MonkeyPatch, code: int, body: bytes, words: str
) -> None:
    monkeypatch.setattr(Answer, "code", code)
    monkeypatch.setattr(Answer, "body", body)
    finding = doctor.store(server)
    assert finding.verdict == "fail"
    assert words in finding.text


def test_server_that_is_not_there_and_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    finding = doctor.store("http://ada:hunter2@127.0.0.1:1")
    assert finding.verdict == "fail"
    assert "does not answer" in finding.text
    assert "hunter2" not in finding.text


def test_sqlite_store(tmp_path: Path) -> None:
    assert doctor.store(f"sqlite:///{tmp_path}/mlflow.db").text.endswith(
        "will be made and can be written"
    )
    missing = doctor.store(f"sqlite:///{tmp_path}/no/mlflow.db")
    assert (missing.verdict, f"there is no folder {tmp_path}/no" in missing.text) == ("fail", True)


def test_store_of_an_unknown_kind_is_said_not_to_be_looked_at() -> None:
    assert doctor.store("databricks://profile").verdict == "warn"


def findings(monkeypatch: pytest.MonkeyPatch) -> dict[str, doctor.Finding]:
    return {finding.subject: finding for finding in doctor.examine()}


def test_too_long_a_folder_for_rays_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(long))
    finding = findings(monkeypatch)["Ray's folder"]
    assert finding.verdict == "fail"
    assert "too long" in finding.text


def test_proxy_in_the_way_of_local_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    assert findings(monkeypatch)["Ray's ports"].verdict == "warn"
    monkeypatch.setenv("no_proxy", "localhost, 127.0.0.1")
    assert findings(monkeypatch)["Ray's ports"].verdict == "ok"


def test_missing_and_old_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_PACKAGES", {"no-such-package": (1, 0), "ray": (99, 0)})
    seen = findings(monkeypatch)
    assert "pip install 'no-such-package>=1.0'" in seen["no-such-package"].text
    assert "99.0 or newer is needed" in seen["ray"].text
