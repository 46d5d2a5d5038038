"""Who drives a run that is kept in a store: claimed sessions, signs of life, and the wish to stop.

The object that claims a session says who its driver is. Its driver writes it anew every ``BEAT_S``
seconds with a counter, so that others see that it lives. One that stands still for ``LEASE_S``
seconds may be taken over; that a driver which only slept does no harm then is for the seals of
``segments`` to see to, not for clocks.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from raytune_hpo import lock
from raytune_hpo.errors import RunLockedError, StoreError
from raytune_hpo.storage import segments
from raytune_hpo.storage.objects import Objects

BEAT_S = 5.0
LEASE_S = 25.0
STOP_KEY = "stop"
_LOOK_S = 0.5
_SKEW_S = 60.0
"""The clocks of two machines may differ by so much before ``status`` is wrong."""
_LAST_WORD_S = 5.0


class Presence:
    """The claims of one driver, and its signs of life; starts a thread when it has claimed.

    Args:
        objects: Of the run.
        on_stop: Called when somebody wants the run to stop; from the thread.

    Attributes:
        me: What tells this driver from all others.
        superseded: Whether another driver has claimed a later session.
    """

    def __init__(self, objects: Objects, on_stop: Callable[[], None] = lambda: None) -> None:
        self._objects = objects
        # A sign of life that is late is none.
        self._quick = objects.with_patience(0.0, lambda: True)
        self._on_stop = on_stop
        self._identity = lock.identity()
        self.me = str(self._identity["id"])
        self.superseded = False
        self._session = 0
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def claim(self, session: int) -> bool:
        """Claim a session; return whether it is this driver's now."""
        if not self._objects.create(segments.session_key(session), self._says(0)):
            return False
        with self._lock:
            self._session = session
        if self._thread is None:
            self._thread = threading.Thread(target=self._beat, name="presence", daemon=True)
            self._thread.start()
        return True

    def close(self) -> None:
        """Say that nobody drives the run any more."""
        self._over.set()
        if self._thread is None:
            return
        self._thread.join(_LAST_WORD_S)
        if not self.superseded:
            key = segments.session_key(self._session)
            # Without this word the next driver waits until it is clear that nobody is there.
            with contextlib.suppress(StoreError):
                self._objects.with_patience(_LAST_WORD_S).put(key, self._says(0, released=True))

    def _beat(self) -> None:
        count = 0
        while not self._over.wait(BEAT_S):
            count += 1
            try:
                self._look(count)
            except StoreError:
                # It is away; what is written to the journal waits for it.
                continue
            if self.superseded:
                return

    def _look(self, count: int) -> None:
        with self._lock:
            session = self._session
        following = content(self._quick.get(segments.session_key(session + 1)))
        self.superseded = bool(following) and following.get("id") != self.me
        if self.superseded:
            return
        self._quick.put(segments.session_key(session), self._says(count))
        if self._quick.get(STOP_KEY) is not None:
            self._on_stop()

    def _says(self, count: int, *, released: bool = False) -> bytes:
        said = {**self._identity, "beat": count, "t": time.time(), "released": released}
        return json.dumps(said).encode() + b"\n"


def wait_until_free(objects: Objects, session: int) -> None:
    """Return when nobody drives the run, as far as the last claimed session tells.

    Args:
        objects: Of the run.
        session: That was claimed last.

    Raises:
        RunLockedError: Its driver lives; says who it is.
    """
    key = segments.session_key(session)
    first = objects.get(key)
    who = content(first)
    if not who or who.get("released"):
        return
    if lock.is_here(who):
        if lock.is_alive(who):
            raise _held(objects.url, who)
        return
    name = f"process {who['pid']} on {who['host']}"
    print(f"{objects.url}: looking for {LEASE_S:g} s whether {name} still lives", file=sys.stderr)
    deadline_s = time.monotonic() + LEASE_S
    while time.monotonic() < deadline_s:
        time.sleep(min(_LOOK_S, LEASE_S / 10))
        now = objects.get(key)
        if now != first and not content(now).get("released"):
            raise _held(objects.url, content(now))
        if now != first:
            return


def holder(objects: Objects) -> dict[str, Any] | None:
    """Return host, pid and start time (unix s) of the driver that holds the run, or None.

    Read once, so for the driver of another machine it is as right as the clocks of both are.
    """
    claimed = segments.sessions(objects)
    who = content(objects.get(segments.session_key(claimed[-1]))) if claimed else {}
    if not who or who.get("released"):
        return None
    if lock.is_here(who):
        return who if lock.is_alive(who) else None
    return who if time.time() - float(who["t"]) < LEASE_S + _SKEW_S else None


def request_stop(objects: Objects) -> None:
    """Ask the driver of a run to stop; it looks every ``BEAT_S`` seconds."""
    text = f"requested by process {os.getpid()} at {time.time():.0f}\n"
    objects.put(STOP_KEY, text.encode())


def content(data: bytes | None) -> dict[str, Any]:
    """Return what the claim of a session says; nothing when there is none."""
    try:
        found = json.loads(data or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _held(url: str, who: dict[str, Any]) -> RunLockedError:
    return RunLockedError(
        f"{url}: another driver holds this run (process {who['pid']} on {who['host']}). "
        f"Wait for it, or end it with: raytune-hpo stop {url}"
    )
