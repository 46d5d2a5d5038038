"""Following files that a command writes while it runs."""

from __future__ import annotations

import json
from pathlib import Path

from raytune_hpo.collect.base import MAX_LINE, Collector, Metrics
from raytune_hpo.collect.jsonlines import numbers


class Tail:
    """The lines that are added to a file, each once.

    Args:
        path: May not be there yet. What it holds now, from an earlier attempt, is passed over.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0
        self._rest = b""

    def lines(self, *, last: bool = False) -> list[str]:
        """Return the lines completed since the last call.

        Args:
            last: Nothing will be added: return a last line without a newline too.
        """
        try:
            with self._path.open("rb") as file:
                size = file.seek(0, 2)
                if size < self._offset:
                    # It was written anew.
                    self._offset, self._rest = 0, b""
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        if last and self._rest:
            lines, self._rest = [*lines, self._rest], b""
        return [line.decode(errors="replace")[:MAX_LINE] for line in lines]


class FileSource:
    """Reports from a file: line by line, or one JSON document read at the end.

    Args:
        path: The file.
        collector: Reads its lines.
    """

    def __init__(self, path: Path, collector: Collector) -> None:
        self._path = path
        self._tail = Tail(path)
        self._collector = collector
        self._found = False

    def poll(self, *, last: bool = False) -> list[Metrics]:
        """Return the reports since the last call."""
        reports = [r for line in self._tail.lines(last=last) for r in self._collector.feed(line)]
        self._found = self._found or bool(reports)
        if last and not self._found:
            reports = self._document()
        return reports

    def _document(self) -> list[Metrics]:
        """Return the numbers of the whole file as one JSON object, spread over lines or not."""
        try:
            content = json.loads(self._path.read_text(errors="replace"))
        except (OSError, ValueError):
            return []
        found = dict(numbers(content)) if isinstance(content, dict) else {}
        return [found] if found else []
