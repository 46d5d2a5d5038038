"""Following files that a command writes while it runs."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from raytune_hpo.collect.base import Collector, Metrics
from raytune_hpo.collect.jsonlines import document
from raytune_hpo.collect.lines import MAX_LINE, Lines

_MOST_DOCUMENT = 16 * 1024 * 1024
_KNOWN = 64
"""Bytes before the place reached by which a file that was written anew is told."""


class Tail:
    """The lines that are added to a file, each once.

    A file that is written anew is read from its beginning.

    Args:
        path: May not be there yet. What it holds now, from an earlier attempt, is passed over.
        most: Bytes of a line that are kept.
    """

    def __init__(self, path: Path, most: int = MAX_LINE) -> None:
        self._path = path
        self._most = most
        self._lines = Lines(most)
        self._first = self._seen = _stamp(path)
        self._offset = 0 if self._seen is None else self._seen[1]
        self._known = b""
        self._untouched = self._offset > 0
        if self._untouched:
            with path.open("rb") as file:
                self._known = _before(file.fileno(), self._offset)

    def lines(self, *, last: bool = False) -> list[str]:
        """Return the lines completed since the last call.

        Args:
            last: Nothing will be added: return a last line without a newline too.
        """
        data = self._new(last)
        found = self._lines.feed(data) if data else []
        return found + self._lines.finish() if last else found

    def _new(self, last: bool) -> bytes:
        """Return what was written since the last call."""
        stamp = _stamp(self._path)
        if stamp is None or (stamp == self._seen and not last):
            return b""
        self._seen = stamp
        with self._path.open("rb") as file:
            # Written with the very content it had, it is as long as it was.
            again = last and self._untouched and stamp != self._first
            if (again and stamp[1] == self._offset) or _before(
                file.fileno(), self._offset
            ) != self._known:
                self._offset, self._lines = 0, Lines(self._most)
            file.seek(self._offset)
            data = file.read()
            self._offset += len(data)
            self._known = _before(file.fileno(), self._offset)
        self._untouched = self._untouched and not data
        return data


class FileSource:
    """Reports from a file: line by line, or one JSON document read at the end.

    Args:
        path: The file.
        collector: Reads its lines.
    """

    def __init__(self, path: Path, collector: Collector) -> None:
        self._path = path
        self._old = _stamp(path)
        self._tail = Tail(path)
        self._collector = collector
        self._found = False

    def poll(self, *, last: bool = False) -> list[Metrics]:
        """Return the reports since the last call."""
        reports = [r for line in self._tail.lines(last=last) for r in self._collector.feed(line)]
        if last:
            reports += self._collector.finish()
        self._found = self._found or bool(reports)
        if last and not self._found:
            return self._document()
        return reports

    def _document(self) -> list[Metrics]:
        """Return the numbers of the whole file as one JSON object, spread over lines or not."""
        stamp = _stamp(self._path)
        if stamp is None or stamp == self._old or stamp[1] > _MOST_DOCUMENT:
            # Not written by this attempt: what it says is of another one.
            return []
        return document(self._path.read_text(errors="replace").strip())


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Return what changes when a file is written: inode, size and time; None if there is none.

    A pipe or a device is none: reading it may never end.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _before(descriptor: int, offset: int) -> bytes:
    """Return the last bytes of a file before an offset."""
    start = max(0, offset - _KNOWN)
    return os.pread(descriptor, offset - start, start)
