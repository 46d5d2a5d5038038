"""Metrics by regular expressions of the user's own."""

from __future__ import annotations

import re
from collections.abc import Mapping

from raytune_hpo.collect.base import Metrics
from raytune_hpo.collect.stdout import number


class PatternCollector:
    r"""Each metric by its own pattern; what one line holds is one report.

    The number is the group ``value``, or the first group. Of several matches in a line the last
    counts.

    Args:
        patterns: Regular expressions by metric name.

    Example:
        >>> PatternCollector({"p99": r"99%:\s+([\d.]+)ms"}).feed("  99%:  12.5ms")
        [{'p99': 12.5}]
    """

    def __init__(self, patterns: Mapping[str, str]) -> None:
        self._patterns = {name: re.compile(pattern) for name, pattern in patterns.items()}

    def feed(self, line: str) -> list[Metrics]:
        """Return the line's metrics as one report, or nothing."""
        found: Metrics = {}
        for name, pattern in self._patterns.items():
            for match in pattern.finditer(line):
                text = match["value"] if "value" in pattern.groupindex else match[1]
                if text is not None:
                    found[name] = _number_or_text(text)
        return [found] if found else []

    def finish(self) -> list[Metrics]:
        """Return nothing: every line was complete."""
        return []


def _number_or_text(text: str) -> int | float | str:
    try:
        return number(text)
    except ValueError:
        return text
