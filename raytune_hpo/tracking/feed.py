"""The records of a growing journal, piece by piece, for one tracker that may fail."""

from __future__ import annotations

import logging
import random
from pathlib import Path

from raytune_hpo import journal
from raytune_hpo.journal import Record
from raytune_hpo.tracking.base import Tracker, Unreachable

_log = logging.getLogger("raytune_hpo.tracking")
_PIECE = 1 << 18
_FIRST_DELAY_S = 0.5
_LONGEST_DELAY_S = 30.0


class Reader:
    """Reads a journal in pieces of bounded size.

    Args:
        path: The journal; it may not be there yet.
        piece: Bytes to read at a time, at least; a longer line is read whole.

    Attributes:
        records: Records read so far.
    """

    def __init__(self, path: Path, piece: int = _PIECE) -> None:
        self._path = path
        self._piece = piece
        self._offset = 0
        self.records = 0

    def read(self) -> list[Record]:
        """Return the next records; none if nothing has come.

        Raises:
            JournalError: The journal is damaged.
        """
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read(self._piece)
                if b"\n" not in data and len(data) == self._piece:
                    data += file.readline()
        except FileNotFoundError:
            return []
        found, used = journal.scan(data[: data.rfind(b"\n") + 1], self.records, path=self._path)
        self._offset += used
        self.records += len(found)
        return found

    def unread(self) -> int:
        """Return the number of records that are still to be read."""
        found, _ = journal.follow(self._path, self._offset, self.records)
        return len(found)


class Feed:
    """Gives a tracker what comes, and waits longer and longer while it fails.

    While the tracker holds records that its store did not take, no more are read: the journal
    keeps them.

    Args:
        reader: Of the journal.
        tracker: Takes the records.

    Attributes:
        error: Why the store cannot be reached, or None.
    """

    def __init__(self, reader: Reader, tracker: Tracker) -> None:
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
        if now_s < self._next_s:
            return False
        try:
            return self._step(last)
        except Unreachable as error:
            self.error = str(error)
            _log.warning("unreachable, next try in %.1f s: %s", self._delay_s, error)
            self._next_s = now_s + self._delay_s * random.uniform(0.5, 1.0)
            self._delay_s = min(self._delay_s * 2, _LONGEST_DELAY_S)
            return False

    def _step(self, last: bool) -> bool:
        if self.error is not None:
            self.tracker.apply(())
            self.error, self._delay_s = None, _FIRST_DELAY_S
        records = self.reader.read()
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
