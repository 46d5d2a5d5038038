"""Named places where a test can have this process die, fail or wait.

The variable ``RAYTUNE_HPO_FAILPOINT=NAME:NTH:ACTION`` arms one of them: the NTH time (from 1) that
it is reached, ACTION happens: ``kill`` (SIGKILL), ``pause`` (SIGSTOP), ``exit`` (at once, code 70),
``until=FILE``, which waits for a file to be there, or ``full`` and ``broken``, which raise the
OSError of a full disk and of a dead one.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path

ENV = "RAYTUNE_HPO_FAILPOINT"
EXIT_CODE = 70
POINTS = (
    "lock.taken",
    "journal.claimed",
    "journal.append",
    "journal.torn",
    "journal.written",
    "journal.synced",
    "session.header",
    "session.begun",
    "checkpoint.draft",
    "checkpoint.saved",
)
"""All names, of a run in a folder."""
STORE_POINTS = ("store.batch", "store.added", "store.checkpoint")
"""More names, of a run in an object store."""
_ERRORS = {"full": errno.ENOSPC, "broken": errno.EIO}
_LOOK_S = 0.02
_SIGNALS = {"kill": signal.SIGKILL, "pause": signal.SIGSTOP}


class _Armed:
    """The failpoint that this process is to fail at, and how often it was reached."""

    def __init__(self, text: str) -> None:
        self.name, nth, self.action = text.split(":", 2)
        known = (*POINTS, *STORE_POINTS)
        if self.name not in known:
            raise ValueError(f"{ENV}: there is no failpoint {self.name!r}; there are {known}")
        self.left = int(nth)

    def act(self) -> None:
        """Do what was asked for."""
        kind, _, value = self.action.partition("=")
        if kind in _SIGNALS:
            os.kill(os.getpid(), _SIGNALS[kind])
        elif kind in _ERRORS:
            raise OSError(_ERRORS[kind], os.strerror(_ERRORS[kind]))
        elif kind == "until":
            while not Path(value).exists():
                time.sleep(_LOOK_S)
        elif kind == "exit":
            os._exit(EXIT_CODE)
        else:
            raise ValueError(f"{ENV}: unknown action {self.action!r}")


_armed = _Armed(os.environ[ENV]) if os.environ.get(ENV) else None


def arm(text: str) -> None:
    """Make this process fail at a point, given as in the variable.

    Raises:
        ValueError: There is no such point.
    """
    global _armed
    _armed = _Armed(text)


def is_armed(name: str) -> bool:
    """Return whether this process is to fail at that point."""
    return _armed is not None and _armed.name == name


def reach(name: str) -> None:
    """Fail here if that was asked for.

    Raises:
        OSError: When the action is ``full`` or ``broken``.
    """
    if _armed is not None and is_armed(name):
        _armed.left -= 1
        if _armed.left == 0:
            _armed.act()
