"""Which process has which of the clusters of tests on this host."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.slurm.machine import look_at

_NUMBERS = range(1, 8)  # 0 is the command line's


class Claims:
    """The clusters of one kind, by number; each has a folder.

    Args:
        base: Folder of all of them.
    """

    def __init__(self, base: Path) -> None:
        self.base = base

    def folder(self, number: int) -> Path:
        """Return the folder of a cluster."""
        return self.base / str(number)

    def claim(self, remove: Callable[[int], None]) -> int:
        """Return the number of a free cluster, this process's until it ends or `release`.

        Args:
            remove: Called for a number before it is returned: its last owner may have been killed.

        Raises:
            RuntimeError: There are seven clusters already.
        """
        with self._alone():
            for number in _NUMBERS:
                owner = self._owner_file(number)
                free = not _owned(owner) if owner.exists() else not self.folder(number).exists()
                if free:
                    remove(number)
                    owner.write_text(json.dumps(_identity(os.getpid())))
                    return number
        raise RuntimeError(f"every cluster in {self.base} is in use; `down` removes one")

    def release(self, number: int) -> None:
        """Give a claimed number back."""
        self._owner_file(number).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # others have clusters there
            self.base.rmdir()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes from claiming a cluster at the same time."""
        self.base.mkdir(parents=True, exist_ok=True)
        place = os.open(self.base, os.O_RDONLY)
        try:
            fcntl.flock(place, fcntl.LOCK_EX)
            yield
        finally:
            os.close(place)

    def _owner_file(self, number: int) -> Path:
        return self.base / f"{number}.owner"


def _owned(path: Path) -> bool:
    """Say whether the process of an owner file still runs."""
    try:
        pid, began = json.loads(path.read_text())
    except ValueError:  # its process was killed while it wrote
        return False
    return _identity(pid) == [pid, began]


def _identity(pid: int) -> list[int] | None:
    process = look_at(pid)
    return None if process is None else [process.pid, process.began]
