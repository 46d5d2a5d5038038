"""A port of this machine that leads to a port of a pod, through the API server."""

from __future__ import annotations

import contextlib
import logging
import re
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from raytune_hpo.cluster.kuberay.kinds import POD
from raytune_hpo.cluster.kuberay.refused import KubernetesError, of_answer

_LOGGER = logging.getLogger(__name__)
_PIECE = 64 * 1024
_LOOK_S = 0.5


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

    open_stream().close()
    try:
        listener = socket.create_server(("127.0.0.1", local_port))
    except OSError as error:
        raise KubernetesError(
            f"port {local_port} of this machine cannot be used: {error.strerror}; choose another"
        ) from error
    server = _Forwarder(open_stream, port, listener)
    thread = threading.Thread(target=server.serve, name=f"forward to {pod}", daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.close()
        thread.join()


class _Forwarder:
    """Takes connections at a port here and carries each to the pod."""

    def __init__(self, open_stream: Callable[[], Any], port: int, listener: socket.socket) -> None:
        self._open = open_stream
        self._port = port
        self._listener = listener
        self._closed = threading.Event()

    def serve(self) -> None:
        """Take connections until it is closed."""
        self._listener.settimeout(_LOOK_S)
        with self._listener:
            while not self._closed.is_set():
                try:
                    near, _ = self._listener.accept()
                except TimeoutError:
                    continue
                threading.Thread(target=self._carry, args=(near,), daemon=True).start()

    def close(self) -> None:
        """End all connections."""
        self._closed.set()

    def _carry(self, near: socket.socket) -> None:
        """Carry one connection until either side ends it; a pod that cannot be reached ends it."""
        near.settimeout(None)
        with near:
            try:
                stream = self._open()
            except KubernetesError as error:
                # Who has connected here sees the end of the connection, and this why.
                _LOGGER.warning("%s", error)
                return
            # Either side may be gone at any time, which is how such connections end.
            with contextlib.closing(stream), contextlib.suppress(OSError):
                self._exchange(near, stream.socket(self._port))

    def _exchange(self, near: socket.socket, far: Any) -> None:
        other = {near: far, far: near}
        while not self._closed.is_set():
            ready, _, _ = select.select(list(other), [], [], _LOOK_S)
            for one in ready:
                piece = one.recv(_PIECE)
                if not piece:
                    return
                other[one].sendall(piece)


def _stream(configuration: Any, namespace: str, pod: str, port: int) -> Any:
    """Return a stream to a port of a pod.

    Raises:
        KubernetesError: It cannot be had.
    """
    from kubernetes.client import ApiException
    from kubernetes.stream import ws_client

    path = POD.path(namespace, pod, "portforward")
    settings = configuration.auth_settings().values()
    headers = {one["key"]: one["value"] for one in settings if one["value"]}
    query = [("ports", str(port))]
    try:
        # The way through a method of the client loses what the server says when it refuses.
        return ws_client.portforward_call(
            configuration, "GET", f"{configuration.host}{path}", query_params=query, headers=headers
        )
    except ApiException as error:
        raise _problem(str(error.reason), f"forward a port to pod {pod}") from error


def _problem(said: str, what: str) -> KubernetesError:
    """Return the error for what the official client says of a stream that it did not get."""
    status = re.search(r"Handshake status (\d+)", said)
    if status is None:
        return KubernetesError(f"{what}: the connection was not made: {said}")
    # It shows the headers and the body behind the status.
    body = said.rpartition("-+-+- ")[2].removeprefix("b'").rstrip("'")
    return of_answer(int(status[1]), body.encode(), what)
