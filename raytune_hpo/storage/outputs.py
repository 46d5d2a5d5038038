"""What trials and drivers write, brought to the store of their run while they write it.

A store knows no appending, so each addition is an object of its own, named by the byte that it
begins at: ``output/0007/001-1790000000000-a1b2/stdout.log/000000004096``. Attempts have names of
their own, in the order of time, so that one which outlives its driver does not write into another.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from raytune_hpo.errors import StoreError
from raytune_hpo.storage.objects import Objects

FOLDER = "output"
DRIVER = "driver"
"""In place of a trial's number: what drivers wrote."""
_FIRST_WAIT_S = 2.0
_LONGEST_WAIT_S = 30.0
_LAST_PATIENCE_S = 10.0
_MOST_BYTES = 8 * 1024 * 1024
"""Of one object."""


class Uploader:
    """Brings what is added to some files to the store now and then, until it is closed.

    Output is not what a run depends on: when the store is away it waits for the next time, and in
    the end is given up.

    Args:
        objects: Of the run.
        owner: Whose output it is: a trial's number in four digits, or ``driver``.
        number: Of the attempt, or of the session.
        folder: With the files.
        names: Of the files; those that are not there yet may come.
    """

    def __init__(
        self, objects: Objects, owner: str, number: int, folder: Path, names: Iterable[str]
    ) -> None:
        self._objects = objects.with_patience(0.0)
        self._last = objects.with_patience(_LAST_PATIENCE_S)
        stamp = f"{number:03d}-{int(time.time() * 1000):013d}-{secrets.token_hex(2)}"
        self._prefix = f"{FOLDER}/{owner}/{stamp}"
        # What was there before is of others.
        self._begins = {folder / name: _size(folder / name) for name in names}
        self._done = dict(self._begins)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="output", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Bring the rest to the store, if it takes it within seconds."""
        self._over.set()
        self._thread.join(_LAST_PATIENCE_S)
        if not self._thread.is_alive():
            self._bring(self._last)

    def _work(self) -> None:
        wait_s = _FIRST_WAIT_S
        while not self._over.wait(wait_s):
            self._bring(self._objects)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)

    def _bring(self, objects: Objects) -> None:
        for path in self._done:
            with contextlib.suppress(StoreError, FileNotFoundError):
                self._bring_file(objects, path)

    def _bring_file(self, objects: Objects, path: Path) -> None:
        while _size(path) > self._done[path]:
            with path.open("rb") as file:
                file.seek(self._done[path])
                piece = file.read(_MOST_BYTES)
            begin = self._done[path] - self._begins[path]
            objects.put(f"{self._prefix}/{path.name}/{begin:012d}", piece)
            self._done[path] += len(piece)


def owner_of(trial: int | None) -> str:
    """Return whose output that of a trial is, or of the drivers with None."""
    return DRIVER if trial is None else f"{trial:04d}"


def owners(objects: Objects, name: str) -> list[str]:
    """Return whose output of a name there is."""
    keys = (key.split("/") for key in objects.list(FOLDER))
    return sorted({parts[1] for parts in keys if len(parts) == 5 and parts[3] == name})


class Reader:
    """Brings what a trial or the drivers wrote here, and what is added to it.

    Args:
        objects: Of the run.
        owner: See ``Uploader``.
        path: The file here, by the name that it had there; it is written anew.
    """

    def __init__(self, objects: Objects, owner: str, path: Path) -> None:
        self._objects = objects
        self._folder = f"{FOLDER}/{owner}"
        self._path = path
        self._done: set[str] = set()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")

    def pull(self) -> bool:
        """Add what has come; return whether there is anything at all."""
        keys = self._objects.list(self._folder)
        new = [key for key in keys if self._is_mine(key) and key not in self._done]
        pieces = self._objects.get_all(new)
        with self._path.open("ab") as file:
            for key, piece in zip(new, pieces, strict=True):
                file.write(piece or b"")
                self._done.add(key)
        return bool(self._done)

    def _is_mine(self, key: str) -> bool:
        return key.split("/")[-2] == self._path.name


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
