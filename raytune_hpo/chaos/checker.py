"""Whether a run kept its promises: by what an observer saw, and by the journal it left.

Nothing here uses the engine or its state: what must hold is worked out anew. The letters and
numbers before each sentence name the promises of docs/reliability.md.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raytune_hpo.chaos import observed as seen
from raytune_hpo.chaos.acknowledged import FINISHED, Acknowledged, Key, key_of, reason_of
from raytune_hpo.chaos.checked_decisions import check_decisions
from raytune_hpo.chaos.checked_ends import check_ends
from raytune_hpo.chaos.checked_search import check_search
from raytune_hpo.chaos.observed import Observation
from raytune_hpo.experiment import Experiment
from raytune_hpo.journal import Record
from raytune_hpo.trial import Config


def check(
    observed: Sequence[Observation], records: Sequence[Record], experiment: Experiment
) -> list[str]:
    """Return what was not as promised, in sentences; nothing if all was.

    Args:
        observed: What the executor saw of all sessions.
        records: The journal after the last of them.
        experiment: What was run; how many trials, and how many at once, is each session's.
    """
    kept = _Kept.of(records)
    found = [
        *_driver_failures(observed),
        *_record_order(records),
        *_finished_again(observed, experiment),
        *_report_history(observed, kept),
        *_budget(observed, kept),
        *_configs(observed, kept),
        *_resumed_steps(observed),
        *check_search(observed, records, experiment),
        *check_ends(observed, records, experiment),
    ]
    # A journal that is no history cannot be told again.
    return found or _decisions(records, experiment)


def _decisions(records: Sequence[Record], experiment: Experiment) -> list[str]:
    if not records or experiment.scheduler.algorithm == "none":
        return []
    return [f"scheduler: {text}" for text in check_decisions(records)]


@dataclass(frozen=True)
class _Kept:
    """The journal, by what its records are about.

    Attributes:
        configs: By trial.
        reports: By trial and attempt, in their order.
        ends: The state in which each trial's attempts ended, in their order.
    """

    configs: dict[int, Config]
    reports: dict[Key, list[Record]]
    ends: dict[int, list[str]]

    @classmethod
    def of(cls, records: Sequence[Record]) -> _Kept:
        reports: dict[Key, list[Record]] = defaultdict(list)
        ends: dict[int, list[str]] = defaultdict(list)
        for record in records:
            if record["type"] == "report":
                reports[key_of(record)].append(record)
            elif record["type"] == "end":
                ends[record["trial"]].append(record["state"])
        configs = {r["trial"]: r["config"] for r in records if r["type"] == "trial"}
        return cls(configs, reports, ends)

    def finished(self, trial: int) -> bool:
        return self.ends[trial][-1:] != [] and self.ends[trial][-1] in FINISHED


def _driver_failures(observed: Sequence[Observation]) -> Iterator[str]:
    for item in observed:
        if isinstance(item, seen.DriverFailed):
            yield f"driver: session {item.session} failed by itself: {item.error}"


def _record_order(records: Sequence[Record]) -> Iterator[str]:
    """Return what makes the records no history: gaps, or attempts that overlap."""
    if [record["n"] for record in records] != list(range(len(records))):
        yield "journal: the numbers of the records are not 0, 1, 2, ..."
    attempts: Counter[int] = Counter()
    trials: set[int] = set()
    running: set[Key] = set()
    paused: set[Key] = set()
    finished: set[int] = set()
    for record in records:
        where = f"record {record['n']}"
        if record["type"] == "trial":
            if record["trial"] != len(trials):
                yield f"journal: {where} is of trial {record['trial']}, not {len(trials)}"
            trials.add(record["trial"])
        elif record["type"] == "start":
            trial = record["trial"]
            attempts[trial] += 1
            if trial in finished:
                yield f"G1: {where} starts trial {trial}, which was finished"
            if record["attempt"] != attempts[trial]:
                yield f"journal: {where} is attempt {record['attempt']}, not {attempts[trial]}"
            if any(other == trial for other, _ in running):
                yield f"journal: {where} starts trial {trial}, which runs"
            running.add(key_of(record))
            paused -= {(trial, record["attempt"] - 1)}
        elif record["type"] in ("begin", "report", "decision", "end"):
            # A paused trial that is not to go on ends without an attempt of its own.
            dropped = record["type"] == "end" and key_of(record) in paused
            if key_of(record) not in running and not dropped:
                yield f"journal: {where} is of an attempt that does not run"
            if record["type"] == "end":
                running.discard(key_of(record))
                paused.discard(key_of(record))
                if record["state"] == "paused":
                    paused.add(key_of(record))
                if record["state"] in FINISHED:
                    finished.add(record["trial"])


def _finished_again(observed: Sequence[Observation], experiment: Experiment) -> Iterator[str]:
    """Return what started after its end, or after the run's, had been acknowledged."""
    acknowledged = Acknowledged(experiment)
    for item in observed:
        if isinstance(item, seen.AttemptStarted):
            if item.trial in acknowledged.finished:
                yield (
                    f"G1: trial {item.trial} was finished, and attempt {item.attempt} of it "
                    f"started in session {item.session}"
                )
            if acknowledged.too_many_failed:
                yield (
                    f"G8: trial {item.trial} started in session {item.session} after "
                    f"{len(acknowledged.failed)} trials had failed"
                )
        acknowledged.see(item)


def _report_history(observed: Sequence[Observation], kept: _Kept) -> Iterator[str]:
    """Return the acknowledged reports that are gone, and the kept ones that nobody made."""
    made: dict[Key, list[seen.ReportMade]] = defaultdict(list)
    acknowledged: Counter[Key] = Counter()
    counted: dict[str, int] = {}
    before: dict[Key, int] = {}
    for item in observed:
        if isinstance(item, seen.ReportMade):
            made[key_of(item)].append(item)
        elif isinstance(item, seen.ReportAcknowledged):
            acknowledged[item.trial, item.attempt] = len(made[item.trial, item.attempt])
        elif isinstance(item, seen.AttemptStarted):
            before[key_of(item)] = 0 if item.checkpoint is None else counted.get(item.checkpoint, 0)
            for record in kept.reports.get(key_of(item), ()):
                if record["checkpoint"] is not None:
                    counted[record["checkpoint"]] = record["step"]
    for trial, attempt in sorted(made.keys() | kept.reports.keys()):
        reports, records = made[trial, attempt], kept.reports.get((trial, attempt), [])
        where = f"trial {trial}, attempt {attempt}"
        lost = acknowledged[trial, attempt] - len(records)
        if lost > 0:
            yield f"G2: {where}: {lost} acknowledged reports are not in the journal"
        if len(records) > len(reports):
            yield f"G2: {where}: the journal has {len(records) - len(reports)} reports too many"
        step = before.get((trial, attempt), 0)
        for report, record in zip(reports, records, strict=False):
            step += record["values"] is not None
            if _text(report.metrics) != _text(record["metrics"]):
                yield f"G2: {where}: the report of step {report.step} was kept with other metrics"
            if report.checkpoint != record["checkpoint"]:
                yield f"G2: {where}: the report of step {report.step} lost its checkpoint"
            if record["step"] != step:
                yield f"G2: {where}: a report is counted as step {record['step']}, not {step}"


def _text(metrics: Mapping[str, Any]) -> str:
    """Return a text that is the same for the same metrics, nan included."""
    return json.dumps(metrics, sort_keys=True)


def _budget(observed: Sequence[Observation], kept: _Kept) -> Iterator[str]:
    """Return the trials beyond a session's budget, or that are missing from it.

    What a session finds in its journal it may run, though the budget be lower than it was.
    """
    ran: set[int] = set()
    budgets = [item.trials for item in observed if isinstance(item, seen.SessionStarted)]
    if len(kept.configs) > max(budgets, default=0):
        yield f"G3: the journal has {len(kept.configs)} trials, and {budgets} were asked for"
    budget = found = allowed = 0
    for item in observed:
        if isinstance(item, seen.SessionStarted):
            budget, found = item.trials, 0
        elif isinstance(item, seen.Adopted):
            found += 1
        elif isinstance(item, seen.SessionReady):
            allowed = max(budget, found)
        elif isinstance(item, seen.AttemptStarted) and item.trial not in ran:
            ran.add(item.trial)
            if len(ran) > allowed:
                yield f"G3: {len(ran)} trials ran, and {budget} were asked for"
    if reason_of(observed) == "trials":
        if len(ran) != allowed:
            yield f"G3: all trials are said to be done, and {len(ran)} ran of {allowed}"
        unfinished = sorted(trial for trial in kept.configs if not kept.finished(trial))
        if unfinished:
            yield f"G3: all trials are said to be done, and {unfinished} are not finished"


def _configs(observed: Sequence[Observation], kept: _Kept) -> Iterator[str]:
    for item in observed:
        if isinstance(item, seen.AttemptStarted) and item.config != kept.configs.get(item.trial):
            yield f"G3: trial {item.trial}, attempt {item.attempt} ran with another config"


def _resumed_steps(observed: Sequence[Observation]) -> Iterator[str]:
    """Return the attempts that began before the last checkpoint acknowledged, or too far on."""
    for again in _again(observed):
        where = f"trial {again.trial}, attempt {again.attempt}"
        if again.resumed < again.durable:
            yield (
                f"G4: {where} went on from step {again.resumed}, though the checkpoint of step "
                f"{again.durable} had been acknowledged"
            )
        if again.resumed > again.executed:
            yield f"G4: {where} went on from step {again.resumed}, which was never executed"
        if again.checkpointed and again.steps > 1:
            yield f"G4: {where} executes {again.steps} steps again, with a checkpoint at each"


@dataclass(frozen=True)
class _Again:
    """An attempt that goes on from an earlier one.

    Attributes:
        executed: The last step that the one before had executed.
        durable: Step of the last checkpoint that was acknowledged.
        resumed: Step that it went on from.
        checkpointed: Whether every report of the trial so far carried a checkpoint.
        killed: Whether the one before ran when the driver was killed.
    """

    trial: int
    attempt: int
    executed: int
    durable: int
    resumed: int
    checkpointed: bool
    killed: bool

    @property
    def steps(self) -> int:
        return max(0, self.executed - self.resumed)


def _again(observed: Sequence[Observation]) -> Iterator[_Again]:
    executed: dict[int, int] = {}
    durable: Counter[int] = Counter()
    last: dict[int, seen.ReportMade] = {}
    without: set[int] = set()
    running: set[int] = set()
    killed: set[int] = set()
    for item in observed:
        if isinstance(item, seen.AttemptStarted):
            trial = item.trial
            if trial in executed:
                yield _Again(
                    trial,
                    item.attempt,
                    executed[trial],
                    durable[trial],
                    item.step,
                    trial not in without,
                    trial in killed,
                )
            executed[trial] = item.step
            running.add(trial)
            killed.discard(trial)
        elif isinstance(item, seen.ReportMade):
            executed[item.trial], last[item.trial] = item.step, item
            if item.checkpoint is None:
                without.add(item.trial)
        elif isinstance(item, seen.ReportAcknowledged):
            if last[item.trial].checkpoint is not None:
                durable[item.trial] = item.step
            if item.answer != "continue":
                running.discard(item.trial)
        elif isinstance(item, (seen.AttemptEnded, seen.ToldToStop)):
            running.discard(item.trial)
        elif isinstance(item, seen.DriverKilled):
            killed |= running
            running.clear()


def compare_untimed(records: Sequence[Record], others: Sequence[Record]) -> list[str]:
    """Return in what two journals differ apart from their times."""
    for one, other in zip(records, others, strict=False):
        if {**one, "t": 0} != {**other, "t": 0} and repr({**one, "t": 0}) != repr(
            {**other, "t": 0}
        ):
            return [f"G15: record {one['n']} depends on the wall clock: {one}, {other}"]
    if len(records) != len(others):
        return [f"G15: {len(records)} records with jumps of the wall clock, {len(others)} without"]
    return []


@dataclass(frozen=True)
class Figures:
    """What a run was put through.

    Attributes:
        sessions: Starts of a driver.
        kills: Of the driver.
        power_cuts: Kills that took records along.
        acknowledged: Reports acknowledged.
        finished: Trials whose end the journal has.
        executed_again: Steps executed again for each trial that a kill of the driver cut short
            and that went on, where every report carried a checkpoint.
    """

    sessions: int
    kills: int
    power_cuts: int
    acknowledged: int
    finished: int
    executed_again: tuple[int, ...]


def figures(observed: Sequence[Observation], records: Sequence[Record]) -> Figures:
    """Return what a run was put through."""
    kinds = Counter(type(item) for item in observed)
    return Figures(
        sessions=kinds[seen.SessionStarted],
        kills=kinds[seen.DriverKilled],
        power_cuts=sum(isinstance(i, seen.DriverKilled) and i.lost > 0 for i in observed),
        acknowledged=kinds[seen.ReportAcknowledged],
        finished=sum(r["type"] == "end" and r["state"] in FINISHED for r in records),
        executed_again=tuple(a.steps for a in _again(observed) if a.killed and a.checkpointed),
    )
