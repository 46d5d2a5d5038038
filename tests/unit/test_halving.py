"""What the successive-halving family shares, and all of it through the engine."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raytune_hpo.chaos.checked_decisions import check_decisions
from raytune_hpo.experiment import Experiment
from raytune_hpo.journal import Record
from raytune_hpo.objective import BadMetric, Constraint, Objective
from raytune_hpo.schedulers.asha import Asha
from raytune_hpo.schedulers.base import Decision, Scheduler
from raytune_hpo.schedulers.halving import (
    Rung,
    entry_of,
    ranked,
    stands,
    used_by,
    wrong_counts,
    wrong_numbers,
)
from raytune_hpo.schedulers.hyperband import Hyperband
from raytune_hpo.schedulers.sha import Sha
from raytune_hpo.simulate import Simulation, VirtualClock
from raytune_hpo.space import Float, SearchSpace
from raytune_hpo.standing import FAILED, Standing
from raytune_hpo.state import RunState
from raytune_hpo.trial import Config, Result, TrialState

SPACE = SearchSpace({"x": Float(0.0, 1.0)})
LOSS = Objective.of("loss", "min")
TWO = Objective(LOSS.goals + Objective.of("speed", "max").goals)


def report(step: int, loss: float, **metrics: object) -> Result:
    return Result(0, step, (loss,), {"loss": loss, **metrics})


def rung(*entries: Standing, several_goals: bool = False) -> Rung:
    made = Rung(several_goals=several_goals)
    for trial, entry in enumerate(entries):
        made.enter(trial, entry)
    return made


def feasible(*values: float) -> Standing:
    return Standing(0.0, values)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_the_rank_counts_better_entries_and_equal_ones_of_lower_numbers(
    losses: list[float],
) -> None:
    made = rung(*(feasible(loss) for loss in losses))
    for trial, loss in enumerate(losses):
        assert made.better(trial) == sum(other < loss for other in losses)
        assert made.rank(trial) == made.better(trial) + losses[:trial].count(loss)


@pytest.mark.parametrize("several_goals", [False, True])
def test_an_entry_takes_the_place_of_the_trials_earlier_one(several_goals: bool) -> None:
    made = rung(feasible(1.0, 1.0), feasible(2.0, 2.0), several_goals=several_goals)
    made.enter(0, FAILED)
    assert len(made) == 2
    assert (made.rank(0), made.rank(1)) == (1, 0)
    assert (made.better(0), made.better(1)) == (1, 0)


def test_an_infeasible_trial_ranks_behind_all_feasible_ones_and_before_a_failed_one() -> None:
    made = rung(FAILED, Standing(2.0, (0.0,)), Standing(1.0, (9.0,)), feasible(99.0))
    assert [made.rank(trial) for trial in range(4)] == [3, 2, 1, 0]


def test_with_several_goals_fronts_decide_and_then_crowding() -> None:
    entries = {
        0: feasible(3.0, 3.0),  # the second front
        1: feasible(0.0, 4.0),  # an end of the first front
        2: feasible(1.0, 3.1),
        3: feasible(1.1, 3.0),  # nearest to others
        4: feasible(4.0, 0.0),  # an end of the first front
        5: Standing(1.0, (-9.0, -9.0)),
    }
    order = [trial for _, trial in ranked(entries, several_goals=True)]
    assert order[:2] == [1, 4]
    assert sorted(order[2:4]) == [2, 3]
    assert order[4:] == [0, 5]
    made = rung(*entries.values(), several_goals=True)
    assert [made.rank(trial) for trial in order] == list(range(6))
    assert made.better(4) == 0


@pytest.mark.parametrize("several_goals", [False, True])
def test_the_best_trial_is_promotable_that_waits_and_stands_paused(several_goals: bool) -> None:
    made = Rung(several_goals=several_goals)
    for trial in range(6):
        made.enter(trial, feasible(float(-trial), float(-trial)))
        made.wait(trial)
    paused = list(range(6))
    assert [made.promotable(count, paused) for count in range(3)] == [None, 5, 5]
    assert made.promotable(1, [0, 1, 2, 3, 4]) is None
    assert made.promotable(2, [0, 1, 2, 3, 4]) == 4
    made.leave(5)
    assert made.promotable(1, paused) is None
    assert made.promotable(2, paused) == 4
    made.enter(5, FAILED)
    assert made.promotable(1, paused) == 4


@given(st.sets(st.integers(0, 30)), st.integers(0, 30))
def test_a_trial_stands_paused_if_it_is_among_the_paused_ones(paused: set[int], trial: int) -> None:
    assert stands(trial, sorted(paused)) == (trial in paused)


def test_an_entry_is_lower_for_the_better_trial_and_adds_up_violations() -> None:
    objective = Objective(
        Objective.of("accuracy", "max").goals,
        [Constraint.parse("ms <= 20"), Constraint.parse("gib <= 1")],
    )
    result = Result(0, 1, (0.9,), violations=(3.0, -0.5))
    assert entry_of(objective, result) == Standing(3.0, (-0.9,))
    assert entry_of(objective, Result(0, 1, (0.9,), violations=(-3.0, -0.5))) == feasible(-0.9)


def test_the_resource_is_the_step_or_a_metric() -> None:
    assert used_by(report(7, 1.0, epoch=3.5), None) == 7
    assert used_by(report(7, 1.0, epoch=3.5), "epoch") == 3.5


def test_missing_resource_metric_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(BadMetric, match=r"'epoch'.*epochs, loss \(did you mean 'epochs'"):
        used_by(report(1, 1.0, epochs=3), "epoch")


@pytest.mark.parametrize("seen", ["3", True, None, math.nan, math.inf])
def test_the_resource_metric_has_to_be_a_number(seen: object) -> None:
    with pytest.raises(BadMetric, match="finite number"):
        used_by(report(1, 1.0, epoch=seen), "epoch")


def test_problems_name_the_setting_and_its_bound() -> None:
    found = wrong_numbers(min_resource=0, max_resource=None, reduction_factor=1) + wrong_counts(
        size=0, brackets=1
    )
    assert [(problem.path, problem.message) for problem in found] == [
        ("scheduler.settings.min_resource", "must be above 0, not 0"),
        ("scheduler.settings.reduction_factor", "must be above 1, not 1"),
        ("scheduler.settings.size", "must be at least 1, not 0"),
    ]
    assert not wrong_numbers(min_resource=0.1, reduction_factor=1.5)


# Through the engine

STEPS = 9
SCHEDULERS: dict[str, Callable[[], Scheduler]] = {
    "asha": lambda: Asha(SPACE, LOSS, 1, max_resource=STEPS),
    "asha without maximum": lambda: Asha(SPACE, LOSS, 1, form="promote"),
    "asha that stops": lambda: Asha(SPACE, LOSS, 1, form="stop", max_resource=STEPS),
    "asha with brackets": lambda: Asha(SPACE, LOSS, 1, reduction_factor=2, brackets=2),
    "sha": lambda: Sha(SPACE, LOSS, 1, max_resource=STEPS),
    "sha of small brackets": lambda: Sha(SPACE, LOSS, 1, reduction_factor=2, size=4),
    "hyperband": lambda: Hyperband(SPACE, LOSS, 1, max_resource=STEPS),
}
every_scheduler = pytest.mark.parametrize("name", SCHEDULERS)


def curve(config: Config) -> Iterator[tuple[float, dict[str, Any]]]:
    """Yield reports of different durations; every fifth trial or so fails after four of them."""
    for step in range(1, STEPS + 1):
        if step == 5 and 0.3 < config["x"] < 0.5:
            # In words of its own: a run whose first trials fail alike is ended.
            raise RuntimeError(
                str(config["x"]).translate(str.maketrans("0123456789", "abcdefghij"))
            )
        yield 1.0 + config["x"] / 3, {"loss": abs(config["x"] - 1 / step) + 1 / step}


def simulation(name: str, parallel: int, records: Sequence[Record] = (), **more: Any) -> Simulation:
    experiment = Experiment.from_python(
        run="noop",
        parameters=SPACE.parameters,
        metric="loss",
        trials=more.pop("trials", 25),
        parallel=parallel,
        search={"algorithm": "random", "seed": 1},
    )
    options = {"checkpoints": True, "clock": VirtualClock(), **more}
    return Simulation(experiment, curve, records=records, scheduler=SCHEDULERS[name](), **options)


def ends(state: RunState) -> dict[int, tuple[TrialState, int]]:
    return {trial.number: (trial.state, trial.step) for trial in state.trials.values()}


@every_scheduler
@pytest.mark.parametrize("parallel", [1, 2, 4, 100])
@pytest.mark.parametrize("checkpoints", [True, False])
def test_every_trial_comes_to_its_end(name: str, parallel: int, checkpoints: bool) -> None:
    run = simulation(name, parallel, checkpoints=checkpoints)
    state = run.run()
    assert state.finish is not None
    assert state.finish.reason == "trials"
    states = {trial.state for trial in state.trials.values()}
    assert states <= {TrialState.COMPLETED, TrialState.PRUNED, TrialState.FAILED}
    assert STEPS in {t.step for t in state.trials.values() if t.state is TrialState.COMPLETED}
    assert check_decisions(run.journal.records, SCHEDULERS[name]()) == []


@every_scheduler
@pytest.mark.parametrize("checkpoints", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_kills_change_nothing_that_becomes_of_the_trials(
    name: str, checkpoints: bool, seed: int
) -> None:
    undisturbed = simulation(name, 1, checkpoints=checkpoints).run()
    killed, _ = killed_run(name, 1, checkpoints, seed)
    assert ends(killed) == ends(undisturbed)


@every_scheduler
@pytest.mark.parametrize("seed", range(4))
def test_kills_change_no_decision(name: str, seed: int) -> None:
    _, records = killed_run(name, 3, True, seed)
    assert check_decisions(records, SCHEDULERS[name]()) == []


@pytest.mark.parametrize("name", ["sha", "sha of small brackets", "hyperband"])
@pytest.mark.parametrize("seed", range(3))
def test_synchronous_halving_does_not_depend_on_workers_or_kills(name: str, seed: int) -> None:
    alone = ends(simulation(name, 1).run())
    for parallel in (2, 5, 100):
        assert ends(simulation(name, parallel).run()) == alone
        assert ends(killed_run(name, parallel, True, seed)[0]) == alone


@every_scheduler
def test_more_trials_on_resume(name: str) -> None:
    first = simulation(name, 3, trials=10)
    assert first.run().finish is not None
    more = simulation(name, 3, first.journal.records, trials=25, clock=first.clock)
    state = more.run()
    assert state.finish is not None
    assert state.finish.reason == "trials"
    assert len(state.trials) == 25
    assert not state.unfinished
    assert check_decisions(more.journal.records, SCHEDULERS[name]()) == []


@every_scheduler
@pytest.mark.parametrize("seed", range(5))
def test_more_trials_while_the_last_ones_are_decided(name: str, seed: int) -> None:
    first = simulation(name, 3, trials=10)
    first.run(events=random.Random(seed).randrange(10, 60))
    more = simulation(name, 3, first.journal.records, trials=25, clock=first.clock)
    state = more.run()
    assert state.finish is not None
    assert len(state.trials) == 25
    assert not state.unfinished
    assert STEPS in {trial.step for trial in state.trials.values()}


def killed_run(
    name: str, parallel: int, checkpoints: bool, seed: int
) -> tuple[RunState, list[Record]]:
    """Return the end of a run that was killed again and again, now and then losing a record."""
    chance = random.Random(seed)
    clock = VirtualClock()
    records: list[Record] = []
    for _ in range(300):
        run = simulation(name, parallel, records, clock=clock, checkpoints=checkpoints)
        state = run.run(events=chance.randrange(8, 30))
        records = list(run.journal.records)
        if state.finish is not None:
            return state, records
        records = records[: len(records) - chance.choice([0, 0, 1, 2])]
    raise AssertionError("the run does not end")


def test_a_paused_trial_gives_its_worker_to_another() -> None:
    run = simulation("sha", 1)
    states = [trial.state for trial in run.run(events=8).trials.values()]
    assert states == [TrialState.PAUSED] * 8 + [TrialState.RUNNING]


@every_scheduler
def test_decisions_are_plain(name: str) -> None:
    scheduler = SCHEDULERS[name]()
    scheduler.on_trial(0, {"x": 0.5}, None)
    assert isinstance(scheduler.on_result(report(1, 0.5)), Decision)
