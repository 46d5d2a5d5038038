"""Executes the trials of a session on Ray."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from raytune_hpo.attempt import Job
from raytune_hpo.cluster.base import Connection
from raytune_hpo.engine import Engine
from raytune_hpo.ports import Ports


class OnRay:
    """An ``Executor`` that uses a Ray.

    Args:
        connection: The way to it.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._servers: list[tuple[str, int]] = []
        self._heard_s = 0.0

    def open(self, log: Path) -> None:
        """Connect to Ray."""
        self._connection.connect(log)
        from raytune_hpo import nodes

        self._servers = nodes.servers()
        self._heard_s = time.monotonic()

    def nodes(self) -> list[dict[str, float]]:
        """Return the resources of each machine, by Ray's names."""
        from raytune_hpo import nodes

        return nodes.resources()

    def lost(self) -> str | None:
        """Return why Ray is gone for good, or None."""
        if not self._servers:
            return None
        from raytune_hpo import nodes

        now = time.monotonic()
        if all(nodes.answers(server) for server in self._servers):
            self._heard_s = now
        gone_s = now - self._heard_s
        if gone_s <= self._connection.patience_s:
            return None
        return f"Ray does not answer any more, for {gone_s:.0f} s"

    def execute(
        self, engine: Engine, job: Job, resources: Mapping[str, float], ports: Ports
    ) -> None:
        """Run the engine's trials to the end with Ray Tune."""
        from raytune_hpo import runner

        runner.execute(engine, job, resources, ports)

    def close(self) -> None:
        """Leave Ray as it was found."""
        self._servers = []
        self._connection.close()
