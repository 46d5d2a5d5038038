"""Whether anything was lost: a pure function over what three parties saw of a run.

They are the workers (``witness``), the chaos process, which kept every record of the journal that
it ever saw, and the journal as it is at the end.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raytune_hpo.chaos.witness import ACKNOWLEDGED, BEGAN, ORDERED, Line
from raytune_hpo.journal import Record
from raytune_hpo.state import RunState
from raytune_hpo.trial import TrialState

_COMPLETE = frozenset({"trials", "exhausted"})
"""Ends of a run before which every trial has finished."""


@dataclass(frozen=True)
class Loss:
    """Something that must never happen, and how often it did.

    Attributes:
        what: In a few words.
        found: One text a case.
    """

    what: str
    found: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """What a run under faults came to.

    Attributes:
        losses: All kinds that were looked for; those without a case too.
        ended: Reason of the end in the journal, or None when the run has none.
        budget: Trials asked for, or None.
        trials: Trials in the journal.
        states: Number of trials by final state.
        failed: Failed trials by cause.
        attempts: Number of trials by how many attempts they took.
        interruptions: Attempts that were cut off and followed by another one.
        reports: Reports that the journal has.
        reports_again: Reports of a step that an earlier attempt had made already.
        acknowledged: Reports of which a trial was told that they are safe.
        sessions: Starts of the driver.
    """

    losses: tuple[Loss, ...]
    ended: str | None
    budget: int | None
    trials: int
    states: Mapping[str, int]
    failed: Mapping[str, int]
    attempts: Mapping[int, int]
    interruptions: int
    reports: int
    reports_again: int
    acknowledged: int
    sessions: int

    @property
    def nothing_lost(self) -> bool:
        """Whether no loss of any kind was found."""
        return not any(loss.found for loss in self.losses)

    @property
    def failed_of_their_own(self) -> int:
        """Failed trials that had no order to fail."""
        return sum(count for cause, count in self.failed.items() if ORDERED not in cause)


@dataclass
class _Final:
    """The journal at its end, as far as it is looked at."""

    state: RunState
    finished_by: dict[int, int] = field(default_factory=dict)
    reports: Counter[str] = field(default_factory=Counter)
    steps: dict[int, list[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, records: Sequence[Record]) -> _Final:
        final = cls(RunState.replay(records))
        for record in records:
            if record["type"] == "report":
                final.reports[_report_key(record)] += 1
                if record["advanced"]:
                    final.steps.setdefault(record["trial"], []).append(record["step"])
            elif record["type"] == "end" and TrialState(record["state"]).finished:
                final.finished_by.setdefault(record["trial"], record["attempt"])
        return final


def judge(
    observed: Sequence[Line],
    seen: Sequence[Record],
    final: Sequence[Record],
    *,
    tracked: Mapping[str, Sequence[str]] | None = None,
) -> Verdict:
    """Compare what was seen of a run with what its journal says at the end.

    Args:
        observed: What the workers noted.
        seen: Every record of the journal that was seen while it ran.
        final: The journal at the end.
        tracked: What MLflow has otherwise than the journal, by kind; None when it was not compared.
    """
    end = _Final.of(final)
    reason = end.state.finish.reason if end.state.finish else None
    losses = [
        Loss("finished trials run again", _run_again(observed, final)),
        Loss("acknowledged reports lost", _lost_reports(observed, end)),
        Loss("journal records gone or changed", _gone(seen, final)),
        Loss("trials lost", _lost_trials(observed, seen, end, reason)),
        Loss("trials beside the budget", _beside_budget(end, reason)),
    ]
    losses += [Loss(what, tuple(found)) for what, found in (tracked or {}).items()]
    trials = end.state.trials.values()
    return Verdict(
        losses=tuple(losses),
        ended=reason,
        budget=end.state.budget,
        trials=len(trials),
        states=dict(Counter(trial.state.value for trial in trials)),
        failed=dict(Counter(_cause(end, number) for number in _failed(end))),
        attempts=dict(sorted(Counter(len(trial.attempts) for trial in trials).items())),
        interruptions=sum(max(0, len(trial.attempts) - 1) for trial in trials),
        reports=sum(end.reports.values()),
        reports_again=sum(len(steps) - len(set(steps)) for steps in end.steps.values()),
        acknowledged=sum(line["what"] == ACKNOWLEDGED for line in observed),
        sessions=len(end.state.sessions),
    )


def _run_again(observed: Iterable[Line], final: Sequence[Record]) -> tuple[str, ...]:
    """Return the attempts that began although an earlier one had finished the trial."""
    finished: dict[int, int] = {}
    found: dict[tuple[int, int], str] = {}
    for record in final:
        number, attempt = record.get("trial"), record.get("attempt")
        if record["type"] == "end" and TrialState(record["state"]).finished:
            finished.setdefault(record["trial"], record["attempt"])
        elif number in finished and record["type"] in ("start", "begin", "report"):
            text = f"trial {number}, attempt {attempt}, in the journal"
            found.setdefault((record["trial"], record["attempt"]), text)
    for line in observed:
        number, attempt = line["trial"], line["attempt"]
        if line["what"] == BEGAN and attempt > finished.get(number, attempt):
            found.setdefault((number, attempt), f"trial {number}, attempt {attempt}")
    return tuple(found.values())


def _lost_reports(observed: Iterable[Line], final: _Final) -> tuple[str, ...]:
    acknowledged = Counter(_report_key(line) for line in observed if line["what"] == ACKNOWLEDGED)
    return tuple((acknowledged - final.reports).elements())


def _report_key(report: Mapping[str, Any]) -> str:
    """Return what tells reports apart for a worker, which does not know of steps."""
    metrics = json.dumps(report["metrics"], sort_keys=True)
    return f"trial {report['trial']}, attempt {report['attempt']}: {metrics}"


def _gone(seen: Iterable[Record], final: Sequence[Record]) -> tuple[str, ...]:
    now = {record["n"]: _text(record) for record in final}
    return tuple(
        f"record {record['n']} ({record['type']})"
        for record in seen
        if now.get(record["n"]) != _text(record)
    )


def _text(record: Record) -> str:
    return json.dumps(record, sort_keys=True)


def _lost_trials(
    observed: Iterable[Line], seen: Iterable[Record], final: _Final, reason: str | None
) -> tuple[str, ...]:
    """Return the trials that somebody saw and that have no place, or no end, in the journal."""
    known = {line["trial"] for line in observed}
    known |= {record["trial"] for record in seen if record["type"] == "trial"}
    trials = final.state.trials
    lost = [f"trial {number}: not in the journal" for number in sorted(known - trials.keys())]
    if reason in _COMPLETE:
        lost += [f"trial {number}: has no end" for number in sorted(final.state.unfinished)]
    return tuple(lost)


def _beside_budget(final: _Final, reason: str | None) -> tuple[str, ...]:
    count, budget = len(final.state.trials), final.state.budget
    off = []
    if budget is not None and (count > budget or (reason == "trials" and count != budget)):
        off.append(f"{count} trials where {budget} were asked for")
    return (*off, *([] if reason else ["the run has no end"]))


def _failed(final: _Final) -> list[int]:
    trials = final.state.trials.values()
    return [trial.number for trial in trials if trial.state is TrialState.FAILED]


def _cause(final: _Final, number: int) -> str:
    failure = final.state.trials[number].failure
    return "unknown" if failure is None else f"{failure.kind}: {failure.message.split(':')[0]}"
