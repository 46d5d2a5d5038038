"""The protocol of a launcher: a place where an experiment can run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from raytune_hpo.experiment import Experiment


class Launcher(Protocol):
    """Takes an experiment to where it runs and follows it there."""

    def render(self, experiment: Experiment) -> str:
        """Return what ``submit`` would send, as text; a pure function."""

    def submit(self, experiment: Experiment) -> str:
        """Start it and return a handle for the other calls."""

    def status(self, handle: str) -> str:
        """Return where it stands, in plain words."""

    def logs(self, handle: str) -> Iterator[str]:
        """Return the driver's output, line by line."""

    def cancel(self, handle: str) -> None:
        """End it; what has finished stays."""


@dataclass(frozen=True)
class Room:
    """Machines that may still come.

    Attributes:
        machine: Resources of one, by Ray's names.
        machines: How many there can be at once.
    """

    machine: Mapping[str, float]
    machines: int


class Connection(Protocol):
    """A way to a Ray that the driver of a run can use.

    Attributes:
        patience_s: So long it may not answer before it counts as gone for good.
        deadline_t: When its machines are taken away, in unix seconds, or None.
        margin_s: So long before that the trials are to stop at their next checkpoint.
    """

    patience_s: float
    deadline_t: float | None
    margin_s: float

    def connect(self, log: Path) -> None:
        """Connect this process to Ray, starting one where there is none."""

    def room(self) -> Room | None:
        """Return what machines may still come, or None when there are only those that are there."""
        ...

    def note(self, busy: frozenset[str], *, wanting: bool) -> None:
        """Take note of what the machines do, about every two seconds.

        Args:
            busy: Ray's ids of the machines on which trials run.
            wanting: Whether more trials would start if there were room.
        """

    def close(self) -> None:
        """Leave Ray as it was found."""
