"""Reading a journal piece by piece, and trying again."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from raytune_hpo.journal import Follower, Record
from raytune_hpo.tracking.base import Unreachable
from raytune_hpo.tracking.feed import Feed
from tests.mlflow.made import MadeRun


class Shaky:
    """A tracker whose store is away for some calls."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.got: list[int] = []
        self.largest = 0
        self.ended = 0
        self.refused = 0
        self._kept: list[Record] = []

    @property
    def applied(self) -> int:
        return len(self.got)

    def apply(self, records: Sequence[Record]) -> None:
        self._kept += records
        self.largest = max(self.largest, len(self._kept))
        if self.failures:
            self.failures -= 1
            raise Unreachable("away")
        self.got += [record["n"] for record in self._kept]
        self._kept = []

    def end(self) -> None:
        self.ended += 1

    def close(self) -> None:
        """Nothing is held."""


@pytest.fixture
def reader(run: MadeRun) -> Follower:
    run.header()
    run.session()
    for number in range(20):
        run.whole_trial(number, 0.5)
    return Follower(run.path, piece=300)


def test_a_journal_is_read_in_pieces(run: MadeRun, reader: Follower) -> None:
    pieces = []
    while records := reader.poll():
        pieces.append(records)
    assert [record for piece in pieces for record in piece] == run.records()
    assert len(pieces) > 20
    assert reader.unread() == 0
    run.finish()
    assert reader.unread() == 1


def test_there_may_be_no_journal_yet(run: MadeRun) -> None:
    assert Follower(run.path / "none").poll() == []


def test_nothing_is_lost_while_the_store_is_away(run: MadeRun, reader: Follower) -> None:
    tracker = Shaky(failures=9)
    feed = Feed(reader, tracker)
    now_s = 0.0
    while not feed.ended:
        feed.step(now_s, last=True)
        now_s += 0.1
    assert tracker.got == list(range(len(run.records())))
    assert tracker.ended == 1
    assert tracker.largest < 5
    assert feed.error is None
    assert feed.behind == 0


def test_waits_grow_up_to_a_limit(reader: Follower) -> None:
    tracker = Shaky(failures=1000)
    feed = Feed(reader, tracker)
    for second in range(0, 600, 1):
        feed.step(float(second))
    tries = 1000 - tracker.failures
    assert 600 / 30 <= tries <= 600 / 15 + 8
    assert feed.error == "away"
    assert feed.behind == 82
