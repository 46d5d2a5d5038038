"""Trials in threads of the driver's own process, without Ray: for tests of everything around it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from raytune_hpo.attempt import Assignment, Attempt, Job, begin
from raytune_hpo.cluster.base import Room
from raytune_hpo.engine import Engine
from raytune_hpo.ports import Ports

_POLL_S = 0.01


class Threads:
    """An ``Executor`` for commands; a function needs a process of its own, so one at a time.

    Args:
        slots: How many trials that ask for one CPU fit at once.
    """

    deadline_t: float | None = None
    margin_s = 0.0

    def __init__(self, slots: int = 4) -> None:
        self._slots = slots

    def open(self, log: Path) -> None:
        """Nothing is needed."""

    def nodes(self) -> list[dict[str, float]]:
        """Return one machine."""
        return [{"CPU": float(self._slots)}]

    def room(self) -> Room | None:
        """Return None: there is this machine only."""
        return None

    def note(self, busy: frozenset[str], *, wanting: bool) -> None:
        """Take note of nothing."""

    def lost(self) -> str | None:
        """Return None: it ends with the driver."""
        return None

    def execute(
        self, engine: Engine, job: Job, resources: Mapping[str, float], ports: Ports
    ) -> None:
        """Run the engine's trials to the end."""
        ports.started()
        running: dict[tuple[int, int], Attempt] = {}
        while not engine.finished:
            _start(engine, job, ports, running)
            for key, attempt in list(running.items()):
                for event in attempt.events(_POLL_S / len(running)):
                    if event.metrics is None:
                        engine.on_end(*key, event.failure)
                    else:
                        engine.on_report(*key, event.metrics, event.checkpoint)
            ports.sync()
            for key in [key for key in running if not engine.is_current(*key)]:
                running.pop(key).stop()
            _look(engine, ports)
            if not running:
                time.sleep(_POLL_S)
        for attempt in running.values():
            attempt.stop()

    def close(self) -> None:
        """Nothing was started."""


def _start(engine: Engine, job: Job, ports: Ports, running: dict[tuple[int, int], Attempt]) -> None:
    while (number := engine.next_number) is None or ports.ready(number):
        start = engine.next_start()
        if start is None:
            return
        assignment = Assignment(
            trial=start.trial,
            attempt=start.attempt,
            config=ports.nested(start.config) if job.is_function else start.config,
            checkpoint=start.checkpoint,
            env=ports.environment(start.trial),
        )
        running[start.trial, start.attempt] = begin(job, assignment)
        engine.on_begin(start.trial, start.attempt)


def _look(engine: Engine, ports: Ports) -> None:
    engine.tick()
    request = ports.stop_request()
    if request is not None and request.drain_s:
        engine.drain(request.reason, request.message, request.drain_s)
    elif request is not None:
        engine.stop(request.reason, request.message)
