"""The side of the runner that lives on the workers; it imports no more than it needs there."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

from ray import tune

from raytune_hpo.attempt import Assignment, Attempt, Job, begin

HEARTBEAT_S = 1.0
"""A running attempt is heard of at least this often, so that it can be told to stop."""


class TuneTrial(tune.Trainable):  # type: ignore[misc]
    """Runs attempts on a worker, one after the other."""

    _attempt: Attempt | None = None
    _stuck = False

    def setup(self, config: dict[str, Any], job: Job) -> None:
        """Start the first attempt."""
        self._job = job
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Start the next attempt in the same process."""
        self._end_attempt()
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Return what has happened, or nothing as a sign of life."""
        if self._stuck or self._attempt is None:
            os._exit(1)
        events = self._attempt.events(HEARTBEAT_S)
        self._stuck = any(event.stuck for event in events)
        return {"events": [asdict(event) for event in events]}

    def cleanup(self) -> None:
        """End what runs."""
        self._end_attempt()

    def _begin(self, config: dict[str, Any]) -> None:
        self._attempt = begin(self._job, Assignment(**config["assignment"]))

    def _end_attempt(self) -> None:
        """End what runs; a thread that will not end takes the process with it."""
        if self._attempt is not None and not self._attempt.stop():
            os._exit(1)
        self._attempt = None
