"""Whether the searcher knew all there was to know, and proposed what it would have anyway (G5)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from raytune_hpo.chaos import observed as seen
from raytune_hpo.chaos.acknowledged import FINISHED, Acknowledged, reason_of
from raytune_hpo.chaos.checked_suggestions import check_suggestions
from raytune_hpo.chaos.observed import Observation
from raytune_hpo.experiment import Experiment
from raytune_hpo.journal import Record
from raytune_hpo.plugins import make_searcher
from raytune_hpo.searchers.base import Searcher
from raytune_hpo.trial import Config

FORESEEN = 64
"""So many proposals are compared with those of a run without interruption."""

_WHATEVER_HAPPENED = ("random", "sobol")
"""Searchers whose proposals follow from the seed and the number of the trial alone."""


def check_search(
    observed: Sequence[Observation], records: Sequence[Record], experiment: Experiment
) -> Iterator[str]:
    """Yield what the searcher was not told, told wrongly, or proposed otherwise."""
    yield from _searcher_knows(observed, experiment)
    yield from _searcher_at_end(observed, records)
    yield from _suggestions(observed, records)


def _searcher_knows(observed: Sequence[Observation], experiment: Experiment) -> Iterator[str]:
    """Return what was acknowledged and the searcher does not know, when it is to propose.

    With several trials at a time it is asked ahead, before the trial starts that precedes its own,
    and after a resume knows no more than it did then.
    """
    acknowledged = Acknowledged(experiment)
    started: dict[int, Mapping[str, Any]] = {}
    adopted: dict[int, Mapping[str, Any] | None] = {}
    told: set[int] = set()
    parallel = 1
    finished_before: dict[int, set[int]] = {}
    for item in observed:
        if isinstance(item, seen.SessionStarted):
            adopted, told, parallel = {}, set(), item.parallel
        elif isinstance(item, (seen.Adopted, seen.Suggested)):
            if isinstance(item, seen.Suggested):
                finished = acknowledged.finished
                if parallel > 1:
                    finished = finished_before.setdefault(item.trial - 1, set(finished))
                yield from _untold(item.session, finished - told)
            else:
                finished_before.setdefault(item.trial, set(acknowledged.finished))
            if item.trial in adopted:
                yield f"G5: session {item.session}: the searcher got trial {item.trial} twice"
            adopted[item.trial] = item.config
        elif isinstance(item, seen.Told):
            if item.trial in told or item.trial not in adopted:
                yield f"G5: session {item.session}: the end of trial {item.trial} is told wrongly"
            told.add(item.trial)
        elif isinstance(item, seen.SessionReady):
            yield from _untold(item.session, acknowledged.finished - told)
            for trial, config in started.items():
                if adopted.get(trial) != config:
                    yield f"G5: session {item.session}: the searcher does not know trial {trial}"
        elif isinstance(item, seen.AttemptStarted):
            started[item.trial] = item.config
            finished_before.setdefault(item.trial, set(acknowledged.finished))
        acknowledged.see(item)


def _untold(session: int, trials: set[int]) -> Iterator[str]:
    if trials:
        yield f"G5: session {session}: the searcher was not told of the trials {sorted(trials)}"


def _searcher_at_end(observed: Sequence[Observation], records: Sequence[Record]) -> Iterator[str]:
    """Return whether what the last searcher was told is what the journal says."""
    told: list[tuple[Any, ...]] = []
    for item in observed:
        if isinstance(item, seen.SessionStarted):
            told = []
        elif isinstance(item, seen.Told):
            told.append((item.trial, item.state, item.values))
    kept = [
        (end["trial"], end["state"], _values(end))
        for end in records
        if end["type"] == "end" and end["state"] in FINISHED
    ]
    if reason_of(observed) and told != kept:
        yield f"G5: the searcher was told {told}, and the journal says {kept}"


def _values(end: Record) -> tuple[float, ...] | None:
    values = None if end["state"] == "failed" else end["values"]
    return None if values is None else tuple(values)


def _suggestions(observed: Sequence[Observation], records: Sequence[Record]) -> Iterator[str]:
    """Return the proposals that a run without any interruption would not have made."""
    if not records:
        return
    algorithm, seed = records[0]["algorithm"], records[0]["seed"]
    if algorithm in _WHATEVER_HAPPENED:
        spec = records[0]["spec"]
        searched = {name: spec[name] for name in ("run", "parameters", "objective")}
        search = {**spec["search"], "algorithm": algorithm, "seed": seed}
        sequence = _sequence(json.dumps({**searched, "search": search, "trials": FORESEEN}))
        for item in observed:
            if isinstance(item, seen.Suggested) and item.config != _foreseen(sequence, item):
                yield f"G5: session {item.session}: trial {item.trial} has an unexpected config"
        return
    yield from check_suggestions(records)


def _foreseen(
    sequence: Sequence[Config | None], suggested: seen.Suggested
) -> Mapping[str, Any] | None:
    beyond = suggested.trial >= len(sequence)
    return suggested.config if beyond else sequence[suggested.trial]


def _searcher(algorithm: str, seed: int, experiment: Experiment) -> Searcher:
    space, objective = experiment.search_space, experiment.objectives
    return make_searcher(algorithm, space, objective, seed, experiment.search.settings)


@cache
def _sequence(search: str) -> list[Config | None]:
    """Return the first proposals of a searcher that is told nothing, by what is searched."""
    experiment = Experiment.from_json(json.loads(search))
    searcher = _searcher(experiment.search.algorithm, experiment.search.seed or 0, experiment)
    return [searcher.suggest(trial) for trial in range(experiment.trials or 0)]
