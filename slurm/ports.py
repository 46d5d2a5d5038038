"""Ports for one Ray on a node that may have several: a block for each, chosen by the job."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from raytune_hpo.errors import InfrastructureError

FIRST = 10240
SIZE = 220
COUNT = 100
"""Blocks end below 32768, where Linux begins to hand out ports of outgoing connections."""
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
    """

    first: int

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
            f"--max-worker-port={self.first + SIZE - 1}",
        ]
        return [f"--{name}={port}" for name, port in self.fixed().items()] + workers


def free_block(seed: int, address: str) -> Block:
    """Return the first block from the seed's on whose ports are free on this node.

    Args:
        seed: Two jobs next to each other are to have different ones.
        address: Of this node, where the ports will be.

    Raises:
        InfrastructureError: There is none.
    """
    for step in range(COUNT):
        block = Block(FIRST + (seed * 7 + step) % COUNT * SIZE)
        if all(_is_free(address, port) for port in (block.gcs, *block.fixed().values())):
            return block
    raise InfrastructureError(f"no {SIZE} free ports between {FIRST} and {FIRST + COUNT * SIZE}")


def _is_free(address: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True
