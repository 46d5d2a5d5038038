"""The journal: what is appended is read back, and damage is never silent."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raytune_hpo import journal
from raytune_hpo.errors import JournalError
from raytune_hpo.journal import Journal, MemoryJournal


def write(path: Path, count: int) -> None:
    log = Journal(path)
    for index in range(count):
        log.append("report", trial=index, metrics={"loss": index / 10})
    log.close()


def test_reads_back_what_was_appended(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write(path, 3)
    records = journal.read(path)
    assert [record["n"] for record in records] == [0, 1, 2]
    assert [record["metrics"]["loss"] for record in records] == [0.0, 0.1, 0.2]


def test_goes_on_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write(path, 2)
    write(path, 2)
    assert [record["n"] for record in journal.read(path)] == [0, 1, 2, 3]


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_every_float_survives(value: float) -> None:
    log = MemoryJournal(lambda: 0.0)
    back = log.append("report", metrics={"x": value, "list": [value]})
    for seen in (back["metrics"]["x"], back["metrics"]["list"][0]):
        assert seen == value or (math.isnan(seen) and math.isnan(value))


def test_file_is_strict_json_even_with_nan(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    log = Journal(path)
    log.append("report", metrics={"loss": float("nan")})
    log.close()
    assert b"NaN" not in path.read_bytes()


def test_every_torn_tail_is_cut_and_all_before_it_kept(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write(path, 3)
    whole = path.read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    for cut in range(last, len(whole)):
        path.write_bytes(whole[:cut])
        assert len(journal.read(path)) == 2
        log = Journal(path)
        log.append("report", trial=9)
        log.close()
        assert [record["trial"] for record in journal.read(path)] == [0, 1, 9]


def test_damage_before_the_last_line_is_refused_with_place_and_remedy(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write(path, 3)
    data = bytearray(path.read_bytes())
    second = data.find(b"\n") + 1
    data[second + 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(JournalError, match=rf"byte {second}, after 1 good.*truncate -s {second}"):
        journal.read(path)
    with pytest.raises(JournalError):
        Journal(path)
    assert path.read_bytes() == data


def test_every_single_flipped_bit_is_noticed(tmp_path: Path) -> None:
    line = journal.encode({"n": 0, "t": 1.5, "type": "finish", "reason": "trials"}).rstrip(b"\n")
    for index in range(len(line) * 8):
        damaged = bytearray(line)
        damaged[index // 8] ^= 1 << (index % 8)
        assert journal.decode(bytes(damaged)) is None


def test_follow_gives_each_record_once(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    assert journal.follow(path) == ([], 0)
    log = Journal(path)
    seen: list[int] = []
    offset = 0
    for index in range(5):
        log.append("report", trial=index)
        if index % 2 == 0:
            records, offset = journal.follow(path, offset, first=len(seen))
            seen += [record["trial"] for record in records]
    log.close()
    assert seen == [0, 1, 2, 3, 4]


def test_a_full_disk_leaves_the_journal_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.jsonl"
    log = Journal(path)
    log.append("report", trial=0)
    real_write = os.write

    def half_then_full(fd: int, data: bytes) -> int:
        if len(data) > 20:
            return real_write(fd, data[:20])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("raytune_hpo.journal.os.write", half_then_full)
    with pytest.raises(JournalError, match="No space left"):
        log.append("report", trial=1, text="x" * 9)
    monkeypatch.undo()
    log.append("report", trial=2)
    log.close()
    assert [record["trial"] for record in journal.read(path)] == [0, 2]
