"""Where a run is at home, for its driver: a folder that all machines see, or an object store."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Protocol

from raytune_hpo import checkpoints, journal, lock, relocation, trust
from raytune_hpo.attempt import trial_dir
from raytune_hpo.errors import JournalError, RunError, RunLockedError, StoreError
from raytune_hpo.journal import Journal, Record
from raytune_hpo.runs import STOP_FILE
from raytune_hpo.state import RunState
from raytune_hpo.storage import checkpoints as stored
from raytune_hpo.storage import objects, outputs, place, presence, segments
from raytune_hpo.storage.journal import StoreJournal
from raytune_hpo.storage.keeper import settle
from raytune_hpo.storage.objects import Objects
from raytune_hpo.storage.presence import Presence
from raytune_hpo.storage.segments import Segment, Writer

_LOGS = ("driver.log", "mlflow.log")
_TRACKED = "mlflow.json"
_LOOK_S = 10.0
"""So long another store is waited for."""

Log = Journal | StoreJournal
Note = Callable[[str], None]


class Home(Protocol):
    """What a driver asks of the place where its run is kept.

    Attributes:
        run_dir: Folder of the run on this machine.
        url: Of the run in a store, or None.
    """

    run_dir: Path
    url: str | None

    def exists(self) -> bool:
        """Return whether there is a run, be it one that never began."""
        ...

    def is_taken(self) -> bool:
        """Return whether a new run cannot have this place."""
        ...

    def check_trust(self) -> None:
        """Refuse a run that somebody else may have written."""

    def held(self, note: Note) -> AbstractContextManager[Log]:
        """Hold the run for this driver, and give its journal.

        Args:
            note: Told in a sentence what a person should know meanwhile.

        Raises:
            RunLockedError: Another driver holds it.
            JournalError: The journal is damaged.
        """
        ...

    def has_checkpoint(self, path: str) -> bool:
        """Return whether a checkpoint, by its path in the journal, still is there."""
        ...

    def copy_checkpoint(self, path: str, trial: int) -> str | None:
        """Copy a checkpoint to another trial; return its path, or None if it was deleted."""
        ...


def of(run: str | os.PathLike[str], folder: Path | None = None) -> Home:
    """Return the home of a run.

    Args:
        run: Its URL, its folder, or a folder that is a copy of what a store holds.
        folder: Where the experiment lies here, when that is known.
    """
    url = str(run) if place.is_url(run) else place.url_of(Path(run))
    return InFolder(Path(run)) if url is None else InStore(url, folder)


class InFolder:
    """A run in a folder that all its machines see. Attributes and methods as in ``Home``."""

    url: str | None = None

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir.absolute()

    def exists(self) -> bool:
        """See ``Home``."""
        return journal.exists(self.run_dir)

    def is_taken(self) -> bool:
        """See ``Home``."""
        return self.run_dir.exists()

    def check_trust(self) -> None:
        """See ``Home``."""
        trust.check(self.run_dir)

    @contextlib.contextmanager
    def held(self, note: Note) -> Iterator[Log]:
        """See ``Home``."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        held = lock.RunLock(self.run_dir)
        try:
            moved = relocation.settle(self.run_dir) if self.exists() else None
            log = Journal(self.run_dir)
            try:
                for text in (moved, log.torn):
                    if text is not None:
                        print(text, file=sys.stderr)
                yield log
            finally:
                log.close()
        finally:
            held.release()

    def has_checkpoint(self, path: str) -> bool:
        """See ``Home``."""
        return (self.run_dir / path).exists()

    def copy_checkpoint(self, path: str, trial: int) -> str | None:
        """See ``Home``."""
        copied = checkpoints.copy(self.run_dir / path, trial_dir(self.run_dir, trial))
        return None if copied is None else str(copied.relative_to(self.run_dir))


class InStore:
    """A run in an object store. Attributes and methods as in ``Home``.

    Who can write to the store can say what is executed; that is for the store's own rights.

    Args:
        url: Of the run.
        folder: Where the experiment lies here, when that is known.
    """

    def __init__(self, url: str, folder: Path | None = None) -> None:
        self.url: str | None = place.tidy(url)
        self.run_dir = place.working_copy(url)
        self._at = place.tidy(url)
        self._folder = folder
        self._over = threading.Event()
        self._objects: Objects | None = None

    def exists(self) -> bool:
        """See ``Home``."""
        return bool(segments.sessions(self._there()))

    def is_taken(self) -> bool:
        """See ``Home``."""
        return self.exists()

    def check_trust(self) -> None:
        """See ``Home``."""

    @contextlib.contextmanager
    def held(self, note: Note) -> Iterator[Log]:
        """See ``Home``."""
        self._over.clear()
        self._objects = objects.open_at(self._at, note=note, given_up=self._over.is_set)
        held = Presence(self._objects, lambda: (self.run_dir / STOP_FILE).touch())
        try:
            log = self._taken(self._objects, held)
            output = outputs.Uploader(
                self._objects, outputs.DRIVER, log.session, self.run_dir, _LOGS
            )
            try:
                yield log
            finally:
                log.close()
                output.close()
        finally:
            self._over.set()
            held.close()
            self._objects = None

    def has_checkpoint(self, path: str) -> bool:
        """See ``Home``."""
        return stored.exists(self._there(), path)

    def copy_checkpoint(self, path: str, trial: int) -> str | None:
        """See ``Home``."""
        target = f"trials/{trial:04d}/{checkpoints.FOLDER}/000-000001"
        return target if stored.copy(self._there(), path, target) else None

    def _there(self) -> Objects:
        if self._objects is None:
            return objects.open_at(self._at)
        return self._objects

    def _taken(self, there: Objects, held: Presence) -> StoreJournal:
        """Take the run over from whoever had it, and return its journal."""
        claimed = segments.sessions(there)
        # Not for what this process starts in its turn.
        successor = os.environ.pop(lock.SUCCESSOR_ENV, None)
        if claimed and not successor:
            presence.wait_until_free(there, claimed[-1])
        own = claimed[-1] + 1 if claimed else 1
        if not held.claim(own):
            raise RunLockedError(f"{self._at}: another driver claims this run at this moment")
        _check_creates(there, own)
        there.delete([presence.STOP_KEY])
        earlier = [segments.seal(there, Segment(number), held.me) for number in claimed]
        self._settle(there, earlier)
        log = StoreJournal(
            self._at,
            self.run_dir,
            Writer(there, own, held.me, held.claim),
            earlier,
            superseded=lambda: held.superseded,
            rewrite=partial(segments.rewrite, there),
        )
        self._make_at_home(log)
        return log

    def _settle(self, there: Objects, earlier: list[Segment]) -> None:
        """Make the folder here one for this run and no other.

        Raises:
            JournalError: There is no journal where trials ran.
        """
        first = next((segment.data for segment in earlier if segment.data), None)
        if first is None and there.list("trials"):
            raise JournalError(
                f"{self._at}: holds no journal, though trials ran here. Put the journal back from "
                "a backup, or give the new run another name: --name OTHER"
            )
        header = None if first is None else journal.decode(first[: first.find(b"\n")])
        settle(self.run_dir, self._at, None if header is None else str(header["id"]))

    def _make_at_home(self, log: StoreJournal) -> None:
        """Let a run that was copied or moved, or that goes on on another machine, find itself."""
        if not log.records_at_open:
            return
        state = RunState.replay(log.records_at_open)
        if state.sessions and state.sessions[-1].run_dir != self._at:
            note = self._moved(log, state)
            print(note, file=sys.stderr)
        header = log.records_at_open[0]
        if not Path(header["folder"]).is_dir():
            folder = self._folder
            if folder is None:
                raise RunError(
                    f"{self._at}: the experiment's folder {header['folder']} is not on this "
                    "machine. Go on from where the experiment is: raytune-hpo run FILE --resume"
                )
            log.replace_first({**header, "folder": str(folder), "cwd": str(Path.cwd())})

    def _moved(self, log: StoreJournal, state: RunState) -> str:
        """Make a copy a run of its own; return what was found."""
        before = state.sessions[-1].run_dir
        if not _is_still_there(before, state.id):
            return f"this run was moved here from {before}"
        header = {**log.records_at_open[0], "id": uuid.uuid4().hex, "copy_of": state.id}
        log.replace_first(header, stored=True)
        (self.run_dir / _TRACKED).unlink(missing_ok=True)
        place.mark(self.run_dir, self._at, str(header["id"]))
        return f"this is a copy of {before}; it goes on as a run of its own"


def _check_creates(there: Objects, session: int) -> None:
    """Raise StoreError when a store overwrites what was to be created only."""
    if there.create(segments.session_key(session), b"{}"):
        raise StoreError(
            f"{there.url}: this store overwrites an object that is to be created only "
            "(it takes no notice of If-None-Match), so two drivers could write at once. Use a "
            "newer version of it, another store, or a folder that all machines see"
        )


def _is_still_there(url: str, run_id: str) -> bool:
    """Return whether there is a run at a URL, or may be; a copy must never touch its original."""
    if not place.is_url(url) or place.trouble(url) is not None:
        return False
    try:
        there = objects.open_at(url, patience=_LOOK_S)
        first = next((one.data for one in segments.read_all(there) if one.data), b"")
    except StoreError:
        return True
    header: Record | None = journal.decode(first[: first.find(b"\n")])
    return header is not None and header.get("id") == run_id
