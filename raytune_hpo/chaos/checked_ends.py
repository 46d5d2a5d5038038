"""Whether what ran was allowed to, and ended as what was seen of it calls for (G8, G9)."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from raytune_hpo.chaos import observed as seen
from raytune_hpo.chaos.acknowledged import (
    FINISHED,
    RETRYABLE,
    UNCHARGED_LOSSES,
    at_target,
    bad_metric,
    key_of,
    metric_of,
    reason_of,
    was_lost,
)
from raytune_hpo.chaos.observed import Observation
from raytune_hpo.experiment import Experiment
from raytune_hpo.journal import Record

SAME_ERRORS = 3
"""So many first trials that failed alike may end a run."""

_STATE_AFTER = {seen.STOP: "pruned", "pause": "paused", "complete": "completed"}

_End = tuple[str, str | None, bool]
"""State, kind of failure, and whether it was charged."""


def check_ends(
    observed: Sequence[Observation], records: Sequence[Record], experiment: Experiment
) -> Iterator[str]:
    """Yield what ran against the rules, or ended otherwise than it should have."""
    yield from _at_once(observed)
    yield from _ends(observed, records, experiment)
    yield from _too_many_failed(records, experiment)
    yield from _decided(records, experiment)
    yield from _stale(observed)
    yield from _finish(observed, records, experiment)
    yield from _session_ends(observed)


def _at_once(observed: Sequence[Observation]) -> Iterator[str]:
    running: set[int] = set()
    parallel = 0
    for item in observed:
        if isinstance(item, seen.SessionStarted):
            running, parallel = set(), item.parallel
        elif isinstance(item, seen.AttemptStarted):
            running.add(item.trial)
            if len(running) > parallel:
                yield (
                    f"G8: session {item.session}: {len(running)} trials at once, "
                    f"and {parallel} were allowed"
                )
        elif isinstance(item, (seen.AttemptEnded, seen.ToldToStop)) or (
            isinstance(item, seen.ReportAcknowledged) and item.answer != "continue"
        ):
            running.discard(item.trial)


def _ends(
    observed: Sequence[Observation], records: Sequence[Record], experiment: Experiment
) -> Iterator[str]:
    """Return the ends whose state or charge is not what was seen of the attempt calls for."""
    causes = {key_of(item): item for item in observed if isinstance(item, seen.AttemptEnded)}
    sure = {(i.trial, i.attempt) for i in observed if isinstance(i, seen.EndAcknowledged)}
    answers = {
        (item.trial, item.attempt): item.answer
        for item in observed
        if isinstance(item, seen.ReportAcknowledged)
    }
    open_ends = _open_ends(observed, experiment)
    accounts: dict[int, _Account] = defaultdict(lambda: _Account(experiment))
    paused: set[int] = set()
    for record in records:
        if record["type"] not in ("start", "report", "end"):
            continue
        account, key = accounts[record["trial"]], key_of(record)
        if record["type"] == "start":
            account.start()
            paused.discard(record["trial"])
        elif record["type"] == "report":
            account.report(record["metrics"], saved=record["checkpoint"] is not None)
        else:
            answer = answers.get(key, "continue")
            possible: list[_End]
            if record["trial"] in paused:
                possible = [("pruned", None, False), ("stopped", None, False)]
                paused.discard(record["trial"])
            elif account.bad is not None:
                possible = [account.charged(account.bad)]
            elif account.at_target:
                possible = [("completed", None, False)]
            elif answer != "continue":
                possible = [(_STATE_AFTER[answer], None, False)]
            else:
                possible = [account.end(causes[key])] if key in causes else []
                possible += [] if key in sure else open_ends
            if record["state"] == "paused":
                paused.add(record["trial"])
            if _found(record) not in possible:
                yield _wrong(record, f"is {_found(record)}, which is none of {possible}")
            if _blames_metric(record) and account.bad is None:
                yield f"G9: trial {record['trial']} had no bad metric, and failed for one"
            if record["values"] != (account.value and [account.value]):
                yield _wrong(record, f"has the values {record['values']}, not {account.value}")
            account.book(record)
            if account.failures > 1 + experiment.retries:
                allowed = 1 + experiment.retries
                yield _wrong(record, f"is charged as number {account.failures} of {allowed}")


def _open_ends(observed: Sequence[Observation], experiment: Experiment) -> list[_End]:
    """Return how attempts may end that a kill or the end of the run cut short."""
    states = ["pending"]
    if experiment.scheduler.algorithm != "none":
        # The answer to the last report was not heard.
        states += ["pruned", "paused", "completed"]
    if reason_of(observed) in ("spec", "same_error", "target"):
        states += ["stopped"]
    return [(state, None, False) for state in states]


class _Account:
    """What the journal charges a trial with, and what it reported.

    Attributes:
        value: The last objective value, or None.
        bad: Kind of failure that the attempt's last report makes of it, or None.
        failures: Attempts charged.
        lost: Attempts lost by no fault of the trial's, and not charged, since it last saved.
        at_target: Whether the attempt's last report reached the target.
    """

    def __init__(self, experiment: Experiment) -> None:
        self._retries = experiment.retries
        self._metric = metric_of(experiment)
        self._target = experiment.objectives.goals[0].target
        self._reported = False
        self.at_target = False
        self.value: float | None = None
        self.bad: str | None = None
        self.failures = 0
        self.lost = 0

    def start(self) -> None:
        """Take in the start of an attempt."""
        self.bad, self.at_target = None, False

    def report(self, metrics: Mapping[str, Any], *, saved: bool) -> None:
        """Take in a report that was kept, and whether it came with a checkpoint."""
        if saved:
            self.lost = 0
        if self._metric in metrics:
            self._reported = True
            self.bad = bad_metric(metrics[self._metric])
            if self.bad is None:
                self.value = metrics[self._metric]
                self.at_target = at_target(self.value, self._target)

    def end(self, cause: seen.AttemptEnded) -> _End:
        """Return what an attempt's own end calls for."""
        if cause.how == seen.RETURNED:
            return ("completed", None, False) if self._reported else self.charged("metric_missing")
        if was_lost(cause) and self.lost < UNCHARGED_LOSSES:
            return "pending", cause.how, False
        return self.charged(cause.how)

    def charged(self, kind: str) -> _End:
        """Return what a failure calls for that is charged."""
        again = kind in RETRYABLE and self.failures + 1 <= self._retries
        return "pending" if again else "failed", kind, True

    def book(self, end: Record) -> None:
        """Take in an end that was kept."""
        self.failures += bool(end["charged"])
        self.lost += end["failure"] is not None and not end["charged"]


def _found(end: Record) -> _End:
    failure = end["failure"]
    return end["state"], None if failure is None else failure["kind"], end["charged"]


def _blames_metric(end: Record) -> bool:
    kind = _found(end)[1]
    return kind in ("metric_nan", "metric_infinite", "metric_not_number")


def _wrong(end: Record, what: str) -> str:
    return f"G8: the end of trial {end['trial']}, attempt {end['attempt']} {what}"


def _too_many_failed(records: Sequence[Record], experiment: Experiment) -> Iterator[str]:
    failed = 0
    for record in records:
        failed += record["type"] == "end" and record["state"] == "failed"
        limit = experiment.max_failed
        if record["type"] == "start" and limit is not None and failed >= max(1, limit):
            yield f"G8: record {record['n']} starts a trial after {failed} had failed"


def _decided(records: Sequence[Record], experiment: Experiment) -> Iterator[str]:
    """Return what started though a report that is in the journal had ended the trial, or all."""
    metric, target = metric_of(experiment), experiment.objectives.goals[0].target
    bad: set[int] = set()
    reached = False
    for record in records:
        value = record["metrics"].get(metric) if record["type"] == "report" else None
        if record["type"] == "report" and metric in record["metrics"]:
            if bad_metric(value) is not None:
                bad.add(record["trial"])
            else:
                reached = reached or at_target(value, target)
        elif record["type"] == "start":
            if record["trial"] in bad:
                yield (
                    f"G9: trial {record['trial']} had a bad metric, "
                    f"and record {record['n']} starts it again"
                )
            if reached:
                yield f"end: the target was reached, and record {record['n']} starts a trial"


def _stale(observed: Sequence[Observation]) -> Iterator[str]:
    for item in observed:
        if isinstance(item, seen.StalePassedOn) and item.answer not in (None, seen.STOP):
            yield (
                f"stale: session {item.session}: a report of trial {item.trial}, attempt "
                f"{item.attempt}, which was over, was answered with {item.answer}"
            )


def _finish(
    observed: Sequence[Observation], records: Sequence[Record], experiment: Experiment
) -> Iterator[str]:
    reason = reason_of(observed)
    last = records[-1] if records else {"type": ""}
    if reason != (last["reason"] if last["type"] == "finish" else ""):
        yield f"end: the run ended with '{reason}', and the journal with {last}"
    finished = [r for r in records if r["type"] == "end" and r["state"] in FINISHED]
    if not _is_called_for(reason, finished, experiment):
        yield f"end: nothing calls for the reason '{reason}'"


def _is_called_for(reason: str, finished: Sequence[Record], experiment: Experiment) -> bool:
    kinds = [_found(end)[1] if end["state"] == "failed" else None for end in finished]
    failed = len(kinds) - kinds.count(None)
    limit = experiment.max_failed
    if reason == "max_failed":
        return limit is not None and failed >= max(1, limit)
    if reason == "same_error":
        first = kinds[:SAME_ERRORS]
        return len(first) == SAME_ERRORS and None not in first and len(set(first)) == 1
    if reason == "target":
        target = experiment.objectives.goals[0].target
        values = [end["values"] or [None] for end in finished if end["state"] != "failed"]
        return any(at_target(value, target) for (value,) in values)
    if reason == "spec":
        return kinds[:1] == ["metric_missing"]
    return reason == "trials"


def _session_ends(observed: Sequence[Observation]) -> Iterator[str]:
    """Return the sessions that ended early, and what started after the run's end."""
    started: seen.SessionStarted | None = None
    asked = over = False
    done = 0
    for item in observed:
        if isinstance(item, seen.SessionStarted):
            started, asked = item, False
            # More trials than before are a reason to go on.
            over = over and item.trials <= done
        elif isinstance(item, seen.StopAsked):
            asked = True
        elif isinstance(item, seen.AttemptStarted) and over:
            yield f"end: trial {item.trial} started after the run had ended"
        elif isinstance(item, seen.SessionFinished) and started is not None:
            if item.reason == "interrupted" and not asked:
                yield f"end: session {item.session} was interrupted by nobody"
            elif item.reason == "time_limit":
                limit_s, took_s = started.time_limit_s, item.at_s - started.at_s
                if limit_s is None or took_s < limit_s:
                    yield f"G15: session {item.session} ended at its limit after {took_s:g} s"
            elif item.reason not in ("interrupted", "time_limit"):
                over, done = True, started.trials if item.reason == "trials" else sys.maxsize
