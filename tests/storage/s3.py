"""A real S3 server on this machine, from the package moto, that can be made to fail."""

from __future__ import annotations

import contextlib
import io
import random
import socket
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

App = Callable[..., Iterable[bytes]]
_DENIED = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>AccessDenied</Code>'
    b"<Message>Access Denied</Message></Error>"
)


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: Any) -> None:
        """Say nothing."""


class Server:
    """The server, with its faults.

    Args:
        host: Address that it listens at.

    Attributes:
        url: Address of the server.
        requests: Method and path of each request.
        refuse_writes: Whether rights to write are missing.
        ignore_conditions: Whether ``If-None-Match`` is taken no notice of, as old servers do.
        latency_s: How long each request takes at the least.
        lose_answers: How many more writes are carried out without an answer.
        lose_requests: How many more writes are neither carried out nor answered.
        flaky: Share of the writes whose request or answer is lost.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._host = host
        self._app: App = DomainDispatcherApplication(create_backend_app)
        self._one_write = threading.Lock()
        self._chance = random.Random(5)
        self.requests: list[tuple[str, str]] = []
        self.calm()
        self._port = 0
        self._server: BaseWSGIServer | None = None
        self.start()
        self.url = f"http://{host}:{self._port}"

    def calm(self) -> None:
        """Make it fail no more."""
        self.refuse_writes = False
        self.ignore_conditions = False
        self.latency_s = 0.0
        self.lose_answers = 0
        self.lose_requests = 0
        self.flaky = 0.0

    def start(self) -> None:
        """Begin, or begin again, to answer."""
        if self._server is not None:
            return
        self._server = make_server(
            self._host, self._port, self, threaded=True, request_handler=_Quiet
        )
        self._server.daemon_threads = True  # type: ignore[attr-defined]
        self._port = self._server.port
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Answer no more; what was stored stays."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Be away while this block runs."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def new_bucket(self) -> str:
        """Make a bucket and return its name."""
        name = f"runs-{uuid.uuid4().hex[:8]}"
        request = urllib.request.Request(f"{self.url}/{name}", method="PUT")
        with urllib.request.urlopen(request):
            return name

    def environment(self) -> dict[str, str]:
        """Return what a client finds the server by."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "an-id",
            "AWS_SECRET_ACCESS_KEY": "a-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer a request."""
        method = environ["REQUEST_METHOD"]
        self.requests.append((method, environ["PATH_INFO"]))
        if self._server is None:
            return self._cut(environ)
        time.sleep(self.latency_s)
        if method not in ("PUT", "POST", "DELETE"):
            return self._app(environ, start_response)
        if self.refuse_writes:
            length = str(len(_DENIED))
            start_response("403 Forbidden", [("Content-Length", length)])
            return [_DENIED]
        if self._chance.random() < self.flaky:
            if self._chance.random() < 0.5:
                self.lose_requests = max(1, self.lose_requests)
            else:
                self.lose_answers = max(1, self.lose_answers)
        if self.lose_requests > 0:
            self.lose_requests -= 1
            return self._cut(environ)
        if self.ignore_conditions:
            environ.pop("HTTP_IF_NONE_MATCH", None)
        # Before the lock: a client may be stopped, or die, in the middle of what it sends.
        size = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(size) if size else b""
        if len(body) < size:
            return self._cut(environ)
        if size:
            environ["wsgi.input"] = io.BytesIO(body)
        # Moto looks whether an object is there, and then writes it: not in one step.
        with self._one_write:
            answer = list(self._app(environ, start_response))
        if self.lose_answers > 0:
            self.lose_answers -= 1
            return self._cut(environ)
        return answer

    def _cut(self, environ: dict[str, Any]) -> Iterable[bytes]:
        connection: socket.socket = environ["werkzeug.socket"]
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        raise ConnectionAbortedError
