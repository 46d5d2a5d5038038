"""Thousands of simulated runs under faults keep their promises, and broken engines are caught."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raytune_hpo import stopping
from raytune_hpo.chaos.checker import check, compare_untimed
from raytune_hpo.chaos.nemesis import (
    LARGEST_CHOICE,
    Summary,
    choices_of,
    examine,
    run_schedules,
)
from raytune_hpo.chaos.observed import ClockJumped, SessionFinished, readable
from raytune_hpo.chaos.schedule import Run, Schedule
from raytune_hpo.chaos.shrink import shrink
from raytune_hpo.chaos.simulated import SimulatedEngine
from raytune_hpo.engine import Engine
from raytune_hpo.journal import Record
from raytune_hpo.searchers.base import Searcher
from raytune_hpo.state import RunState, TrialRecord
from raytune_hpo.stopping import Verdict
from raytune_hpo.trial import Failure, FailureKind, TrialState

pytestmark = pytest.mark.faults

SCHEDULES = int(os.environ.get("RAYTUNE_HPO_SCHEDULES", "10000"))
FIRST_SEED = int(os.environ.get("RAYTUNE_HPO_SCHEDULES_SEED", "0"))
PROCESSES = 2
MUTANT_SEEDS = 1000
"""A planted bug has to be caught within so many schedules."""


def told(choices: Sequence[int], violations: Sequence[str], run: Run) -> str:
    """Return all that is needed to find out what went wrong."""
    return "\n".join([*violations, f"choices: {list(choices)}", readable(run.observed)])


def shrunk(seed: int, violations: Sequence[str]) -> str:
    """Return a failing seed's smallest schedule in which the same promise is broken."""
    promise = violations[0].partition(":")[0]

    def breaks(choices: list[int]) -> bool:
        return any(text.startswith(promise) for text in examine(choices)[1])

    choices = shrink(choices_of(seed), breaks)
    run, found = examine(choices)
    return f"seed {seed} ({len(violations)} violations), shrunk:\n{told(choices, found, run)}"


@pytest.fixture(scope="module")
def summary() -> Summary:
    return run_schedules(FIRST_SEED, SCHEDULES, PROCESSES)


def test_every_schedule_keeps_the_promises(summary: Summary) -> None:
    if summary.failing:
        first = summary.failing[0]
        seeds = [failing.seed for failing in summary.failing]
        pytest.fail(f"seeds {seeds} fail.\n{shrunk(first.seed, first.violations)}", pytrace=False)
    assert summary.schedules == SCHEDULES
    assert summary.lost == summary.ran_again == 0
    assert summary.most_executed_again <= 1


def test_the_schedules_are_no_calm_ones(summary: Summary) -> None:
    assert summary.kills >= summary.schedules
    assert summary.power_cuts >= summary.schedules / 10
    assert summary.acknowledged >= 5 * summary.schedules
    assert summary.cut_short >= summary.schedules


@settings(max_examples=300, database=None)
@given(st.lists(st.integers(0, LARGEST_CHOICE), max_size=150))
def test_any_choices_keep_the_promises(choices: list[int]) -> None:
    run, violations = examine(choices)
    assert not violations, told(choices, violations, run)


def test_a_schedule_follows_from_its_choices() -> None:
    for seed in range(50):
        one, other = (Schedule(choices_of(seed)).run() for _ in range(2))
        assert one.observed == other.observed or repr(one.observed) == repr(other.observed)
        assert compare_untimed(one.records, other.records) == []


def test_without_choices_nothing_bad_happens() -> None:
    run, violations = examine([])
    assert not violations
    assert [type(item).__name__ for item in run.observed].count("SessionStarted") == 1
    last = run.observed[-1]
    assert isinstance(last, SessionFinished)
    assert last.reason == "trials"


def test_the_engine_knows_the_best_trial() -> None:
    named = 0
    for seed in range(FIRST_SEED, FIRST_SEED + 300):
        run, _ = examine(choices_of(seed))
        best = best_of(run.records)
        assert RunState.replay(run.records).best() == best, f"seed {seed}"
        named += len(best)
    assert named > 200


def best_of(records: Sequence[Record]) -> list[int]:
    """Return the trial with the smallest value that counts, of equal ones the first."""
    last: dict[int, float] = {}
    found = []
    for record in records:
        if record["type"] == "report" and record["values"] is not None:
            last[record["trial"]] = record["metrics"]["loss"]
        elif record["type"] == "end" and record["state"] in ("completed", "pruned", "stopped"):
            found.append((last.get(record["trial"]), record["trial"]))
    return [trial for _, trial in sorted((v, n) for v, n in found if v is not None)[:1]]


def test_the_history_keeps_every_report() -> None:
    for seed in range(FIRST_SEED, FIRST_SEED + 100):
        run, _ = examine(choices_of(seed))
        state = RunState.replay(run.records, keep_reports=True)
        for number, trial in state.trials.items():
            kept = [
                r["metrics"] for r in run.records if r["type"] == "report" and r["trial"] == number
            ]
            assert [report.metrics for report in trial.reports] == kept or repr(
                [report.metrics for report in trial.reports]
            ) == repr(kept)


# Planted bugs: the checker has to find each of them


class RunsFinishedAgain(SimulatedEngine):
    """Forgets after a restart that the first trial was finished."""

    def _replay(self, records: Sequence[Record]) -> Any:
        last = super()._replay(records)
        if self.state.finished and self.state.finished[0] not in self.state.unfinished:
            trial = self.state.trials[self.state.finished.pop(0)]
            trial.state = TrialState.PENDING
            self.state.unfinished[trial.number] = trial
        return last


class RunsPastTheBudget(SimulatedEngine):
    """Starts one trial too many."""

    @property
    def next_number(self) -> int | None:
        number = len(self.state.trials)
        budget = self.state.budget
        if self._waiting or budget is None or number > budget:
            return super().next_number
        return number


class CountsRetriesAnew(SimulatedEngine):
    """Counts failures of a trial from zero after a restart."""

    def _replay(self, records: Sequence[Record]) -> Any:
        last = super()._replay(records)
        for trial in self.state.trials.values():
            trial.failures_charged = 0
        return last


class IgnoresMaxFailed(SimulatedEngine):
    """Goes on however many trials have failed."""

    def _check(self) -> None:
        unlimited = self.experiment.model_copy(update={"max_failed": None})
        self._rules = tuple(stopping.rules(unlimited))
        super()._check()


class HidesFailures(SimulatedEngine):
    """Does not tell the searcher of trials that failed."""

    def _tell_end(self, trial: TrialRecord) -> None:
        if trial.state is not TrialState.FAILED:
            super()._tell_end(trial)


class ForgetsObservations(SimulatedEngine):
    """Does not tell a new searcher of the trials of earlier sessions."""

    def _replay(self, records: Sequence[Record]) -> Any:
        self._replaying = True
        last = super()._replay(records)
        self._replaying = False
        return last

    def _tell_end(self, trial: TrialRecord) -> None:
        if not self._replaying:
            super()._tell_end(trial)


class BeginsAnew(SimulatedEngine):
    """Goes on without any checkpoint."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **{**more, "has_checkpoint": lambda path: False})


class RunsTooMany(SimulatedEngine):
    """Runs one trial more at once than is allowed."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.parallel += 1


class TakesStaleReports(SimulatedEngine):
    """Does not look at which attempt a report is of."""

    def is_current(self, trial: int, attempt: int) -> bool:
        record = self.state.trials.get(trial)
        return record is not None and record.state is TrialState.RUNNING


class ChargesLostWorkers(SimulatedEngine):
    """Charges a trial for a worker that died before it began."""

    def _failed(self, trial: TrialRecord, failure: Failure) -> None:
        trial.attempts[-1].begun = True
        super()._failed(trial, failure)


class ForgivesBadMetrics(SimulatedEngine):
    """Takes a metric that is no number for a failure that may pass."""

    def _failed(self, trial: TrialRecord, failure: Failure) -> None:
        if failure.kind is FailureKind.METRIC_NAN:
            failure = Failure(FailureKind.EXCEPTION, failure.message)
        super()._failed(trial, failure)


class FailsTheNeighbour(SimulatedEngine):
    """Ends another trial when a metric is no number."""

    def _failed(self, trial: TrialRecord, failure: Failure) -> None:
        others = [other for other in self._running() if other is not trial]
        super()._failed(trial, failure)
        if failure.kind is FailureKind.METRIC_NAN and others and not self.finished:
            super()._failed(others[0], failure)


class ReadsTheWallClock(SimulatedEngine):
    """Measures its time limit with the clock of the journal's records."""

    def tick(self) -> None:
        since_s = self.state._last_t - self.state.sessions[-1].t
        if self._time_limit_s is not None and since_s >= self._time_limit_s:
            self.stop("time_limit", "the time is up")


class EndsEarly(SimulatedEngine):
    """Says that all trials are done when one is not."""

    def _no_more_trials(self) -> Verdict | None:
        if len(self.state.trials) + 1 == self.state.budget:
            return Verdict("trials", "all are done")
        return super()._no_more_trials()


class AcknowledgesTooEarly(Schedule):
    """Tells trials that their reports are safe before the disk has them."""

    def sync(self, engine: Engine) -> None:
        self.keep_promises(engine)


class StartsTooEarly(Schedule):
    """Has attempts run before the disk knows of them."""

    def before_start(self, engine: Engine) -> None:
        """Do nothing."""


class SeedsAnew(Schedule):
    """Gives the searcher of each session a seed of its own."""

    def make_searcher(self) -> Searcher:
        searcher = super().make_searcher()
        searcher.seed += self.session - 1  # type: ignore[attr-defined]
        return searcher


def with_engine(engine_class: type[Engine]) -> type[Schedule]:
    """Return a schedule with another engine."""
    return type(engine_class.__name__, (Schedule,), {"engine_class": engine_class})


MUTANTS: list[tuple[type[Schedule], str]] = [
    (with_engine(RunsFinishedAgain), r"G1: trial \d+ was finished, and attempt"),
    (AcknowledgesTooEarly, r"G2: .* acknowledged reports are not in the journal"),
    (StartsTooEarly, r"G2: .* reports too many"),
    (with_engine(TakesStaleReports), r"stale: .* answered with continue"),
    (with_engine(RunsPastTheBudget), r"G3: (\d+) trials ran, and \d+ were asked for"),
    (with_engine(EndsEarly), r"G3: all trials are said to be done, and \d+ ran"),
    (with_engine(BeginsAnew), r"G4: .* though the checkpoint of step \d+ had been"),
    (with_engine(HidesFailures), r"G5: .* was not told of the trials"),
    (with_engine(ForgetsObservations), r"G5: .* was not told of the trials"),
    (SeedsAnew, r"G5: .* has an unexpected config"),
    (with_engine(CountsRetriesAnew), r"G8: .* is charged as number"),
    (with_engine(IgnoresMaxFailed), r"G8: trial \d+ started in session \d+ after \d+ trials"),
    (with_engine(RunsTooMany), r"G8: .* trials at once"),
    (with_engine(ChargesLostWorkers), r"G8: .* is \('\w+', 'worker_died', True\)"),
    (with_engine(FailsTheNeighbour), r"G9: trial \d+ had no bad metric"),
    (with_engine(ForgivesBadMetrics), r"G8: .* is \('\w+', 'exception', True\)"),
    (with_engine(ReadsTheWallClock), r"G15: record \d+ depends on the wall clock"),
]


@pytest.mark.parametrize(
    ("mutant", "finding"), MUTANTS, ids=[mutant.__name__ for mutant, _ in MUTANTS]
)
def test_the_checker_finds_a_planted_bug(mutant: type[Schedule], finding: str) -> None:
    for seed in range(MUTANT_SEEDS):
        if any(re.match(finding, text) for text in violations_of(mutant, choices_of(seed))):
            return
    pytest.fail(f"{MUTANT_SEEDS} schedules, and it was not found")


def violations_of(mutant: Callable[..., Schedule], choices: Sequence[int]) -> list[str]:
    run = mutant(choices).run()
    found = check(run.observed, run.records, run.experiment)
    if any(isinstance(item, ClockJumped) for item in run.observed):
        found += compare_untimed(run.records, mutant(choices, clock_jumps=False).run().records)
    return found
