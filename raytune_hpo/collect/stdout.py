"""Lines with ``name=value``, as Katib's default collector reads them, and JSON lines."""

from __future__ import annotations

import re

from raytune_hpo.collect.base import Metrics
from raytune_hpo.collect.jsonlines import JsonCollector

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_NUMBER = r"[+-]?(?:\d[\d_]*\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?|nan|NaN|inf|Infinity)"
_PAIR = re.compile(rf"(?<![\w.|/%()-])([A-Za-z_][\w./|:%()-]*)\s*=\s*({_NUMBER})(?![\w.])")


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
        # A progress bar rewrites its line: what stands at the end is what a person sees.
        text = _ANSI.sub("", line).rstrip("\r\n").rpartition("\r")[2]
        if text.lstrip().startswith("{"):
            return self._json.feed(text)
        if "=" not in text:
            return []
        found: Metrics = {match[1]: number(match[2]) for match in _PAIR.finditer(text)}
        return [found] if found else []

    def finish(self) -> list[Metrics]:
        """Return nothing: every line was complete."""
        return []


def number(text: str) -> int | float:
    """Return the number that a text says.

    Raises:
        ValueError: It says none.
    """
    try:
        return int(text)
    except ValueError:
        return float(text)
