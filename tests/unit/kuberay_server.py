"""An API server on this machine's loopback address: a few objects, and answers that are laid out.

It keeps objects by their addresses and answers as the real one does, in words recorded from it.
What is laid out with ``on`` comes first: errors, streams that break, waiting.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import hashlib
import json
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from raytune_hpo.cluster.kuberay import kinds

Object = dict[str, Any]
_PLURALS = {kind.plural for kind in kinds.KNOWN.values()}
_MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
BROKEN = object()
"""In a stream: the connection breaks here, without the end of the answer."""
TOKEN = "a-token-that-nobody-may-see"


@dataclass
class Answer:
    """An answer that is laid out.

    Attributes:
        status: HTTP status.
        body: Whole answer, when there is no stream.
        stream: Pieces of an answer that goes on; each may be ``BROKEN``, a time to wait, or a
            function to call.
        headers: Further headers.
    """

    status: int = 200
    body: Any = None
    stream: Iterable[Any] | None = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    """A request that came in."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    headers: dict[str, str]


def refusal(code: int, reason: str, message: str, **details: Any) -> Answer:
    """Return an answer with a Status object."""
    status: Object = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    status |= {"message": message, "reason": reason, "code": code}
    return Answer(code, {**status, **({"details": details} if details else {})})


class Server:
    """The server and what it knows.

    Attributes:
        calls: The requests that came in.
        objects: What it keeps, by address.
        denied: Verbs and resources that one may not use.
        forwards: Ports of this machine that forwarded ports lead to, by address.
        version: Of the whole.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.objects: dict[str, Object] = {}
        self.denied: set[tuple[str, str]] = set()
        self.forwards: dict[str, int] = {}
        self.version = 100
        self._happened: list[tuple[int, str, str, Object]] = []
        self._laid_out: dict[tuple[str, str], list[Answer | Callable[[Call], Answer | None]]] = {}
        self._lock = threading.Lock()

    def on(
        self, method: str, path: str, *answers: Answer | Callable[[Call], Answer | None]
    ) -> None:
        """Lay answers out for the next requests; the last one stays when it is a function."""
        self._laid_out.setdefault((method, path), []).extend(answers)

    def put(self, path: str, **fields: Any) -> Object:
        """Keep an object under the address of its kind and its name."""
        with self._lock:
            return self._keep(path, dict(fields))

    def called(self, method: str, path: str) -> list[Call]:
        """Return the requests of a kind."""
        return [call for call in self.calls if (call.method, call.path) == (method, path)]

    def writes(self) -> list[str]:
        """Return what was really changed, in order."""
        quiet = ("selfsubjectaccessreviews",)
        return [
            f"{call.method} {call.path.rpartition('/namespaces/')[2]}"
            for call in self.calls
            if call.method != "GET" and "dryRun" not in call.query
            if not call.path.endswith(quiet)
        ]

    def answer(self, call: Call) -> Answer:
        with self._lock:
            self.calls.append(call)
            waiting = self._laid_out.get((call.method, call.path), [])
            laid_out = waiting[0] if waiting else None
            if waiting and (isinstance(laid_out, Answer) or len(waiting) > 1):
                waiting.pop(0)
        if callable(laid_out):
            laid_out = laid_out(call)
        if isinstance(laid_out, Answer):
            return laid_out
        with self._lock:
            return self._own(call)

    def _own(self, call: Call) -> Answer:
        if call.path.endswith("selfsubjectaccessreviews"):
            asked = call.body["spec"]["resourceAttributes"]
            resource = "/".join(filter(None, (asked["resource"], asked["subresource"])))
            allowed = (asked["verb"], resource) not in self.denied
            return Answer(201, {**call.body, "status": {"allowed": allowed}})
        if call.method == "POST":
            return self._create(call)
        if "watch" in call.query:
            return Answer(stream=self._watched(call))
        if call.method == "GET" and call.path in self.objects:
            return Answer(200, self.objects[call.path])
        if call.method == "GET" and call.path.rpartition("/")[2] in _PLURALS:
            return Answer(200, self._listing(call))
        if call.method == "PATCH":
            return self._patch(call)
        if call.path not in self.objects:
            kind, name = call.path.rsplit("/", 2)[1:]
            return refusal(404, "NotFound", f'{kind} "{name}" not found', name=name, kind=kind)
        return self._delete(call)

    def drop(self, path: str) -> None:
        """Take an object away."""
        with self._lock:
            self._happen("DELETED", path, self.objects.pop(path))

    def _happen(self, what: str, path: str, one: Object) -> None:
        self.version += 1
        one["metadata"]["resourceVersion"] = str(self.version)
        self._happened.append((self.version, what, path, copy.deepcopy(one)))

    def _watched(self, call: Call) -> Iterator[Any]:
        """Yield what happens to the objects of a kind that a watch selects."""
        since = int(call.query["resourceVersion"])
        end_s = time.monotonic() + int(call.query["timeoutSeconds"])
        while time.monotonic() < end_s:
            for version, what, path, one in list(self._happened):
                if version > since and path.rpartition("/")[0] == call.path:
                    since = version
                    if _selected(one, call):
                        yield {"type": what, "object": one}
            yield 0.02

    def _listing(self, call: Call) -> Object:
        found = [one for path, one in self.objects.items() if path.rpartition("/")[0] == call.path]
        items = [one for one in found if _selected(one, call)]
        return {"kind": "List", "metadata": {"resourceVersion": str(self.version)}, "items": items}

    def _create(self, call: Call) -> Answer:
        path = f"{call.path}/{call.body['metadata']['name']}"
        if path in self.objects:
            kind, name = path.rsplit("/", 2)[1:]
            return refusal(409, "AlreadyExists", f'{kind} "{name}" already exists')
        if "dryRun" in call.query:
            return Answer(201, call.body)
        return Answer(201, self._keep(call.path, call.body))

    def _patch(self, call: Call) -> Answer:
        old = self.objects.get(call.path)
        apply = call.headers["content-type"] == "application/apply-patch+yaml"
        if old is None and not apply:
            return refusal(404, "NotFound", f"{call.path} not found")
        if "dryRun" in call.query:
            return Answer(200, old or call.body)
        if apply:
            return Answer(200, self._keep(call.path.rpartition("/")[0], call.body))
        assert old is not None
        uid = call.body.get("metadata", {}).get("uid")
        if uid not in (None, old["metadata"]["uid"]):
            message = f"Precondition failed: UID in precondition: {uid}"
            return refusal(409, "Conflict", message)
        _merge(old, call.body)
        return Answer(200, self._keep(call.path.rpartition("/")[0], old))

    def _delete(self, call: Call) -> Answer:
        uid = ((call.body or {}).get("preconditions") or {}).get("uid")
        if uid not in (None, self.objects[call.path]["metadata"]["uid"]):
            return refusal(409, "Conflict", f"Precondition failed: UID in precondition: {uid}")
        gone = self.objects.pop(call.path)
        self._happen("DELETED", call.path, gone)
        return Answer(200, gone)

    def _keep(self, path: str, one: Object) -> Object:
        one = copy.deepcopy(one)
        meta = one["metadata"]
        meta.setdefault("uid", str(uuid.uuid4()))
        whole = f"{path}/{meta['name']}"
        self._happen("MODIFIED" if whole in self.objects else "ADDED", whole, one)
        self.objects[whole] = one
        return one


def _selected(one: Object, call: Call) -> bool:
    """Return whether the selectors of a request take an object."""
    labels = one["metadata"].get("labels") or {}
    pairs = [pair for pair in call.query.get("labelSelector", "").split(",") if pair]
    name, _, value = call.query.get("fieldSelector", "").partition("=")
    return dict(pair.split("=") for pair in pairs).items() <= labels.items() and (
        not name or str(_at(one, name)) == value
    )


def _at(one: Object, path: str) -> Any:
    value: Any = one
    for word in path.split("."):
        value = (value or {}).get(word)
    return value


def _merge(old: Object, change: Object) -> None:
    for name, value in change.items():
        if value is None:
            old.pop(name, None)
        elif isinstance(value, dict) and isinstance(old.get(name), dict):
            _merge(old[name], value)
        else:
            old[name] = value


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_of: ClassVar[Server]

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        headers = {name.lower(): value for name, value in self.headers.items()}
        if headers.get("authorization") != f"Bearer {TOKEN}":
            self._send(refusal(401, "Unauthorized", "Unauthorized"))
            return
        call = Call(self.command, parts.path, query, body, headers)
        if parts.path in self.server_of.forwards:
            there = self.server_of.forwards[parts.path]
            self._bridge(headers["sec-websocket-key"], int(query["ports"]), there)
        else:
            self._send(self.server_of.answer(call))

    do_POST = do_PATCH = do_DELETE = do_GET

    def _send(self, answer: Answer) -> None:
        if answer.stream is not None:
            self._stream(answer)
            return
        body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        for name, value in {"Content-Length": str(len(body)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, answer: Answer) -> None:
        self.send_response(answer.status)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in answer.stream or ():
            if piece is BROKEN:
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            if isinstance(piece, float):
                time.sleep(piece)
                continue
            if callable(piece):
                piece()
                continue
            text = piece if isinstance(piece, bytes) else json.dumps(piece).encode() + b"\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(text), text))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def _bridge(self, key: str, port: int, there: int) -> None:
        """Speak the protocol of forwarded ports over a websocket: channel 0 data, 1 errors.

        Args:
            key: Of the handshake.
            port: That was asked for.
            there: Port of this machine that it leads to.
        """
        proof = base64.b64encode(hashlib.sha1((key + _MAGIC).encode()).digest()).decode()
        self.send_response(101)
        for name, value in (
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Accept", proof),
            ("Sec-WebSocket-Protocol", "v4.channel.k8s.io"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = True
        for channel in (0, 1):
            self._frame(bytes([channel]) + port.to_bytes(2, "little"))
        with socket.create_connection(("127.0.0.1", there)) as pod:
            threading.Thread(target=self._give, args=(pod,), daemon=True).start()
            while (frame := self._read_frame()) is not None:
                pod.sendall(frame[1:])

    def _give(self, pod: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):  # whoever listened may be gone
            while piece := pod.recv(60_000):
                self._frame(b"\0" + piece)
            self._frame(b"", opcode=8)

    def _frame(self, data: bytes, opcode: int = 2) -> None:
        short = len(data) < 126
        size = bytes([len(data)]) if short else b"\x7e" + len(data).to_bytes(2, "big")
        self.wfile.write(bytes([0x80 | opcode]) + size + data)
        self.wfile.flush()

    def _read_frame(self) -> bytes | None:
        """Return a frame of data, or None at the end."""
        head = self.rfile.read(2)
        if len(head) < 2 or head[0] & 0x0F != 2:
            return None
        size = head[1] & 0x7F
        if size > 125:
            size = int.from_bytes(self.rfile.read({126: 2, 127: 8}[size]), "big")
        mask, data = self.rfile.read(4), self.rfile.read(size)
        return bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that are gone."""


@contextmanager
def serving(folder: Path) -> Iterator[tuple[Server, Path]]:
    """Give a server and a kubeconfig for it."""
    known = Server()
    handler = type("Handler", (_Handler,), {"server_of": known})
    with _Quiet(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield known, kubeconfig(folder, httpd.server_address[1])
        finally:
            httpd.shutdown()
            thread.join()


def kubeconfig(folder: Path, port: int) -> Path:
    """Write a file that leads to a port of this machine, and return it."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "u", "user": {"token": TOKEN}}],
        "contexts": [
            {"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "team-a"}},
            {"name": "there", "context": {"cluster": "c", "user": "u"}},
        ],
    }
    file = folder / "kubeconfig"
    file.write_text(json.dumps(config))
    return file
