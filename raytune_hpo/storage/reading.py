"""Looking at a run that is kept in a store: its journal and its output, copied here on demand."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from raytune_hpo import journal
from raytune_hpo.errors import JournalError, RunError
from raytune_hpo.storage import objects, outputs, place, presence, segments
from raytune_hpo.storage.objects import Objects
from raytune_hpo.storage.segments import Segment

PATIENCE_S = 15.0
_STATE = "copied.json"
_EVERY_S = 2.0
_TRIES = 3


@dataclass(frozen=True)
class _Known:
    """What is here of a session.

    Attributes:
        session: Its number.
        size: Bytes.
        records: Lines.
        following: Number of the batch to look for next.
        sealed: Whether this is all.
    """

    session: int
    size: int = 0
    records: int = 0
    following: int = 1
    sealed: bool = False


def open_run(url: str) -> Objects:
    """Return the objects of a run, for somebody at a screen, who does not wait for long."""
    return objects.open_at(url, patience=PATIENCE_S)


def pull(url: str) -> Path:
    """Bring what a run's journal has more than the copy here, and return the copy's folder.

    Raises:
        RunError: There is no run at that URL.
        JournalError: What is there is damaged.
        StoreError: The store does not give it.
    """
    folder = place.reading_copy(url)
    there = open_run(url)
    with _exclusive(folder):
        for _ in range(_TRIES):
            first = there.get(segments.session_key(1))
            if first is None:
                raise RunError(f"{there.url}: there is no run here (no journal)")
            began = str(presence.content(first).get("id"))
            known = _extended(there, folder, _load(folder, began))
            if _is_whole(folder, known):
                _save(folder, began, known)
                place.mark(folder, url)
                if not any(one.records for one in known):
                    raise RunError(f"{there.url}: the run has not begun, or was given up before")
                return folder
            shutil.rmtree(folder / journal.FOLDER, ignore_errors=True)
            _save(folder, began, [])
    raise JournalError(f"{there.url}: the journal in the store is damaged")


def holder(url: str) -> dict[str, Any] | None:
    """Return host, pid and start time of the driver that holds a run, or None."""
    return presence.holder(open_run(url))


def request_stop(url: str) -> None:
    """Ask the driver of a run to stop safely."""
    presence.request_stop(open_run(url))


def output(
    url: str, trial: int | None, name: str, over: Callable[[], bool] | None
) -> tuple[Path, Callable[[], bool] | None]:
    """Bring what a trial wrote here; return the file, and what tells that it will not grow.

    Args:
        url: Of the run.
        trial: Its number, or None for what drivers wrote.
        name: Of the file.
        over: Tells from the copy of the journal whether there will be no more; None to stop at
            the end.

    Raises:
        RunError: There is no such output.
    """
    owner = outputs.owner_of(trial)
    there = open_run(url)
    path = place.reading_copy(url) / outputs.FOLDER / owner / name
    reader = outputs.Reader(there, owner, path)
    if not reader.pull():
        raise RunError(_nothing(there, trial, name))
    if over is None:
        return path, None
    looked_s = 0.0

    def is_over() -> bool:
        nonlocal looked_s
        if time.monotonic() - looked_s < _EVERY_S:
            return False
        looked_s = time.monotonic()
        pull(url)
        ended = over()
        reader.pull()
        return ended

    return path, is_over


def _nothing(there: Objects, trial: int | None, name: str) -> str:
    if trial is None:
        return f"{there.url}: there is no {name}; Ray has not been started yet"
    others = [owner for owner in outputs.owners(there, name) if owner.isdigit()]
    known = "no trial has written anything yet"
    if others:
        known = f"trials with output: {int(others[0])} to {int(others[-1])}"
    return f"trial {trial} has no {name}; {known}"


def _extended(there: Objects, folder: Path, known: list[_Known]) -> list[_Known]:
    """Add to the copy what has come; return what is here then."""
    by_number = {one.session: one for one in known}
    every = [by_number.get(n, _Known(n)) for n in segments.sessions(there)]
    every = [_read_on(there, folder, one) for one in every]
    # A record of a later session is a sign that those before have all they will ever have.
    last = max((i for i, one in enumerate(every) if one.records), default=0)
    return [_read_on(there, folder, one) for one in every[:last]] + every[last:]


def _read_on(there: Objects, folder: Path, known: _Known) -> _Known:
    if known.sealed:
        return known
    segment = segments.read_on(there, Segment(known.session, following=known.following))
    path = folder / journal.FOLDER / f"{known.session:06d}.jsonl"
    if segment.data:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("r+b" if path.exists() else "wb") as file:
            # What a reader that was killed has left.
            file.truncate(known.size)
            file.seek(known.size)
            file.write(segment.data)
    return replace(
        known,
        size=known.size + len(segment.data),
        records=known.records + segment.data.count(b"\n"),
        following=segment.following,
        sealed=segment.sealed,
    )


def _is_whole(folder: Path, known: list[_Known]) -> bool:
    """Return whether the sessions here follow one another, and are all that is here."""
    count = 0
    names = set()
    for one in known:
        if not one.records:
            continue
        path = folder / journal.FOLDER / f"{one.session:06d}.jsonl"
        names.add(path)
        if not path.is_file() or path.stat().st_size < one.size:
            return False
        with path.open("rb") as file:
            first = journal.decode(file.readline().rstrip(b"\n"))
        if first is not None and first["n"] != count:
            return False
        count += one.records
    return set(folder.joinpath(journal.FOLDER).glob("*.jsonl")) <= names


def _load(folder: Path, began: str) -> list[_Known]:
    """Return what is here of a run.

    Args:
        folder: The copy.
        began: Who began the run; a copy of one that was deleted since is of no use.
    """
    try:
        content = json.loads((folder / _STATE).read_text())
    except (FileNotFoundError, ValueError):
        content = {}
    if content.get("began") == began:
        return [_Known(**one) for one in content["sessions"]]
    shutil.rmtree(folder / journal.FOLDER, ignore_errors=True)
    return []


def _save(folder: Path, began: str, known: list[_Known]) -> None:
    draft = folder / f".{_STATE}"
    content = {"began": began, "sessions": [asdict(one) for one in known]}
    draft.write_text(json.dumps(content))
    draft.replace(folder / _STATE)


@contextlib.contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Keep other readers on this machine from the same copy."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
