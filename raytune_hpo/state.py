"""What a journal says: a pure fold over its records."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from raytune_hpo.errors import JournalError
from raytune_hpo.experiment import Experiment
from raytune_hpo.journal import Record
from raytune_hpo.objective import Objective, StepMean
from raytune_hpo.trial import Config, Failure, FailureKind, Outcome, TrialState

VERSION = 1
"""Version of the record format that this code writes and reads."""


@dataclass
class Attempt:
    """One execution of a trial.

    Attributes:
        number: From 1.
        session: Number of the session that started it.
        started_t: Unix time in seconds; until it has begun, when it was handed out.
        ended_t: Unix time in seconds, or None while it runs.
        failure: Why it failed, or None.
        begun: Whether it ever ran, and not only waited for its worker.
        node: Machine that it ran on, when known.
        pid: Process that it ran in there, when known.
    """

    number: int
    session: int
    started_t: float
    ended_t: float | None = None
    failure: Failure | None = None
    begun: bool = False
    node: str | None = None
    pid: int | None = None


@dataclass(frozen=True)
class Report:
    """One set of metrics: time in unix seconds, step, metrics and the objective's values."""

    t: float
    step: int
    metrics: Mapping[str, Any]
    values: tuple[float, ...] | None


@dataclass
class TrialRecord:
    """A trial as the journal knows it.

    Attributes:
        number: From 0.
        config: Flat parameter values.
        origin: ``search``, ``initial``, ``baseline`` or ``fork``.
        parent: Of a fork, the trial whose checkpoint it went on from; else None.
        waited_s: Seconds that workers stood idle for want of the config, summed over them.
        step: Reports with an objective value so far, over all attempts.
        metrics: The latest value of every metric reported.
        inherited: Of a fork, those that its parent had when it began.
        values: The objective's values that count, one an objective, or None.
        violations: One number a constraint; above 0 is violated.
        checkpoints: Checkpoints by path relative to the run directory, oldest first, with the step
            at which each was made; a later attempt counts on from it.
        failures_charged: Failed attempts that count against ``retries``.
        lost: Attempts since its latest checkpoint that were lost by no fault of the trial's.
        reports: Every report, when the state was built with ``keep_reports``.
    """

    number: int
    config: Config
    origin: str
    waited_s: float = 0.0
    parent: int | None = None
    state: TrialState = TrialState.PENDING
    attempts: list[Attempt] = field(default_factory=list)
    step: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)
    inherited: dict[str, Any] = field(default_factory=dict)
    values: tuple[float, ...] | None = None
    violations: tuple[float, ...] = ()
    checkpoints: dict[str, int] = field(default_factory=dict)
    failure: Failure | None = None
    failures_charged: int = 0
    lost: int = 0
    reports: list[Report] = field(default_factory=list)

    @property
    def checkpoint(self) -> str | None:
        """Path of the latest checkpoint, relative to the run directory, or None."""
        return next(reversed(self.checkpoints), None)

    @property
    def started_t(self) -> float | None:
        """Unix time of the first attempt's start, or None."""
        return self.attempts[0].started_t if self.attempts else None

    @property
    def ended_t(self) -> float | None:
        """Unix time of the last attempt's end, or None while it runs."""
        return self.attempts[-1].ended_t if self.attempts else None

    @property
    def duration_s(self) -> float:
        """Seconds spent in ended attempts."""
        return sum(a.ended_t - a.started_t for a in self.attempts if a.ended_t is not None)

    @property
    def feasible(self) -> bool:
        """Whether it has a value, did not fail and violates no constraint."""
        usable = self.values is not None and self.state is not TrialState.FAILED
        return usable and all(v <= 0 for v in self.violations)

    def outcome(self) -> Outcome:
        """Return the trial as a searcher and a scheduler are told of it."""
        failed = self.state is TrialState.FAILED
        return Outcome(
            state=self.state,
            values=None if failed else self.values,
            violations=self.violations,
            step=self.step,
        )


@dataclass(frozen=True)
class Session:
    """One start of a driver: its number from 1, where it ran, and the limits in force.

    Attributes:
        number: From 1.
        t: Unix time in seconds.
        host: Machine of the driver.
        pid: Process of the driver.
        run_dir: Where the run directory was.
        trials: Budget, or None.
        parallel: Trials at once.
        resources: Of one trial, by Ray's names.
    """

    number: int
    t: float
    host: str
    pid: int
    run_dir: str
    trials: int | None
    parallel: int
    resources: Mapping[str, Any]


@dataclass(frozen=True)
class Finish:
    """Why the run ended, with a sentence for a person."""

    t: float
    reason: str
    message: str


class RunState:
    """All that is known of a run.

    Args:
        keep_reports: Keep every report of every trial, for plots and tables; the engine does not.

    Attributes:
        trials: By number.
        finished: Numbers of the finished trials in the order they ended.
        failed: Number of failed trials.
        proposed: Number of trials that count against the budget: all but forks.
        unfinished: The trials that have not finished, by number.
        since_best: Trials that finished since the best one did.
        best_s: Run time in seconds at which the best one finished.
        best_values: After each finished trial, the best value of the first goal, lower being
            better, or None before there is a feasible trial.
        earlier_s: Run time in seconds of the sessions before this one.
        limit_from_s: Run time from which the time limit counts: 0, or when it last ended the run.
        finish: Why the run ended; None while it runs and after it was reopened.
    """

    def __init__(self, *, keep_reports: bool = False) -> None:
        self._keep_reports = keep_reports
        self.header: Record = {}
        self.trials: dict[int, TrialRecord] = {}
        self.unfinished: dict[int, TrialRecord] = {}
        self.sessions: list[Session] = []
        self.finished: list[int] = []
        self.finish: Finish | None = None
        self.records = 0
        self._before_session_t = self._last_t = 0.0
        self.failed = self.proposed = 0
        self._best: list[int] = []
        self._means: dict[int, tuple[StepMean, StepMean]] = {}
        self.since_best = 0
        self.best_s = self.earlier_s = self.limit_from_s = 0.0
        self.best_values: list[float | None] = []

    @classmethod
    def replay(cls, records: Iterable[Record], *, keep_reports: bool = False) -> RunState:
        """Return the state after all ``records``."""
        state = cls(keep_reports=keep_reports)
        for record in records:
            state.apply(record)
        return state

    @property
    def id(self) -> str:
        """Unique id of the run, in hex."""
        return str(self.header["id"])

    @property
    def name(self) -> str:
        """Name of the experiment."""
        return str(self.header["name"])

    @property
    def spec(self) -> dict[str, Any]:
        """The experiment as JSON."""
        spec: dict[str, Any] = self.header["spec"]
        return spec

    @property
    def seed(self) -> int:
        """Seed of the searcher."""
        return int(self.header["seed"])

    @property
    def algorithm(self) -> str:
        """Name of the searcher."""
        return str(self.header["algorithm"])

    @property
    def scheduler(self) -> str:
        """Name of the scheduler."""
        return str(self.header["scheduler"])

    @cached_property
    def experiment(self) -> Experiment:
        """The experiment, without a function object."""
        return Experiment.from_json(self.spec)

    @cached_property
    def objective(self) -> Objective:
        """The goals and constraints."""
        return self.experiment.objectives

    @property
    def budget(self) -> int | None:
        """Trials allowed in the latest session, or None for no limit."""
        return self.sessions[-1].trials if self.sessions else None

    @property
    def expected(self) -> int | None:
        """Trials that there will be: the budget and the forks so far; None without a budget."""
        budget = self.budget
        return None if budget is None else budget + len(self.trials) - self.proposed

    @property
    def baseline(self) -> int | None:
        """Number of the baseline trial, or None."""
        return next((t.number for t in self.trials.values() if t.origin == "baseline"), None)

    def counts(self) -> dict[TrialState, int]:
        """Return the number of trials in each state."""
        counts = dict.fromkeys(TrialState, 0)
        for trial in self.trials.values():
            counts[trial.state] += 1
        return counts

    def best(self) -> list[int]:
        """Return the best finished feasible trial's number, or the Pareto front's; maybe none."""
        return list(self._best)

    def apply(self, record: Record) -> None:
        """Take in one record.

        Raises:
            JournalError: The record is of a newer version of this software.
        """
        kind = record["type"]
        if kind not in _APPLY:
            raise JournalError(f"record {record['n']} has the unknown type '{kind}'")
        _APPLY[kind](self, record)
        self._last_t = record["t"]
        self.records = record["n"] + 1

    def _experiment(self, record: Record) -> None:
        if record["version"] > VERSION:
            raise JournalError(
                f"the journal has version {record['version']}, this software reads up to "
                f"{VERSION}: upgrade raytune-hpo"
            )
        self.header = record

    def _session(self, record: Record) -> None:
        if self.sessions:
            self.earlier_s += self._last_t - self.sessions[-1].t
        if self.finish is not None and self.finish.reason == "time_limit":
            self.limit_from_s = self.earlier_s
        self.finish = None
        self._before_session_t = self._last_t
        self.sessions.append(
            Session(
                number=record["session"],
                t=record["t"],
                host=record["host"],
                pid=record["pid"],
                run_dir=record["run_dir"],
                trials=record["trials"],
                parallel=record["parallel"],
                resources=record["resources"],
            )
        )

    def _trial(self, record: Record) -> None:
        # The first journals have no such time.
        waited_s = record.get("waited_s", 0.0)
        parent = record.get("parent")
        trial = TrialRecord(record["trial"], record["config"], record["origin"], waited_s, parent)
        if parent is None:
            self.proposed += 1
        elif record["checkpoint"] is not None:
            self._inherit(trial, self.trials[parent])
            trial.checkpoints[record["checkpoint"]] = record["step"]
        self.trials[trial.number] = trial
        self.unfinished[trial.number] = trial

    def _inherit(self, trial: TrialRecord, parent: TrialRecord) -> None:
        """Begin a fork as good as its parent: it may be at its own end, and report nothing more."""
        trial.inherited = dict(parent.metrics)
        trial.metrics.update(parent.metrics)
        trial.values, trial.violations = parent.values, parent.violations

    def _start(self, record: Record) -> None:
        trial = self.trials[record["trial"]]
        trial.state = TrialState.RUNNING
        trial.attempts.append(Attempt(record["attempt"], len(self.sessions), record["t"]))
        trial.step = 0 if record["checkpoint"] is None else trial.checkpoints[record["checkpoint"]]

    def _begin(self, record: Record) -> None:
        attempt = self.trials[record["trial"]].attempts[-1]
        attempt.begun, attempt.started_t = True, record["t"]
        attempt.node, attempt.pid = record["node"], record["pid"]

    def _report(self, record: Record) -> None:
        trial = self.trials[record["trial"]]
        trial.metrics.update(record["metrics"])
        values = None if record["values"] is None else tuple(record["values"])
        trial.step = record["step"]
        if record["checkpoint"] is not None:
            trial.checkpoints[record["checkpoint"]] = trial.step
            trial.lost = 0
            # Older ones have been deleted; one more is kept, as the trial's side does.
            while len(trial.checkpoints) > self.experiment.checkpoint.keep + 1:
                del trial.checkpoints[next(iter(trial.checkpoints))]
        if values is not None:
            self._take_values(trial, values, tuple(record["violations"]))
        if self._keep_reports:
            trial.reports.append(Report(record["t"], record["step"], record["metrics"], values))

    def _take_values(
        self, trial: TrialRecord, values: tuple[float, ...], violations: tuple[float, ...]
    ) -> None:
        at = self.objective.goals[0].at
        if at == "mean":
            mean, mean_violation = self._means.setdefault(trial.number, (StepMean(), StepMean()))
            values = mean.take(trial.step, values)
            # Infinity stands for a constraint whose metrics have not been reported yet.
            if all(map(math.isfinite, violations)):
                violations = mean_violation.take(trial.step, violations)
        keep_best = at == "best" and trial.values is not None
        if keep_best and _rank(self.objective, trial) <= _rank_of(
            self.objective, values, violations
        ):
            return
        trial.values, trial.violations = values, violations

    def _decision(self, record: Record) -> None:
        """Decisions show in the end record that follows."""

    def _end(self, record: Record) -> None:
        trial = self.trials[record["trial"]]
        paused = trial.state is TrialState.PAUSED
        trial.state = TrialState(record["state"])
        failure = record["failure"]
        trial.failure = failure and Failure(
            kind=FailureKind(failure["kind"]),
            message=failure["message"],
            details=failure["details"],
            exit_code=failure["exit_code"],
        )
        trial.failures_charged += bool(record["charged"])
        announced = failure is not None and failure["kind"] == FailureKind.PREEMPTED
        trial.lost += failure is not None and not record["charged"] and not announced
        if not paused:
            self._end_attempt(trial, record)
        if trial.state.finished:
            del self.unfinished[trial.number]
            self.finished.append(trial.number)
            self.failed += trial.state is TrialState.FAILED
            self._update_best(trial, record["t"])

    def _end_attempt(self, trial: TrialRecord, record: Record) -> None:
        attempt = trial.attempts[-1]
        # An attempt of a driver that died ended when that driver was last heard of.
        lost = attempt.session < len(self.sessions)
        attempt.ended_t = self._before_session_t if lost else record["t"]
        attempt.failure = trial.failure

    def _update_best(self, trial: TrialRecord, at_t: float) -> None:
        self.since_best += 1
        if trial.feasible:
            self._compare(trial, at_t)
        best = self.trials[self._best[0]].values if self._best else None
        self.best_values.append(None if best is None else self.objective.minimized(best)[0])

    def _compare(self, trial: TrialRecord, at_t: float) -> None:
        rivals = [*self._best, trial.number]
        # Means of fewer reports than others do not compare with theirs.
        most = max(map(self._averaged, rivals))
        candidates = [
            (number, self.trials[number].values or (), self.trials[number].violations)
            for number in sorted(rivals)
            if self._averaged(number) == most
        ]
        best = self.objective.best(candidates)
        if trial.number in best:
            self.since_best = 0
            self.best_s = self.earlier_s + at_t - self.sessions[-1].t
        self._best = best

    def _averaged(self, number: int) -> int:
        """Return how many reports a trial's value is the mean of; 0 when it is none."""
        return self._means[number][0].steps if number in self._means else 0

    def _finish(self, record: Record) -> None:
        self.finish = Finish(record["t"], record["reason"], record["message"])


_APPLY = {
    "experiment": RunState._experiment,
    "session": RunState._session,
    "trial": RunState._trial,
    "start": RunState._start,
    "begin": RunState._begin,
    "report": RunState._report,
    "decision": RunState._decision,
    "end": RunState._end,
    "finish": RunState._finish,
}


def _rank(objective: Objective, trial: TrialRecord) -> tuple[float, ...]:
    return _rank_of(objective, trial.values or (), trial.violations)


def _rank_of(
    objective: Objective, values: tuple[float, ...], violations: tuple[float, ...]
) -> tuple[float, ...]:
    """Return a key that is smaller for the better report of one trial: feasible first."""
    return (sum(max(v, 0.0) for v in violations), *objective.minimized(values))
