"""The records of a growing journal, piece by piece, for one tracker that may fail."""

from __future__ import annotations

import logging
import random

from raytune_hpo.journal import Follower
from raytune_hpo.tracking.base import Tracker, Unreachable

_log = logging.getLogger("raytune_hpo.tracking")
PIECE_BYTES = 1 << 18
"""Of a journal, read at once."""
_FIRST_DELAY_S = 0.5
_LONGEST_DELAY_S = 30.0
_LONGEST_LAST_DELAY_S = 2.0
"""After the driver's end, when there is not much time left."""


class Feed:
    """Gives a tracker what comes, and waits longer and longer while it fails.

    While the tracker holds records that its store did not take, no more are read: the journal
    keeps them.

    Args:
        reader: Of the journal, in pieces.
        tracker: Takes the records.

    Attributes:
        error: Why the store cannot be reached, or None.
    """

    def __init__(self, reader: Follower, tracker: Tracker) -> None:
        self.reader = reader
        self.tracker = tracker
        self.error: str | None = None
        self._delay_s = _FIRST_DELAY_S
        self._next_s = 0.0
        self._ended = False

    def step(self, now_s: float, *, last: bool = False) -> bool:
        """Bring what has come to the store; return whether there may be more at once.

        Args:
            now_s: A monotonic time.
            last: The driver is gone: nothing will come after the end of the journal.
        """
        longest_s = _LONGEST_LAST_DELAY_S if last else _LONGEST_DELAY_S
        self._delay_s = min(self._delay_s, longest_s)
        self._next_s = min(self._next_s, now_s + longest_s)
        if now_s < self._next_s:
            return False
        try:
            return self._step(last)
        except Unreachable as error:
            self.error = str(error)
            _log.warning("unreachable, next try in %.1f s: %s", self._delay_s, error)
            self._next_s = now_s + self._delay_s * random.uniform(0.5, 1.0)
            self._delay_s = min(self._delay_s * 2, longest_s)
            return False

    def _step(self, last: bool) -> bool:
        if self.error is not None:
            self.tracker.apply(())
            self.error, self._delay_s = None, _FIRST_DELAY_S
        records = self.reader.poll()
        if records:
            self.tracker.apply(records)
        elif last and not self._ended:
            self.tracker.end()
            self._ended = True
        return bool(records)

    @property
    def behind(self) -> int:
        """Records that the store does not have yet."""
        return self.reader.records + self.reader.unread() - self.tracker.applied

    @property
    def ended(self) -> bool:
        """Whether the store has everything, after the last record."""
        return self._ended
