"""A proxy before an MLflow server that fails as a script says.

A script is a list of rules, of which the first that holds for a request decides; a request without
one passes. Or it is a function of the request::

    with Proxy(port, [(path("log-batch"), CUT), (window(5, 10), status(503))]) as proxy:
        ...
        with proxy.down():  # the port is closed
            ...
"""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, Self

_SERVER_TIMEOUT_S = 60.0
_DRIP_INTERVAL_S = 0.2
_DRIP_BYTES = 1 << 20
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_REOPEN_TRIES = 50
_REOPEN_DELAY_S = 0.1


@dataclass(frozen=True)
class Request:
    """One request.

    Attributes:
        number: From 0, in the order of arrival.
        method: Of HTTP.
        path: With the query.
        at_s: Seconds since the proxy was started, or since its script was last replaced.
    """

    number: int
    method: str
    path: str
    at_s: float


@dataclass(frozen=True)
class Fate:
    """What becomes of a request.

    Attributes:
        kind: ``pass``; ``refuse``: the connection is reset, and the server never hears of it;
            ``cut``: the server does what it is asked to, and its answer is lost; ``hang``: there
            is never an answer; ``drip``: an answer that comes byte by byte and never ends;
            ``answer``: ``body`` is the answer, and the server never hears of the request.
        delay_s: How long it is held before that.
        status: HTTP status of an ``answer``.
        retry_after_s: Of an ``answer``; None leaves the header out.
        body: Of an ``answer``.
        content_type: Of an ``answer``.
    """

    kind: Literal["pass", "refuse", "cut", "hang", "drip", "answer"] = "pass"
    delay_s: float = 0.0
    status: int = 200
    retry_after_s: int | None = None
    body: bytes = b""
    content_type: str = "application/json"


PASS = Fate()
REFUSE = Fate("refuse")
CUT = Fate("cut")
HANG = Fate("hang")
DRIP = Fate("drip")
HTML = Fate("answer", body=b"<html><body>Please log in</body></html>", content_type="text/html")
BROKEN_JSON = Fate("answer", body=b'{"run": {"info": {"run_')
EMPTY_JSON = Fate("answer", body=b"{}")
STRANGE_JSON = Fate("answer", body=b'{"run": [1], "experiment": "x", "runs": {"a": 0}}')


def slow(delay_s: float) -> Fate:
    """Return the fate of a request that passes late."""
    return Fate(delay_s=delay_s)


def status(code: int, retry_after_s: int | None = None) -> Fate:
    """Return the fate of a request that is answered with an HTTP error."""
    return Fate("answer", status=code, retry_after_s=retry_after_s, body=b'{"message": "scripted"}')


Condition = Callable[[Request], bool]
Script = Callable[[Request], Fate] | Sequence[tuple[Condition, Fate]]


def always(request: Request) -> bool:
    """Hold for each request."""
    return True


def numbers(first: int, end: int) -> Condition:
    """Hold for the requests from number ``first`` up to ``end``, without it."""
    return lambda request: first <= request.number < end


def window(first_s: float, end_s: float) -> Condition:
    """Hold from ``first_s`` to ``end_s`` seconds after the start of the script."""
    return lambda request: first_s <= request.at_s < end_s


def path(part: str) -> Condition:
    """Hold for the requests with ``part`` in their path."""
    return lambda request: part in request.path


def mixed(fates: Sequence[Fate], seed: int) -> Callable[[Request], Fate]:
    """Return a script that draws each request's fate."""
    rng = random.Random(seed)
    return lambda request: rng.choice(fates)


class Proxy:
    """Stands before a server on this machine; listens on a port of its own until ``close``.

    Args:
        port: Of the server.
        script: Decides on each request.

    Attributes:
        requests: How many have come.
    """

    def __init__(self, port: int, script: Script = ()) -> None:
        self.requests = 0
        self._server_port = port
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._script = script
        self._began_s = time.monotonic()
        self._listener: _Listener | None = _Listener(0, self)
        self._port = self._listener.server_port

    @property
    def uri(self) -> str:
        """The address to use in place of the server's."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def script(self) -> Script:
        """What decides on each request; its clock starts anew when it is replaced."""
        return self._script

    @script.setter
    def script(self, script: Script) -> None:
        with self._lock:
            self._script = script
            self._began_s = time.monotonic()

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """Close the port for the time of this block, and open the same one afterwards."""
        self.close_port()
        try:
            yield
        finally:
            self.open_port()

    def close_port(self) -> None:
        """Accept no connection any more, until ``open_port``."""
        if self._listener is not None:
            self._listener.end()
            self._listener = None

    def open_port(self) -> None:
        """Accept connections again, on the same port.

        Raises:
            OSError: Another process has taken the port.
        """
        if self._listener is None:
            self._listener = _reopened(self._port, self)

    def close(self) -> None:
        """End it; requests that hang are let go."""
        self._closing.set()
        self.close_port()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def take(self, method: str, path: str) -> Fate:
        """Count a request, and return its fate."""
        with self._lock:
            at_s = time.monotonic() - self._began_s
            request = Request(self.requests, method, path, at_s)
            self.requests += 1
            return _decide(self._script, request)

    def hold(self, delay_s: float | None) -> None:
        """Wait that long, or until the proxy is closed; None: until then."""
        self._closing.wait(delay_s)

    @property
    def closing(self) -> bool:
        """Whether it ends."""
        return self._closing.is_set()

    def forward(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Fate:
        """Ask the server, and return its answer."""
        there = http.client.HTTPConnection(
            "127.0.0.1", self._server_port, timeout=_SERVER_TIMEOUT_S
        )
        with contextlib.closing(there):
            there.request(method, path, body, headers)
            answer = there.getresponse()
            kind = answer.headers.get("Content-Type", "text/plain")
            return Fate("answer", status=answer.status, body=answer.read(), content_type=kind)


def _decide(script: Script, request: Request) -> Fate:
    if callable(script):
        return script(request)
    return next((fate for condition, fate in script if condition(request)), PASS)


def _reopened(port: int, proxy: Proxy) -> _Listener:
    """Listen on a port again, on which closed connections may linger."""
    for _ in range(_REOPEN_TRIES):
        with contextlib.suppress(OSError):
            return _Listener(port, proxy)
        time.sleep(_REOPEN_DELAY_S)
    return _Listener(port, proxy)


class _Listener(ThreadingHTTPServer):
    """One opening of the port; each connection has a thread and takes one request."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, proxy: Proxy) -> None:
        self.proxy = proxy
        super().__init__(("127.0.0.1", port), _Handler)
        self._thread = threading.Thread(
            target=self.serve_forever, args=[0.05], name="mlflow-proxy", daemon=True
        )
        self._thread.start()

    def shutdown_request(self, request: Any) -> None:
        """Close a connection without a word, so that a reset is one."""
        self.close_request(request)

    def end(self) -> None:
        """Close the port."""
        self.shutdown()
        self.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _handle_any(self) -> None:
        self.close_connection = True
        with contextlib.suppress(ConnectionError):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self._meet(self._proxy.take(self.command, self.path), body)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle_any

    @property
    def _proxy(self) -> Proxy:
        if not isinstance(self.server, _Listener):
            raise TypeError(f"not a server of this module: {self.server}")
        return self.server.proxy

    def _meet(self, fate: Fate, body: bytes) -> None:
        self._proxy.hold(fate.delay_s)
        if fate.kind == "refuse":
            self._reset()
        elif fate.kind == "hang":
            self._proxy.hold(None)
        elif fate.kind == "drip":
            self._drip()
        elif fate.kind == "answer":
            self._answer(fate)
        else:
            try:
                answer = self._proxy.forward(self.command, self.path, body, dict(self.headers))
            except (OSError, http.client.HTTPException):
                return
            if fate.kind == "cut":
                self._reset()
            else:
                self._answer(answer)

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)

    def _answer(self, fate: Fate) -> None:
        self.send_response(fate.status)
        self.send_header("Content-Type", fate.content_type)
        self.send_header("Content-Length", str(len(fate.body)))
        if fate.retry_after_s is not None:
            self.send_header("Retry-After", str(fate.retry_after_s))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(fate.body)

    def _drip(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(_DRIP_BYTES))
        self.end_headers()
        for _ in range(_DRIP_BYTES):
            if self._proxy.closing:
                return
            self.wfile.write(b" ")
            self._proxy.hold(_DRIP_INTERVAL_S)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""
