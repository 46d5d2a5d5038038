"""Ports for one Ray on a node that may have several: a block for each, chosen by the job."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from raytune_hpo.errors import InfrastructureError

FIRST = 10240
SIZE = 220
COUNT = 100
"""Blocks end below 32768, where Linux begins to hand out ports of outgoing connections."""
PER_CPU = 3
"""Ray keeps a worker process for each CPU, and starts others beside those that are just ending."""
_FIXED = (
    "node-manager-port",
    "object-manager-port",
    "dashboard-agent-grpc-port",
    "dashboard-agent-listen-port",
    "runtime-env-agent-port",
    "metrics-export-port",
)
_BEFORE_WORKERS = 20


@dataclass(frozen=True)
class Block:
    """The ports of one Ray on one node.

    Attributes:
        first: The block's first port.
        size: Ports in it.
    """

    first: int
    size: int = SIZE

    @property
    def gcs(self) -> int:
        """Port of the head."""
        return self.first

    def fixed(self) -> dict[str, int]:
        """Return the ports of Ray's daemons by the names of their options."""
        return {name: self.first + 1 + index for index, name in enumerate(_FIXED)}

    def arguments(self) -> list[str]:
        """Return the options of ``ray start``; a worker process each has one of the rest."""
        workers = [
            f"--min-worker-port={self.first + _BEFORE_WORKERS}",
            f"--max-worker-port={self.first + self.size - 1}",
        ]
        return [f"--{name}={port}" for name, port in self.fixed().items()] + workers


def free_block(seed: int, address: str, cpus: int = 1) -> Block:
    """Return the first block from the seed's on whose ports are free on this node.

    Args:
        seed: Two jobs next to each other are to have different ones.
        address: Of this node, where the ports will be.
        cpus: That Ray is to have; with many the block is as large as several.

    Raises:
        InfrastructureError: There is none.
    """
    length = min(COUNT, -(-(_BEFORE_WORKERS + PER_CPU * cpus) // SIZE))
    places = COUNT - length + 1
    for step in range(places):
        place = (seed * 7 + step) % places
        parts = [Block(FIRST + (place + index) * SIZE) for index in range(length)]
        # Another Ray's daemons are at the beginning of the block that it has.
        wanted = [port for part in parts for port in (part.gcs, *part.fixed().values())]
        if all(_is_free(address, port) for port in wanted):
            return Block(parts[0].first, length * SIZE)
    size = length * SIZE
    raise InfrastructureError(f"no {size} free ports between {FIRST} and {FIRST + COUNT * SIZE}")


def _is_free(address: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True
