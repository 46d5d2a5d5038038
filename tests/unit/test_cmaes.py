import json
import statistics
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from raytune_hpo.errors import SpecError
from raytune_hpo.objective import Constraint, Mode, Objective
from raytune_hpo.plugins import make_searcher
from raytune_hpo.searchers.base import Searcher
from raytune_hpo.searchers.cmaes import CmaesSearcher
from raytune_hpo.searchers.random import RandomSearcher
from raytune_hpo.space import Choice, Float, Int, Ordinal, SearchSpace
from raytune_hpo.standing import FAILED as WORST
from raytune_hpo.standing import standing
from raytune_hpo.testing.searchers import CONDITIONAL, MIXED
from raytune_hpo.trial import Config, Outcome, TrialState

LOSS = Objective.of("loss", "min")
SPHERE = SearchSpace({name: Float(-5.0, 5.0) for name in "abcd"})
LINE = SearchSpace({"x": Float(0.0, 1.0)})
FAILED = Outcome(TrialState.FAILED)


def done(*values: float, violations: tuple[float, ...] = ()) -> Outcome:
    return Outcome(TrialState.COMPLETED, values, violations, step=1)


def sphere(config: Config) -> float:
    return float(sum((value - 1.0) ** 2 for value in config.values()))


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


def loss_of(config: Config) -> Outcome:
    return done(sphere(config))


@pytest.mark.parametrize("mode", ["min", "max"])
def test_beats_random_by_far(mode: Mode) -> None:
    objective, sign = Objective.of("loss", mode), 1.0 if mode == "min" else -1.0

    def mean_best(kind: type[CmaesSearcher] | type[RandomSearcher]) -> float:
        return statistics.mean(
            min(map(sphere, run(kind(SPHERE, objective, s), 100, lambda c: done(sign * sphere(c)))))
            for s in range(5)
        )

    assert mean_best(CmaesSearcher) < 0.1 * mean_best(RandomSearcher)


def test_begins_in_the_middle() -> None:
    assert take(CmaesSearcher(SPHERE, LOSS, 1), 0) == dict.fromkeys("abcd", 0.0)


def test_begins_around_the_best_of_the_given_points() -> None:
    searcher = CmaesSearcher(LINE, LOSS, 1, sigma=0.02)
    for trial, x in enumerate((0.1, 0.8, 0.4)):
        searcher.adopt(trial, {"x": x})
        searcher.observe(trial, done(abs(x - 0.9)))
    drawn = [take(searcher, trial)["x"] for trial in range(3, 9)]
    assert all(abs(x - 0.8) < 0.1 for x in drawn)


def test_begins_elsewhere_when_the_middle_fails() -> None:
    searcher = CmaesSearcher(LINE, LOSS, 1, sigma=0.02)
    take(searcher, 0)
    searcher.observe(0, FAILED)
    assert abs(take(searcher, 1)["x"] - 0.5) > 0.1


def test_given_points_that_end_late_count_too() -> None:
    def after(value: float) -> Config:
        searcher = CmaesSearcher(LINE, LOSS, 1, population=4)
        searcher.adopt(0, {"x": 0.05})
        searcher.adopt(1, {"x": 0.95})
        searcher.observe(0, done(1.0))
        for trial in range(2, 5):
            searcher.observe(trial, done(0.5 + 0.1 * take(searcher, trial)["x"]))
        searcher.observe(1, done(value))
        return take(searcher, 5)

    assert after(0.0)["x"] > after(2.0)["x"]


def test_a_converged_search_begins_anew_elsewhere_with_twice_the_population() -> None:
    searcher = CmaesSearcher(LINE, LOSS, 1)
    first = searcher._descent
    configs = run(searcher, 150, lambda config: done((config["x"] - 0.3) ** 2))
    assert searcher._restarts >= 1
    assert searcher._descent is not None
    assert first is not None
    sizes = [d.population for d in (first, searcher._descent)]
    assert sizes[1] == sizes[0] * 2**searcher._restarts
    near = [abs(config["x"] - 0.3) < 0.01 for config in configs]
    left = [near[i - 1] and near[i - 2] and not near[i] for i in range(60, 150)]
    assert any(left)


def test_a_plateau_is_left() -> None:
    def flat(config: Config) -> Outcome:
        return done(0.0 if config["x"] > 0.85 else 1.0)

    found = [
        any(c["x"] > 0.85 for c in run(CmaesSearcher(LINE, LOSS, s), 60, flat)) for s in range(8)
    ]
    searcher = CmaesSearcher(LINE, LOSS, 1)
    run(searcher, 40, lambda config: done(1.0))
    assert searcher._restarts >= 1
    assert sum(found) >= 6


def test_nothing_but_failures_is_left_after_one_generation() -> None:
    searcher = CmaesSearcher(LINE, LOSS, 1, population=5)
    run(searcher, 1 + 5, lambda config: FAILED)
    assert searcher._restarts == 1


def test_goes_on_after_a_restart_as_if_it_was_never_away() -> None:
    searcher, again = (CmaesSearcher(LINE, LOSS, 1) for _ in range(2))
    run(searcher, 170, lambda config: done((config["x"] - 0.3) ** 2))
    assert searcher._restarts >= 1
    again.restore(json.loads(json.dumps(searcher.state())))
    for trial in range(170, 200):
        config = take(searcher, trial)
        assert take(again, trial) == config
        for one in (searcher, again):
            one.observe(trial, done((config["x"] - 0.3) ** 2))


def test_the_order_of_ends_is_part_of_the_state() -> None:
    def other_order(order: list[int]) -> CmaesSearcher:
        searcher = CmaesSearcher(SPHERE, LOSS, 1, population=4)
        configs = run(searcher, 1, loss_of) + [take(searcher, trial) for trial in range(1, 9)]
        for trial in order:
            searcher.observe(trial, loss_of(configs[trial]))
        return searcher

    late, early = other_order([8, 7, 6, 5]), other_order([1, 2, 3, 4])
    assert take(late, 9) != take(early, 9)
    for searcher in (late, early):
        again = CmaesSearcher(SPHERE, LOSS, 1, population=4)
        again.restore(searcher.state())
        assert take(again, 10) == take(searcher, 10)


def test_trials_of_an_earlier_generation_count() -> None:
    def after(value: float) -> Config:
        searcher = CmaesSearcher(SPHERE, LOSS, 1, population=4)
        configs = run(searcher, 1, loss_of) + [take(searcher, trial) for trial in range(1, 9)]
        for trial in range(1, 8):
            searcher.observe(trial, loss_of(configs[trial]))
        searcher.observe(8, done(value))
        return take(searcher, 9)

    assert after(0.0) != after(1e9)


def test_a_far_point_does_not_upset_a_search_that_has_nearly_converged() -> None:
    searcher = CmaesSearcher(SPHERE, LOSS, 1)
    run(searcher, 200, loss_of)
    searcher.adopt(200, dict.fromkeys("abcd", 5.0))
    searcher.observe(200, done(-1.0))
    for trial in range(201, 240):
        config = take(searcher, trial)
        assert sphere(config) < 10.0  # the far point: 64
        searcher.observe(trial, loss_of(config))


def test_only_the_order_counts() -> None:
    def proposals(scale: Callable[[float], float]) -> list[Config]:
        return run(CmaesSearcher(SPHERE, LOSS, 1), 40, lambda c: done(scale(sphere(c))))

    assert proposals(lambda loss: loss) == proposals(lambda loss: loss**3 * 1e200)


def test_learns_from_pruned_and_stopped_values_but_not_without() -> None:
    def proposal(outcome: Outcome) -> Config:
        searcher = CmaesSearcher(SPHERE, LOSS, 1, population=4)
        run(searcher, 4, loss_of)
        take(searcher, 4)
        searcher.observe(4, outcome)
        for trial in range(5, 9):
            config = take(searcher, trial)
            searcher.observe(trial, loss_of(config))
        return take(searcher, 9)

    learned = proposal(done(-1.0))
    assert proposal(Outcome(TrialState.PRUNED, (-1.0,), step=1)) == learned
    assert proposal(Outcome(TrialState.STOPPED, (-1.0,), step=1)) == learned
    ignored = proposal(Outcome(TrialState.STOPPED))
    assert ignored != learned
    assert proposal(Outcome(TrialState.PRUNED)) == ignored
    assert proposal(FAILED) != ignored


def test_avoids_where_trials_fail() -> None:
    def share(searcher: Searcher) -> float:
        configs = run(searcher, 80, lambda c: FAILED if c["a"] < 1.5 else loss_of(c))
        return float(sum(config["a"] < 1.5 for config in configs[40:]) / 40)

    cmaes = statistics.mean(share(CmaesSearcher(SPHERE, LOSS, seed)) for seed in range(5))
    random = statistics.mean(share(RandomSearcher(SPHERE, LOSS, seed)) for seed in range(5))
    assert cmaes < 0.75 * random  # the best of what does not fail is at the very edge


def test_constraints_lead_into_the_feasible_part() -> None:
    objective = Objective(LOSS.goals, (Constraint.parse("size <= 20"),))

    def outcome(config: Config) -> Outcome:
        return done(sphere(config), violations=(2.0 - config["a"], -1.0))

    def share_and_best(searcher: Searcher) -> tuple[float, float]:
        configs = run(searcher, 120, outcome)[60:]
        feasible = [sphere(config) for config in configs if config["a"] >= 2.0]
        return len(feasible) / 60, min(feasible, default=99.0)

    cmaes = [share_and_best(CmaesSearcher(SPHERE, objective, seed)) for seed in range(3)]
    random = [share_and_best(RandomSearcher(SPHERE, objective, seed)) for seed in range(3)]
    assert statistics.mean(share for share, _ in cmaes) > 0.4  # 0.3 of the space is feasible
    assert sum(best for _, best in cmaes) < 0.5 * sum(best for _, best in random)


def test_standings_are_in_order() -> None:
    objective = Objective(LOSS.goals, (Constraint.parse("a <= 1"), Constraint.parse("b <= 1")))
    outcomes = [
        done(5.0, violations=(-9.0, 0.0)),
        done(6.0, violations=(0.0, -1.0)),
        done(0.0, violations=(0.1, 0.1)),
        done(-1.0, violations=(0.3, -5.0)),
        done(0.0, violations=(float("inf"), 0.0)),
        FAILED,
    ]
    found = [standing(objective, outcome) for outcome in outcomes]
    assert found == sorted(s for s in found if s is not None)
    assert found[-1] == WORST
    assert len(set(found)) == len(found)
    assert standing(objective, Outcome(TrialState.PRUNED)) is None


def test_categories_are_learned() -> None:
    space = SearchSpace({name: Choice(("a", "b", "c", "d")) for name in "uvwxyz"})

    def wrong(config: Config) -> float:
        return float(sum(value != "c" for value in config.values()))

    bests = [
        min(map(wrong, run(CmaesSearcher(space, LOSS, seed), 100, lambda c: done(wrong(c)))))
        for seed in range(5)
    ]
    assert statistics.mean(bests) < 0.5  # random search: 2


def test_conditional_space_is_learned() -> None:
    def loss(config: Config) -> float:
        return 1.0 if config["optimizer"] == "adam" else float(abs(config["momentum"] - 0.9))

    wins = 0
    for seed in range(5):
        configs = run(CmaesSearcher(CONDITIONAL, LOSS, seed), 60, lambda c: done(loss(c)))
        wins += sum(loss(config) < 0.2 for config in configs[40:])
    assert wins > 0.4 * 5 * 20  # random search: 0.5 * 0.2


def test_whole_numbers_keep_moving() -> None:
    space = SearchSpace({"n": Int(0, 20), "k": Ordinal(tuple(range(9))), "x": Float(0.0, 1.0)})

    def loss(config: Config) -> float:
        return float(abs(config["n"] - 17) + abs(config["k"] - 1) + (config["x"] - 0.2) ** 2)

    for seed in range(3):
        configs = run(CmaesSearcher(space, LOSS, seed), 150, lambda c: done(loss(c)))
        best = min(configs, key=loss)
        assert (best["n"], best["k"]) == (17, 1)


def test_the_best_may_be_at_an_end_of_the_range() -> None:
    def loss(config: Config) -> float:
        return float(sum(config.values()))

    bests = [
        min(map(loss, run(CmaesSearcher(SPHERE, LOSS, seed), 100, lambda c: done(loss(c)))))
        for seed in range(3)
    ]
    assert statistics.mean(bests) < -19.5  # -20 in the corner; random search: -15


def test_pending_trials_differ_however_many() -> None:
    searcher = CmaesSearcher(SPHERE, LOSS, 1)
    run(searcher, 30, loss_of)
    pending = [take(searcher, trial) for trial in range(30, 70)]
    assert len({json.dumps(config) for config in pending}) == 40


@pytest.mark.parametrize("space", [SPHERE, LINE, MIXED, CONDITIONAL], ids=["4d", "1d", "mix", "if"])
def test_long_runs_stay_sound(space: SearchSpace) -> None:
    rng = np.random.default_rng(0)
    searcher = CmaesSearcher(space, LOSS, 1, population=4)

    def outcome(config: Config) -> Outcome:
        if rng.random() < 0.2:
            return FAILED
        return done(round(float(np.nansum(space.encode(config))), 2))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        configs = run(searcher, 400, outcome)
    assert len({json.dumps(config) for config in configs}) == 400


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"population": 3}, r"search\.settings\.population: must be at least 4, not 3"),
        ({"sigma": 0.0}, r"search\.settings\.sigma: must be above 0 and at most 1, not 0\.0"),
        ({"sigma": 1.5}, r"search\.settings\.sigma: must be above 0 and at most 1, not 1\.5"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make_searcher("cmaes", LINE, LOSS, 1, settings)


def test_several_goals_are_refused_with_the_names_of_those_that_can() -> None:
    goals = (*LOSS.goals, *Objective.of("speed", "max").goals)
    with pytest.raises(SpecError, match=r"cmaes searches for one goal only.*evolution.*tpe"):
        make_searcher("cmaes", LINE, Objective(goals), 1)
