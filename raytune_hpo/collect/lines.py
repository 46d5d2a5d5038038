"""Bytes of a stream as lines of bounded length, and what of a line is text."""

from __future__ import annotations

import re

MAX_LINE = 64 * 1024
"""Bytes of a line that are looked at."""

_COLOURS = re.compile(r"\x1b\[[0-9;:?]*[ -/]*[@-~]")
_BREAKS = (b" ", b",", b";", b"\t")


class Lines:
    r"""Splits a stream; a number is never cut in two, however long its line is.

    A progress bar writes one endless line with carriage returns: of it only the end is kept. Of
    any other line that is too long, the words that fit are kept.

    Args:
        most: Bytes of a line that are kept.

    Example:
        >>> lines = Lines()
        >>> lines.feed(b"loss=1\nloss="), lines.feed(b"2\n"), lines.feed(b"end"), lines.finish()
        (['loss=1'], ['loss=2'], [], ['end'])
    """

    def __init__(self, most: int = MAX_LINE) -> None:
        self._most = most
        self._rest = b""
        self._kept: bytes | None = None  # of a line too long, while the rest of it is skipped

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that are complete now, without their newlines."""
        *whole, rest = (self._rest + data).split(b"\n")
        found = [self._done(line) for line in whole]
        # Cut now and then only: it costs a copy.
        self._rest = rest if len(rest) <= 2 * self._most else self._fit(rest)
        return found

    def finish(self) -> list[str]:
        """Return what is left without a newline, and begin anew."""
        line, self._rest = self._rest, b""
        return [self._done(line)] if line or self._kept is not None else []

    def _done(self, line: bytes) -> str:
        line = self._fit(line)
        if self._kept is not None:
            line, self._kept = self._kept, None
        return line.decode(errors="replace")

    def _fit(self, line: bytes) -> bytes:
        """Return what can still count of a line, or of its beginning."""
        if len(line) <= self._most and self._kept is None:
            return line
        end = line[-self._most :].partition(b"\r")[2]
        if end:
            self._kept = None
            return end
        if self._kept is None:
            head = line[: self._most]
            self._kept = head[: max(head.rfind(sign) for sign in _BREAKS) + 1]
        return b""


def plain(line: str) -> str:
    r"""Return a line without what only a terminal understands.

    >>> plain("\x1b[1;32mloss\x1b[0m=3")
    'loss=3'
    """
    return _COLOURS.sub("", line) if "\x1b" in line else line


def number(text: str) -> int | float:
    """Return the number that a text says; one too big for 64 bits as a float.

    Raises:
        ValueError: It says none.
    """
    try:
        value = int(text)
    except ValueError:
        return float(text)
    return value if abs(value) < 2**63 else float(text)
