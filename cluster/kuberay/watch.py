"""Watches of objects that go on over any number of connections."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from raytune_hpo.cluster.kuberay.refused import KubernetesError, of_status
from raytune_hpo.cluster.kuberay.wire import Object, Request, Wire

_MARGIN_S = 15.0
"""The server ends a watch itself; after so much longer the connection counts as dead."""
_RETRY_WAIT_S = 1.0
_WAIT_MOST_S = 20.0
_LEAST_S = 1.0
"""A server that ends each watch at once is not asked more often than this."""


@dataclass(frozen=True)
class Change:
    """Something that a watch has seen.

    Attributes:
        what: ``seen`` for an object that was there at the start or after a gap, ``quiet`` when
            nothing happened for a while, ``lost`` when the server cannot be reached now.
        object: The object after the change; empty for ``quiet`` and ``lost``.
        message: With ``lost``: why.
    """

    what: Literal["seen", "added", "modified", "deleted", "quiet", "lost"]
    object: Object
    message: str = ""


class Watch:
    """One watch.

    Args:
        wire: Way to the server.
        path: Address of the objects.
        selectors: Parameters that select among them.
        all_now: Returns those that are there, and the version of the cluster that they are from.
        quiet_s: After so long without a change, ``quiet`` is yielded; whole seconds.
        patience_s: So long the server may be unreachable.
    """

    def __init__(
        self,
        wire: Wire,
        path: str,
        selectors: Mapping[str, str],
        all_now: Callable[[], tuple[list[Object], str]],
        quiet_s: float,
        patience_s: float,
    ) -> None:
        self._wire = wire
        self._path = path
        self._what = f"watch {path.rpartition('/')[2]}"
        self._selectors = selectors
        self._all_now = all_now
        self._quiet_s = max(1, round(quiet_s))
        self._patience_s = patience_s
        self._version: str | None = None
        self._known: dict[str, Object] = {}
        self._begun = False
        self._lost_s: float | None = None
        self._tries = 0

    def changes(self) -> Iterator[Change]:
        """Yield what happens, without end.

        Raises:
            KubernetesError: They may not be watched, or the server is gone for too long.
        """
        while True:
            begun_s = time.monotonic()
            try:
                if self._version is None:
                    yield from self._gap()
                yield from self._stream(self._version or "")
            except KubernetesError as error:
                if error.status == 410:
                    # The server has forgotten what happened since.
                    self._version = None
                    continue
                if not self._begun or not error.passing:
                    raise
                yield self._lost(error)
            else:
                yield Change("quiet", {})
                time.sleep(max(0.0, _LEAST_S - (time.monotonic() - begun_s)))

    def _lost(self, error: KubernetesError) -> Change:
        """Wait before the next try, and return what to say about it.

        Raises:
            KubernetesError: It has been tried for too long.
        """
        now_s = time.monotonic()
        self._lost_s = now_s if self._lost_s is None else self._lost_s
        if now_s - self._lost_s >= self._patience_s:
            raise error
        time.sleep(min(_RETRY_WAIT_S * 2**self._tries, _WAIT_MOST_S))
        self._tries += 1
        return Change("lost", {}, str(error))

    def _gap(self) -> Iterator[Change]:
        """Yield what is there now, and what has gone unseen."""
        found, self._version = self._all_now()
        self._reached()
        there = {one["metadata"]["uid"]: one for one in found}
        gone = [one for uid, one in self._known.items() if uid not in there]
        self._known = there
        yield from (Change("deleted", one) for one in gone)
        yield from (Change("seen", one) for one in found)

    def _reached(self) -> None:
        self._begun = True
        self._lost_s, self._tries = None, 0

    def _stream(self, version: str) -> Iterator[Change]:
        """Yield changes until the server ends the watch, as it was asked to, or it breaks.

        Raises:
            KubernetesError: The server does not answer or refuses.
        """
        request = Request(
            self._path,
            self._what,
            query={
                **self._selectors,
                "watch": "true",
                "allowWatchBookmarks": "true",
                "resourceVersion": version,
                "timeoutSeconds": str(self._quiet_s),
            },
            silence_s=self._quiet_s + _MARGIN_S,
        )
        answer = self._wire.open(request)
        self._reached()
        try:
            for line in self._wire.lines(answer, request.what):
                # One that broke off in the middle comes again.
                if line.endswith(b"\n"):
                    yield from self._change(json.loads(line))
        except KubernetesError as error:
            # A connection that ends is made anew; only when that fails something is wrong.
            if error.status is not None:
                raise

    def _change(self, said: Object) -> Iterator[Change]:
        if said["type"] == "ERROR":
            raise of_status(said["object"], self._what)
        one: Object = said["object"]
        self._version = one["metadata"]["resourceVersion"]
        uid = one["metadata"].get("uid")
        if said["type"] == "ADDED":
            self._known[uid] = one
            yield Change("added", one)
        elif said["type"] == "MODIFIED":
            self._known[uid] = one
            yield Change("modified", one)
        elif said["type"] == "DELETED":
            self._known.pop(uid, None)
            yield Change("deleted", one)
