"""How a run leaves machines that will be taken away: what it knows of its pace, and for how long.

A batch system takes a job's machines away at its time limit. Until then trials that save
checkpoints can start at any time; others only if they are likely to end before it.
"""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass

from raytune_hpo.journal import Record

SLACK_S = 30.0
"""Before the machines are taken away, so much time is kept for ending in good order."""
_LAST = 101
_OVER = frozenset({"completed", "pruned", "paused"})


@dataclass(frozen=True)
class Drain:
    """The run is to end: running trials may go on to their next checkpoint, and nothing starts.

    Attributes:
        reason: Why, as the journal's last record will have it.
        message: The same for a person.
        until_s: Of the monotonic clock; what still runs then is ended.
    """

    reason: str
    message: str
    until_s: float


@dataclass(frozen=True)
class Limit:
    """When the machines are taken away.

    Attributes:
        end_by_s: Of the monotonic clock.
        margin_s: So long before it the run begins to drain.
    """

    end_by_s: float
    margin_s: float

    @property
    def drain_from_s(self) -> float:
        """When the run begins to drain."""
        return self.end_by_s - self.margin_s

    @property
    def drain_until_s(self) -> float:
        """When all trials are to have ended."""
        return self.end_by_s - min(SLACK_S, self.margin_s / 2)


class Pace:
    """How long attempts take, and whether trials save checkpoints: a fold over the journal.

    Attributes:
        checkpoints: Whether any trial has saved one.
    """

    def __init__(self) -> None:
        self.checkpoints = False
        self._began_t: dict[int, float] = {}
        self._seconds: deque[float] = deque(maxlen=_LAST)

    def take(self, record: Record) -> None:
        """Take in a record of the journal."""
        kind = record["type"]
        if kind in ("start", "begin"):
            self._began_t[record["trial"]] = record["t"]
        elif kind == "report":
            self.checkpoints = self.checkpoints or record["checkpoint"] is not None
        elif kind == "end":
            began_t = self._began_t.pop(record["trial"], None)
            if began_t is not None and record["state"] in _OVER:
                self._seconds.append(record["t"] - began_t)

    @property
    def typical_s(self) -> float | None:
        """Seconds that an attempt takes, the median; None while none has ended by itself."""
        return statistics.median(self._seconds) if self._seconds else None

    def too_long(self, left_s: float) -> str | None:
        """Return why an attempt that starts now would not end in time, or None when it may."""
        typical_s = self.typical_s
        if self.checkpoints or typical_s is None or typical_s <= left_s:
            return None
        return (
            f"trials take {typical_s:.0f} s and save no checkpoints, and the machines are taken "
            f"away in {left_s:.0f} s"
        )
