"""A driver that a batch system has put in the place of another."""

from __future__ import annotations

from pathlib import Path

import pytest

from raytune_hpo import lock
from raytune_hpo.errors import RunLockedError
from raytune_hpo.journal import Journal


def test_a_successor_takes_the_lock_of_a_living_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = lock.RunLock(tmp_path)
    with pytest.raises(RunLockedError):
        lock.RunLock(tmp_path)
    monkeypatch.setenv(lock.SUCCESSOR_ENV, "1")
    second = lock.RunLock(tmp_path)
    # It was for one time: what this driver starts is no successor.
    with pytest.raises(RunLockedError):
        lock.RunLock(tmp_path)
    first.release()
    with pytest.raises(RunLockedError):
        lock.RunLock(tmp_path)
    second.release()
    lock.RunLock(tmp_path).release()
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_the_driver_that_was_replaced_writes_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = lock.RunLock(tmp_path)
    before = Journal(tmp_path)
    before.append("session", session=1)
    before.sync()
    monkeypatch.setenv(lock.SUCCESSOR_ENV, "1")
    new = lock.RunLock(tmp_path)
    after = Journal(tmp_path)
    before.append("report", trial=0)
    with pytest.raises(RunLockedError, match="taken this run over"):
        before.sync()
    after.append("session", session=2)
    after.sync()
    after.close()
    before.close()
    kept = Journal(tmp_path)
    assert [record["type"] for record in kept.records_at_open] == ["session", "session"]
    kept.close()
    old.release()
    new.release()
