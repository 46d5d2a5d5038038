"""Files that a command writes: each line once, nothing of an earlier attempt."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raytune_hpo.collect.file import FileSource, Tail
from raytune_hpo.collect.stdout import StdoutCollector


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.txt"


def source(path: Path) -> FileSource:
    return FileSource(path, StdoutCollector())


def replace(path: Path, text: str) -> None:
    """Write a file anew, at a later time than it was written before."""
    before = path.stat().st_mtime_ns
    path.write_text(text)
    os.utime(path, ns=(before + 10**9, before + 10**9))


def add(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def test_each_line_once(path: Path) -> None:
    tail = Tail(path)
    assert tail.lines() == []
    add(path, "a\nb")
    assert tail.lines() == ["a"]
    add(path, "c\nd")
    assert tail.lines() == ["bc"]
    assert tail.lines() == []
    assert tail.lines(last=True) == ["d"]
    assert tail.lines(last=True) == []


def test_what_was_there_is_passed_over(path: Path) -> None:
    path.write_text("old\n")
    tail = Tail(path)
    add(path, "new\n")
    assert tail.lines(last=True) == ["new"]


@pytest.mark.parametrize("text", ["loss=3\n", "longer than before loss=3\n", "a=12 loss=3\n"])
def test_a_file_written_anew_is_read_from_its_beginning(path: Path, text: str) -> None:
    path.write_text("a=1 loss=9\n")
    tail = Tail(path)
    replace(path, text)
    assert tail.lines() == [text.strip()]
    replace(path, "x\n")
    assert tail.lines() == ["x"]


def test_a_history_that_is_replaced_as_a_whole_is_read_once(path: Path) -> None:
    tail, history = Tail(path), ""
    for epoch in range(20):
        history += f"epoch={epoch} loss={1 / (epoch + 1)}\n"
        draft = path.with_suffix(".new")
        draft.write_text(history)
        draft.replace(path)
        assert [line.split()[0] for line in tail.lines()] == [f"epoch={epoch}"]


def test_the_same_content_written_again_counts(path: Path) -> None:
    path.write_text("loss=1\n")
    reader = source(path)
    replace(path, "loss=1\n")
    assert reader.poll() + reader.poll(last=True) == [{"loss": 1}]


def test_content_that_was_read_does_not_count_again(path: Path) -> None:
    reader = source(path)
    path.write_text("loss=1\n")
    assert reader.poll() == [{"loss": 1}]
    os.utime(path, ns=(1, 1))
    assert reader.poll() == []
    assert reader.poll(last=True) == []


def test_a_file_of_an_earlier_attempt_says_nothing(path: Path) -> None:
    path.write_text('{\n "loss": 7\n}\n')
    assert source(path).poll(last=True) == []
    path.write_text("loss=7\n")
    assert source(path).poll(last=True) == []


def test_a_document_over_several_lines(path: Path) -> None:
    reader = source(path)
    assert reader.poll() == []
    path.write_text('{\n "loss": "0.5",\n "sub": {"acc": 1}\n}\n')
    assert reader.poll(last=True) == [{"loss": 0.5, "sub.acc": 1}]


@pytest.mark.parametrize("text", ["", "[1, 2]", '{"loss": ', '{"loss": "x"}', "\udcff"])
def test_no_document(path: Path, text: str) -> None:
    reader = source(path)
    path.write_text(text, errors="surrogateescape")
    assert reader.poll(last=True) == []


def test_no_file(path: Path) -> None:
    assert source(path).poll(last=True) == []
