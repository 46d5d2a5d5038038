"""Population-based training: who is replaced, by whose fork, with which config."""

from __future__ import annotations

import random
import runpy
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from raytune_hpo import checkpoints, reporting
from raytune_hpo.chaos.checked_decisions import check_decisions
from raytune_hpo.errors import SpecError
from raytune_hpo.experiment import Experiment
from raytune_hpo.expression import Expression
from raytune_hpo.journal import Record
from raytune_hpo.objective import BadMetric, Constraint, Goal, Objective
from raytune_hpo.schedulers.base import Decision, Drop, Fork, Resume
from raytune_hpo.schedulers.pbt import Pbt
from raytune_hpo.schedulers.perturb import near, perturbed
from raytune_hpo.simulate import Simulation, VirtualClock
from raytune_hpo.space import (
    Choice,
    Constant,
    Float,
    Int,
    LogNormal,
    Normal,
    Ordinal,
    SearchSpace,
)
from raytune_hpo.state import RunState
from raytune_hpo.trial import Config, FailureKind, Outcome, Result, TrialState

SPACE = SearchSpace({"x": Float(0.0, 1.0)})
LOSS = Objective.of("loss", "min")
CONTINUE, PAUSE, STOP, COMPLETE = (
    Decision.CONTINUE,
    Decision.PAUSE,
    Decision.STOP,
    Decision.COMPLETE,
)


def pbt(objective: Objective = LOSS, **settings: Any) -> Pbt:
    return Pbt(SPACE, objective, 1, **{"interval": 2, **settings})


def report(trial: int, step: int, loss: float, *, checkpoint: bool = True, **more: Any) -> Result:
    return Result(trial, step, (loss,), {"loss": loss, **more}, checkpoint=checkpoint)


def pruned(scheduler: Pbt, trial: int) -> None:
    scheduler.on_end(trial, Outcome(TrialState.PRUNED, (0.0,), step=2))


def failed(scheduler: Pbt, trial: int) -> None:
    scheduler.on_end(trial, Outcome(TrialState.FAILED))


def population(losses: Sequence[float], **settings: Any) -> Pbt:
    """Return a population in which everyone stands paused at the end of the first interval."""
    scheduler = pbt(**settings)
    for trial in range(len(losses)):
        scheduler.on_trial(trial, {"x": trial / 10}, None)
    for trial, loss in enumerate(losses):
        assert scheduler.on_result(report(trial, 1, 99.0)) is CONTINUE
        assert scheduler.on_result(report(trial, 2, loss)) is PAUSE
    return scheduler


def settle(scheduler: Pbt, paused: list[int]) -> tuple[list[int], list[int]]:
    """Carry out all moves; return the trials that were dropped and the parents of forks."""
    dropped, parents = [], []
    while (move := scheduler.next_move(paused, more=False)) is not None:
        if isinstance(move, Drop):
            paused.remove(move.trial)
            pruned(scheduler, move.trial)
            dropped.append(move.trial)
        elif isinstance(move, Fork):
            scheduler.on_trial(len(scheduler.members), move.config, move.parent)
            parents.append(move.parent)
        else:
            paused.remove(move.trial)
    return dropped, parents


# Who is replaced


@pytest.mark.parametrize(
    ("losses", "quantile", "bottom", "top"),
    [
        ([4, 3, 2, 1], 0.25, [0], {3}),
        ([1, 2, 3, 4, 5, 6, 7, 8], 0.25, [6, 7], {0, 1}),
        ([8, 7, 6, 5, 4, 3, 2, 1], 0.5, [0, 1, 2, 3], {4, 5, 6, 7}),
        ([1, 2, 3, 4, 5, 6, 7], 0.25, [6], {0}),
        ([1, 2], 0.25, [1], {0}),
        ([1, 2, 3], 0.5, [2], {0}),
    ],
)
def test_the_bottom_quantile_is_replaced_by_forks_of_the_top_quantile(
    losses: list[float], quantile: float, bottom: list[int], top: set[int]
) -> None:
    scheduler = population(losses, quantile=quantile, synchronous=True)
    dropped, parents = settle(scheduler, list(range(len(losses))))
    assert dropped == bottom
    assert len(parents) == len(bottom)
    assert set(parents) <= top


def test_every_member_of_the_top_quantile_may_become_a_parent() -> None:
    parents = set()
    for seed in range(20):
        scheduler = Pbt(SPACE, LOSS, seed, interval=1)
        for trial in range(8):
            scheduler.on_trial(trial, {"x": 0.5}, None)
            scheduler.on_result(report(trial, 1, trial))
        parents |= set(settle(scheduler, list(range(8)))[1])
    assert parents == {0, 1}


def test_equals_are_not_replaced() -> None:
    assert settle(population([1.0] * 8), list(range(8))) == ([], [])


def test_maximizing_turns_the_order() -> None:
    scheduler = population([1, 2, 3, 4], objective=Objective.of("loss", "max"))
    assert settle(scheduler, [0, 1, 2, 3]) == ([0], [3])


def test_who_violates_a_constraint_is_behind_all_others() -> None:
    goal = Goal(Expression.name("loss"), "min", "loss")
    scheduler = pbt(Objective([goal], [Constraint.parse("ms <= 5")]))
    for trial, over in enumerate([0.0, 0.0, 3.0, 1.0]):
        scheduler.on_trial(trial, {"x": 0.5}, None)
        scheduler.on_result(Result(trial, 2, (-over,), violations=(over,), checkpoint=True))
    dropped, parents = settle(scheduler, [0, 1, 2, 3])
    assert dropped == [2]
    assert set(parents) == {0}


def test_the_bottom_quantile_stays_as_large_when_forks_have_begun() -> None:
    scheduler = population([1, 2, 3, 4], synchronous=True)
    assert scheduler.next_move([0, 1, 2, 3], more=False) == Drop(3)
    pruned(scheduler, 3)
    fork = scheduler.next_move([0, 1, 2], more=False)
    assert isinstance(fork, Fork)
    scheduler.on_trial(4, fork.config, fork.parent)
    # Of the four values at this comparison the third is not in the bottom quarter.
    assert scheduler.next_move([0, 1, 2], more=False) == Resume(0)


def test_nobody_is_replaced_before_burn_in() -> None:
    scheduler = population([1, 2, 3, 4], burn_in=4)
    paused = [0, 1, 2, 3]
    assert settle(scheduler, paused) == ([], [])
    assert [scheduler.on_result(report(t, 4, t)) for t in (0, 1, 2, 3)][-1] is STOP


def test_a_trial_is_complete_at_max_resource_and_not_compared_there() -> None:
    scheduler = population([1, 2, 3, 4], max_resource=4)
    settle(scheduler, [0, 1, 2, 3])
    assert [scheduler.on_result(report(trial, 4, trial)) for trial in (0, 1, 2)] == [COMPLETE] * 3


def test_the_resource_may_be_a_metric_with_fractions() -> None:
    scheduler = pbt(interval=0.1, resource="epoch")
    scheduler.on_trial(0, {"x": 0.5}, None)
    decisions = [
        scheduler.on_result(report(0, step, 1.0, epoch=epoch))
        for step, epoch in enumerate([0.05, 0.1, 0.15, 0.1 + 0.2], start=1)
    ]
    assert decisions == [CONTINUE, PAUSE, CONTINUE, CONTINUE]
    assert scheduler.members[0].passed == 3


def test_a_comparison_uses_what_the_others_had_at_the_same_interval() -> None:
    scheduler = population([1, 2, 3, 4], burn_in=4)
    settle(scheduler, [0, 1, 2, 3])
    for trial in (0, 1, 2):
        scheduler.on_result(report(trial, 4, 5.0 + trial))
    # The first gets further and by far better, but it was no better when it was here.
    scheduler.on_result(report(0, 6, -9.0))
    assert scheduler.on_result(report(3, 4, 6.5)) is CONTINUE


# Whose checkpoint, which config


def test_a_fork_has_its_parents_config_perturbed() -> None:
    scheduler = population([1, 2, 3, 4], resample=0.0, factors=(0.5,))
    scheduler.next_move([0, 1, 2, 3], more=False)
    pruned(scheduler, 3)
    scheduler.members[0].config["x"] = 0.6
    assert scheduler.next_move([0, 1, 2], more=False) == Fork(0, {"x": 0.3})


def test_a_fork_is_compared_at_the_next_interval_for_the_first_time() -> None:
    scheduler = population([1, 2, 3, 4])
    settle(scheduler, [0, 1, 2, 3])
    assert scheduler.on_result(report(4, 3, 99.0)) is CONTINUE
    assert scheduler.on_result(report(4, 4, 99.0)) is STOP


def test_a_fork_that_has_run_nothing_is_no_parent() -> None:
    scheduler = population([1, 2, 3, 4])
    settle(scheduler, [0, 1, 2, 3])
    assert scheduler.on_result(report(2, 4, 99.0)) is STOP
    pruned(scheduler, 2)
    fork = scheduler.next_move([], more=False)
    assert isinstance(fork, Fork)
    assert fork.parent == 0


def test_the_fork_is_asked_for_until_it_is_there() -> None:
    scheduler = population([1, 2, 3, 4])
    scheduler.next_move([0, 1, 2, 3], more=False)
    pruned(scheduler, 3)
    fork = scheduler.next_move([0, 1, 2], more=False)
    assert isinstance(fork, Fork)
    scheduler.on_trial(4, {"x": 0.1}, None)
    assert scheduler.next_move([0, 1, 2], more=True) == fork
    scheduler.on_trial(5, fork.config, fork.parent)
    assert scheduler.next_move([0, 1, 2], more=True) is None


def test_a_parent_that_ended_meanwhile_is_replaced_by_another_one() -> None:
    scheduler = population([1, 2, 3, 4])
    scheduler.next_move([0, 1, 2, 3], more=False)
    pruned(scheduler, 3)
    scheduler.on_end(0, Outcome(TrialState.COMPLETED, (1.0,), step=2))
    fork = scheduler.next_move([1, 2], more=False)
    assert isinstance(fork, Fork)
    assert fork.parent == 1


# Who waits for whom


def test_all_start_before_anyone_goes_on() -> None:
    scheduler = pbt()
    for trial in range(3):
        scheduler.on_trial(trial, {"x": 0.5}, None)
        assert scheduler.on_result(report(trial, 2, trial)) is PAUSE
        assert scheduler.next_move(list(range(trial + 1)), more=True) is None
    assert scheduler.next_move([0, 1, 2], more=False) == Drop(2)


def test_nobody_gets_two_intervals_ahead() -> None:
    scheduler = population([1, 2])
    scheduler.on_trial(2, {"x": 0.5}, None)
    assert scheduler.next_move([0, 1], more=False) == Resume(0)
    assert scheduler.on_result(report(0, 4, 1.0)) is PAUSE
    assert scheduler.next_move([0, 1], more=False) == Resume(1)
    assert scheduler.next_move([0], more=False) is None
    scheduler.on_result(report(2, 2, 1.5))
    assert scheduler.next_move([0, 2], more=False) == Resume(2)
    assert scheduler.next_move([0], more=False) == Resume(0)


def test_synchronous_members_wait_for_the_last_one() -> None:
    scheduler = population([1, 2, 3, 4], synchronous=True)
    settle(scheduler, [0, 1, 2, 3])
    assert [scheduler.on_result(report(trial, 4, trial)) for trial in (0, 1, 2)] == [PAUSE] * 3
    assert scheduler.next_move([0, 1, 2], more=False) is None
    assert scheduler.on_result(report(4, 4, 9.0)) is STOP
    pruned(scheduler, 4)
    assert isinstance(scheduler.next_move([0, 1, 2], more=False), Fork)


def test_a_member_that_ends_is_not_waited_for() -> None:
    scheduler = population([1, 2, 3, 4], synchronous=True)
    settle(scheduler, [0, 1, 2, 3])
    for trial in (0, 1, 2):
        scheduler.on_result(report(trial, 4, trial))
    scheduler.on_end(4, Outcome(TrialState.COMPLETED, (1.0,), step=3))
    assert scheduler.next_move([0, 1, 2], more=False) == Drop(2)


# Failures


def test_a_member_that_fails_is_replaced() -> None:
    scheduler = population([1, 2, 3, 4])
    settle(scheduler, [0, 1, 2, 3])
    failed(scheduler, 1)
    fork = scheduler.next_move([], more=False)
    assert isinstance(fork, Fork)
    assert fork.parent == 0


def test_forks_that_fail_at_once_are_replaced_three_times() -> None:
    scheduler = population([1, 2, 3, 4])
    settle(scheduler, [0, 1, 2, 3])
    for _ in range(3):
        failed(scheduler, len(scheduler.members) - 1)
        assert len(settle(scheduler, [])[1]) == 1
    failed(scheduler, len(scheduler.members) - 1)
    assert scheduler.next_move([], more=False) is None


def test_without_anyone_to_fork_nothing_is_replaced() -> None:
    scheduler = pbt()
    for trial in range(3):
        scheduler.on_trial(trial, {"x": 0.5}, None)
    for trial in range(3):
        failed(scheduler, trial)
    assert scheduler.next_move([], more=False) is None


def test_a_trial_that_was_stopped_from_outside_is_not_replaced() -> None:
    scheduler = population([1, 2, 3, 4])
    settle(scheduler, [0, 1, 2, 3])
    scheduler.on_end(1, Outcome(TrialState.STOPPED, (2.0,), step=2))
    assert scheduler.next_move([], more=False) is None


def test_a_trial_without_checkpoint_fails_with_the_reason() -> None:
    scheduler = pbt()
    scheduler.on_trial(0, {"x": 0.5}, None)
    assert scheduler.on_result(report(0, 1, 1.0, checkpoint=False)) is CONTINUE
    for _ in range(2):  # a journal is replayed up to here and asks again
        with pytest.raises(BadMetric, match=r"pbt needs checkpoints.*checkpoint=path") as caught:
            scheduler.on_result(report(0, 2, 1.0, checkpoint=False))
        assert caught.value.kind is FailureKind.NO_CHECKPOINT


# Settings


def test_all_wrong_settings_are_told_at_once() -> None:
    wrong: dict[str, Any] = {
        "interval": 0,
        "burn_in": -1,
        "quantile": 0.6,
        "max_resource": float("nan"),
        "resample": 1.5,
        "factors": [0.0, 1.2],
        "fixed": ["y"],
    }
    with pytest.raises(SpecError) as caught:
        pbt(**wrong)
    assert sorted(p.path.rpartition(".")[2] for p in caught.value.problems) == sorted(wrong)


@pytest.mark.parametrize("factors", [(), 1.2, "12", [True], [float("inf")], ["1"]])
def test_factors_are_numbers_above_zero(factors: Any) -> None:
    with pytest.raises(SpecError, match="list of numbers above 0"):
        pbt(factors=factors)


@pytest.mark.parametrize("fixed", ["x", 3])
def test_fixed_is_a_list(fixed: Any) -> None:
    with pytest.raises(SpecError, match="list of parameters"):
        pbt(fixed=fixed)


def test_several_goals_are_refused() -> None:
    goals = [Goal(Expression.name(name), "min", name) for name in ("loss", "ms")]
    with pytest.raises(SpecError, match="pbt ranks trials by one goal"):
        pbt(Objective(goals))


# Explore

MIXED = SearchSpace(
    {
        "lr": Float(1e-5, 1e-1, log=True),
        "momentum": Float(-0.5, 0.9),
        "dropout": Float(0.0, 0.8, step=0.1),
        "decay": Float(1e-6, 1.0, prior=LogNormal(-9, 1)),
        "warm": Float(-1.0, 1.0, prior=Normal(0.0, 0.1)),
        "layers": Int(1, 8),
        "units": Int(8, 512, log=True),
        "heads": Int(2, 16, step=2),
        "batch": Ordinal((16, 32, 64)),
        "data": Constant("digits"),
        "optimizer": Choice(("sgd", "adam", True, 1)),
        "nesterov": Choice((True, False), when="optimizer == sgd"),
        "beta": Float(0.5, 0.99, when="optimizer == adam"),
        "gamma": Float(0.5, 0.99, when="beta > 0.7"),
    }
)


@given(st.integers(0, 10**6), st.floats(0.01, 100.0), st.floats(0.0, 1.0), st.integers(1, 30))
def test_whatever_is_explored_is_a_config_of_the_space(
    seed: int, factor: float, resample: float, times: int
) -> None:
    rng = np.random.default_rng(seed)
    config = MIXED.sample(rng)
    fixed = ["layers", "heads"]
    start = {name: config[name] for name in fixed}
    for _ in range(times):
        config = perturbed(
            MIXED, config, rng, factors=(factor, 1 / factor), resample=resample, fixed=fixed
        )
        MIXED.validate(config)
        assert {name: config[name] for name in fixed} == start
        assert all(type(config[name]) is int for name in ("layers", "units", "heads"))


@pytest.mark.parametrize(
    ("axis", "value", "factor", "expected"),
    [
        (Float(0.0, 1.0), 0.5, 1.2, 0.6),
        (Float(0.0, 1.0), 0.9, 1.2, 1.0),
        (Float(1e-5, 1e-1, log=True), 1e-3, 0.8, 8e-4),
        (Float(-1.0, 1.0), -0.5, 1.2, -0.6),
        (Float(0.0, 1.0, step=0.25), 0.25, 1.2, 0.5),
        (Float(0.0, 1.0, step=0.25), 0.5, 0.8, 0.25),
        (Float(0.0, 1.0, step=0.25), 1.0, 1.2, 1.0),
        (Int(1, 8), 2, 1.2, 3),
        (Int(1, 8), 1, 0.8, 1),
        (Int(0, 100), 50, 1.2, 60),
        (Int(2, 16, step=2), 10, 0.8, 8),
        (Choice(("a", "b")), "a", 1.2, "a"),
        (Ordinal((16, 32, 64)), 16, 1.2, 32),
        (Ordinal((16, 32, 64)), 64, 1.2, 32),
        (Ordinal((16,)), 16, 1.2, 16),
    ],
)
def test_values_nearby(axis: Any, value: Any, factor: float, expected: Any) -> None:
    for seed in range(5):
        assert near(axis, value, (factor,), np.random.default_rng(seed)) == expected


def test_an_ordered_value_moves_both_ways() -> None:
    seen = {near(Ordinal((1, 2, 3)), 2, (1.2,), np.random.default_rng(s)) for s in range(20)}
    assert seen == {1, 3}


def test_resample_draws_anew_with_its_chance() -> None:
    space = SearchSpace({"kind": Choice(tuple(range(100)))})
    rng = np.random.default_rng(0)
    changed = [
        perturbed(space, {"kind": 7}, rng, factors=(1.0,), resample=0.25, fixed=())["kind"] != 7
        for _ in range(2000)
    ]
    assert np.mean(changed) == pytest.approx(0.25 * 0.99, abs=0.03)


def test_a_condition_brings_and_takes_parameters() -> None:
    space = SearchSpace(
        {
            "kind": Choice(("a", "b")),
            "x": Float(0, 1, when="kind == a"),
            "y": Float(0, 1, when="kind == b"),
        }
    )
    rng = np.random.default_rng(0)
    seen = [
        perturbed(space, {"kind": "a", "x": 0.5}, rng, factors=(0.8,), resample=0.5, fixed=())
        for _ in range(50)
    ]
    assert {tuple(config) for config in seen} == {("kind", "x"), ("kind", "y")}
    for config in seen:
        space.validate(config)


# In a run

STEPS = 12


def curve(config: Config) -> Iterator[tuple[float, dict[str, Any]]]:
    for step in range(1, STEPS + 1):
        if int(config["x"] * 100) % 7 == 3 and step == 5:
            raise RuntimeError("diverged")
        yield 1.0 + config["x"], {"loss": config["x"] + 1 / step, "seen": step}


def simulation(
    records: Sequence[Record] = (), clock: VirtualClock | None = None, **fields: Any
) -> Simulation:
    settings = {"interval": 3, "max_resource": STEPS, **fields.pop("settings", {})}
    options = {"trials": 8, "parallel": 3, "search": {"algorithm": "random", "seed": 1}, **fields}
    spec = Experiment.from_python(run="noop", parameters=SPACE.parameters, metric="loss", **options)
    return Simulation(
        spec,
        curve,
        records=records,
        clock=clock or VirtualClock(),
        scheduler=Pbt(SPACE, LOSS, 1, **settings),
        checkpoints=True,
    )


def problems_of(records: Sequence[Record], **settings: Any) -> list[str]:
    settings = {"interval": 3, "max_resource": STEPS, **settings}
    return check_decisions(records, Pbt(SPACE, LOSS, 1, **settings))


@pytest.mark.parametrize("synchronous", [False, True])
@pytest.mark.parametrize("parallel", [1, 3, 8, 20])
def test_the_population_keeps_its_size_to_the_end(parallel: int, synchronous: bool) -> None:
    run = simulation(parallel=parallel, settings={"synchronous": synchronous})
    state = run.run()
    assert state.finish is not None
    assert state.finish.reason == "trials"
    counts = state.counts()
    assert counts[TrialState.COMPLETED] == 8
    assert state.proposed == 8
    assert counts[TrialState.PRUNED] + counts[TrialState.FAILED] == len(state.trials) - 8
    assert counts[TrialState.PRUNED] >= 2
    assert counts[TrialState.FAILED] >= 1
    for trial in state.trials.values():
        if trial.parent is not None:
            parent = state.trials[trial.parent].config["x"]
            assert trial.config["x"] != parent


def test_a_fork_goes_on_where_its_parent_was() -> None:
    run = simulation()
    run.run()
    first: dict[int, int] = {}
    for record in run.journal.records:
        if record["type"] == "report":
            first.setdefault(record["trial"], record["metrics"]["seen"])
    forks = [r for r in run.journal.records if r["type"] == "trial" and r["origin"] == "fork"]
    assert forks
    for fork in forks:
        assert fork["step"] >= 3
        assert first[fork["trial"]] == fork["step"] + 1


def test_the_population_gets_better() -> None:
    state = simulation(trials=16).run()
    last = [t.config["x"] for t in state.trials.values() if t.state is TrialState.COMPLETED]
    started = [t.config["x"] for t in state.trials.values() if t.parent is None]
    assert np.mean(last) < np.mean(started) / 2


def test_a_run_without_checkpoints_ends_with_the_reason() -> None:
    spec = Experiment.from_python(
        run="noop", parameters=SPACE.parameters, metric="loss", trials=8, parallel=3
    )
    scheduler = Pbt(SPACE, LOSS, 1, interval=3)
    state = Simulation(spec, curve, scheduler=scheduler).run()
    assert state.finish is not None
    assert state.finish.reason == "spec"
    assert "pbt needs checkpoints" in state.finish.message


@pytest.mark.parametrize("synchronous", [False, True])
def test_wherever_it_is_killed_it_goes_on_alike(synchronous: bool) -> None:
    settings = {"synchronous": synchronous}
    whole = simulation(settings=settings)
    whole.run()
    records = list(whole.journal.records)
    assert problems_of(records, **settings) == []
    for cut in range(2, len(records), 3):
        clock = VirtualClock(records[cut - 1]["t"])
        again = simulation(records[:cut], clock, settings=settings)
        state = again.run()
        assert problems_of(again.journal.records, **settings) == []
        assert Counter(t.state for t in state.trials.values())[TrialState.COMPLETED] == 8


@pytest.mark.parametrize("seed", range(20))
def test_it_may_be_killed_again_and_again(seed: int) -> None:
    chance = random.Random(seed)
    settings = {"synchronous": bool(seed % 2)}
    clock = VirtualClock()
    records: list[Record] = []
    state = RunState()
    for _ in range(300):
        run = simulation(records, clock, parallel=chance.choice([1, 3, 9]), settings=settings)
        state = run.run(events=chance.randrange(3, 25))
        records = list(run.journal.records)
        if state.finish is not None:
            break
        records = records[: len(records) - chance.choice([0, 0, 1, 2])]
    assert state.finish is not None
    assert problems_of(records, **settings) == []
    assert state.counts()[TrialState.COMPLETED] == 8


def test_with_one_worker_a_kill_changes_nothing() -> None:
    whole = simulation(parallel=1).run()
    expected = [(t.config, t.parent, t.state, t.step) for t in whole.trials.values()]
    chance = random.Random(0)
    for _ in range(10):
        records: list[Record] = []
        clock = VirtualClock()
        while True:
            run = simulation(records, clock, parallel=1)
            state = run.run(events=chance.randrange(3, 25))
            records = list(run.journal.records)
            if state.finish is not None:
                break
        seen = [(t.config, t.parent, t.state, t.step) for t in state.trials.values()]
        assert seen == expected


# The example

EXAMPLE = Path(__file__).parents[2] / "examples" / "pbt"


class Session:
    """A trial of the example that is stopped after some reports."""

    trial = 0

    def __init__(self, folder: Path, reports: int, checkpoint: Path | None = None) -> None:
        self.checkpoint = checkpoint
        self.metrics: list[dict[str, Any]] = []
        self._folder = folder
        self._left = reports

    def report(self, metrics: dict[str, Any], checkpoint: Path | None) -> None:
        assert checkpoint is not None
        self.metrics.append(metrics)
        self.checkpoint = checkpoints.save(checkpoint, self._folder, attempt=1)
        if len(self.metrics) == self._left:
            raise reporting.TrialStopped


def test_the_example_goes_on_from_another_trial_s_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train = runpy.run_path(str(EXAMPLE / "train.py"))["train"]
    config: Config = {"lr": 0.1, "alpha": 1e-4, "batch_size": 64}
    parent = Session(tmp_path / "parent", reports=4)
    fork = Session(tmp_path / "fork", reports=1, checkpoint=None)
    for session, changed in ((parent, {}), (fork, {"lr": 0.05, "batch_size": 32})):
        session.checkpoint = parent.checkpoint
        reporting.set_session(session)
        try:
            with threadpool_limits(1), pytest.raises(reporting.TrialStopped):
                train({**config, **changed})
        finally:
            reporting.set_session(None)
    assert [report["epoch"] for report in parent.metrics + fork.metrics] == [1, 2, 3, 4, 5]
    losses = [report["val_loss"] for report in parent.metrics]
    assert losses[3] < losses[0] / 2
    assert fork.metrics[0]["val_loss"] < losses[1]
