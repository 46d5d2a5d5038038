"""A port of this machine that leads to a port of a pod, through the API server."""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from raytune_hpo.cluster.kuberay.kinds import POD
from raytune_hpo.cluster.kuberay.refused import KubernetesError, of_answer

_LOGGER = logging.getLogger(__name__)
_PIECE = 32 * 1024
_LOOK_S = 0.5
_DATA, _ERROR = 0, 1
"""Channels of the protocol of forwarded ports."""


@contextmanager
def forwarded(
    configuration: Any, namespace: str, pod: str, port: int, local_port: int
) -> Iterator[int]:
    """Forward a port while in the context; each connection gets a stream of its own.

    Args:
        configuration: Of the official client.
        namespace: Of the pod.
        pod: Its name.
        port: Its port.
        local_port: Port of the loopback address here; 0 for one that is free.

    Raises:
        KubernetesError: The port here is taken, or the pod cannot be reached in this way.
    """

    def open_stream() -> Any:
        return _stream(configuration, namespace, pod, port)

    _end(open_stream())
    try:
        listener = socket.create_server(("127.0.0.1", local_port))
    except OSError as error:
        raise KubernetesError(
            f"port {local_port} of this machine cannot be used: {error.strerror}; choose another"
        ) from error
    server = _Forwarder(open_stream, listener)
    thread = threading.Thread(target=server.serve, name=f"forward to {pod}", daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.close()
        thread.join()


class _Forwarder:
    """Takes connections at a port here and carries each to the pod."""

    def __init__(self, open_stream: Callable[[], Any], listener: socket.socket) -> None:
        self._open = open_stream
        self._listener = listener
        self._closed = threading.Event()
        self._carried: dict[socket.socket, threading.Thread] = {}
        self._lock = threading.Lock()

    def serve(self) -> None:
        """Take connections until it is closed, and end them then."""
        self._listener.settimeout(_LOOK_S)
        with self._listener:
            while not self._closed.is_set():
                with contextlib.suppress(TimeoutError):
                    near, _ = self._listener.accept()
                    near.settimeout(None)
                    thread = threading.Thread(target=self._carry, args=(near,), daemon=True)
                    with self._lock:
                        self._carried[near] = thread
                    thread.start()
        with self._lock:
            left = dict(self._carried)
        for near, thread in left.items():
            _hang_up(near)
            thread.join()

    def close(self) -> None:
        """End all connections."""
        self._closed.set()

    def _carry(self, near: socket.socket) -> None:
        """Carry one connection until either side ends it."""
        try:
            with near:
                self._exchange(near, self._open())
        except KubernetesError as error:
            # Who has connected here sees the end of the connection, and this why.
            _LOGGER.warning("%s", error)
        finally:
            with self._lock:
                self._carried.pop(near, None)

    def _exchange(self, near: socket.socket, far: Any) -> None:
        back = threading.Thread(target=_give_back, args=(far, near), daemon=True)
        back.start()
        # Either side may be gone at any time, which is how such connections end.
        with contextlib.suppress(*_ends()):
            while piece := near.recv(_PIECE):
                far.send_binary(bytes([_DATA]) + piece)
        _end(far)
        back.join()


def _give_back(far: Any, near: socket.socket) -> None:
    """Pass on what comes from the pod, until it ends."""
    begun: set[int] = set()
    with contextlib.suppress(*_ends()):
        while frame := far.recv():
            channel, data = frame[0], frame[1:]
            if channel not in begun:
                # The first frame of a channel says which port it is of.
                begun.add(channel)
            elif channel == _DATA:
                near.sendall(data)
            elif channel == _ERROR and data:
                _LOGGER.warning("the pod's port: %s", data.decode("utf-8", "replace"))
                break
    _hang_up(near)


def _hang_up(near: socket.socket) -> None:
    """End a connection, also for a thread that waits for it."""
    with contextlib.suppress(OSError):
        near.shutdown(socket.SHUT_RDWR)


def _end(far: Any) -> None:
    """End a stream at once, also for a thread that waits for it."""
    if far.sock is not None:
        _hang_up(far.sock)
    far.shutdown()


def _ends() -> tuple[type[Exception], ...]:
    """Return the errors by which a connection ends."""
    from websocket import WebSocketException

    return (OSError, WebSocketException)


def _stream(configuration: Any, namespace: str, pod: str, port: int) -> Any:
    """Return a websocket to a port of a pod.

    Raises:
        KubernetesError: It cannot be had.
    """
    from kubernetes.stream import ws_client

    path = POD.path(namespace, pod, "portforward")
    settings = configuration.auth_settings().values()
    headers = {one["key"]: one["value"] for one in settings if one["value"]}
    url = ws_client.get_websocket_url(f"{configuration.host}{path}", [("ports", str(port))])
    what = f"forward a port to pod {pod}"
    try:
        return ws_client.create_websocket(configuration, url, headers)
    except _ends() as error:
        raise _problem(str(error), what) from error


def _problem(said: str, what: str) -> KubernetesError:
    """Return the error for a stream that was not had."""
    status = re.search(r"Handshake status (\d+)", said)
    if status is None:
        return KubernetesError(f"{what}: the connection was not made: {said}; try again")
    # Headers and body stand behind the status.
    body = said.rpartition("-+-+- ")[2].removeprefix("b'").rstrip("'")
    return of_answer(int(status[1]), body.encode(), what)
