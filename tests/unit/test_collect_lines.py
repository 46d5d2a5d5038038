"""Streams of bytes become lines; no number is cut in two."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raytune_hpo.collect.lines import Lines, number, plain


@given(st.lists(st.binary(max_size=20), max_size=20))
def test_pieces_do_not_matter(pieces: list[bytes]) -> None:
    lines = Lines()
    found = [line for piece in pieces for line in lines.feed(piece)] + lines.finish()
    whole = b"".join(pieces).split(b"\n")
    expected = [line.decode(errors="replace") for line in whole]
    assert found == (expected if whole[-1] else expected[:-1])


def fed(data: bytes, size: int, most: int) -> list[str]:
    lines = Lines(most)
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    return [line for piece in pieces for line in lines.feed(piece)] + lines.finish()


@pytest.mark.parametrize("size", [1, 7, 1000, 10**6])
def test_of_a_long_line_whole_words_are_kept(size: int) -> None:
    data = b"loss=1.2345 " * 100 + b"\nloss=7\n"
    first, second = fed(data, size, 50)
    assert second == "loss=7"
    assert 0 < len(first) <= 50
    assert set(first.split()) == {"loss=1.2345"}


@pytest.mark.parametrize("size", [1, 7, 1000, 10**6])
def test_of_an_endless_progress_bar_the_end_is_kept(size: int) -> None:
    data = b"".join(b"\rstep %d loss=0.%05d" % (step, step) for step in range(1000))
    (line,) = fed(data, size, 100)
    assert line.endswith("\rstep 999 loss=0.00999")
    assert {len(state) for state in line.split("\r")} == {len("step 999 loss=0.00999")}


@pytest.mark.parametrize("size", [1, 1000])
def test_a_long_line_without_words_gives_no_piece_of_one(size: int) -> None:
    assert fed(b"x" * 1000 + b"\nok\n", size, 50) == ["", "ok"]


def test_memory_stays_small() -> None:
    lines = Lines(100)
    for _ in range(1000):
        assert lines.feed(b"y" * 1000) == []
        assert len(lines._rest) <= 200
    assert lines.feed(b"\nend\n")[-1] == "end"


def test_invalid_utf8_is_replaced() -> None:
    assert Lines().feed(b"\xff\xfe loss=1\n") == ["�� loss=1"]


def test_colours_are_taken_out() -> None:
    assert plain("\x1b[38;5;1mloss\x1b[0m=\x1b[1m3\x1b[K") == "loss=3"


@pytest.mark.parametrize(
    ("text", "value"), [("3", 3), ("-7", -7), ("1_000", 1000), ("1e3", 1000.0), ("9" * 30, 1e30)]
)
def test_numbers(text: str, value: float) -> None:
    found = number(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["", "1_", "x", "0x1F", "1,5", "12:30"])
def test_no_numbers(text: str) -> None:
    with pytest.raises(ValueError, match="could not convert"):
        number(text)
