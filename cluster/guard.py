"""Ends a private Ray when its driver is gone: run as a program, beside the driver.

Ray's daemons die with the driver, but workers that are just starting, and agents, go on for half a
minute. They are known by the files that they hold open in Ray's own folder, which nobody else uses.
Uses the standard library only, so that it starts at once.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence, Set
from pathlib import Path

MARK = "RAYTUNE_HPO_RAY_FOLDER"
_PATIENCE_S = 8.0
_LOOK_S = 0.1
_DONE = b"done\n"

Finder = Callable[[Path], Iterator[int]]


class Guard:
    """Starts the program; it waits until this process closes it, or is gone.

    Args:
        folder: Ray's own; removed at the end.
        more: Folders to remove when this process is gone without closing the guard.
        marked: Whether Ray's processes are known by the variable ``MARK`` that they inherit, and
            not by their files; a driver that is connected to it is then left alone.
    """

    def __init__(self, folder: Path, more: Sequence[Path] = (), *, marked: bool = False) -> None:
        words = [sys.executable, "-I", "-S", __file__, *(["--marked"] if marked else [])]
        words += [str(folder), *map(str, more)]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True)

    def close(self) -> None:
        """End what is left of Ray, and wait for it."""
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate(_DONE)
        self._process.wait()


def main(folder: Path, more: Sequence[Path], find: Finder) -> None:
    """Wait for the end of the standard input, then end all that works in a folder."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    spared = {os.getpid(), os.getppid()}
    closed = sys.stdin.buffer.read() == _DONE
    end(folder, find, spared)
    for unused in [folder, *([] if closed else more)]:
        shutil.rmtree(unused, ignore_errors=True)


def end(folder: Path, find: Finder, spared: Set[int] = frozenset()) -> None:
    """End all processes of this user that belong to a folder, but for some."""
    deadline = time.monotonic() + _PATIENCE_S
    while (left := set(find(folder)) - spared) and time.monotonic() < deadline:
        for pid in left:
            # It may have ended since.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_LOOK_S)


def users(folder: Path) -> Iterator[int]:
    """Yield the processes of this user that have a file in a folder open."""
    inside = f"{folder}{os.sep}"
    for path in _processes():
        # Processes of others may not be looked into, and any may end while one looks.
        with contextlib.suppress(OSError):
            links = [*(path / "fd").iterdir(), path / "cwd"]
            if any(str(link.readlink()).startswith(inside) for link in links):
                yield int(path.name)


def marked(folder: Path) -> Iterator[int]:
    """Yield the processes of this user that were started with a folder in the variable ``MARK``."""
    entry = f"{MARK}={folder}".encode()
    for path in _processes():
        with contextlib.suppress(OSError):
            if entry in (path / "environ").read_bytes().split(b"\0"):
                yield int(path.name)


def _processes() -> Iterator[Path]:
    return (path for path in Path("/proc").iterdir() if path.name.isdigit())


if __name__ == "__main__":
    given = sys.argv[1:]
    found = marked if given[0] == "--marked" else users
    names = given[1:] if found is marked else given
    main(Path(names[0]), [Path(name) for name in names[1:]], found)
