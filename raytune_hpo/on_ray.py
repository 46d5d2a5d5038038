"""Executes the trials of a session on Ray."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from raytune_hpo.attempt import Job
from raytune_hpo.cluster.base import Connection, Room
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

    @property
    def deadline_t(self) -> float | None:
        """When the machines are taken away, in unix seconds, or None."""
        return self._connection.deadline_t

    @property
    def margin_s(self) -> float:
        """So long before that the trials are to stop at their next checkpoint."""
        return self._connection.margin_s

    def room(self) -> Room | None:
        """Return what machines may still come, or None."""
        return self._connection.room()

    def note(self, busy: frozenset[str], *, wanting: bool) -> None:
        """Take note of which machines are in use, and whether more would be."""
        self._connection.note(busy, wanting=wanting)

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
