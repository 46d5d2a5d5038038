"""Lines with ``name=value``, as Katib's default collector reads them, and JSON lines."""

from __future__ import annotations

import re

from raytune_hpo.collect.base import Metrics
from raytune_hpo.collect.jsonlines import JsonCollector
from raytune_hpo.collect.lines import number, plain

# Nothing in here is tried twice, so a long line takes no longer than its length.
_NAME = r"(?:[^\W\d]|\d[\d.]{0,20}%)[\w./|:%-]{0,200}+(?:\([^()=\s]{1,40}\)[\w./|:%-]{0,40}+)?"
_DIGITS = r"[0-9]+(?:_[0-9]+)*+"
_NUMBER = rf"[+-]?(?:(?:{_DIGITS}\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|(?i:inf(?:inity)?|nan))"
# Of a version, a date, a time or "1,234" the beginning would be a wrong number: rather none.
_END = r"(?!\w|[.,:-][0-9])"
_PAIR = re.compile(rf"(?<![\w./%-])({_NAME})\s{{0,8}}+=\s{{0,8}}+((?>{_NUMBER})){_END}")
_LOGGING = re.compile(r"(?:DEBUG|INFO|WARNING|ERROR|CRITICAL):[\w.]*:")


class StdoutCollector:
    """Every ``name=number`` of a line, together one report; a line that is JSON counts too.

    Example:
        >>> StdoutCollector().feed("2026-01-01T00:00:00Z epoch=3 val/loss=1.5e-2, p99(ms)=7")
        [{'epoch': 3, 'val/loss': 0.015, 'p99(ms)': 7}]
    """

    def __init__(self) -> None:
        self._json = JsonCollector()

    def feed(self, line: str) -> list[Metrics]:
        """Return the line's metrics as one report, or nothing."""
        if "=" not in line:
            return self._json.feed(line)
        # A progress bar rewrites its line: its last state is what a person sees.
        for state in reversed(plain(line).split("\r")):
            found = self._json.feed(state) or _pairs(state)
            if found:
                return found
        return []

    def finish(self) -> list[Metrics]:
        """Return nothing: every line was complete."""
        return []


def _pairs(text: str) -> list[Metrics]:
    """Return all ``name=number`` of a text as one report, or nothing."""
    start = _LOGGING.match(text)
    pairs = _PAIR.finditer(text, start.end() if start else 0)
    found: Metrics = {match[1]: number(match[2]) for match in pairs}
    return [found] if found else []
