"""Whether every suggestion in a journal is what its searcher proposes of what it knew (G5)."""

from __future__ import annotations

from collections.abc import Sequence

from raytune_hpo.chaos.acknowledged import FINISHED
from raytune_hpo.experiment import Experiment
from raytune_hpo.journal import Record
from raytune_hpo.plugins import make_searcher
from raytune_hpo.searchers.base import Searcher
from raytune_hpo.suggestions import requested_early
from raytune_hpo.trial import Config, Outcome, TrialState


def check_suggestions(records: Sequence[Record], searcher: Searcher | None = None) -> list[str]:
    """Return the first trial that has another config than a run without interruption would give it.

    A new searcher is told what the journal says, in its order, and asked at the places where a
    driver asks. However often the run was interrupted: it has to come to the same configs.

    Args:
        records: A whole journal.
        searcher: New; default: the journal's.
    """
    retold = _Retold(searcher or _searcher(records[0]), records)
    forks: set[int] = set()
    for record in records:
        kind = record["type"]
        if kind == "trial" and record["origin"] == "fork":
            forks.add(record["trial"])
        if record.get("trial") in forks:
            # The searcher knows nothing of it.
            continue
        if kind == "trial":
            expected = retold.config(record)
            if expected != record["config"]:
                return [
                    f"G5: trial {record['trial']} has the config {record['config']}, and without "
                    f"interruption it would be {expected}"
                ]
        elif kind == "start":
            retold.start(record)
        elif kind == "report":
            retold.report(record)
        elif kind == "end" and record["state"] in FINISHED:
            retold.end(record)
    return []


class _Retold:
    """A searcher that is told of a journal's records, and asked where a driver asks it."""

    def __init__(self, searcher: Searcher, records: Sequence[Record]) -> None:
        self._searcher = searcher
        self._early = requested_early(records)
        self._suggested: dict[int, Config | None] = {}
        self._step: dict[int, int] = {}
        self._step_of: dict[str, int] = {}

    def config(self, record: Record) -> Config | None:
        """Return what the trial of a record should have, and ask for the next one if it is time."""
        config = self._own(record)
        following = record["trial"] + 1
        if following in self._early:
            self._suggested[following] = self._searcher.suggest(following)
        return config

    def _own(self, record: Record) -> Config | None:
        number = record["trial"]
        if number in self._early:
            return self._suggested.pop(number)
        if record["origin"] == "search":
            return self._searcher.suggest(number)
        config: Config = record["config"]
        self._searcher.adopt(number, config)
        return config

    def start(self, record: Record) -> None:
        """Take note of the step that an attempt goes on from."""
        checkpoint = record["checkpoint"]
        self._step[record["trial"]] = 0 if checkpoint is None else self._step_of[checkpoint]

    def report(self, record: Record) -> None:
        """Tell of a report."""
        self._step[record["trial"]] = record["step"]
        if record["checkpoint"] is not None:
            self._step_of[record["checkpoint"]] = record["step"]
        if record["advanced"]:
            values, violations = tuple(record["values"]), tuple(record["violations"])
            self._searcher.report(record["trial"], record["step"], values, violations)

    def end(self, record: Record) -> None:
        """Tell of the end of a trial."""
        values = None if record["state"] == "failed" else record["values"]
        outcome = Outcome(
            state=TrialState(record["state"]),
            values=None if values is None else tuple(values),
            violations=tuple(record["violations"]),
            step=self._step[record["trial"]],
        )
        self._searcher.observe(record["trial"], outcome)


def _searcher(header: Record) -> Searcher:
    experiment = Experiment.from_json(header["spec"])
    space, objective = experiment.search_space, experiment.objectives
    return make_searcher(
        header["algorithm"], space, objective, header["seed"], experiment.search.settings
    )
