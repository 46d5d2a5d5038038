"""Lines that are JSON objects."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from raytune_hpo.collect.base import Metrics
from raytune_hpo.collect.lines import number, plain

_TIME = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:[.,]\d+)?\s?(?:[Zz]|[+-]\d\d:?\d\d)?\s+(?=\{)"
)


class JsonCollector:
    """The numbers of every line that is a JSON object; numbers written as text count too.

    A time before the object, as log shippers put it, is passed over.

    Example:
        >>> JsonCollector().feed('{"loss": "0.25", "val": {"acc": 0.5}, "note": "x"}')
        [{'loss': 0.25, 'val.acc': 0.5}]
    """

    def feed(self, line: str) -> list[Metrics]:
        """Return the line's metrics as one report, or nothing."""
        if "{" not in line:
            return []
        text = plain(line).strip()
        time = _TIME.match(text)
        return document(text[time.end() :] if time else text)

    def finish(self) -> list[Metrics]:
        """Return nothing: every line was complete."""
        return []


def document(text: str) -> list[Metrics]:
    """Return the numbers of a text that is one JSON object as one report, else nothing."""
    if not text.startswith("{"):
        return []
    try:
        found = dict(_numbers(json.loads(text)))
    except (ValueError, RecursionError):
        # No JSON, or nested deeper than anybody means.
        return []
    return [found] if found else []


def _numbers(content: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, int | float]]:
    """Return all numbers of a JSON object, those of inner objects with dotted names."""
    for key, value in content.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{name}.")
        elif isinstance(value, int | float | str) and not isinstance(value, bool):
            try:
                yield name, number(str(value))
            except ValueError:
                continue
