"""The journal of a run that is kept in a store, for its driver.

Records are gathered in memory; a thread brings all that have come to the store in one object, and
then adds them to the copy in the run's folder here. What follows the copy (MLflow's process, who
looks at the run) therefore never sees a record that the store could still lose.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from raytune_hpo import failpoints, journal
from raytune_hpo.errors import InfrastructureError, JournalError, RaytuneHpoError, RunLockedError
from raytune_hpo.journal import Record
from raytune_hpo.storage import place, segments
from raytune_hpo.storage.segments import Segment, Writer

_LAST_S = 5.0
"""At its end a driver waits no longer for what it has not been told to be safe."""
_BEHIND_S = 5.0
_LOOK_S = 0.5
"""How often a driver that waits looks whether it was superseded."""


class StoreJournal:
    """Appends records to the journal of a run that this driver has taken over.

    ``append`` keeps a record in memory. ``sync`` returns when the store has all records before it;
    ``begin_sync`` does not wait, and returns what tells when they are there. The earlier sessions
    are let go of with the first record.

    Args:
        url: Of the run.
        run_dir: The run's folder on this machine; its journal becomes a copy of the store's.
        writer: Adds batches to the store.
        earlier: All sessions before this driver's, sealed.
        superseded: Whether another driver is known to have taken the run over.
        rewrite: Gives an earlier session another content, in the store.
        clock: Gives the unix time in seconds.

    Attributes:
        run_dir: See above.
        records_at_open: The records of the sessions before.
        torn: None: there are no torn lines in a store.

    Raises:
        JournalError: What the store holds is damaged.
    """

    torn: str | None = None

    def __init__(
        self,
        url: str,
        run_dir: Path,
        writer: Writer,
        earlier: list[Segment],
        *,
        superseded: Callable[[], bool] = lambda: False,
        rewrite: Callable[[Segment, bytes], Segment] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.url = url
        self.run_dir = run_dir
        self._writer = writer
        self._earlier = earlier
        self._superseded = superseded
        self._rewrite = rewrite
        self._clock = clock
        self._copy_all()
        self.records_at_open = _records(url, run_dir, earlier)
        self._next = self._safe = len(self.records_at_open)
        self._pending: list[bytes] = []
        self._pending_since_s: float | None = None
        self._error: RaytuneHpoError | None = None
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._thread.start()

    def start_over(self) -> None:
        """Forget the records of earlier sessions: nothing of them was ever run."""
        for index, segment in enumerate(self._earlier):
            if segment.data:
                self._earlier[index] = self._replaced(segment, b"")
        self._copy_all()
        self.records_at_open, self._next, self._safe = [], 0, 0

    def replace_first(self, fields: Record, *, stored: bool = False) -> None:
        """Write the first record anew.

        Args:
            fields: The whole record.
            stored: Also in the store, for a run that was copied; else on this machine only.
        """
        index = next(i for i, segment in enumerate(self._earlier) if segment.data)
        segment = self._earlier[index]
        data = journal.encode(fields) + segment.data[segment.data.find(b"\n") + 1 :]
        changed = self._replaced(segment, data) if stored else replace(segment, data=data)
        self._earlier[index] = changed
        self._copy_all()
        self.records_at_open[0] = fields

    def append(self, type: str, **fields: Any) -> Record:
        """Keep one record for the store and return it.

        Raises:
            StoreError: The store did not take what came before.
            RunLockedError: Another driver has taken the run over.
        """
        with self._changed:
            self._check()
            record = {"n": self._next, "t": self._clock(), "type": type, **fields}
            line = journal.encode(record)
            failpoints.reach("journal.append")
            self._pending.append(line)
            if self._pending_since_s is None:
                self._pending_since_s = time.monotonic()
            self._next += 1
            self._earlier.clear()
        failpoints.reach("journal.written")
        if type == "experiment":
            place.mark(self.run_dir, self.url, str(fields["id"]))
        return record

    def begin_sync(self) -> Callable[[], bool]:
        """Have all records so far brought to the store, and return what tells whether they are.

        Raises:
            StoreError: The store did not take what came before.
            RunLockedError: Another driver has taken the run over.
        """
        with self._changed:
            self._check()
            wanted = self._next
            self._changed.notify_all()
        return lambda: self._safe >= wanted

    def sync(self) -> None:
        """Return when the store has all records; only after it may anybody be told so.

        Raises:
            StoreError: The store does not take them.
            RunLockedError: Another driver has taken the run over.
        """
        with self._changed:
            wanted = self._next
            self._changed.notify_all()
            while self._safe < wanted:
                self._check()
                self._changed.wait(_LOOK_S)
            self._check()

    @property
    def session(self) -> int:
        """Number of this driver's session in the store."""
        return self._writer.session

    @property
    def keeps_up(self) -> bool:
        """Whether the store takes what comes; while it does not, no more should be begun."""
        since_s = self._pending_since_s
        return since_s is None or time.monotonic() - since_s < _BEHIND_S

    def close(self) -> None:
        """Bring what is left to the store, if it takes it within seconds."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(_LAST_S)

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
        if self._superseded():
            raise segments.superseded(self.url)

    def _work(self) -> None:
        """Bring batch after batch to the store, until this journal is closed or one fails."""
        try:
            while (batch := self._next_batch()) is not None:
                lines, number = batch
                self._bring(b"".join(lines))
                with self._changed:
                    self._safe = number
                    self._pending_since_s = time.monotonic() if self._pending else None
                    self._changed.notify_all()
        except BaseException as error:
            with self._changed:
                self._error = self._explained(error)
                self._changed.notify_all()

    def _next_batch(self) -> tuple[list[bytes], int] | None:
        with self._changed:
            while not self._pending and not self._closing:
                self._changed.wait()
            if not self._pending:
                return None
            lines, self._pending = self._pending, []
            return lines, self._next

    def _bring(self, batch: bytes) -> None:
        failpoints.reach("store.batch")
        self._writer.add(batch)
        failpoints.reach("store.added")
        with _local(self.run_dir, self._writer.session).open("ab") as file:
            file.write(batch)

    def _explained(self, error: BaseException) -> RaytuneHpoError:
        """Return an error of the thread as the driver is to raise it."""
        if isinstance(error, RunLockedError):
            return error
        advice = f"What was acknowledged is safe; to go on: raytune-hpo resume {self.url}"
        if isinstance(error, InfrastructureError):
            return type(error)(f"{error}. {advice}")
        what = f"{type(error).__name__}: {error}"
        return JournalError(f"{self.url}: cannot be written: {what}. {advice}")

    def _replaced(self, segment: Segment, data: bytes) -> Segment:
        if self._rewrite is None:
            raise JournalError(f"{self.url}: what is there cannot be changed")
        return self._rewrite(segment, data)

    def _copy_all(self) -> None:
        """Make the copy here hold what the store holds, and nothing else."""
        write_copy(self.run_dir, self._earlier)


def write_copy(run_dir: Path, earlier: list[Segment]) -> None:
    """Make the journal in a folder hold these sessions and nothing else."""
    folder = run_dir / journal.FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    kept = {_local(run_dir, segment.session): segment.data for segment in earlier if segment.data}
    for path in folder.iterdir():
        if path not in kept:
            path.unlink()
    for path, data in kept.items():
        draft = path.with_suffix(".part")
        draft.write_bytes(data)
        draft.replace(path)


def _local(run_dir: Path, session: int) -> Path:
    return run_dir / journal.FOLDER / f"{session:06d}.jsonl"


def _records(url: str, run_dir: Path, earlier: list[Segment]) -> list[Record]:
    if not any(segment.data for segment in earlier):
        return []
    try:
        return journal.read(run_dir)
    except JournalError as error:
        raise JournalError(f"{url}: the journal in the store is damaged: {error}") from error
