"""What waits to be brought to one run of a store."""

from __future__ import annotations

from dataclasses import dataclass, field

Key = str
"""A trial's number as text, or ``parent``."""


@dataclass
class Writes:
    """Everything for one run; what comes twice is kept once.

    Attributes:
        start_ms: Start of the run, if it has to be made.
        points: Metrics: name, value, time in ms, step.
        status: Of MLflow, or None to leave it.
        end_ms: When it ended, or None.
        texts: Artifacts by file name.
    """

    start_ms: int
    points: list[tuple[str, float, int, int]] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    status: str | None = None
    end_ms: int | None = None

    def set_status(self, status: str, end_ms: int | None = None) -> None:
        """Set the status that the run is to have."""
        self.status, self.end_ms = status, end_ms

    def forget_values(self) -> None:
        """Drop metrics, params and tags, which have got through."""
        self.points.clear()
        self.params.clear()
        self.tags.clear()
