"""The journal: what is appended is read back, damage is never silent, drivers keep apart."""

from __future__ import annotations

import errno
import math
import os
import random
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raytune_hpo import journal
from raytune_hpo.errors import JournalError, RunLockedError
from raytune_hpo.journal import Follower, Journal, MemoryJournal, Record


def write(run_dir: Path, count: int) -> None:
    log = Journal(run_dir)
    for index in range(count):
        log.append("report", trial=index, metrics={"loss": index / 10})
    log.close()


def trials(run_dir: Path) -> list[int]:
    return [record["trial"] for record in journal.read(run_dir)]


def only_segment(run_dir: Path) -> Path:
    (path,) = journal.segments(run_dir)
    return path


def test_reads_back_what_was_appended(tmp_path: Path) -> None:
    write(tmp_path, 3)
    records = journal.read(tmp_path)
    assert [record["n"] for record in records] == [0, 1, 2]
    assert [record["metrics"]["loss"] for record in records] == [0.0, 0.1, 0.2]


def test_each_driver_has_a_segment_of_its_own(tmp_path: Path) -> None:
    write(tmp_path, 2)
    write(tmp_path, 2)
    assert [path.name for path in journal.segments(tmp_path)] == ["000001.jsonl", "000002.jsonl"]
    assert [record["n"] for record in journal.read(tmp_path)] == [0, 1, 2, 3]


def test_a_segment_without_a_record_is_removed(tmp_path: Path) -> None:
    write(tmp_path, 1)
    Journal(tmp_path).close()
    assert only_segment(tmp_path).name == "000001.jsonl"


def test_starting_over_forgets_what_never_ran(tmp_path: Path) -> None:
    write(tmp_path, 1)
    log = Journal(tmp_path)
    log.start_over()
    log.append("report", trial=7)
    log.close()
    assert trials(tmp_path) == [7]
    assert only_segment(tmp_path).name == "000002.jsonl"


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_every_float_survives(value: float) -> None:
    log = MemoryJournal(lambda: 0.0)
    back = log.append("report", metrics={"x": value, "list": [value]})
    for seen in (back["metrics"]["x"], back["metrics"]["list"][0]):
        assert seen == value or (math.isnan(seen) and math.isnan(value))


def test_file_is_strict_json_even_with_nan(tmp_path: Path) -> None:
    log = Journal(tmp_path)
    log.append("report", metrics={"loss": float("nan")})
    log.close()
    assert b"NaN" not in only_segment(tmp_path).read_bytes()


def test_a_line_with_a_good_check_sum_that_is_no_record_is_damage() -> None:
    for text in (b"[1", b'{"a":1', b'{"n":"x"', b"{"):
        line = text + b',"crc":"%08x"}' % zlib.crc32(text)
        assert journal.decode(line) is None


# Death after every byte


def test_every_torn_tail_is_left_out_and_all_before_it_kept(tmp_path: Path) -> None:
    write(tmp_path, 3)
    whole = only_segment(tmp_path).read_bytes()
    for cut in range(len(whole)):
        run_dir = fresh(tmp_path / "cut", whole[:cut])
        good = whole[:cut].count(b"\n")
        log = Journal(run_dir)
        assert len(log.records_at_open) == good
        torn = good > 0 and not whole[:cut].endswith(b"\n")
        assert (log.torn is not None) == torn
        log.append("report", trial=9)
        log.close()
        assert trials(run_dir) == [*range(good), 9]


def fresh(run_dir: Path, *contents: bytes) -> Path:
    """Return a run directory whose journal has these segments."""
    shutil.rmtree(run_dir, ignore_errors=True)
    run_dir.joinpath(journal.FOLDER).mkdir(parents=True)
    for number, data in enumerate(contents, 1):
        (run_dir / journal.FOLDER / f"{number:06d}.jsonl").write_bytes(data)
    return run_dir


def test_a_driver_may_die_in_its_very_first_record(tmp_path: Path) -> None:
    write(tmp_path, 2)
    first = only_segment(tmp_path).read_bytes()
    second = journal.encode({"n": 2, "t": 0.0, "type": "report", "trial": 2})
    for cut in range(len(second)):
        run_dir = fresh(tmp_path / "cut", first, second[:cut])
        write_more(run_dir, 2)
        assert trials(run_dir) == [0, 1, 2]


def write_more(run_dir: Path, trial: int) -> None:
    log = Journal(run_dir)
    log.append("report", trial=trial)
    log.close()


# Damage


def test_damage_is_refused_with_place_and_remedy_and_repaired(tmp_path: Path) -> None:
    write(tmp_path, 3)
    path = only_segment(tmp_path)
    data = bytearray(path.read_bytes())
    second = data.find(b"\n") + 1
    data[second + 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(JournalError, match=rf"byte {second}, after 1 good.*repair"):
        journal.read(tmp_path)
    with pytest.raises(JournalError, match="damaged"):
        Journal(tmp_path)
    assert path.read_bytes() == data
    assert journal.segments(tmp_path) == [path]
    done = journal.repair(tmp_path)
    assert done is not None
    assert (done.damage.records, done.lines) == (1, 2)
    assert (done.backup / path.name).read_bytes() == data
    write_more(tmp_path, 9)
    assert trials(tmp_path) == [0, 9]
    assert journal.repair(tmp_path) is None


def test_every_single_flipped_bit_of_a_line_is_noticed() -> None:
    line = journal.encode({"n": 0, "t": 1.5, "type": "finish", "reason": "trials"}).rstrip(b"\n")
    for index in range(len(line) * 8):
        damaged = bytearray(line)
        damaged[index // 8] ^= 1 << (index % 8)
        assert journal.decode(bytes(damaged)) is None


def damages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield damaged forms of a file with the offset of the first byte that is wrong."""
    for offset in range(max(0, len(data) - 4096), len(data)):
        yield offset, data[:offset] + bytes([data[offset] ^ 0xFF]) + data[offset + 1 :]
    chance = random.Random(7)
    for _ in range(1000):
        offset = chance.randrange(len(data))
        flipped = data[offset] ^ (1 << chance.randrange(8))
        yield offset, data[:offset] + bytes([flipped]) + data[offset + 1 :]
    for offset in range(0, len(data), 97):
        yield offset, data[:offset]
        yield offset, data[:offset] + bytes(len(data) - offset)
        yield offset, data[:offset] + data[offset + 60 :]
        yield offset, data[:offset] + b"\n" + data[offset:]
        yield offset, data[:offset] + os.urandom(30) + data[offset:]
        yield offset, data[:offset] + data[:offset]


@pytest.mark.parametrize("segment", [0, 1])
def test_whatever_the_damage_all_before_it_is_recovered_or_it_is_refused(
    tmp_path: Path, segment: int
) -> None:
    """Goal G7: each byte of the last 4 KiB, 1,000 flipped bits, cuts, holes and insertions."""
    write(tmp_path, 40)
    write_all(tmp_path, range(40, 80))
    contents = [path.read_bytes() for path in journal.segments(tmp_path)]
    before = journal.read(tmp_path)
    recovered = refused = 0
    for offset, damaged in damages(contents[segment]):
        changed = [*contents[:segment], damaged, *contents[segment + 1 :]]
        run_dir = fresh(tmp_path / "damaged", *changed)
        good = 40 * segment + contents[segment][:offset].count(b"\n")
        refusal = why_refused(run_dir)
        if refusal is None:
            recovered += 1
        else:
            refused += 1
            assert "\n" not in refusal
            assert "damaged at byte" in refusal
            assert "raytune-hpo repair" in refusal
            assert journal.repair(run_dir) is not None
        records = journal.read(run_dir)
        assert records == before[: len(records)]
        assert len(records) >= good
    # What is lost before a later segment is never passed over.
    assert recovered if segment == 1 else not recovered
    assert refused


def why_refused(run_dir: Path) -> str | None:
    try:
        journal.read(run_dir)
    except JournalError as error:
        return str(error)
    return None


def write_all(run_dir: Path, numbers: range) -> None:
    log = Journal(run_dir)
    for trial in numbers:
        log.append("report", trial=trial, metrics={"loss": trial / 10})
    log.close()


def test_a_missing_segment_is_noticed(tmp_path: Path) -> None:
    for _ in range(3):
        write(tmp_path, 2)
    journal.segments(tmp_path)[1].unlink()
    with pytest.raises(JournalError, match="after 2 good records"):
        journal.read(tmp_path)


@pytest.mark.parametrize("left", [[], [b""], [b"", b""]])
def test_an_empty_journal_where_trials_ran_is_no_new_start(
    tmp_path: Path, left: list[bytes]
) -> None:
    run_dir = fresh(tmp_path / "run", *left)
    (run_dir / "trials" / "0000").mkdir(parents=True)
    with pytest.raises(JournalError, match="holds no record, though trials ran here"):
        Journal(run_dir)
    assert len(journal.segments(run_dir)) == len(left)


# A driver that wakes up after it was given up


def test_a_driver_that_was_superseded_cannot_harm_its_successor(tmp_path: Path) -> None:
    old = Journal(tmp_path)
    old.append("report", trial=0)
    old.sync()
    new = Journal(tmp_path)
    old.append("report", trial=666)
    with pytest.raises(RunLockedError, match="another driver has taken this run over"):
        old.sync()
    new.append("report", trial=1)
    old.append("report", trial=667)
    new.append("report", trial=2)
    new.sync()
    old.close()
    new.close()
    assert trials(tmp_path) == [0, 1, 2]
    write_more(tmp_path, 3)
    assert trials(tmp_path) == [0, 1, 2, 3]


def test_what_was_acknowledged_before_the_takeover_is_kept(tmp_path: Path) -> None:
    old = Journal(tmp_path)
    for trial in range(5):
        old.append("report", trial=trial)
        old.sync()
    new = Journal(tmp_path)
    assert [record["trial"] for record in new.records_at_open] == [0, 1, 2, 3, 4]
    old.close()
    new.close()


# Following


@pytest.mark.parametrize("piece", [None, 1, 100])
def test_following_gives_each_record_once_over_all_segments(
    tmp_path: Path, piece: int | None
) -> None:
    follower = Follower(tmp_path, piece)
    assert follower.poll() == []
    seen: list[int] = []
    for first in (0, 5, 10):
        log = Journal(tmp_path)
        for index in range(5):
            log.append("report", trial=first + index)
            if index % 2 == 0:
                seen += [record["trial"] for record in follower.poll()]
        log.close()
    while records := follower.poll():
        seen += [record["trial"] for record in records]
    assert seen == list(range(15))
    assert follower.records == 15
    assert follower.unread() == 0


def test_a_follower_never_sees_what_a_superseded_driver_adds(tmp_path: Path) -> None:
    old = Journal(tmp_path)
    old.append("report", trial=0)
    follower = Follower(tmp_path)
    seen = follower.poll()
    new = Journal(tmp_path)
    new.append("report", trial=1)
    old.append("report", trial=666)
    seen += follower.poll()
    assert [record["trial"] for record in seen] == [0, 1]
    old.close()
    new.close()


# Disks


class Disk:
    """The calls that write, of which one fails from some moment on."""

    def __init__(self, error: int, room: int) -> None:
        self.error = error
        self.room = room
        self._write = os.write

    def write(self, fd: int, data: bytes) -> int:
        if self.room <= 0:
            raise OSError(self.error, os.strerror(self.error))
        part = data[: self.room]
        self.room -= len(part)
        return self._write(fd, part)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_write_that_fails_after_any_byte_leaves_the_journal_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    length = len(journal.encode({"n": 1, "t": 1.0, "type": "report", "trial": 1}))
    for room in range(length):
        run_dir = tmp_path / str(room)
        run_dir.mkdir()
        log = Journal(run_dir, clock=lambda: 1.0)
        log.append("report", trial=0)
        disk = Disk(error, room)
        with monkeypatch.context() as patch:
            patch.setattr("raytune_hpo.journal.os.write", disk.write)
            with pytest.raises(JournalError, match="cannot be written"):
                log.append("report", trial=1)
        log.append("report", trial=2)
        log.close()
        assert trials(run_dir) == [0, 2]


def test_what_the_disk_did_not_take_is_never_called_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Journal(tmp_path)
    log.append("report", trial=0)

    def refuse(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("raytune_hpo.journal.os.fdatasync", refuse)
        with pytest.raises(JournalError, match="cannot be brought to disk"):
            log.sync()
    # A kernel may drop what it could not write and report success the next time.
    with pytest.raises(JournalError, match="cannot be brought to disk"):
        log.sync()
    with pytest.raises(JournalError, match="cannot be brought to disk"):
        log.append("report", trial=1)
    log.close()


def test_what_was_not_synced_may_go_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut: only what the disk has been made to take is there afterwards."""
    synced = 0
    real = os.fdatasync

    def note(fd: int) -> None:
        nonlocal synced
        real(fd)
        synced = os.fstat(fd).st_size

    monkeypatch.setattr("raytune_hpo.journal.os.fdatasync", note)
    acknowledged: list[int] = []
    log = Journal(tmp_path)
    for trial in range(30):
        log.append("report", trial=trial)
        if trial % 3 == 0:
            log.sync()
            acknowledged = list(range(trial + 1))
        data = log.path.read_bytes()
        for keep in {synced, (synced + len(data)) // 2, len(data)}:
            run_dir = fresh(tmp_path / "after", data[:keep])
            kept: list[Record] = Journal(run_dir).records_at_open
            assert [r["trial"] for r in kept][: len(acknowledged)] == acknowledged
    log.close()


def test_what_a_dead_driver_had_not_synced_is_synced_before_it_is_built_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = Journal(tmp_path)
    dead.append("report", trial=0)
    synced: list[str] = []
    real = os.fsync

    def note(fd: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
        real(fd)

    with monkeypatch.context() as patch:
        patch.setattr("raytune_hpo.disk.os.fsync", note)
        log = Journal(tmp_path)
    assert str(dead.path) in synced
    log.close()
    dead.close()


def test_the_full_disk_of_chaos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(journal.CHAOS_ENV, "1")
    log = Journal(tmp_path)
    order = tmp_path / journal.DISK_FULL_ORDER
    order.parent.mkdir(parents=True)
    order.touch()
    with pytest.raises(JournalError, match="No space left on device"):
        log.append("report", trial=0)
    order.unlink()
    record: dict[str, Any] = log.append("report", trial=1)
    assert record["n"] == 0
    log.close()
