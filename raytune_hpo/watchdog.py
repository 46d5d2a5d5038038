"""Ends a driver that cannot end by itself: its Ray is gone, or will not let go of it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

from raytune_hpo import exits
from raytune_hpo.signals import StopSignals

EXIT_WITHIN_S = 9.0
"""From a signal, or from the loss of Ray, to the end of the process."""
_LOOK_S = 1.0
_POLL_S = 0.2


class Watchdog:
    """Watches from a thread over the driver's main thread, which may be inside of a library.

    The journal needs nothing at the end, so a process may be ended at any moment.

    Args:
        signals: Installed in the main thread.
        lost: Returns why what the driver depends on is gone for good, or None.
        before_exit: Ends what must not outlive the process.
        drain_s: Says how long trials may go on after SIGUSR1 until they save a checkpoint.
        advice: How to go on, in one sentence, for the last line.
        exits_process: Whether the process may be ended; not in somebody else's, such as a notebook.

    Attributes:
        reason: What ``lost`` returned, as soon as it did.
    """

    def __init__(
        self,
        signals: StopSignals,
        lost: Callable[[], str | None],
        before_exit: Callable[[], None],
        drain_s: Callable[[], float],
        advice: str,
        *,
        exits_process: bool,
    ) -> None:
        self.reason: str | None = None
        self._signals = signals
        self._lost = lost
        self._before_exit = before_exit
        self._drain_s = drain_s
        self._advice = advice
        self._exits_process = exits_process
        self._deadline_s: float | None = None
        self._code = exits.INTERRUPTED
        # The session sends its own elsewhere while Ray is at work.
        self._stderr = os.dup(2)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._over.set()
        self._thread.join()
        os.close(self._stderr)

    def _watch(self) -> None:
        next_look_s = time.monotonic()
        while not self._over.is_set():
            heard = self._signals.heard(_POLL_S)
            if heard:
                soon = heard == {signal.SIGUSR1}
                self._begin_deadline(exits.INTERRUPTED, self._drain_s() if soon else 0.0)
            now = time.monotonic()
            if now >= next_look_s and self.reason is None:
                next_look_s = now + _LOOK_S
                self.reason = self._lost()
                if self.reason is not None:
                    self._begin_deadline(exits.INFRASTRUCTURE)
            if self._deadline_s is not None and now > self._deadline_s and self._exits_process:
                self._exit()

    def _begin_deadline(self, code: int, more_s: float = 0.0) -> None:
        deadline_s = time.monotonic() + EXIT_WITHIN_S + more_s
        if self._deadline_s is None or deadline_s < self._deadline_s:
            self._deadline_s = deadline_s
            self._code = code

    def _exit(self) -> None:
        try:
            self._before_exit()
            show_cursor = "\x1b[?25h" if os.isatty(self._stderr) else ""
            what = self.reason or "interrupted while Ray did not answer"
            text = f"{show_cursor}{what}. Nothing is lost; {self._advice}\n"
            os.write(self._stderr, text.encode())
        finally:
            os._exit(self._code)
