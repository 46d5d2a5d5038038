"""What the engine does when a scheduler pauses, resumes, drops and forks trials."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from raytune_hpo.chaos.checked_decisions import check_decisions
from raytune_hpo.experiment import Experiment
from raytune_hpo.journal import Record
from raytune_hpo.objective import Objective
from raytune_hpo.schedulers.base import Decision, Drop, Fork, Move, Resume
from raytune_hpo.schedulers.none import NoScheduler
from raytune_hpo.simulate import Simulation, VirtualClock
from raytune_hpo.space import Float, SearchSpace
from raytune_hpo.state import RunState
from raytune_hpo.trial import Config, Outcome, Result, TrialState

SPACE = SearchSpace({"x": Float(0.0, 1.0)})
LOSS = Objective.of("loss")
STEPS = 6
CHILD = {"x": 0.25}


class Halves(NoScheduler):
    """Pauses each trial at step 2; when all are there, forks the best and drops the other half.

    The other trials go on one after the other, the best one first.
    """

    def __init__(self) -> None:
        super().__init__(SPACE, LOSS, 1)
        self.values: dict[int, float] = {}
        self.live: set[int] = set()
        self.child: int | None = None

    def on_trial(self, trial: int, config: Config, parent: int | None) -> None:
        self.live.add(trial)
        if parent is not None:
            self.child = trial

    def on_result(self, result: Result) -> Decision:
        if result.trial in self.values or result.trial == self.child or result.step < 2:
            return Decision.CONTINUE
        self.values[result.trial] = result.values[0]
        return Decision.PAUSE

    def on_end(self, trial: int, outcome: Outcome) -> None:
        self.live.discard(trial)

    def next_move(self, paused: Sequence[int], *, more: bool) -> Move | None:
        if more or not self.values or not paused or self.live - self.values.keys() - {self.child}:
            return None
        order = sorted(self.values, key=lambda trial: self.values[trial])
        bad = [trial for trial in paused if trial in order[len(order) // 2 :]]
        if bad:
            return Drop(bad[0])
        if self.child is None:
            return Fork(order[0], CHILD)
        return Resume(min(paused, key=order.index))


def curve(config: Config) -> Iterator[tuple[float, dict[str, Any]]]:
    for step in range(1, STEPS + 1):
        yield 1.0 + config["x"], {"loss": config["x"] + 1 / step, "seen": step}


def experiment(**fields: Any) -> Experiment:
    fields = {"trials": 8, "parallel": 3, "search": {"algorithm": "random", "seed": 1}, **fields}
    return Experiment.from_python(run="noop", parameters=SPACE.parameters, metric="loss", **fields)


def simulation(records: Sequence[Record] = (), **fields: Any) -> Simulation:
    options = {"checkpoints": True, "clock": VirtualClock(), **fields}
    spec = options.pop("spec", None) or experiment()
    return Simulation(spec, curve, records=records, scheduler=Halves(), **options)


def seen(records: Sequence[Record], trial: int) -> list[int]:
    """Return the steps that a trial executed, in order."""
    return [r["metrics"]["seen"] for r in records if r["type"] == "report" and r["trial"] == trial]


def test_a_paused_trial_goes_on_from_its_checkpoint() -> None:
    run = simulation()
    state = run.run()
    assert state.finish is not None
    assert state.finish.reason == "trials"
    assert state.counts()[TrialState.PRUNED] == 4
    assert state.counts()[TrialState.COMPLETED] == 5
    for trial in state.trials.values():
        expected = list(range(1, STEPS + 1))
        if trial.state is TrialState.PRUNED:
            expected = [1, 2]
        elif trial.parent is not None:
            expected = expected[2:]
        assert seen(run.journal.records, trial.number) == expected


def test_without_checkpoints_it_begins_anew() -> None:
    run = simulation(checkpoints=False)
    state = run.run()
    resumed = next(t for t in state.trials.values() if len(t.attempts) == 2)
    assert seen(run.journal.records, resumed.number) == [1, 2, *range(1, STEPS + 1)]


def test_a_fork_is_a_trial_of_its_own_beside_the_budget() -> None:
    run = simulation()
    state = run.run()
    fork = state.trials[8]
    assert (fork.origin, fork.config) == ("fork", CHILD)
    best = min(range(8), key=lambda number: state.trials[number].config["x"])
    assert fork.parent == best
    assert fork.step == STEPS
    assert state.proposed == 8


def test_a_paused_trial_occupies_nothing() -> None:
    run = simulation()
    state = run.run()
    # Eight trials came to step 2 on three workers though none had ended.
    first_end = next(
        r["n"]
        for r in run.journal.records
        if r["type"] == "end" and TrialState(r["state"]).finished
    )
    started = {r["trial"] for r in run.journal.records[:first_end] if r["type"] == "start"}
    assert len(started) == 8
    assert len(state.trials) == 9


def test_the_searcher_is_not_told_of_forks() -> None:
    class Told:
        def __init__(self) -> None:
            self.trials: set[int] = set()

    told = Told()

    from raytune_hpo.searchers.random import RandomSearcher

    class Listening(RandomSearcher):
        def adopt(self, trial: int, config: Config) -> None:
            told.trials.add(trial)
            super().adopt(trial, config)

        def report(
            self,
            trial: int,
            step: int,
            values: tuple[float, ...],
            violations: tuple[float, ...] = (),
        ) -> None:
            told.trials.add(trial)

        def observe(self, trial: int, outcome: Outcome) -> None:
            told.trials.add(trial)
            super().observe(trial, outcome)

    run = simulation(searcher=Listening(SPACE, LOSS, 1))
    run.run()
    again = simulation(run.journal.records, searcher=Listening(SPACE, LOSS, 1))
    assert again.engine.state.trials[8].parent is not None
    assert told.trials == set(range(8))


@pytest.mark.parametrize("seed", range(60))
def test_no_crash_changes_what_becomes_of_the_trials(seed: int) -> None:
    undisturbed = _ends(simulation().run())
    chance = random.Random(seed)
    clock = VirtualClock()
    records: list[Record] = []
    for _ in range(300):
        run = simulation(records, clock=clock)
        state = run.run(events=chance.randrange(1, 15))
        records = list(run.journal.records)
        if state.finish is not None:
            assert _ends(state) == undisturbed
            assert check_decisions(records, Halves()) == []
            return
        records = records[: len(records) - chance.choice([0, 0, 1, 2])]
    raise AssertionError("the run does not end")


def test_other_decisions_than_the_scheduler_s_are_found() -> None:
    run = simulation()
    run.run()
    assert check_decisions(run.journal.records, Halves()) == []
    found = check_decisions(run.journal.records, NoScheduler(SPACE, LOSS, 1))
    assert len(found) > 8


def _ends(state: RunState) -> dict[int, tuple[TrialState, int | None, int]]:
    return {t.number: (t.state, t.parent, t.step) for t in state.trials.values()}


def test_a_checkpoint_that_is_gone_defers_the_fork() -> None:
    lost = iter([None, None])

    def copy(path: str, trial: int) -> str | None:
        return next(lost, path)

    run = simulation()
    run.engine._copy_checkpoint = copy
    for _ in range(10):
        state = run.run()
    assert state.finish is not None
    assert state.trials[8].step == STEPS


def test_more_trials_on_resume_come_before_the_moves() -> None:
    first = simulation()
    first.run(events=20)
    more = simulation(first.journal.records, spec=experiment(trials=10), clock=first.clock)
    state = more.run()
    assert state.proposed == 10
    assert state.finish is not None
    assert state.finish.reason == "trials"
