"""Sampling around elites: who they are, how near the proposals are, and when they spread again."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from raytune_hpo.errors import SpecError
from raytune_hpo.objective import Constraint, Goal, Objective
from raytune_hpo.searchers.irace import IraceSearcher, copied, near
from raytune_hpo.searchers.random import RandomSearcher
from raytune_hpo.space import Choice, Float, Int, SearchSpace
from raytune_hpo.trial import Config, Outcome, TrialState

LINE = SearchSpace({"x": Float(0, 1)})
LOSS = Objective.of("loss", "min")
MEAN = Objective([Goal(LOSS.goals[0].expression, "min", "loss", at="mean")])
COMPLETED, PRUNED = TrialState.COMPLETED, TrialState.PRUNED


def told(
    outcomes: list[tuple[float, Outcome]], objective: Objective = LOSS, **settings: Any
) -> IraceSearcher:
    """Return a searcher on a line that knows of trials at these places."""
    searcher = IraceSearcher(LINE, objective, 1, **{"iteration_trials": 2, **settings})
    for trial, (x, outcome) in enumerate(outcomes):
        searcher.adopt(trial, {"x": x})
        searcher.observe(trial, outcome)
    return searcher


def proposals(searcher: IraceSearcher, count: int = 300) -> list[Config]:
    """Return what could be proposed next, by the draws of many trials."""
    found = (searcher.propose(trial) for trial in range(1000, 1000 + count))
    return [config for config in found if config is not None]


def parents(outcomes: list[tuple[float, Outcome]], **settings: Any) -> set[float]:
    """Return the places that proposals are near to, the search having narrowed to nothing."""
    rest = [(0.5, Outcome(TrialState.FAILED))] * 20
    searcher = told([*outcomes, *rest], iteration_trials=2, **settings)
    return {round(config["x"], 2) for config in proposals(searcher)}


def done(loss: float, step: int = 9, state: TrialState = COMPLETED) -> Outcome:
    return Outcome(state, (loss,), step=step)


# The elites


def test_elites_are_those_with_the_most_steps_and_of_these_the_best() -> None:
    outcomes = [(0.1, done(5.0)), (0.3, done(4.0)), (0.7, done(1.0, 3, PRUNED)), (0.9, done(6.0))]
    assert parents(outcomes, elites=2) == {0.1, 0.3}
    assert parents(outcomes, elites=3) == {0.1, 0.3, 0.9}
    assert parents(outcomes, elites=4) == {0.1, 0.3, 0.7, 0.9}


def test_a_failed_trial_and_one_without_a_value_are_no_elites() -> None:
    outcomes = [(0.1, done(5.0)), (0.3, Outcome(TrialState.FAILED)), (0.7, Outcome(PRUNED))]
    assert parents(outcomes, elites=9) == {0.1}


def test_one_that_violates_a_constraint_comes_last() -> None:
    objective = Objective(LOSS.goals, (Constraint.parse("memory <= 4"),))
    outcomes = [
        (0.1, Outcome(COMPLETED, (1.0,), (2.0,), 9)),
        (0.3, Outcome(PRUNED, (5.0,), (0,), 3)),
    ]
    assert parents(outcomes, objective=objective, elites=1) == {0.3}


def test_a_running_trial_is_an_elite_by_its_mean_so_far() -> None:
    """Where values are no means, only ended trials are."""
    for objective, expected in ((MEAN, 0.9), (LOSS, 0.1)):
        searcher = told([(0.5, Outcome(TrialState.FAILED))] * 20, objective, elites=1)
        for trial, (x, steps) in enumerate(((0.1, 3), (0.9, 5)), start=20):
            searcher.adopt(trial, {"x": x})
            for step in range(1, steps + 1):
                searcher.report(trial, step, (float(step),))
        searcher.observe(20, done(2.0, 3, PRUNED))
        assert {round(config["x"], 2) for config in proposals(searcher)} == {expected}


def test_better_elites_are_parents_in_proportion_to_their_rank() -> None:
    """Equation 1: with three elites 3/6, 2/6 and 1/6."""
    outcomes = [(0.2, done(1.0)), (0.5, done(2.0)), (0.8, done(3.0))]
    searcher = told([*outcomes, *[(0.4, Outcome(TrialState.FAILED))] * 20], elites=3)
    drawn = [round(config["x"], 1) for config in proposals(searcher, 1500)]
    shares = [drawn.count(x) / len(drawn) for x in (0.2, 0.5, 0.8)]
    assert shares == pytest.approx([3 / 6, 2 / 6, 1 / 6], abs=0.03)


# Numbers


def test_the_first_trials_are_random() -> None:
    searcher = IraceSearcher(LINE, LOSS, 1, iteration_trials=50)
    for trial in range(49):
        searcher.adopt(trial, {"x": 0.1})
        searcher.observe(trial, done(0.0))
    drawn = [config["x"] for config in proposals(searcher)]
    assert np.quantile(drawn, [0.25, 0.5, 0.75]) == pytest.approx([0.25, 0.5, 0.75], abs=0.1)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_the_deviation_shrinks_by_the_root_of_the_iteration(d: int) -> None:
    """Section 2.2: by ``iteration_trials ** (-1 / d)`` in an iteration."""
    space = SearchSpace({f"x{i}": Float(0, 1) for i in range(d)})
    deviations = []
    for trials in (30, 40, 50):  # the middle of iteration 2, its end, and the middle of the next
        searcher = IraceSearcher(space, LOSS, 1, iteration_trials=20, elites=1)
        for trial in range(trials):
            searcher.adopt(trial, {f"x{i}": 0.5 for i in range(d)})
            searcher.observe(trial, done(0.0))
        deviations.append(np.std([config["x0"] for config in proposals(searcher, 1500)]))
    if d < 5:  # with more the bounds cut off much of it
        ratios = np.array(deviations[1:]) / np.array(deviations[:-1])
        assert ratios == pytest.approx(20 ** (-0.5 / d), rel=0.1)
    else:
        assert deviations == sorted(deviations, reverse=True)


def test_numbers_are_normal_around_the_parent_and_cut_off_at_the_bounds() -> None:
    rng = np.random.default_rng(1)
    drawn = np.array([near(np.array([0.5, 0.0, np.nan]), 0.1, rng) for _ in range(4000)])
    assert drawn[:, 0].mean() == pytest.approx(0.5, abs=0.01)
    assert drawn[:, 0].std() == pytest.approx(0.1, rel=0.05)
    assert drawn[:, 1].min() >= 0.0
    assert np.mean(drawn[:, 1] == 0.0) < 0.01  # nothing piles up there
    assert drawn[:, 1].mean() == pytest.approx(0.1 * np.sqrt(2 / np.pi), rel=0.05)
    assert np.isnan(drawn[:, 2]).all()


def test_a_deviation_of_almost_nothing_stays_at_the_parent() -> None:
    u = np.array([0.0, 0.3, 1.0])
    assert near(u, 1e-9, np.random.default_rng(1)) == pytest.approx(u, abs=1e-7)


def test_elites_that_are_the_same_spread_the_search_again() -> None:
    """The soft restart."""
    for places, least, most in (((0.5, 0.5000001), 1e-3, 1), ((0.5, 0.6), 0, 2e-4)):
        outcomes = [(x, done(1.0)) for x in places]
        failed = [(0.1, Outcome(TrialState.FAILED))] * 78
        searcher = told([*outcomes, *failed], iteration_trials=20, elites=2)
        distances = [min(abs(config["x"] - x) for x in places) for config in proposals(searcher)]
        assert least < np.mean(distances) < most


# Categories


def test_a_category_is_the_parents_or_any_other_with_equal_chances() -> None:
    rng = np.random.default_rng(2)
    u, sizes, certain = np.array([2.5 / 4]), np.array([4.0]), np.array([0.7])
    drawn = [int(copied(u, sizes, certain, rng)[0] * 4) for _ in range(4000)]
    shares = [drawn.count(i) / 4000 for i in range(4)]
    assert shares == pytest.approx([0.1, 0.1, 0.7, 0.1], abs=0.025)


def test_categories_become_the_parents_as_trials_go_on_but_never_for_certain() -> None:
    """Section 2.2: in iteration 2 of I the rest of the chance is ``1 - 1 / I``; d = 3 gives 3."""
    axes = {"kind": Choice(("a", "b", "c", "d")), "x": Float(0, 1), "y": Float(0, 1)}
    shares = []
    for trials in (30, 40, 50, 500):
        searcher = IraceSearcher(SearchSpace(axes), LOSS, 1, iteration_trials=20, elites=1)
        for trial in range(trials):
            searcher.adopt(trial, {"kind": "c", "x": 0.5, "y": 0.5})
            searcher.observe(trial, done(1.0))
        shares.append(np.mean([config["kind"] == "c" for config in proposals(searcher, 1000)]))
    # The middle of iteration 2: 1 - 2/3 * 3/4.
    assert shares[0] == pytest.approx(0.5, abs=0.04)
    assert shares[0] < shares[1]
    assert shares[-1] == pytest.approx(0.2 ** (1 / 3), abs=0.03)


def test_a_parameter_that_the_parent_has_not_is_drawn_at_random() -> None:
    axes = {"kind": Choice(("a", "b")), "x": Float(0, 1, when="kind == b")}
    searcher = IraceSearcher(SearchSpace(axes), LOSS, 1, iteration_trials=5)
    for trial in range(60):
        searcher.adopt(trial, {"kind": "a"})
        searcher.observe(trial, done(1.0))
    drawn = [config["x"] for config in proposals(searcher, 1000) if "x" in config]
    assert np.quantile(drawn, [0.25, 0.5, 0.75]) == pytest.approx([0.25, 0.5, 0.75], abs=0.1)


# The search


def test_it_finds_more_than_random_search() -> None:
    space = SearchSpace(
        {"x": Float(0, 1), "y": Float(0, 1), "n": Int(1, 50), "k": Choice(("a", "b", "c"))}
    )

    def best(make: Callable[..., Any], seed: int) -> float:
        searcher = make(space, LOSS, seed)
        losses: list[float] = []
        for trial in range(100):
            c = searcher.suggest(trial)
            loss = (c["x"] - 0.3) ** 2 + (c["y"] - 0.8) ** 2 + (c["n"] / 50 - 0.5) ** 2
            losses.append(loss + (c["k"] != "b"))
            searcher.observe(trial, done(losses[-1]))
        return min(losses)

    seeds = range(5)
    mine = np.median([best(IraceSearcher, seed) for seed in seeds])
    assert mine < 0.2 * np.median([best(RandomSearcher, seed) for seed in seeds])


def test_it_goes_on_alike_in_the_middle_of_a_race() -> None:
    """The means of running trials are part of the state."""
    rng = random.Random(3)
    searcher, again = (IraceSearcher(LINE, MEAN, 1, iteration_trials=3) for _ in range(2))
    for trial in range(10):
        searcher.suggest(trial)
        for step in range(1, rng.randint(2, 9)):
            searcher.report(trial, step, (rng.random(),))
    again.restore(searcher.state())
    for trial in range(10, 20):
        searcher.report(trial - 5, 9, (rng.random(),))
        again.restore(searcher.state())
        assert searcher.suggest(trial) == again.propose(trial)


@pytest.mark.parametrize("name", ["iteration_trials", "elites"])
def test_settings_out_of_range_are_named(name: str) -> None:
    with pytest.raises(SpecError, match=rf"search\.settings\.{name}"):
        IraceSearcher(LINE, LOSS, 1, **{name: 0})


def test_a_space_of_26_parameters_has_6_elites() -> None:
    space = SearchSpace({f"x{i}": Float(0, 1) for i in range(26)})
    assert IraceSearcher(space, LOSS, 1).elites == 6


def test_the_search_never_narrows_to_nothing() -> None:
    searcher = told([(0.5, done(1.0))] * 400, iteration_trials=5)
    drawn = [config["x"] for config in proposals(searcher)]
    assert 1e-5 < np.std(drawn) < 1e-3
