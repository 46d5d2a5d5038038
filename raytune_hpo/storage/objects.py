"""Objects below one URL of a store: each call is tried until it works, or for a bounded time."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

from raytune_hpo.errors import StoreError
from raytune_hpo.storage.failures import Kind, kind_of, reason_of

PATIENCE_ENV = "RAYTUNE_HPO_STORAGE_PATIENCE"
"""Seconds that a store may be away before a driver gives up."""
PATIENCE_S = 600.0
_REFUSED_PATIENCE_S = 60.0
"""What worked before may be refused for so long: keys are renewed, rights take effect late."""
_FIRST_WAIT_S = 0.1
_LONGEST_WAIT_S = 5.0
_NOTE_AFTER_S = 5.0
_AT_ONCE = 16
"""Requests at the same time, where many objects are read."""

T = TypeVar("T")


class Missing(Exception):
    """There is no such object."""


class Exists(Exception):
    """There is such an object already."""


class Backend(Protocol):
    """A store's calls, each tried once; they raise what the store's library raises."""

    def get(self, key: str) -> bytes:
        """Return an object."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Write an object, whether there is one or not."""

    def create(self, key: str, data: bytes) -> None:
        """Write an object if there is none of that name; the store itself decides."""

    def delete(self, keys: list[str]) -> None:
        """Delete objects."""

    def list(self, folder: str) -> list[str]:
        """Return the keys of all objects below a folder."""
        ...

    def upload(self, path: Path, key: str) -> None:
        """Write an object with the content of a file."""

    def download(self, key: str, path: Path) -> None:
        """Write a file with the content of an object."""

    def copy(self, source: str, target: str) -> None:
        """Copy an object within the store."""


def patience_s() -> float:
    """Return how long a store may be away before a driver gives up, in seconds."""
    return float(os.environ.get(PATIENCE_ENV) or PATIENCE_S)


class Objects:
    """The objects below one URL, by keys relative to it.

    Args:
        url: Of the folder that the keys are relative to, without secrets.
        backend: Makes the calls.
        patience: How long the store may be away before a call fails, in seconds.
        note: Told in a sentence when the store is away for long, and when it is back.
        given_up: Whether nobody waits for the answer any more.
        sleep: Waits.
    """

    def __init__(
        self,
        url: str,
        backend: Backend,
        *,
        patience: float | None = None,
        note: Callable[[str], None] = lambda text: None,
        given_up: Callable[[], bool] = lambda: False,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = url
        self._backend = backend
        self._patience_s = patience_s() if patience is None else patience
        self._note = note
        self._given_up = given_up
        self._sleep = sleep
        self._worked: set[str] = set()
        self._lock = threading.Lock()
        self._away = False

    def with_patience(
        self, patience: float, given_up: Callable[[], bool] = lambda: False
    ) -> Objects:
        """Return the same objects, for somebody who waits for another time."""
        return Objects(
            self.url, self._backend, patience=patience, given_up=given_up, sleep=self._sleep
        )

    def get(self, key: str) -> bytes | None:
        """Return an object, or None when there is none.

        Raises:
            StoreError: The store does not give it.
        """
        try:
            return self._call("read", lambda: self._backend.get(key))
        except Missing:
            return None

    def get_all(self, keys: Iterable[str]) -> list[bytes | None]:
        """Return several objects, of which some are asked for at the same time."""
        wanted = list(keys)
        if len(wanted) < 2:
            return [self.get(key) for key in wanted]
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="objects") as threads:
            return list(threads.map(self.get, wanted))

    def put(self, key: str, data: bytes) -> None:
        """Write an object, whether there is one or not.

        Raises:
            StoreError: The store does not take it.
        """
        self._write(lambda: self._backend.put(key, data))

    def create(self, key: str, data: bytes) -> bool:
        """Write an object if there is none of that name.

        A try whose answer was lost may have made the object: the one that is there then is ours if
        it has our content, so that content has to be unlike everybody else's.

        Returns:
            Whether the object is there with this content.

        Raises:
            StoreError: The store does not take it; it may take it later all the same.
        """
        try:
            self._write(lambda: self._backend.create(key, data))
        except Exists:
            return self.get(key) == data
        return True

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; one that is not there is no failure."""
        wanted = list(keys)
        if wanted:
            try:
                self._call("deleted", lambda: self._backend.delete(wanted))
            except Missing:
                return

    def list(self, folder: str) -> list[str]:
        """Return the keys of all objects below a folder, sorted."""
        try:
            return sorted(self._call("listed", lambda: self._backend.list(folder)))
        except Missing:
            return []

    def upload(self, path: Path, key: str) -> None:
        """Write an object with the content of a file."""
        self._write(lambda: self._backend.upload(path, key))

    def download(self, key: str, path: Path) -> bool:
        """Write a file with the content of an object; return whether there is such an object."""
        try:
            self._call("read", lambda: self._backend.download(key, path))
        except Missing:
            return False
        return True

    def copy(self, source: str, target: str) -> bool:
        """Copy an object within the store; return whether there is such an object."""
        try:
            self._call("copied", lambda: self._backend.copy(source, target))
        except Missing:
            return False
        return True

    def _write(self, call: Callable[[], None]) -> None:
        try:
            self._call("written", call)
        except Missing as error:
            raise StoreError(
                f"{self.url}: cannot be written: there is no such bucket. Make it first"
            ) from error.__cause__

    def _call(self, doing: str, call: Callable[[], T]) -> T:
        """Make a call until it works or must be given up."""
        began_s = time.monotonic()
        wait_s = _FIRST_WAIT_S
        while True:
            try:
                answer = call()
            except Exception as error:
                kind = self._expected(error)
                away_s = time.monotonic() - began_s
                if away_s >= self._patience(kind, doing) or self._given_up():
                    raise self._failure(doing, kind, error, away_s) from error
                self._tell(away_s, error)
            else:
                self._worked.add(doing)
                self._note_success()
                return answer
            self._sleep(wait_s * random.uniform(0.5, 1.0))
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)

    def _expected(self, error: Exception) -> Kind:
        """Return what an error means; raise it in this module's form if it is an answer."""
        kind = kind_of(error)
        if kind is None:
            raise error
        if kind in (Kind.MISSING, Kind.EXISTS):
            self._note_success()
            raise (Missing if kind is Kind.MISSING else Exists) from error
        return kind

    def _patience(self, kind: Kind, doing: str) -> float:
        if kind is Kind.TRANSIENT:
            return self._patience_s
        return min(_REFUSED_PATIENCE_S, self._patience_s) if doing in self._worked else 0.0

    def _failure(self, doing: str, kind: Kind, error: Exception, away_s: float) -> StoreError:
        reason = reason_of(error)
        look = f"look with: raytune-hpo doctor {self.url}"
        if kind is Kind.REFUSED:
            return StoreError(f"{self.url}: cannot be {doing}: {reason}; {look}")
        since = f", for {away_s:.0f} s" if away_s >= 1 else ""
        return StoreError(f"{self.url}: the store does not answer{since}: {reason}; {look}")

    def _tell(self, away_s: float, error: Exception) -> None:
        with self._lock:
            if self._away or away_s < _NOTE_AFTER_S:
                return
            self._away = True
        self._note(
            f"{self.url} does not answer for {away_s:.0f} s ({reason_of(error)}); the run waits"
        )

    def _note_success(self) -> None:
        with self._lock:
            if not self._away:
                return
            self._away = False
        self._note(f"{self.url} answers again; the run goes on")


def open_at(
    url: str,
    *,
    patience: float | None = None,
    note: Callable[[str], None] = lambda text: None,
    given_up: Callable[[], bool] = lambda: False,
) -> Objects:
    """Return the objects below a URL; see ``Objects`` for the arguments.

    Raises:
        StoreError: It is no URL of a store, or the package for such stores is not installed.
    """
    from raytune_hpo.storage import backends, place

    wrong = place.trouble(url)
    if wrong is not None:
        raise StoreError(f"the URL {wrong}")
    url = place.tidy(url)
    return Objects(url, backends.connect(url), patience=patience, note=note, given_up=given_up)
