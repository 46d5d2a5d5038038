"""The protocol of a launcher: a place where an experiment can run."""

from __future__ import annotations

from collections.abc import Iterator
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


class Connection(Protocol):
    """A way to a Ray that the driver of a run can use.

    Attributes:
        patience_s: So long it may not answer before it counts as gone for good.
    """

    patience_s: float

    def connect(self, log: Path) -> None:
        """Connect this process to Ray, starting one where there is none."""

    def close(self) -> None:
        """Leave Ray as it was found."""
