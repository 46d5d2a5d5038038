"""One driver at a time for a run directory.

The holder has the file ``lock`` open under an advisory lock of the kernel, which ends with it, and
says in it who it is. Where the file system knows no such locks, or knows them on each machine for
itself, the file's counter tells: its holder raises it every ``BEAT_S`` seconds, and one that does
not move for ``LEASE_S`` seconds, or whose process is gone, is free to be taken. That a holder which
only slept can do no harm afterwards is not this module's concern but the journal's segments'.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from raytune_hpo import failpoints
from raytune_hpo.errors import RunLockedError

FILE_NAME = "lock"
BEAT_S = 2.0
LEASE_S = 10.0
SUCCESSOR_ENV = "RAYTUNE_HPO_SUCCESSOR"
"""Set for a driver that a batch system has started in the place of the one that held the run."""
_LOOK_S = 0.2
_NO_LOCKS = frozenset(
    {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM, errno.EIO}
)
"""What a file system answers that has no locks."""


class RunLock:
    """The right to drive a run.

    Args:
        run_dir: Directory of the run.

    Raises:
        RunLockedError: Another process holds it; says who.
    """

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / FILE_NAME
        self._me = identity()
        # Not for what this process starts in its turn.
        if os.environ.pop(SUCCESSOR_ENV, None):
            self._fd = _replaced(self._path, self._me)
        else:
            self._fd = self._taken(run_dir)
        self._write(0)
        failpoints.reach("lock.taken")
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lock", daemon=True)
        self._thread.start()

    def _taken(self, run_dir: Path) -> int:
        """Return the open lock file, locked.

        Raises:
            RunLockedError: See the class.
        """
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            locked = _acquire(fd)
            if locked is False or _is_held(self._path, _content(fd), locked is True):
                raise RunLockedError(_held(run_dir, _content(fd)))
        except BaseException:
            os.close(fd)
            raise
        return fd

    def release(self) -> None:
        """Free the lock."""
        self._released.set()
        self._thread.join()
        if _content(self._fd).get("id") == self._me["id"]:
            os.ftruncate(self._fd, 0)
        os.close(self._fd)

    def _beat(self) -> None:
        count = 0
        while not self._released.wait(BEAT_S):
            # Another one has taken it over: it is not ours to write any more.
            if _content(self._fd).get("id") != self._me["id"]:
                return
            count += 1
            self._write(count)

    def _write(self, count: int) -> None:
        """Say who holds it; the length stays the same, so that a full disk does no harm."""
        text = json.dumps({**self._me, "beat": f"{count:012d}"}).encode()
        os.pwrite(self._fd, text, 0)
        os.ftruncate(self._fd, len(text))


def holder(run_dir: Path) -> dict[str, Any] | None:
    """Return host, pid and start time (unix s) of the driver that holds the run, or None."""
    path = run_dir / FILE_NAME
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        content = _content(fd)
        if not content:
            return None
        locked = try_lock(fd, fcntl.LOCK_SH)
        if locked is False:
            return content
        if is_here(content):
            return content if locked is None and is_alive(content) else None
        fresh = time.time() - path.stat().st_mtime < LEASE_S
        return content if fresh else None
    finally:
        os.close(fd)


def _replaced(path: Path, me: dict[str, Any]) -> int:
    """Put another lock file in the place of the one that is there, whoever holds that.

    A driver that still holds the old one, on a machine that the batch system has given up, is kept
    from the run by the journal's segments.
    """
    draft = path.with_name(f"{path.name}.{me['id']}")
    fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    try_lock(fd, fcntl.LOCK_EX)
    draft.replace(path)
    return fd


def _acquire(fd: int) -> bool | None:
    """Take the kernel's lock; several tries, since ``holder`` takes it for an instant to look.

    Returns:
        Whether it was taken; None where the file system has no locks.
    """
    for _ in range(5):
        taken = try_lock(fd, fcntl.LOCK_EX)
        if taken is not False:
            return taken
        time.sleep(0.05)
    return False


def try_lock(fd: int, kind: int) -> bool | None:
    """Try to lock an open file.

    Args:
        fd: The file.
        kind: ``fcntl.LOCK_EX`` or ``fcntl.LOCK_SH``.

    Returns:
        Whether it was locked; None where the file system has no locks.
    """
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise
    return True


def _is_held(path: Path, content: dict[str, Any], locked: bool) -> bool:
    """Return whether the holder that a lock file names still is at work; may wait to see."""
    if not content:
        return False
    if is_here(content):
        return not locked and is_alive(content)
    who = f"process {content['pid']} on {content['host']}"
    print(f"{path.parent}: looking for {LEASE_S:g} s whether {who} still lives", file=sys.stderr)
    deadline = time.monotonic() + LEASE_S
    while time.monotonic() < deadline:
        # Opened anew: only then do network file systems look at the server.
        fd = os.open(path, os.O_RDONLY)
        now = _content(fd)
        os.close(fd)
        if now != content:
            return bool(now)
        time.sleep(_LOOK_S)
    return False


def identity() -> dict[str, Any]:
    """Return what tells this process, now, from all others."""
    return {
        "id": os.urandom(8).hex(),
        "host": socket.gethostname(),
        "boot": _boot(),
        "pid": os.getpid(),
        "started": started(os.getpid()),
        "since": time.time(),
    }


def _boot() -> str:
    """Return what tells this boot of this machine, and this container, from all others."""
    namespace = Path("/proc/self/ns/pid").readlink()
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {namespace}"


def started(pid: int) -> int:
    """Return a process's start time in clock ticks since the boot; 0 when there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return 0
    fields = stat.rpartition(b")")[2].split()
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def is_here(content: dict[str, Any]) -> bool:
    """Return whether a process, by its ``identity``, is of this machine since its last boot."""
    return content.get("host") == socket.gethostname() and content.get("boot") == _boot()


def is_alive(content: dict[str, Any]) -> bool:
    """Return whether a process of this machine, by its ``identity``, still is there."""
    seen = started(int(content["pid"]))
    return seen != 0 and seen == content["started"]


def _content(fd: int) -> dict[str, Any]:
    """Return what the lock file says; nothing when it is free."""
    text = os.pread(fd, 4096, 0)
    if not text:
        return {}
    unknown = {"host": "unknown", "pid": 0, "since": 0.0}
    try:
        content = json.loads(text)
    except ValueError:
        return unknown
    return content if isinstance(content, dict) else unknown


def _held(run_dir: Path, who: dict[str, Any]) -> str:
    who = who or {"host": "unknown", "pid": 0}
    return (
        f"{run_dir}: another driver holds this run (process {who['pid']} on {who['host']}). "
        f"Wait for it, or end it with: raytune-hpo stop {run_dir}"
    )
