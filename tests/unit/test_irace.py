"""Racing: the tests, who is stopped by them, and a race that survives a crash."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from scipy import stats

from raytune_hpo.errors import SpecError
from raytune_hpo.experiment import Experiment
from raytune_hpo.objective import Constraint, Objective
from raytune_hpo.schedulers import races
from raytune_hpo.schedulers.base import Decision
from raytune_hpo.schedulers.irace import Irace
from raytune_hpo.simulate import Simulation
from raytune_hpo.space import Float, SearchSpace
from raytune_hpo.state import RunState
from raytune_hpo.trial import Config, Outcome, Result, TrialState

SPACE = SearchSpace({"x": Float(0, 1)})
COST = Objective.of("cost", "min")
CONTINUE, STOP, COMPLETE = Decision.CONTINUE, Decision.STOP, Decision.COMPLETE


def irace(trials: int = 10, objective: Objective = COST, **settings: Any) -> Irace:
    made = Irace(SPACE, objective, 1, **settings)
    for trial in range(trials):
        made.on_trial(trial, {"x": 0.5}, None)
    return made


def tell(race: Irace, trial: int, costs: list[float], first: int = 1) -> list[Decision]:
    """Report the costs of a trial and return the decisions."""
    steps = enumerate(costs, first)
    return [race.on_result(Result(trial, step, (cost,))) for step, cost in steps]


def complete(race: Irace, trial: int, costs: list[float]) -> None:
    tell(race, trial, costs)
    race.on_end(trial, Outcome(TrialState.COMPLETED, (sum(costs) / len(costs),), step=len(costs)))


# The tests

GRASSES = """4 3 2 1; 4 2 3 1; 3 1.5 1.5 4; 3 1 2 4; 4 2 1 3; 2 2 2 4; 1 3 2 4; 2 4 1 3;
    3.5 1 2 3.5; 4 1 3 2; 4 2 3 1; 3.5 1 2 3.5"""
"""How twelve owners of homes ranked four kinds of grass: Conover 1999, section 5.8, example 1."""


def test_friedman_agrees_with_the_example_of_conover() -> None:
    """The rank sums are 38, 23.5, 24.5 and 34, T1 is 8.097, and 11.49 apart is different."""
    grasses = np.array([row.split() for row in GRASSES.split(";")], dtype=float)
    assert races.merits(grasses, "friedman").tolist() == [38, 23.5, 24.5, 34]
    assert races.worse(grasses, "friedman", 0.95).tolist() == [True, False, False, False]
    chance = stats.chi2.sf(8.0973, 3)
    assert races.worse(grasses, "friedman", 1 - chance * 1.01).any()
    assert not races.worse(grasses, "friedman", 1 - chance * 0.99).any()


@pytest.mark.parametrize("n", [6, 12, 30, 31, 80])
def test_two_are_compared_by_the_signed_ranks_of_wilcoxon(n: int) -> None:
    rng = np.random.default_rng(n)
    for shift in (0.0, 0.3, 0.6, 0.9):
        costs = rng.normal(size=(n, 2)) + np.array([0.0, shift])
        method = "exact" if n <= 30 else "asymptotic"
        if len(set(costs[:, 0] < costs[:, 1])) == 1:
            continue  # one is nowhere better, which needs no test
        chance = stats.wilcoxon(costs[:, 0], costs[:, 1], method=method).pvalue
        for confidence in (0.8, 0.95, 0.99):
            expected = chance < 1 - confidence
            assert races.worse(costs, "friedman", confidence).any() == expected


@pytest.mark.parametrize("shift", [0.0, 0.3, 0.6, 0.9])
def test_paired_t_tests_are_against_the_lowest_mean(shift: float) -> None:
    costs = np.random.default_rng(3).normal(size=(15, 4)) + shift * np.arange(4)
    best = int(costs.mean(axis=0).argmin())
    chances = [stats.ttest_rel(costs[:, i], costs[:, best]).pvalue for i in range(4)]
    expected = [i != best and chance < 0.05 for i, chance in enumerate(chances)]
    assert races.worse(costs, "t", 0.95).tolist() == expected


@pytest.mark.parametrize("test", ["friedman", "t"])
def test_of_two_that_are_nowhere_better_the_other_one_is_worse(test: races.Test) -> None:
    costs = np.array([[1.0, 1.0], [2.0, 2.5], [3.0, 3.0]])
    assert races.worse(costs, test, 0.999).tolist() == [False, True]
    assert races.worse(costs[:, ::-1], test, 0.999).tolist() == [True, False]


@pytest.mark.parametrize("test", ["friedman", "t"])
@pytest.mark.parametrize("k", [2, 5])
def test_equals_are_never_worse(test: races.Test, k: int) -> None:
    assert not races.worse(np.ones((20, k)), test, 0.5).any()
    assert not races.worse(np.repeat(np.arange(20.0)[:, None], k, axis=1), test, 0.5).any()


@pytest.mark.parametrize("test", ["friedman", "t"])
@pytest.mark.parametrize("k", [2, 6])
def test_the_best_is_never_worse_than_itself(test: races.Test, k: int) -> None:
    rng = np.random.default_rng(4)
    for _ in range(100):
        costs = rng.normal(size=(8, k)) ** 3
        merits = races.merits(costs, test)
        if test == "t" or k > 2:
            assert not races.worse(costs, test, 0.5)[merits.argmin()]
        assert not races.worse(costs, test, 0.5).all()


def test_friedman_finds_a_difference_among_equals_as_rarely_as_it_says() -> None:
    rng = np.random.default_rng(5)
    found = [races.worse(rng.random((20, 5)), "friedman", 0.95).any() for _ in range(1000)]
    assert 0.02 < np.mean(found) < 0.08


def test_hard_instances_do_not_hide_a_difference() -> None:
    """Costs differ a thousand times more between instances than between configurations."""
    rng = np.random.default_rng(6)
    costs = 1000 * rng.random((30, 1)) + rng.normal(0, 0.2, (30, 3)) + np.array([0.0, 0.0, 1.0])
    for test in ("friedman", "t"):
        assert races.worse(costs, test, 0.95).tolist() == [False, False, True]


@pytest.mark.parametrize("test", ["friedman", "t"])
def test_huge_costs_are_no_error(test: races.Test) -> None:
    costs = np.array([[1e308, -1e308, 0.0], [-1e308, 1e308, 1.0], [1e308, 0.0, 1e308]])
    for k in (2, 3):
        assert races.worse(costs[:, :k], test, 0.95).shape == (k,)


def test_ranks_put_violations_last() -> None:
    costs = np.array([[1.0, 2.0, 3.0, 3.0]])
    assert races.ranks(costs).tolist() == [[1, 2, 3.5, 3.5]]
    assert races.ranks(costs, np.array([[9.0, 0.0, 0.0, 1.0]])).tolist() == [[4, 1, 2, 3]]


# The race


def test_a_trial_that_is_worse_than_another_is_stopped_at_the_first_test() -> None:
    race = irace()
    tell(race, 0, [1, 2, 3, 4, 5])
    assert tell(race, 1, [2, 3, 4, 5, 6]) == [CONTINUE] * 4 + [STOP]


def test_a_trial_that_is_as_good_goes_on() -> None:
    race = irace()
    tell(race, 0, [1, 2, 3, 4, 5, 6])
    assert tell(race, 1, [2, 1, 4, 3, 6, 5]) == [CONTINUE] * 6


def test_tests_come_every_so_many_instances_after_the_first() -> None:
    for first_test, each_test, tested in ((3, 4, [3, 7, 11]), (2, 1, [2, 3, 4]), (6, 3, [6, 9])):
        for bad in range(2, 12):
            race = irace(first_test=first_test, each_test=each_test)
            tell(race, 0, [1.0] * 12)
            # Better once, then never again: worse by far from some test on, not before ``bad``.
            decisions = tell(race, 1, [1.0] * (bad - 1) + [2.0] * (13 - bad))
            stopped = decisions.index(STOP) + 1
            assert stopped == next((i for i in tested if i >= bad), stopped)
            assert (stopped - first_test) % each_test == 0


def test_a_trial_that_is_behind_is_compared_on_the_instances_that_it_has_run() -> None:
    race = irace()
    tell(race, 0, [1.0] * 30 + [0.0] * 30)
    assert tell(race, 1, [0.5] * 5)[-1] is CONTINUE
    assert tell(race, 2, [2.0] * 5)[-1] is STOP


def test_a_trial_that_is_ahead_is_stopped_at_its_next_report_by_one_that_came_after() -> None:
    race = irace()
    assert tell(race, 0, [2.0] * 20) == [CONTINUE] * 20
    tell(race, 1, [1.0] * 4)
    assert tell(race, 0, [2.0], first=21) == [CONTINUE]
    tell(race, 1, [1.0], first=5)
    assert tell(race, 0, [2.0], first=22) == [STOP]


def test_a_lone_trial_is_complete_after_all_instances() -> None:
    assert tell(irace(instances=7), 0, [1.0] * 7) == [CONTINUE] * 6 + [COMPLETE]


def test_a_complete_trial_stays_in_the_race() -> None:
    race = irace()
    complete(race, 0, [1.0] * 9)
    assert tell(race, 1, [2.0] * 5)[-1] is STOP


@pytest.mark.parametrize("state", [TrialState.FAILED, TrialState.STOPPED, TrialState.PRUNED])
def test_a_trial_that_did_not_complete_is_out_of_the_race(state: TrialState) -> None:
    race = irace()
    tell(race, 0, [1.0] * 9)
    race.on_end(0, Outcome(state, step=9))
    assert tell(race, 1, [2.0] * 9) == [CONTINUE] * 9


@pytest.mark.parametrize(("d", "elites"), [(1, 2), (2, 3), (4, 4), (26, 6)])
def test_as_many_elites_stay_as_survive_a_race_in_the_paper(d: int, elites: int) -> None:
    space = SearchSpace({f"x{i}": Float(0, 1) for i in range(d)})
    assert Irace(space, COST, 1).elites == elites


def test_the_best_complete_trials_are_the_elites() -> None:
    """The worst one leaves, whenever it came."""
    for order in ([0.0, 1.0, 2.0], [2.0, 1.0, 0.0], [1.0, 2.0, 0.0]):
        race = irace(elites=2)
        for trial, level in enumerate(order):
            complete(race, trial, [level + i for i in range(9)])
        # Better than the worst only, and by a test of two against the best alone.
        assert sorted(order[trial] for trial in race._elites) == [0.0, 1.0]


def test_steps_that_come_again_are_not_looked_at() -> None:
    race = irace()
    tell(race, 0, [1.0] * 9)
    assert tell(race, 1, [0.5] * 6)[-1] is CONTINUE
    assert tell(race, 1, [9.0] * 6) == [CONTINUE] * 6
    assert tell(race, 1, [0.5], first=7) == [CONTINUE]


def test_confidence_decides_how_soon_a_trial_is_stopped() -> None:
    rng = random.Random(7)
    good = [rng.gauss(0, 1) for _ in range(60)]
    bad = [rng.gauss(0.8, 1) for _ in range(60)]
    stops = []
    for confidence in (0.8, 0.95, 0.999):
        race = irace(confidence=confidence)
        complete(race, 0, good)
        decisions = tell(race, 1, bad)
        stops.append(decisions.index(STOP) if STOP in decisions else math.inf)
    assert stops == sorted(stops)
    assert stops[0] < stops[2]


def test_ranks_count_instances_alike_and_means_by_their_differences() -> None:
    """One trial is a little better on nine of ten instances, and far worse on the tenth."""
    little = [1.0 + i % 3 / 9 for i in range(20)]
    rarely = [0.9 * c if i % 10 else c + 99 for i, c in enumerate(little)]
    decisions = {}
    for test in ("friedman", "t"):
        race = irace(test=test, first_test=20)
        complete(race, 0, rarely)
        decisions[test] = tell(race, 1, little)[-1]
    assert decisions == {"friedman": STOP, "t": CONTINUE}


def test_one_that_violates_a_constraint_ranks_behind_those_that_do_not() -> None:
    objective = Objective(COST.goals, (Constraint.parse("memory <= 4"),))
    race = irace(objective=objective)
    for step in range(1, 6):
        race.on_result(Result(0, step, (9.0,), violations=(-1.0,)))
        decision = race.on_result(Result(1, step, (1.0,), violations=(2.0,)))
    assert decision is STOP


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"first_test": 1}, "first_test"),
        ({"each_test": 0}, "each_test"),
        ({"confidence": 1.0}, "confidence"),
        ({"confidence": 0.0}, "confidence"),
        ({"confidence": math.nan}, "confidence"),
        ({"instances": 0}, "instances"),
        ({"elites": 0}, "elites"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, Any], name: str) -> None:
    with pytest.raises(SpecError, match=rf"scheduler\.settings\.{name}"):
        irace(**settings)


def test_several_goals_are_refused() -> None:
    with pytest.raises(SpecError, match="one goal"):
        irace(objective=Objective([*COST.goals, *Objective.of("memory").goals]))


# In a run

INSTANCES = 40


def experiment() -> Experiment:
    return Experiment.from_python(
        run="noop",
        parameters={"x": Float(0.0, 1.0)},
        objective={"metric": "cost", "at": "mean"},
        trials=30,
        parallel=4,
        search={"algorithm": "random", "seed": 1},
    )


def loop(config: Config) -> Iterator[tuple[float, dict[str, Any]]]:
    """Run all instances: a hard one is hard for all, and the noise is as large as ``x``."""
    for i in range(INSTANCES):
        noise = random.Random(f"{config['x']} {i}").gauss(0, 0.3)
        yield 1.0 + config["x"], {"cost": 10.0 * (i % 7) + config["x"] + noise}


def new() -> Irace:
    spec = experiment()
    return Irace(spec.search_space, spec.objectives, 1, instances=INSTANCES)


def xs(state: RunState, kind: TrialState) -> list[float]:
    return [t.config["x"] for t in state.trials.values() if t.state is kind]


def test_a_race_finds_a_good_configuration_with_a_part_of_the_runs() -> None:
    state = Simulation(experiment(), loop, scheduler=new()).run()
    best = state.trials[state.best()[0]]
    assert best.step == INSTANCES
    assert best.config["x"] < 0.2
    assert np.mean(xs(state, TrialState.PRUNED)) > np.mean(xs(state, TrialState.COMPLETED))
    assert sum(t.step for t in state.trials.values()) < 0.6 * 30 * INSTANCES


@pytest.mark.parametrize("checkpoints", [True, False])
def test_a_run_that_goes_on_has_the_race_that_it_had(checkpoints: bool) -> None:
    """A new scheduler that is told what the journal holds decides as the first one did."""
    first = Simulation(experiment(), loop, scheduler=new(), checkpoints=checkpoints)
    first.run(events=200)
    rest = Simulation(
        experiment(),
        loop,
        records=first.journal.records,
        clock=first.clock,
        scheduler=new(),
        checkpoints=checkpoints,
    )
    state = rest.run()
    told, decided = new(), {}
    for record in rest.journal.records:
        trial = record.get("trial", 0)
        if record["type"] == "trial":
            told.on_trial(trial, record["config"], None)
        elif record["type"] == "report":
            result = Result(trial, record["step"], tuple(record["values"]))
            decided[trial] = told.on_result(result)
        elif record["type"] == "end" and TrialState(record["state"]).finished:
            expected = {TrialState.PRUNED: STOP, TrialState.COMPLETED: COMPLETE}
            assert decided[trial] is expected[TrialState(record["state"])]
            outcome = Outcome(TrialState(record["state"]), tuple(record["values"]))
            told.on_end(trial, outcome)
    assert state.trials[state.best()[0]].step == INSTANCES
    assert len(xs(state, TrialState.PRUNED)) > 5


def test_with_checkpoints_a_run_that_was_cut_off_decides_as_one_that_was_not() -> None:
    """One worker, so that the order of the reports is the same."""
    spec = experiment().model_copy(update={"parallel": 1})
    whole = Simulation(spec, loop, scheduler=new(), checkpoints=True).run()
    first = Simulation(spec, loop, scheduler=new(), checkpoints=True)
    first.run(events=111)
    records = first.journal.records
    rest = Simulation(spec, loop, records=records, scheduler=new(), checkpoints=True).run()
    ends = [
        [(t.number, t.state, t.step, t.values) for t in state.trials.values()]
        for state in (whole, rest)
    ]
    assert ends[0] == ends[1]
