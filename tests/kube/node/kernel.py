"""System calls for the programs that set a container up; needs the standard library only."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
from pathlib import Path

NEW_MOUNTS = 0x00020000
NEW_PIDS = 0x20000000
RDONLY = 1
REMOUNT = 32
BIND = 4096
RECURSIVE = 16384
PRIVATE = 1 << 18
DETACH = 2
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_PARENT_DEATH_SIGNAL = 1
_LIBRARY = ctypes.CDLL(None, use_errno=True)


def leave(spaces: int) -> None:
    """Enter new namespaces; that of processes is the next child's, as its process 1."""
    _check(_LIBRARY.unshare(spaces), "unshare")


def die_with_parent() -> None:
    """Have this process be killed when its parent ends."""
    _check(_LIBRARY.prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL), "prctl")


def mount(
    source: str | Path, target: str | Path, kind: str, flags: int = 0, data: str = ""
) -> None:
    """Mount a file system, or bind a folder or file to a second place."""
    words = (str(source).encode(), str(target).encode(), kind.encode())
    code = _LIBRARY.mount(*words, ctypes.c_ulong(flags), data.encode() or None)
    _check(code, f"mount {source} on {target}")


def bind(source: str | Path, target: str | Path, *, read_only: bool = False) -> None:
    """Make a folder or file, with what is mounted below it, appear in a second place."""
    mount(source, target, "", BIND | RECURSIVE)
    if read_only:
        mount("", target, "", BIND | REMOUNT | RDONLY)


def change_root(new: Path, old: str) -> None:
    """Make a folder the root; the old root is then below it under that name."""
    Path(new, old).mkdir(exist_ok=True)
    number = ctypes.c_long(_PIVOT_ROOT[platform.machine()])
    _check(
        _LIBRARY.syscall(number, str(new).encode(), str(new / old).encode()), f"pivot_root {new}"
    )
    os.chdir("/")


def unmount(target: str | Path) -> None:
    """Take a file system out of sight; it ends with its last user."""
    _check(_LIBRARY.umount2(str(target).encode(), DETACH), f"umount {target}")


def _check(code: int, what: str) -> None:
    if code:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
