"""Lines that are JSON objects."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from raytune_hpo.collect.base import Metrics


class JsonCollector:
    """The numbers of every line that is a JSON object; numbers written as text count too.

    Example:
        >>> JsonCollector().feed('{"loss": "0.25", "val": {"acc": 0.5}, "note": "x"}')
        [{'loss': 0.25, 'val.acc': 0.5}]
    """

    def feed(self, line: str) -> list[Metrics]:
        """Return the line's metrics as one report, or nothing."""
        text = line.strip()
        if not text.startswith("{"):
            return []
        try:
            content = json.loads(text)
        except ValueError:
            return []
        found = dict(numbers(content)) if isinstance(content, dict) else {}
        return [found] if found else []

    def finish(self) -> list[Metrics]:
        """Return nothing: every line was complete."""
        return []


def numbers(content: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Return all numbers of a JSON object, those of inner objects with dotted names."""
    for key, value in content.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping):
            yield from numbers(value, f"{name}.")
        elif isinstance(value, int | float):
            yield name, value
        elif isinstance(value, str):
            try:
                yield name, float(value)
            except ValueError:
                continue
