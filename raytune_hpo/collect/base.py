"""The protocol of a metric collector, and which one an experiment asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from raytune_hpo.collect.lines import MAX_LINE as MAX_LINE

Metrics = dict[str, Any]


@dataclass(frozen=True)
class MetricOptions:
    """Where the metrics of a command come from.

    Attributes:
        source: ``stdout`` (lines with ``name=value``, and JSON lines), ``json`` (JSON lines only)
            or ``file``.
        path: Of the file, relative to the folder that the trial starts in.
        patterns: Regular expressions by metric name, or a list of them; see ``PatternCollector``.
            With patterns nothing else is read.
    """

    source: str = "stdout"
    path: str | None = None
    patterns: Mapping[str, str] | Sequence[str] = field(default_factory=dict)


class Collector(Protocol):
    """Reads metrics from text, line by line."""

    def feed(self, line: str) -> list[Metrics]:
        """Return the reports that this line completes, mostly none or one.

        Args:
            line: Without its newline; at most ``MAX_LINE`` characters.
        """
        ...

    def finish(self) -> list[Metrics]:
        """Return what is left when the text is over."""
        ...


def make_collector(options: MetricOptions) -> Collector:
    """Return the collector that reads lines as ``options`` say."""
    # Imported here because the collectors import this module.
    from raytune_hpo.collect.jsonlines import JsonCollector
    from raytune_hpo.collect.patterns import PatternCollector
    from raytune_hpo.collect.stdout import StdoutCollector

    if options.patterns:
        return PatternCollector(options.patterns)
    if options.source == "json":
        return JsonCollector()
    return StdoutCollector()
