"""Metrics by regular expressions of the user's own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from raytune_hpo.collect.base import Metrics
from raytune_hpo.collect.lines import number, plain
from raytune_hpo.errors import Problem, SpecError


class PatternCollector:
    r"""Metrics by patterns; what one line holds is one report.

    With one group, the group is the number and the metric is called as the pattern is. A group
    ``value`` is the number whatever else there is, and a group ``name`` beside it the metric's
    name. Otherwise several named groups are one metric each, and of several groups without a name
    the first is the number. Of several matches in a line the last counts.

    Args:
        patterns: Regular expressions by metric name. Or a list of them, without names: two groups
            are then name and number, as in Katib's ``metricsFormat``.

    Raises:
        SpecError: A pattern cannot be read, or marks no number.

    Example:
        >>> PatternCollector({"p99": r"99%:\s+([\d.]+)ms"}).feed("  99%:  12.5ms")
        [{'p99': 12.5}]
        >>> PatternCollector([r"(\w+) is (\d+)"]).feed("rate is 5, size is 7")
        [{'rate': 5, 'size': 7}]
    """

    def __init__(self, patterns: Mapping[str, str] | Sequence[str]) -> None:
        if isinstance(patterns, Mapping):
            named: list[tuple[str | None, str]] = list(patterns.items())
        else:
            named = [(None, pattern) for pattern in patterns]
        self._patterns = [(name, _compiled(name, pattern)) for name, pattern in named]

    def feed(self, line: str) -> list[Metrics]:
        """Return the line's metrics as one report, or nothing."""
        text = plain(line)
        found: Metrics = {}
        for name, pattern in self._patterns:
            for match in pattern.finditer(text):
                found |= {key: _number_or_text(value) for key, value in _marked(match, name)}
        return [found] if found else []

    def finish(self) -> list[Metrics]:
        """Return nothing: every line was complete."""
        return []


def _compiled(name: str | None, pattern: str) -> re.Pattern[str]:
    path = "metrics.patterns" + (f".{name}" if name else "")
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        column = 0 if error.pos is None else error.pos + 1
        message = f"is not a regular expression: {error.msg} at character {column}: {pattern}"
        raise SpecError([Problem(path, message)]) from error
    if not compiled.groups or (name is None and compiled.groups == 1 and not compiled.groupindex):
        wanted = "the number" if name else "the metric's name and another the number"
        raise SpecError([Problem(path, f"must mark {wanted} by a group: {pattern}")])
    return compiled


def _marked(match: re.Match[str], name: str | None) -> Iterator[tuple[str, str]]:
    """Return name and text of each metric that a match holds."""
    groups = match.groupdict()
    if "value" in groups:
        pairs = [(groups.get("name") or name or "value", groups["value"])]
    elif len(groups) > 1 or (groups and name is None):
        pairs = list(groups.items())
    elif name is None:
        pairs = [(match[1], match[2])]
    else:
        pairs = [(name, match[1])]
    return ((key.strip(), text.strip()) for key, text in pairs if key and text)


def _number_or_text(text: str) -> int | float | str:
    try:
        return number(text)
    except ValueError:
        return text
