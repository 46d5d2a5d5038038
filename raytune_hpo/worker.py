"""The side of the runner that lives on the workers; it imports no more than it needs there."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

import ray
from ray import tune

from raytune_hpo.attempt import Assignment, Attempt, Job, begin

HEARTBEAT_S = 1.0
"""A running attempt is heard of at least this often, so that it can be told to stop."""


class TuneTrial(tune.Trainable):  # type: ignore[misc]
    """Runs attempts on a worker, one after the other.

    An attempt begins with the first ``step``: Tune may set an actor up for a trial, give the trial
    to another actor after all, and end the first one without a step.
    """

    _attempt: Attempt | None = None
    _stuck = False

    def setup(self, config: dict[str, Any], job: Job | None = None) -> None:
        """Take note of the first attempt; ``tune.with_parameters`` hands the job over."""
        if job is None:
            raise ValueError("a TuneTrial needs its job: tune.with_parameters(TuneTrial, job=job)")
        self._job = job
        self._assignment = Assignment(**config["assignment"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take note of the next attempt in the same process."""
        self._end_attempt()
        self._assignment = Assignment(**new_config["assignment"])
        return True

    def step(self) -> dict[str, Any]:
        """Return what has happened, or nothing as a sign of life."""
        if self._stuck:
            os._exit(1)
        if self._attempt is None:
            self._attempt = begin(self._job, self._assignment)
        events = self._attempt.events(HEARTBEAT_S)
        self._stuck = any(event.stuck for event in events)
        node = ray.get_runtime_context().get_node_id()
        return {"events": [asdict(event) for event in events], "node_id": node}

    def want_checkpoint(self) -> None:
        """Tell the trial that its machine will be taken away; called by the driver, by Ray."""
        if self._attempt is not None:
            self._attempt.want_checkpoint()

    def cleanup(self) -> None:
        """End what runs."""
        self._end_attempt()

    def _end_attempt(self) -> None:
        """End what runs; a thread that will not end takes the process with it."""
        if self._attempt is not None and not self._attempt.stop():
            os._exit(1)
        self._attempt = None
