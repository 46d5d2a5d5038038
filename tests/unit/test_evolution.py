import json
import math
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from raytune_hpo.errors import SpecError
from raytune_hpo.nondominated import places
from raytune_hpo.objective import Constraint, Mode, Objective
from raytune_hpo.plugins import make_searcher
from raytune_hpo.searchers.base import Searcher
from raytune_hpo.searchers.evolution import EvolutionSearcher, crossed, mutated
from raytune_hpo.searchers.random import RandomSearcher
from raytune_hpo.space import Choice, Float, Ordinal, SearchSpace
from raytune_hpo.standing import FAILED as WORST
from raytune_hpo.standing import Standing
from raytune_hpo.testing.searchers import CONDITIONAL
from raytune_hpo.trial import Config, Outcome, TrialState

LOSS = Objective.of("loss", "min")
BOTH = Objective((*LOSS.goals, *Objective.of("speed", "max").goals))
SPHERE = SearchSpace({name: Float(-5.0, 5.0) for name in "abcd"})
LINE = SearchSpace({"x": Float(0.0, 1.0)})
FAILED = Outcome(TrialState.FAILED)


def done(*values: float, violations: tuple[float, ...] = ()) -> Outcome:
    return Outcome(TrialState.COMPLETED, values, violations, step=1)


def sphere(config: Config) -> float:
    return float(sum((value - 1.0) ** 2 for value in config.values()))


def loss_of(config: Config) -> Outcome:
    return done(sphere(config))


def take(searcher: Searcher, trial: int) -> Config:
    config = searcher.suggest(trial)
    assert config is not None
    return config


def run(searcher: Searcher, trials: int, outcome: Callable[[Config], Outcome]) -> list[Config]:
    """Run trials one at a time; return their configs."""
    configs = []
    for trial in range(trials):
        configs.append(take(searcher, trial))
        searcher.observe(trial, outcome(configs[-1]))
    return configs


# One goal


@pytest.mark.parametrize("mode", ["min", "max"])
def test_beats_random_by_far(mode: Mode) -> None:
    objective, sign = Objective.of("loss", mode), 1.0 if mode == "min" else -1.0

    def mean_best(kind: type[EvolutionSearcher] | type[RandomSearcher]) -> float:
        return statistics.mean(
            min(map(sphere, run(kind(SPHERE, objective, s), 120, lambda c: done(sign * sphere(c)))))
            for s in range(5)
        )

    assert mean_best(EvolutionSearcher) < 0.2 * mean_best(RandomSearcher)


def test_startup_is_random_search() -> None:
    searcher = EvolutionSearcher(SPHERE, LOSS, 3, population=7)
    random = RandomSearcher(SPHERE, LOSS, 3)
    for trial in range(8):
        assert (searcher.suggest(trial) == random.suggest(trial)) == (trial < 7)
        searcher.observe(trial, done(float(trial)))


def test_the_population_is_made_of_the_best() -> None:
    searcher = EvolutionSearcher(SPHERE, LOSS, 1, population=6)
    losses = [sphere(config) for config in run(searcher, 50, loss_of)]
    best = sorted(range(50), key=losses.__getitem__)[:6]
    assert sorted(searcher._alive) == sorted(best)


def test_of_equals_the_oldest_goes() -> None:
    searcher = EvolutionSearcher(SPHERE, LOSS, 1, population=4)
    run(searcher, 9, lambda config: done(1.0))
    assert 8 in searcher._alive
    assert 0 not in searcher._alive or 1 not in searcher._alive


def test_learns_from_pruned_and_stopped_values_but_not_without() -> None:
    def proposals(outcome: Outcome) -> list[Config]:
        searcher = EvolutionSearcher(SPHERE, LOSS, 1, population=4)
        run(searcher, 8, loss_of)
        take(searcher, 8)
        searcher.observe(8, outcome)
        return [take(searcher, trial) for trial in range(9, 15)]

    learned = proposals(done(-1.0))
    assert proposals(Outcome(TrialState.PRUNED, (-1.0,), step=1)) == learned
    assert proposals(Outcome(TrialState.STOPPED, (-1.0,), step=1)) == learned
    ignored = proposals(Outcome(TrialState.STOPPED))
    assert ignored != learned
    assert proposals(Outcome(TrialState.PRUNED)) == ignored
    assert proposals(FAILED) == ignored  # worse than the whole population


def test_avoids_where_trials_fail() -> None:
    def share(searcher: Searcher) -> float:
        configs = run(searcher, 80, lambda c: FAILED if c["a"] < 1.5 else loss_of(c))
        return float(sum(config["a"] < 1.5 for config in configs[40:]) / 40)

    ours = statistics.mean(share(EvolutionSearcher(SPHERE, LOSS, seed)) for seed in range(5))
    random = statistics.mean(share(RandomSearcher(SPHERE, LOSS, seed)) for seed in range(5))
    assert ours < 0.6 * random


def test_constraints_lead_into_the_feasible_part() -> None:
    objective = Objective(LOSS.goals, (Constraint.parse("size <= 20"),))

    def outcome(config: Config) -> Outcome:
        return done(sphere(config), violations=(3.0 - config["a"], 3.0 - config["b"]))

    feasible = 0
    for seed in range(3):
        configs = run(EvolutionSearcher(SPHERE, objective, seed), 100, outcome)
        feasible += sum(min(config["a"], config["b"]) >= 3.0 for config in configs[60:])
    assert feasible > 0.4 * 3 * 40  # 0.04 of the space


def test_categories_are_learned() -> None:
    space = SearchSpace({name: Choice(("a", "b", "c", "d")) for name in "uvwxyz"})

    def wrong(config: Config) -> float:
        return float(sum(value != "c" for value in config.values()))

    bests = [
        min(map(wrong, run(EvolutionSearcher(space, LOSS, seed), 100, lambda c: done(wrong(c)))))
        for seed in range(5)
    ]
    assert statistics.mean(bests) < 0.5  # random search: 2


def test_conditional_space_is_learned() -> None:
    def loss(config: Config) -> float:
        return 1.0 if config["optimizer"] == "adam" else float(abs(config["momentum"] - 0.9))

    wins = 0
    for seed in range(5):
        configs = run(EvolutionSearcher(CONDITIONAL, LOSS, seed), 60, lambda c: done(loss(c)))
        wins += sum(loss(config) < 0.2 for config in configs[40:])
    assert wins > 0.5 * 5 * 20  # random search: 0.5 * 0.2


def test_no_config_twice_where_the_best_one_is_surrounded() -> None:
    space = SearchSpace({name: Ordinal(tuple(range(7))) for name in "abcdefg"})
    assert space.cardinality == 7**7  # too many to be listed
    configs = run(EvolutionSearcher(space, LOSS, 1), 600, loss_of)
    assert len({json.dumps(config) for config in configs}) == 600
    assert min(map(sphere, configs)) == 0


def test_pending_trials_differ_however_many() -> None:
    searcher = EvolutionSearcher(SPHERE, LOSS, 1)
    run(searcher, 60, loss_of)
    pending = [take(searcher, trial) for trial in range(60, 100)]
    assert len({json.dumps(config) for config in pending}) == 40


# Several goals


def two_goals(config: Config) -> Outcome:
    off = config["b"] ** 2 + config["c"] ** 2 + config["d"] ** 2  # 0 on the front
    return done((config["a"] - 1) ** 2 + off, -((config["a"] + 1) ** 2) - off)


def hypervolume(configs: list[Config]) -> float:
    """Return the area that two goals dominate below 20, as a share of all."""
    points = sorted(BOTH.minimized(two_goals(config).values or ()) for config in configs)
    area, height = 0.0, 20.0
    for x, y in points:
        if x < 20 and y < height:
            area += (20 - x) * (height - y)
            height = y
    return area / 400


def test_the_front_of_two_goals_is_better_than_that_of_random_search() -> None:
    for seed in range(3):
        ours = hypervolume(run(EvolutionSearcher(SPHERE, BOTH, seed), 150, two_goals))
        random = hypervolume(run(RandomSearcher(SPHERE, BOTH, seed), 150, two_goals))
        assert 1 - ours < 0.5 * (1 - random)


def test_the_front_is_wide() -> None:
    for seed in range(3):
        searcher = EvolutionSearcher(SPHERE, BOTH, seed)
        run(searcher, 200, two_goals)
        left = [searcher.trials[member][0]["a"] for member in searcher._alive]
        assert min(left) < -0.6  # the front goes from -1 to 1
        assert max(left) > 0.6


def test_a_constraint_moves_the_front() -> None:
    objective = Objective(BOTH.goals, (Constraint.parse("size <= 20"),))

    def outcome(config: Config) -> Outcome:
        values = two_goals(config).values or ()
        return done(*values, violations=(-config["a"],))

    searcher = EvolutionSearcher(SPHERE, objective, 1)
    run(searcher, 150, outcome)
    assert all(searcher.trials[member][0]["a"] >= 0 for member in searcher._alive)


def test_places_are_front_then_crowding() -> None:
    points = [(0.0, 4.0), (1.0, 2.0), (1.5, 1.0), (4.0, 0.0), (2.0, 3.0), (5.0, 5.0)]
    found = places([Standing(0.0, point) for point in points])
    assert [front for front, _ in found] == [0, 0, 0, 0, 1, 2]
    assert found[0][1] == found[3][1] == -math.inf
    # Deb et al. 2002, section III-B: the sides of the cuboid between the neighbours, by range.
    assert found[1][1] == pytest.approx(-(1.5 / 4 + 3.0 / 4))
    assert found[2][1] == pytest.approx(-(3.0 / 4 + 2.0 / 4))


def test_places_of_infeasible_and_failed_trials_come_last() -> None:
    standings = [
        WORST,
        Standing(2.0, (0.0, 0.0)),
        Standing(1.0, (9.0, 9.0)),
        Standing(0.0, (5.0, 5.0)),
        WORST,
        Standing(0.0, (4.0, 6.0)),
    ]
    assert [front for front, _ in places(standings)] == [3, 2, 1, 0, 3, 0]


def test_places_with_one_goal_are_ranks() -> None:
    found = places([Standing(0.0, (value,)) for value in (3.0, -1e300, 1e300, 2.0)])
    assert [front for front, _ in found] == [2, 0, 3, 1]


# Children


def test_children_are_near_their_parents() -> None:
    rng = np.random.default_rng(0)
    u, v = np.full(20_000, 0.4), np.full(20_000, 0.6)
    ordered = np.zeros(20_000, dtype=bool)
    child = crossed(u, v, ordered, rng)
    assert np.mean(child == 0.4) == pytest.approx(0.5, abs=0.02)  # not crossed
    rest = child[child != 0.4]
    assert np.mean(rest) == pytest.approx(0.5, abs=0.01)
    assert np.median(np.minimum(abs(rest - 0.4), abs(rest - 0.6))) < 0.05
    assert child.min() >= 0.0
    assert child.max() <= 1.0


def test_parents_that_agree_have_children_that_agree() -> None:
    rng = np.random.default_rng(0)
    u = rng.random(50)
    assert crossed(u, u, np.zeros(50, dtype=bool), rng) == pytest.approx(u)


def test_categories_of_children_are_those_of_a_parent() -> None:
    rng = np.random.default_rng(0)
    child = crossed(np.full(1000, 0.25), np.full(1000, 0.75), np.ones(1000, dtype=bool), rng)
    assert set(child) == {0.25, 0.75}
    assert np.mean(child == 0.25) == pytest.approx(0.5, abs=0.05)


def test_mutations_are_small_where_there_is_an_order() -> None:
    rng = np.random.default_rng(0)
    for place in (0.0, 0.5, 1.0):
        u = np.full(20_000, place)
        moved = mutated(u, np.zeros(20_000, dtype=bool), rng)
        assert np.mean(abs(moved[moved != place] - place)) == pytest.approx(1 / 22, abs=0.003)
        assert moved.min() >= 0.0
        assert moved.max() <= 1.0
    anywhere = mutated(np.full(20_000, 0.5), np.ones(20_000, dtype=bool), rng)
    assert np.std(anywhere) == pytest.approx(math.sqrt(1 / 12), abs=0.01)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"population": 1}, r"search\.settings\.population: must be at least 2, not 1"),
        ({"tournament": 0}, r"search\.settings\.tournament: must be at least 1, not 0"),
        ({"mutations": -1.0}, r"search\.settings\.mutations: must not be negative, but is -1\.0"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make_searcher("evolution", LINE, LOSS, 1, settings)
