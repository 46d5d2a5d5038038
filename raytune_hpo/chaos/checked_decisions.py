"""Whether every decision in a journal is what its scheduler decides of what it was told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from raytune_hpo.experiment import Experiment
from raytune_hpo.journal import Record
from raytune_hpo.objective import BadMetric
from raytune_hpo.plugins import make_scheduler
from raytune_hpo.schedulers.base import Decision, Drop, Fork, Move, Resume, Scheduler
from raytune_hpo.state import RunState
from raytune_hpo.trial import Result, TrialState


def check_decisions(records: Sequence[Record], scheduler: Scheduler | None = None) -> list[str]:
    """Return where a journal differs from what a run without interruption would have decided.

    A new scheduler is told what the journal says, in its order, and asked at the places where a
    driver asks. However often the run was interrupted, it has to come to the same decisions.

    Args:
        records: A whole journal.
        scheduler: New; default: the journal's.
    """
    return list(_Retold(scheduler or _scheduler(records[0])).problems(records))


class _Retold:
    """A scheduler that is told of a journal's records."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._state = RunState()
        self._due: dict[int, Decision] = {}
        self._kept: set[int] = set()

    def problems(self, records: Sequence[Record]) -> Iterator[str]:
        for record in records:
            yield from self._before(record)
            self._state.apply(record)
            yield from self._after(record)

    def _before(self, record: Record) -> Iterator[str]:
        """Compare moves, which are asked for before they show."""
        kind = record["type"]
        if kind == "trial" and record["origin"] == "fork":
            yield from self._expect(Fork(record["parent"], record["config"]))
        elif kind == "start" and self._stands(record) is TrialState.PAUSED:
            yield from self._expect(Resume(record["trial"]))
        elif kind == "end" and self._stands(record) is TrialState.PAUSED:
            if record["state"] == TrialState.STOPPED:
                # The end of the run is not the scheduler's decision.
                return
            yield from self._expect(Drop(record["trial"]), None)

    def _stands(self, record: Record) -> TrialState:
        return self._state.trials[record["trial"]].state

    def _expect(self, *seen: Move | None) -> Iterator[str]:
        paused = [t.number for t in self._state.unfinished.values() if t.state is TrialState.PAUSED]
        asked = [self._scheduler.next_move(paused, more=more) for more in (True, False)]
        if not any(move in seen for move in asked):
            yield f"the journal has {seen[0]}, and without interruption it would be {asked}"

    def _after(self, record: Record) -> Iterator[str]:
        kind = record["type"]
        if kind == "trial":
            config, parent = record["config"], record.get("parent")
            self._scheduler.on_trial(record["trial"], config, parent)
        elif kind == "report":
            yield from self._overdue(record)
            self._ask(record)
        elif kind == "decision":
            # After a crash between it and the end, a decision is journaled once more.
            self._kept.add(record["trial"])
            due = self._due.get(record["trial"], Decision.CONTINUE)
            if due != record["decision"]:
                yield f"trial {record['trial']}: the journal has {record['decision']}, not {due}"
        elif kind == "end":
            yield from self._overdue(record)
            trial = self._state.trials[record["trial"]]
            if trial.state.finished:
                self._scheduler.on_end(trial.number, trial.outcome())

    def _overdue(self, record: Record) -> Iterator[str]:
        due = self._due.pop(record["trial"], None)
        if due is not None and record["trial"] not in self._kept:
            yield f"trial {record['trial']}: {due} was decided, and is not in the journal"
        self._kept.discard(record["trial"])

    def _ask(self, record: Record) -> None:
        if not record["advanced"] or self._reached(record):
            return
        trial = self._state.trials[record["trial"]]
        result = Result(
            trial=trial.number,
            step=record["step"],
            values=tuple(record["values"]),
            metrics=dict(trial.metrics),
            violations=tuple(record["violations"]),
            checkpoint=trial.checkpoint is not None,
        )
        try:
            decision = self._scheduler.on_result(result)
        except BadMetric:
            return
        if decision is not Decision.CONTINUE:
            self._due[trial.number] = decision

    def _reached(self, record: Record) -> bool:
        if self._state.objective.goals[0].at == "mean":
            return False
        met = all(violation <= 0 for violation in record["violations"])
        return met and self._state.objective.reached(tuple(record["values"]))


def _scheduler(header: Record) -> Scheduler:
    experiment = Experiment.from_json(header["spec"])
    return make_scheduler(
        header["scheduler"],
        experiment.search_space,
        experiment.objectives,
        header["seed"],
        experiment.scheduler.settings,
    )
