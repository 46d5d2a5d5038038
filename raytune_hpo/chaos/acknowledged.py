"""What checkers of a run share: which trials are finished, which values are no numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from raytune_hpo.chaos import observed as seen
from raytune_hpo.chaos.observed import Observation
from raytune_hpo.experiment import Experiment
from raytune_hpo.journal import Record

UNCHARGED_LOSSES = 3
"""Attempts that a trial may lose by no fault of its own, since it saved, uncharged."""
FINISHED = frozenset({"completed", "pruned", "failed", "stopped"})
"""States of trials that never run again."""
RETRYABLE = frozenset(
    {
        "exception",
        "exit_code",
        "signal",
        "time_limit",
        "silent",
        "worker_died",
        "node_lost",
    }
)
"""Kinds of failure after which a trial may be tried again."""

Key = tuple[int, int]
"""Trial and attempt."""


def key_of(item: Record | seen.AttemptStarted | seen.ReportMade | seen.AttemptEnded) -> Key:
    """Return trial and attempt of a record or an observation."""
    if isinstance(item, dict):
        return item["trial"], item["attempt"]
    return item.trial, item.attempt


def metric_of(experiment: Experiment) -> str:
    """Return the name of the metric that is the objective."""
    return experiment.objectives.goals[0].name


def is_number(value: Any) -> bool:
    """Return whether an objective can be made of a value."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def bad_metric(value: Any) -> str | None:
    """Return the kind of failure that a value of the objective makes, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "metric_not_number"
    if is_number(value):
        return None
    return "metric_nan" if value != value else "metric_infinite"


def at_target(value: float | None, target: float | None) -> bool:
    """Return whether a value to be made small is small enough."""
    return value is not None and target is not None and value <= target


def was_lost(ended: seen.AttemptEnded) -> bool:
    """Return whether an attempt was lost by no fault of its trial's."""
    return ended.how == "node_lost" or (ended.how == "worker_died" and not ended.begun)


def reason_of(observed: Sequence[Observation]) -> str:
    """Return why the run ended, or nothing when it did not."""
    last = observed[-1] if observed else None
    return last.reason if isinstance(last, seen.SessionFinished) else ""


class Acknowledged:
    """Which trials an observer knows to be finished.

    Attributes:
        finished: Trials whose end was acknowledged.
        failed: Those of them that failed.
    """

    def __init__(self, experiment: Experiment) -> None:
        self._retries = experiment.retries
        self._max_failed = experiment.max_failed
        self._metric = metric_of(experiment)
        self._ended: dict[Key, seen.AttemptEnded] = {}
        self._bad: set[Key] = set()
        self._charged: Counter[int] = Counter()
        self._lost: Counter[int] = Counter()
        self.finished: set[int] = set()
        self.failed: set[int] = set()

    @property
    def too_many_failed(self) -> bool:
        """Whether so many trials failed that no other may start."""
        limit = self._max_failed
        return limit is not None and bool(self.failed) and len(self.failed) >= limit

    def see(self, item: Observation) -> None:
        """Take in what was observed next."""
        if isinstance(item, seen.ReportMade):
            if item.checkpoint is not None:
                # Whether it was kept is not known yet; losses that count less finish no trial.
                self._lost[item.trial] = 0
            if not is_number(item.metrics.get(self._metric, 0.0)):
                self._bad.add(key_of(item))
        elif isinstance(item, seen.ReportAcknowledged):
            if item.answer in (seen.STOP, "complete"):
                self.finished.add(item.trial)
                if (item.trial, item.attempt) in self._bad:
                    self.failed.add(item.trial)
        elif isinstance(item, seen.AttemptEnded):
            self._ended[key_of(item)] = item
        elif isinstance(item, seen.EndAcknowledged):
            self._end(self._ended[item.trial, item.attempt])

    def _end(self, ended: seen.AttemptEnded) -> None:
        trial = ended.trial
        if ended.how == seen.RETURNED:
            self.finished.add(trial)
        elif was_lost(ended) and self._lost[trial] < UNCHARGED_LOSSES:
            self._lost[trial] += 1
        else:
            self._charged[trial] += 1
            if self._charged[trial] > self._retries:
                self.finished.add(trial)
                self.failed.add(trial)
