"""The journal in a store: who may write, what was written, in which order. No clocks, no locks.

Each driver has a session of its own, with a number that only one can claim: it creates the object
``sessions/000003.json``, which a store lets one of several do. What it writes are objects that are
created too, ``journal/000003/00000001.jsonl``, ``00000002.jsonl`` and so on: a batch of records
each, in lines as in a file.

To go on where another driver was, its session is sealed: the object with the next free number is
created as a seal. Whoever creates that object first, wins. If it was the old driver, with a batch,
the new one takes the batch in and tries the next number. If it was the new one, the old one finds
the seal when it wants to write its next batch, and from then on can write nothing. A driver writes
its first batch only when all sessions before its own are sealed. So there is one order of all
batches, and all who read see a beginning of it.

A sealed session never changes. It is written once more as a whole, ``journal/000003.jsonl``, so
that it can be read by one request.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace

from raytune_hpo.errors import JournalError, RunLockedError
from raytune_hpo.storage.objects import Objects

SESSIONS = "sessions"
JOURNAL = "journal"
ROLL = 1000
"""Batches of a session; after so many its driver goes on in a new one, so that this one is
written as a whole."""
_SEAL = b'{"sealed_by":'


def session_key(session: int) -> str:
    """Return the key of the object that claims a session."""
    return f"{SESSIONS}/{session:06d}.json"


def batch_key(session: int, number: int) -> str:
    """Return the key of a batch of a session, or of its seal."""
    return f"{JOURNAL}/{session:06d}/{number:08d}.jsonl"


def whole_key(session: int) -> str:
    """Return the key of a sealed session in one object."""
    return f"{JOURNAL}/{session:06d}.jsonl"


@dataclass(frozen=True)
class Segment:
    """What is known of a session.

    Attributes:
        session: Its number, from 1.
        data: Its batches, one after the other.
        following: Number of the batch to look for next.
        sealed: Whether nothing can follow.
        whole: Whether it is in the store in one object too.
    """

    session: int
    data: bytes = b""
    following: int = 1
    sealed: bool = False
    whole: bool = False


def sessions(objects: Objects) -> list[int]:
    """Return the numbers of all sessions that were claimed, in order."""
    names = (key.rpartition("/")[2] for key in objects.list(SESSIONS))
    return sorted(int(name[:-5]) for name in names if name[:-5].isdigit())


def read_on(objects: Objects, segment: Segment) -> Segment:
    """Return a segment with what has come to it in the store."""
    if segment.sealed:
        return segment
    if segment.following == 1:
        whole = objects.get(whole_key(segment.session))
        if whole is not None:
            return replace(segment, data=whole, sealed=True, whole=True)
    segment = _take(segment, *_listed(objects, segment))
    # What was created while the list was made.
    while not segment.sealed:
        batch = objects.get(batch_key(segment.session, segment.following))
        if batch is None:
            break
        segment = _take(segment, batch)
    return segment


def _listed(objects: Objects, segment: Segment) -> list[bytes]:
    """Return the batches that a list shows, up to the first that it does not."""
    there = set(objects.list(f"{JOURNAL}/{segment.session:06d}"))
    wanted = []
    number = segment.following
    while (key := batch_key(segment.session, number)) in there:
        wanted.append(key)
        number += 1
    batches = []
    for batch in objects.get_all(wanted):
        if batch is None:
            break
        batches.append(batch)
    return batches


def _take(segment: Segment, *batches: bytes) -> Segment:
    """Return a segment with further batches, of which the last may be the seal."""
    sealed = bool(batches) and batches[-1].startswith(_SEAL)
    content = batches[:-1] if sealed else batches
    return replace(
        segment,
        data=b"".join([segment.data, *content]),
        following=segment.following + len(batches),
        sealed=sealed,
    )


def read_all(objects: Objects) -> list[Segment]:
    """Return all sessions, in order; of what is being written, a beginning."""
    return settled(objects, [Segment(session) for session in sessions(objects)])


def settled(objects: Objects, segments: list[Segment]) -> list[Segment]:
    """Return sessions with what has come to them, such that no gap is among them.

    A batch of a later session is a sign that those before are sealed, with all they have.
    """
    segments = [read_on(objects, segment) for segment in segments]
    last = max((i for i, one in enumerate(segments) if one.data), default=0)
    return [read_on(objects, one) for one in segments[:last]] + segments[last:]


def seal(objects: Objects, segment: Segment, by: str) -> Segment:
    """Return a session to which nothing can be added any more.

    Args:
        objects: Of the run.
        segment: What is known of it.
        by: Who seals it; unlike everybody else's.
    """
    mark = _SEAL + json.dumps(by).encode() + b"}\n"
    segment = read_on(objects, segment)
    while not segment.sealed:
        if objects.create(batch_key(segment.session, segment.following), mark):
            segment = _take(segment, mark)
        else:
            segment = read_on(objects, segment)
    return _made_whole(objects, segment)


def _made_whole(objects: Objects, segment: Segment) -> Segment:
    if not segment.whole:
        # Another driver may have put another one there: one that was given another beginning.
        objects.create(whole_key(segment.session), segment.data)
        segment = replace(segment, whole=True)
    return segment


def rewrite(objects: Objects, segment: Segment, data: bytes) -> Segment:
    """Give a sealed session another content; for who has sealed all sessions before its own."""
    objects.put(whole_key(segment.session), data)
    return replace(segment, data=data, whole=True)


class Writer:
    """Adds batches to the journal, as the driver of one session after the other.

    Args:
        objects: Of the run.
        session: The session that this driver has claimed; all before it are sealed.
        me: Who this driver is; unlike everybody else's.
        claim: Claims a session, by its number; returns whether it could.
        roll: Batches of a session; ``ROLL`` by default.

    Attributes:
        session: The present one.
    """

    def __init__(
        self,
        objects: Objects,
        session: int,
        me: str,
        claim: Callable[[int], bool],
        roll: int | None = None,
    ) -> None:
        self._objects = objects
        self._me = me
        self._claim = claim
        self._roll = ROLL if roll is None else roll
        self._own = Segment(session)

    @property
    def session(self) -> int:
        """See the class."""
        return self._own.session

    def add(self, batch: bytes) -> None:
        """Add a batch; when this returns it is part of the journal for ever.

        Raises:
            RunLockedError: Another driver has taken the run over; the batch is not part of it.
            StoreError: The store does not take it; it may be part of the journal all the same, and
                nothing must be added after it by this driver.
        """
        if self._own.following > self._roll:
            self._go_on_in_the_next()
        if not self._objects.create(batch_key(self.session, self._own.following), batch):
            raise superseded(self._objects.url)
        self._own = _take(self._own, batch)

    def _go_on_in_the_next(self) -> None:
        own, sealed_by = self._own, self._me
        sealed = seal(self._objects, own, sealed_by)
        if sealed.data != own.data:
            raise JournalError(f"{self._objects.url}: somebody else writes to {own.session:06d}")
        if not self._claim(own.session + 1):
            raise superseded(self._objects.url)
        self._own = Segment(own.session + 1)


def superseded(url: str) -> RunLockedError:
    """Return the error of a driver that another one has replaced."""
    return RunLockedError(
        f"{url}: another driver has taken this run over while this one did not answer; it goes on "
        "there, and this one ends"
    )
