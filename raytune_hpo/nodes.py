"""The machines of the Ray that this process is connected to."""

from __future__ import annotations

import socket
import time

import ray
import ray._private.state

_CONNECT_S = 2.0
_MOMENT_S = 0.5


def resources() -> list[dict[str, float]]:
    """Return the resources of each living machine that will stay, by Ray's names."""
    going = draining()
    there = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in going]
    return [node["Resources"] for node in there]


def draining() -> frozenset[str]:
    """Return Ray's ids of the machines that will be taken away, as somebody has told Ray."""
    return frozenset(ray._private.state.state.get_draining_nodes())


def servers() -> list[tuple[str, int]]:
    """Return the addresses of Ray's head, and of the daemon that this process belongs to."""
    context = ray.get_runtime_context()
    host, _, port = context.gcs_address.rpartition(":")
    own = next(node for node in ray.nodes() if node["NodeID"] == context.get_node_id())
    return [(host, int(port)), (own["NodeManagerAddress"], own["NodeManagerPort"])]


def answers(server: tuple[str, int]) -> bool:
    """Return whether somebody listens there."""
    try:
        socket.create_connection(server, timeout=_CONNECT_S).close()
    except OSError:
        return False
    return True


def is_lost(node_id: str) -> bool:
    """Return whether a machine has gone; Ray itself takes half a minute to see it."""
    for node in ray.nodes():
        if node["NodeID"] == node_id:
            there = (node["NodeManagerAddress"], node["NodeManagerPort"])
            return not node["Alive"] or _stops_answering(there)
    return True


def _stops_answering(server: tuple[str, int]) -> bool:
    """Return whether nobody listens there, now or in a moment.

    What goes with a machine does not go at once: its workers may be gone while its daemon still
    answers.
    """
    if answers(server):
        time.sleep(_MOMENT_S)
    return not answers(server)
