"""What a session and whoever executes its trials need from each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from raytune_hpo.attempt import Job
from raytune_hpo.cluster.base import Room
from raytune_hpo.engine import Engine


@dataclass(frozen=True)
class StopRequest:
    """The run is to end now.

    Attributes:
        reason: As the journal's last record will have it.
        message: The same for a person.
        drain_s: So long trials may go on until they save a checkpoint; 0 for at once.
    """

    reason: str
    message: str
    drain_s: float = 0.0


@dataclass(frozen=True)
class Ports:
    """What an executor needs from outside.

    Attributes:
        environment: Environment variables of a trial, by its number.
        ready: Whether a trial with this number could start now as far as others are concerned.
        nested: Turns a flat config into what a function gets.
        stop_request: Returns why the run is to end, or None.
        room: Called with Ray's ids of the machines on which trials run, and whether more would
            start if there were room; returns how many trials may run at once.
        started: Called when all is set up, in the main loop's thread.
        sync: Returns when all that the engine recorded is safe; reports are acknowledged after it.
        begin_sync: Begins to make safe what was recorded so far, and returns what tells whether it
            is; None where ``sync`` takes no time that others could use.
    """

    environment: Callable[[int], dict[str, str]]
    ready: Callable[[int], bool]
    nested: Callable[[dict[str, Any]], dict[str, Any]]
    stop_request: Callable[[], StopRequest | None]
    room: Callable[[frozenset[str], bool], int]
    started: Callable[[], None]
    sync: Callable[[], None]
    begin_sync: Callable[[], Callable[[], bool]] | None = None


class Executor(Protocol):
    """Where the trials of a session run.

    Attributes:
        deadline_t: When its machines are taken away, in unix seconds, or None; known when open.
        margin_s: So long before that the trials are to stop at their next checkpoint.
    """

    @property
    def deadline_t(self) -> float | None:
        """See the class."""
        ...

    @property
    def margin_s(self) -> float:
        """See the class."""
        ...

    def open(self, log: Path) -> None:
        """Get ready.

        Args:
            log: File for what it has to say itself.

        Raises:
            InfrastructureError: It cannot get ready.
        """

    def nodes(self) -> list[dict[str, float]]:
        """Return the resources of each machine, by Ray's names."""
        ...

    def room(self) -> Room | None:
        """Return what machines may still come, or None when there are only those that are there."""
        ...

    def note(self, busy: frozenset[str], *, wanting: bool) -> None:
        """Take note of what the machines do, about every two seconds.

        Args:
            busy: Ray's ids of the machines on which trials run.
            wanting: Whether more trials would start if there were room.
        """

    def lost(self) -> str | None:
        """Return why it is gone for good, in one sentence, or None; for any thread."""

    def execute(
        self, engine: Engine, job: Job, resources: Mapping[str, float], ports: Ports
    ) -> None:
        """Run the engine's trials to the end.

        Args:
            engine: Decides what runs.
            job: What all attempts share.
            resources: Of one trial, by Ray's names: CPU, GPU, memory (bytes) and custom ones.
            ports: What is needed from outside.
        """

    def close(self) -> None:
        """End what ``open`` started."""
