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
from collections.abc import Iterator, Sequence
from pathlib import Path

_PATIENCE_S = 8.0
_LOOK_S = 0.1
_DONE = b"done\n"


class Guard:
    """Starts the program; it waits until this process closes it, or is gone.

    Args:
        folder: Ray's own; removed at the end.
        more: Folders to remove when this process is gone without closing the guard.
    """

    def __init__(self, folder: Path, more: Sequence[Path] = ()) -> None:
        words = [sys.executable, "-I", "-S", __file__, str(folder), *map(str, more)]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True)

    def close(self) -> None:
        """End what is left of Ray, and wait for it."""
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate(_DONE)
        self._process.wait()


def main(folder: Path, more: Sequence[Path]) -> None:
    """Wait for the end of the standard input, then end all that works in a folder."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    spared = {os.getpid(), os.getppid()}
    closed = sys.stdin.buffer.read() == _DONE
    deadline = time.monotonic() + _PATIENCE_S
    while (left := set(_users(folder)) - spared) and time.monotonic() < deadline:
        for pid in left:
            # It may have ended since.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_LOOK_S)
    for unused in [folder, *([] if closed else more)]:
        shutil.rmtree(unused, ignore_errors=True)


def _users(folder: Path) -> Iterator[int]:
    """Yield the processes of this user that have a file in a folder open."""
    inside = f"{folder}{os.sep}"
    for path in Path("/proc").iterdir():
        if not path.name.isdigit():
            continue
        # Processes of others may not be looked into, and any may end while one looks.
        with contextlib.suppress(OSError):
            links = [*(path / "fd").iterdir(), path / "cwd"]
            if any(str(link.readlink()).startswith(inside) for link in links):
                yield int(path.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
