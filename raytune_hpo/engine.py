"""The experiment as a state machine: what starts next, what a report means, what ends the run.

The engine knows neither Ray nor files nor the time: records go out through a journal port, the time
comes in through a clock port, and whoever executes trials asks ``next_start`` and tells it of
reports and ends. Every change is journaled before it takes effect, and a new engine over the same
records is in the same state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from raytune_hpo import stopping
from raytune_hpo.errors import SearcherError, did_you_mean
from raytune_hpo.experiment import Experiment
from raytune_hpo.journal import Record
from raytune_hpo.leaving import Drain, Limit, Pace
from raytune_hpo.objective import BadMetric
from raytune_hpo.schedulers.base import Decision, Fork, Resume, Scheduler
from raytune_hpo.searchers.base import Searcher
from raytune_hpo.state import RunState, TrialRecord
from raytune_hpo.suggestions import NOT_READY, IdleTime, NotReady, Suggestions, requested_early
from raytune_hpo.trial import Config, Failure, FailureKind, Outcome, Result, TrialState

FIRST_TRIAL_HOLD_S = 10.0
"""Other trials wait at most this long for the first one to show that the metric exists."""
LOST_LIMIT = 3
"""Attempts in a row that may be lost before they began, or with their machine, uncharged.

A new checkpoint begins the row anew: a trial that gets on may change machines any number of times.
"""

_RESUMABLE = frozenset(
    {"interrupted", "stopped", "time_limit", "infrastructure", "max_failed", "searcher"}
)
"""Reasons after which trials that still ran may go on in a later session."""


_STATE_AFTER = {
    Decision.STOP: TrialState.PRUNED,
    Decision.PAUSE: TrialState.PAUSED,
    Decision.COMPLETE: TrialState.COMPLETED,
}


class JournalPort(Protocol):
    """Where records go."""

    def append(self, type: str, **fields: Any) -> Record:
        """Keep a record and return it as a reader will see it."""
        ...


class Clock(Protocol):
    """Where the time comes from."""

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        ...


@dataclass(frozen=True)
class Start:
    """A trial to start now.

    Attributes:
        trial: Its number.
        attempt: From 1.
        config: Flat parameter values.
        checkpoint: Path to go on from, relative to the run directory, or None.
    """

    trial: int
    attempt: int
    config: Config
    checkpoint: str | None


class Engine:
    """Decides everything about one session of a run.

    Args:
        experiment: What the user wants.
        records: The journal so far, with this session's ``session`` record as the last.
        searcher: New, not yet told of any trial.
        scheduler: New, not yet told of any trial.
        journal: Takes the records of what happens from now on.
        clock: Gives monotonic seconds.
        suggestions: Says how the searcher is called; at once by default.
        listener: Called with each record after it was journaled.
        time_limit_s: Of this session, from now on; None: what the experiment's own limit has left,
            which counts over sessions.
        limit: When the machines are taken away, or None.
        hold_s: Other trials wait at most so long for the first one to show its metric.
        has_checkpoint: Whether a checkpoint, given by its path relative to the run directory, can
            still be gone on from; the newest such one is.
        copy_checkpoint: Copies a checkpoint to a trial by its number and returns the new path, or
            None when it was deleted meanwhile.

    Attributes:
        state: What the journal says.
        parallel: Trials that may run at once; may be changed while running.
    """

    def __init__(
        self,
        experiment: Experiment,
        records: Sequence[Record],
        searcher: Searcher,
        scheduler: Scheduler,
        journal: JournalPort,
        clock: Clock,
        *,
        suggestions: Callable[[Searcher], Suggestions] = Suggestions,
        listener: Callable[[Record], None] = lambda record: None,
        time_limit_s: float | None = None,
        limit: Limit | None = None,
        hold_s: float = FIRST_TRIAL_HOLD_S,
        has_checkpoint: Callable[[str], bool] = lambda path: True,
        copy_checkpoint: Callable[[str, int], str | None] = lambda path, trial: path,
    ) -> None:
        self.experiment = experiment
        self.state = RunState()
        self._suggestions = suggestions(searcher)
        self._scheduler = scheduler
        self._journal = journal
        self._clock = clock
        self._listener = listener
        self._time_limit_s = time_limit_s
        self._limit = limit
        self._drain: Drain | None = None
        self._moving: set[int] = set()
        self._pace = Pace()
        self._hold_s = hold_s
        self._has_checkpoint = has_checkpoint
        self._copy_checkpoint = copy_checkpoint
        self._began_s = clock.monotonic()
        self._first_start_s: float | None = None
        self._requested: int | None = None
        self._rules = tuple(stopping.rules(experiment))
        self._asked_gain = False
        self._exhausted = False
        self._idle = IdleTime()
        self._waiting: list[int] = []
        self._session = records[-1]
        self.parallel: int = self._session["parallel"]
        last_reports = self._replay(records)
        self._settle(last_reports)

    # Going on from a journal

    def _replay(self, records: Sequence[Record]) -> dict[int, tuple[Record, Decision | None]]:
        """Bring state, searcher and scheduler to the end of the journal.

        Returns the last report of each trial's present attempt, with what the scheduler says of it.
        """
        last: dict[int, tuple[Record, Decision | None]] = {}
        early = requested_early(records)
        newest = max((r["trial"] for r in records if r["type"] == "trial"), default=None)
        for record in records:
            self.state.apply(record)
            self._pace.take(record)
            kind = record["type"]
            if kind == "trial":
                self._replay_trial(record, early)
                if record["trial"] == newest:
                    self._request_early()
            elif kind == "report":
                self._tell_report(record)
                decision = None
                # A resource metric that is missing has failed the trial: see _settle.
                with suppress(BadMetric):
                    asked = record["advanced"] and not self._reaches(record)
                    decision = self._ask(record) if asked else None
                last[record["trial"]] = record, decision
            elif kind == "end":
                last.pop(record["trial"], None)
                self._tell_end(self.state.trials[record["trial"]])
        return last

    def _replay_trial(self, record: Record, early: Mapping[int, Config]) -> None:
        """Tell the searcher of a trial, and of the next one if that was requested here."""
        number = record["trial"]
        self._scheduler.on_trial(number, record["config"], record.get("parent"))
        if number not in early and record["origin"] != "fork":
            self._suggestions.adopt(number, record["config"])
        if number + 1 in early:
            self._suggestions.adopt(number + 1, early[number + 1])

    def _settle(self, reports: Mapping[int, tuple[Record, Decision | None]]) -> None:
        """End the attempts that a dead driver left running.

        It may have died between a report and what follows from it, which is made up for.
        """
        for trial in list(self.state.unfinished.values()):
            if trial.state is TrialState.RUNNING:
                report, decision = reports.get(trial.number, (None, None))
                self._settle_trial(trial, report, decision)
        self._waiting = [
            t.number for t in self.state.unfinished.values() if t.state is TrialState.PENDING
        ]
        if self.state.finished:
            self._ask_gain()
        self._check()

    def _settle_trial(
        self, trial: TrialRecord, report: Record | None, decision: Decision | None
    ) -> None:
        failure = None if report is None else self._failure_of(trial, report, decision)
        if failure is not None:
            self._fail(trial, failure)
        elif report is not None and self._reaches(report):
            self._end(trial, TrialState.COMPLETED)
        elif decision is not None and decision is not Decision.CONTINUE:
            self._obey(trial, decision)
        else:
            self._end(trial, TrialState.PENDING)

    def _failure_of(
        self, trial: TrialRecord, report: Record, decision: Decision | None
    ) -> Failure | None:
        """Return how a report failed its trial, or None."""
        try:
            self._evaluate(trial, report["metrics"])
            if report["advanced"] and decision is None and not self._reaches(report):
                self._ask(report)
        except BadMetric as error:
            return Failure(error.kind, str(error))
        return None

    # What the executor asks and tells

    @property
    def finished(self) -> bool:
        """Whether the run has ended: nothing is to be started and nothing runs any more."""
        return self.state.finish is not None

    def is_current(self, trial: int, attempt: int) -> bool:
        """Whether this attempt is the one that runs now; anything else is to be stopped."""
        record = self.state.trials.get(trial)
        return (
            record is not None
            and record.state is TrialState.RUNNING
            and record.attempts[-1].number == attempt
        )

    @property
    def next_number(self) -> int | None:
        """Number of the trial that would start next, or None when no new one is allowed."""
        if self._waiting:
            return self._waiting[0]
        return len(self.state.trials) if self._allowed(self.state.budget) else None

    def _allowed(self, budget: int | None) -> bool:
        """Whether a budget of trials allows for one more of the searcher."""
        return budget is None or self.state.proposed < budget

    def next_start(self) -> Start | None:
        """Return the trial to start now, or None while there is nothing to start."""
        if self.finished or self._drain is not None or self._too_late():
            return None
        if len(self._running()) >= self.parallel or self._held():
            return None
        number = self._waiting[0] if self._waiting else self._moved()
        if number is None and not self.finished:
            number = self._new_trial()
        if number is None:
            self._check()
            return None
        return self._start(self.state.trials[number])

    def on_begin(
        self, trial: int, attempt: int, node: str | None = None, pid: int | None = None
    ) -> None:
        """Take note that an attempt really runs, on which machine and in which process."""
        if self.is_current(trial, attempt):
            self._emit("begin", trial=trial, attempt=attempt, node=node, pid=pid)

    def on_report(
        self, trial: int, attempt: int, metrics: Mapping[str, Any], checkpoint: str | None = None
    ) -> Decision:
        """Take in one report and decide whether the trial goes on.

        Args:
            trial: Number of the trial.
            attempt: Number of the attempt; a report of an attempt that is over is not taken.
            metrics: Plain values by name; an objective metric that is no finite number fails the
                trial.
            checkpoint: Path relative to the run directory, or None.
        """
        if not self.is_current(trial, attempt):
            return Decision.STOP
        record = self.state.trials[trial]
        decision = self._take_report(record, metrics, checkpoint)
        if decision is Decision.CONTINUE and checkpoint is not None and self.leaves(trial):
            self._leave(record)
            return Decision.STOP
        return decision

    def _take_report(
        self, record: TrialRecord, metrics: Mapping[str, Any], checkpoint: str | None
    ) -> Decision:
        try:
            values, violations = self._evaluate(record, metrics)
        except BadMetric as error:
            self._report(record, metrics, None, (), checkpoint)
            self._failed(record, Failure(error.kind, str(error)))
            return Decision.STOP
        reported = self._report(record, metrics, values, violations, checkpoint)
        if values is None:
            return Decision.CONTINUE
        return self._decide(record, reported)

    def on_end(self, trial: int, attempt: int, failure: Failure | None = None) -> None:
        """Take note that an attempt is over by itself.

        Args:
            trial: Number of the trial.
            attempt: Number of the attempt; the end of an attempt that is over is not taken.
            failure: None when it ended well.
        """
        if not self.is_current(trial, attempt):
            return
        record = self.state.trials[trial]
        if failure is not None and failure.kind is FailureKind.STORAGE:
            self.stop("infrastructure", failure.message)
            return
        failure = failure or self._missing(record)
        if failure is None:
            self._end(record, TrialState.COMPLETED)
            self._check()
        else:
            self._failed(record, failure)

    def tick(self) -> None:
        """Look at the rules that depend on the time; call it about once a second."""
        self._look_at_time()
        wanted = self.experiment.stop_when
        if self._asked_gain or wanted.no_improvement_time_s is not None or wanted.cost is not None:
            self._check()

        self._look_at_limit()

    def _look_at_time(self) -> None:
        limit_s, from_s = self._time_limit_s, self.state.earlier_s
        if limit_s is None:
            limit_s, from_s = self.experiment.time_limit_s, self.state.limit_from_s
        if limit_s is not None and self._run_s() - from_s >= limit_s:
            self.stop("time_limit", f"the time limit of {limit_s:g} s was reached")

    def drain(self, reason: str, message: str, within_s: float) -> None:
        """End the run as soon as the trials that run have saved a checkpoint, or have ended.

        Args:
            reason: As for ``stop``.
            message: As for ``stop``.
            within_s: What runs longer is ended without one.
        """
        if self.finished or self._drain is not None:
            return
        self._drain = Drain(reason, message, self._clock.monotonic() + within_s)
        self._look_at_limit()

    def move(self, trials: Iterable[int]) -> None:
        """Have trials leave their machines at their next checkpoint, to go on elsewhere."""
        self._moving.update(trials)

    @property
    def more_to_start(self) -> bool:
        """Whether a trial would start if there were room for it."""
        if self.finished or self._drain is not None:
            return False
        return bool(self._waiting or self._paused()) or self._allowed(self.state.budget)

    def leaves(self, trial: int) -> bool:
        """Whether a trial is to end at its next checkpoint."""
        return self._drain is not None or trial in self._moving

    def _leave(self, trial: TrialRecord) -> None:
        self._end(trial, TrialState.PENDING)
        self._waiting.append(trial.number)
        self._look_at_limit()

    def _look_at_limit(self) -> None:
        """Begin to drain when it is time, and end the run when that is over."""
        now = self._clock.monotonic()
        limit = self._limit
        if limit is not None and self._drain is None and now >= limit.drain_from_s:
            message = f"the machines are taken away in {max(0.0, limit.end_by_s - now):.0f} s"
            self._drain = Drain("interrupted", message, limit.drain_until_s)
        drain = self._drain
        if drain is not None and (not self._running() or now >= drain.until_s):
            self.stop(drain.reason, drain.message)

    def _too_late(self) -> bool:
        """Whether a trial that starts now would be cut off; ends a run that only waits for that."""
        if self._limit is None:
            return False
        why = self._pace.too_long(self._limit.drain_until_s - self._clock.monotonic())
        if why is not None and not self._running():
            self.stop("interrupted", why)
        return why is not None

    def stop(self, reason: str, message: str) -> None:
        """End the run now; what still runs is journaled as ended and is to be stopped."""
        if self.finished:
            return
        for trial in self._running():
            state = TrialState.PENDING if reason in _RESUMABLE else TrialState.STOPPED
            self._end(trial, state)
        if reason not in _RESUMABLE:
            for number in self._paused():
                self._end(self.state.trials[number], TrialState.STOPPED)
        self._emit("finish", reason=reason, message=message)

    def close(self) -> None:
        """Let go of the searcher."""
        self._suggestions.close()

    # Starting

    def _running(self) -> list[TrialRecord]:
        return [t for t in self.state.unfinished.values() if t.state is TrialState.RUNNING]

    def _paused(self) -> list[int]:
        return [t.number for t in self.state.unfinished.values() if t.state is TrialState.PAUSED]

    def _held(self) -> bool:
        """Whether the first trial has still to show that the metric exists."""
        if self.state.finished or self._first_start_s is None:
            return False
        if any(trial.values is not None for trial in self.state.unfinished.values()):
            return False
        return (
            bool(self._running()) and self._clock.monotonic() - self._first_start_s < self._hold_s
        )

    def _moved(self) -> int | None:
        """Do what the scheduler wants, up to a trial to start, if it wants one."""
        while not self.finished:
            move = self._scheduler.next_move(self._paused(), more=self._more())
            if isinstance(move, Resume):
                return move.trial
            if isinstance(move, Fork):
                return self._fork(move)
            if move is None:
                return None
            self._end(self.state.trials[move.trial], TrialState.PRUNED)
            self._check()
        return None

    def _more(self) -> bool:
        """Whether the searcher may propose further trials."""
        return not self._exhausted and self._allowed(self.state.budget)

    def _fork(self, fork: Fork) -> int | None:
        """Return the number of the new trial, or None when it has to wait."""
        number = len(self.state.trials)
        if self._requested == number:
            # The searcher knows its next trial by this number.
            return None
        checkpoints = self.state.trials[fork.parent].checkpoints
        there = next((path for path in reversed(checkpoints) if self._has_checkpoint(path)), None)
        copy = None if there is None else self._copy_checkpoint(there, number)
        if there is not None and copy is None:
            return None
        self._emit(
            "trial",
            trial=number,
            config=fork.config,
            origin="fork",
            waited_s=0.0,
            parent=fork.parent,
            checkpoint=copy,
            step=0 if there is None else checkpoints[there],
        )
        self._scheduler.on_trial(number, fork.config, fork.parent)
        self._request_early()
        return number

    def _new_trial(self) -> int | None:
        number = self.next_number
        if self._exhausted or number is None:
            return None
        if self._asked_gain and self._first_start_s is None:
            # The answer may end the run that is resumed here.
            return None
        config, origin = self._planned(number)
        if config is not None:
            self._suggestions.adopt(number, config)
        else:
            taken = self._suggested(number)
            if taken is NOT_READY:
                return None
            config = taken
        if config is None:
            self._exhausted = True
            return None
        waited_s = round(self._idle.take(self._clock.monotonic()), 3)
        self._emit("trial", trial=number, config=config, origin=origin, waited_s=waited_s)
        self._scheduler.on_trial(number, config, None)
        self._request_early()
        return number

    def _suggested(self, number: int) -> Config | NotReady | None:
        """Return the searcher's config for a trial, None without any; it may not be ready."""
        self._request(number)
        try:
            taken = self._suggestions.take(number)
        except SearcherError as error:
            self.stop("searcher", str(error))
            return NOT_READY
        if taken is NOT_READY:
            free = self.parallel - len(self._running())
            if self.state.budget is not None:
                free = min(free, self.state.budget - self.state.proposed)
            self._idle.note(self._clock.monotonic(), free)
        return taken

    def _request_early(self) -> None:
        """Request the next trial's config now, unless it can be made of more that is known later.

        See ``requested_early``; a request has to stand at the same place of the journal always.
        """
        number, allowed = len(self.state.trials), self._allowed(self._session["trials"])
        if self._session["parallel"] > 1 and allowed and self._planned(number)[0] is None:
            self._request(number)

    def _request(self, number: int) -> None:
        if self._requested != number:
            self._requested = number
            self._suggestions.request(number)

    def _planned(self, number: int) -> tuple[Config | None, str]:
        """Return the config that the user wants as this trial, if any, and its origin."""
        baseline = self.experiment.baseline
        if baseline is not None and number == 0:
            return dict(baseline), "baseline"
        index = self.state.proposed - (baseline is not None)
        initial = self.experiment.search.initial
        return (dict(initial[index]), "initial") if index < len(initial) else (None, "search")

    def _start(self, trial: TrialRecord) -> Start:
        attempt = len(trial.attempts) + 1
        if self._waiting and self._waiting[0] == trial.number:
            self._waiting.pop(0)
        self._idle.note(self._clock.monotonic(), 0)
        there = (path for path in reversed(trial.checkpoints) if self._has_checkpoint(path))
        checkpoint = next(there, None)
        self._emit("start", trial=trial.number, attempt=attempt, checkpoint=checkpoint)
        if self._first_start_s is None:
            self._first_start_s = self._clock.monotonic()
        return Start(trial.number, attempt, dict(trial.config), checkpoint)

    # Reports

    def _evaluate(
        self, trial: TrialRecord, metrics: Mapping[str, Any]
    ) -> tuple[tuple[float, ...] | None, tuple[float, ...]]:
        """Return values and violations, or None and nothing when the report does not bear on them.

        Metrics of one step may come in several reports, so the latest of each counts.
        """
        objective = self.state.objective
        merged = {**trial.metrics, **metrics}
        relevant = objective.inputs | objective.constraint_inputs
        if not relevant & metrics.keys() or not objective.inputs <= merged.keys():
            return None, ()
        values = objective.values(merged)
        if not objective.constraint_inputs <= merged.keys():
            return values, tuple(float("inf") for _ in objective.constraints)
        return values, objective.violations(merged)

    def _report(
        self,
        trial: TrialRecord,
        metrics: Mapping[str, Any],
        values: tuple[float, ...] | None,
        violations: tuple[float, ...],
        checkpoint: str | None,
    ) -> Record:
        advanced = values is not None and bool(self.state.objective.inputs & metrics.keys())
        report = self._emit(
            "report",
            trial=trial.number,
            attempt=trial.attempts[-1].number,
            step=trial.step + advanced,
            advanced=advanced,
            metrics=dict(metrics),
            values=None if values is None else list(values),
            violations=list(violations),
            checkpoint=checkpoint,
        )
        self._tell_report(report)
        return report

    def _tell_report(self, report: Record) -> None:
        if report["advanced"] and self._searched(self.state.trials[report["trial"]]):
            values, violations = tuple(report["values"]), tuple(report["violations"])
            self._suggestions.report(report["trial"], report["step"], values, violations)

    def _searched(self, trial: TrialRecord) -> bool:
        """Whether the searcher is told of a trial: of all but forks."""
        return trial.parent is None

    def _decide(self, trial: TrialRecord, report: Record) -> Decision:
        if self._reaches(report):
            self._end(trial, TrialState.COMPLETED)
            self._check()
            return Decision.STOP
        if not report["advanced"]:
            return Decision.CONTINUE
        try:
            decision = self._ask(report)
        except BadMetric as error:
            self._failed(trial, Failure(error.kind, str(error)))
            return Decision.STOP
        if decision is not Decision.CONTINUE:
            self._obey(trial, decision)
            self._check()
        return decision

    def _reaches(self, report: Record) -> bool:
        """Return whether a report reaches the target."""
        values = report["values"]
        if self.state.objective.goals[0].at == "mean":
            # One report says nothing of the mean.
            return False
        return (
            values is not None and self.state.objective.reached(tuple(values)) and _all_met(report)
        )

    def _ask(self, report: Record) -> Decision:
        """Return what the scheduler says of a report that is in the state already."""
        result = Result(
            trial=report["trial"],
            step=report["step"],
            values=tuple(report["values"]),
            metrics=dict(self.state.trials[report["trial"]].metrics),
            violations=tuple(report["violations"]),
            checkpoint=self.state.trials[report["trial"]].checkpoint is not None,
        )
        return self._scheduler.on_result(result)

    def _obey(self, trial: TrialRecord, decision: Decision) -> None:
        self._emit(
            "decision",
            trial=trial.number,
            attempt=trial.attempts[-1].number,
            decision=decision.value,
        )
        self._end(trial, _STATE_AFTER[decision])

    # Ends

    def _missing(self, trial: TrialRecord) -> Failure | None:
        """Return the failure of a trial that never reported what is needed, or None."""
        objective = self.state.objective
        missing = sorted((objective.inputs | objective.constraint_inputs) - trial.metrics.keys())
        if not missing:
            return None
        what = "objective" if objective.inputs & set(missing) else "constraint"
        reported = ", ".join(sorted(trial.metrics)) or "nothing"
        return Failure(
            FailureKind.METRIC_MISSING,
            f"{what} metric '{', '.join(missing)}' was not reported by trial {trial.number}. "
            f"It reported: {reported}{did_you_mean(missing[0], trial.metrics)}",
        )

    def _failed(self, trial: TrialRecord, failure: Failure) -> None:
        self._fail(trial, failure)
        if trial.state is TrialState.PENDING:
            self._waiting.append(trial.number)
        self._check()

    def _fail(self, trial: TrialRecord, failure: Failure) -> None:
        """End an attempt that failed, and the trial with it when it has no more."""
        never_begun = failure.kind is FailureKind.WORKER_DIED and not trial.attempts[-1].begun
        lost = never_begun or failure.kind is FailureKind.NODE_LOST
        announced = failure.kind is FailureKind.PREEMPTED
        charged = not announced and (not lost or trial.lost >= LOST_LIMIT)
        failures = trial.failures_charged + charged
        again = failure.kind.retryable and failures <= self.experiment.retries
        state = TrialState.PENDING if again or not charged else TrialState.FAILED
        self._end(trial, state, failure=failure, charged=charged)

    def _end(
        self,
        trial: TrialRecord,
        state: TrialState,
        *,
        failure: Failure | None = None,
        charged: bool = False,
    ) -> None:
        self._emit(
            "end",
            trial=trial.number,
            attempt=trial.attempts[-1].number,
            state=state.value,
            values=None if trial.values is None else list(trial.values),
            violations=list(trial.violations),
            failure=failure and _failure_json(failure),
            charged=charged,
        )
        self._moving.discard(trial.number)
        self._tell_end(trial)
        if trial.state.finished:
            self._ask_gain()

    def _tell_end(self, trial: TrialRecord) -> None:
        if trial.state.finished:
            outcome: Outcome = trial.outcome()
            if self._searched(trial):
                self._suggestions.observe(trial.number, outcome)
            self._scheduler.on_end(trial.number, outcome)

    # What ends the run

    def _check(self) -> None:
        """End the run if a rule says so."""
        if self.finished:
            return
        run_s = self._run_s()
        verdicts = (rule(self.state, run_s) for rule in self._rules)
        verdict = next(filter(None, verdicts), None) or self._little_to_gain() or self._all_done()
        if verdict is not None:
            self.stop(*verdict)
        else:
            self._look_at_limit()

    def _run_s(self) -> float:
        """Return the seconds that the run has taken, over all sessions."""
        return self.state.earlier_s + self._clock.monotonic() - self._began_s

    def _little_to_gain(self) -> stopping.Verdict | None:
        """Look whether the searcher has told what the next trial is expected to gain."""
        least = self.experiment.stop_when.expected_improvement
        if least is None or not self._asked_gain:
            return None
        try:
            gain = self._suggestions.take_gain()
        except SearcherError as error:
            return stopping.Verdict("searcher", str(error))
        if isinstance(gain, NotReady):
            return None
        self._asked_gain = False
        return None if gain is None else stopping.little_to_gain(gain, least)

    def _ask_gain(self) -> None:
        """Have the searcher tell what it expects; it thinks beside the trials."""
        if self.experiment.stop_when.expected_improvement is not None and not self._asked_gain:
            self._asked_gain = True
            self._suggestions.request_gain()

    def _all_done(self) -> stopping.Verdict | None:
        paused = self._paused()
        if len(paused) < len(self.state.unfinished):
            return None
        verdict = self._no_more_trials()
        if verdict is None or self._scheduler.next_move(paused, more=False) is not None:
            return None
        for number in paused:
            self._end(self.state.trials[number], TrialState.PRUNED)
        return verdict

    def _no_more_trials(self) -> stopping.Verdict | None:
        if not self._allowed(self.state.budget):
            forks = len(self.state.trials) - self.state.proposed
            beside = f", and {forks} forked from them" if forks else ""
            return stopping.Verdict("trials", f"all {self.state.proposed} trials are done{beside}")
        if self._exhausted:
            text = "every config of the search space has been tried"
            return stopping.Verdict("exhausted", text)
        return None

    def _emit(self, type: str, **fields: Any) -> Record:
        record = self._journal.append(type, **fields)
        self.state.apply(record)
        self._pace.take(record)
        self._listener(record)
        return record


def _all_met(report: Record) -> bool:
    return all(violation <= 0 for violation in report["violations"])


def _failure_json(failure: Failure) -> dict[str, Any]:
    return {
        "kind": failure.kind.value,
        "message": failure.message,
        "details": failure.details,
        "exit_code": failure.exit_code,
    }
