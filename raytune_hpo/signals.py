"""Stopping a run safely from the keyboard, a batch system or a script."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from types import FrameType
from typing import Any

SOON = signal.SIGUSR1.name
"""Says that the machines will be taken away soon, as batch systems do before a time limit."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopSignals:
    """Turns the first SIGINT or SIGTERM into a request to stop, the second into a stop.

    SIGUSR1 says that the machines will be taken away soon; any other signal after it asks to stop.

    Attributes:
        received: The first signal's name, or that of the one after SIGUSR1, or None.
        at_once: Whether already the first signal is to raise KeyboardInterrupt, while there is
            nothing yet that could be stopped in good order.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self.at_once = False
        self._before: dict[signal.Signals, Any] = {}
        self._heard, self._wakeup = os.pipe()
        os.set_blocking(self._heard, False)
        os.set_blocking(self._wakeup, False)
        self._wakeup_before: int | None = None

    def install(self) -> None:
        """Take the signals over; outside of the main thread Python cannot, and nothing is done."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _SIGNALS:
            before = signal.signal(number, self._handle)
            if before != self._handle:
                self._before.setdefault(number, before)
        if self._wakeup_before is None:
            self._wakeup_before = signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)

    def restore(self) -> None:
        """Give the signals back."""
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before.clear()
        if self._wakeup_before is not None:
            signal.set_wakeup_fd(self._wakeup_before)
            self._wakeup_before = None
        os.close(self._heard)
        os.close(self._wakeup)

    def heard(self, timeout_s: float) -> frozenset[int]:
        """Wait until one of the signals has come, for another thread, and return which have.

        A handler of Python's runs only when the main thread does; this hears of a signal also
        while that one is inside of a library.
        """
        ready, _, _ = select.select([self._heard], [], [], timeout_s)
        if not ready:
            return frozenset()
        with contextlib.suppress(BlockingIOError):
            return frozenset(os.read(self._heard, 4096)) & frozenset(_SIGNALS)
        return frozenset()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        warned = self.received == SOON
        if self.at_once or not (self.received is None or warned):
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name
