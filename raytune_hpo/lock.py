"""One driver at a time for a run directory."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from raytune_hpo.errors import RunLockedError

FILE_NAME = "lock"


class RunLock:
    """An advisory lock on a run directory; the kernel frees it when its holder dies.

    Args:
        run_dir: Directory of the run.

    Raises:
        RunLockedError: Another process holds it; says who.
    """

    def __init__(self, run_dir: Path) -> None:
        self._fd = os.open(run_dir / FILE_NAME, os.O_RDWR | os.O_CREAT, 0o644)
        if not _acquire(self._fd):
            os.close(self._fd)
            raise RunLockedError(_held(run_dir))
        me = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, json.dumps(me).encode(), 0)

    def release(self) -> None:
        """Free the lock."""
        os.ftruncate(self._fd, 0)
        os.close(self._fd)


def _acquire(fd: int) -> bool:
    """Take the lock; several tries, since ``holder`` takes it for an instant to look."""
    for _ in range(5):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.05)
        else:
            return True
    return False


def holder(run_dir: Path) -> dict[str, Any] | None:
    """Return host, pid and start time (unix s) of the driver that holds the run, or None."""
    try:
        fd = os.open(run_dir / FILE_NAME, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _content(fd)
    finally:
        os.close(fd)
    return None


def _content(fd: int) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(os.pread(fd, 4096, 0))
    except ValueError:
        return {"host": "unknown", "pid": 0, "since": 0.0}
    return content


def _held(run_dir: Path) -> str:
    who = holder(run_dir) or {"host": "unknown", "pid": 0}
    return (
        f"{run_dir}: another driver holds this run (process {who['pid']} on {who['host']}). "
        f"Wait for it, or end it with: raytune-hpo stop {run_dir}"
    )
