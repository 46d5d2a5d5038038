"""The searcher `bo`: what it finds, avoids and expects."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from raytune_hpo.errors import SpecError
from raytune_hpo.objective import Constraint, Objective
from raytune_hpo.searchers.auto import AutoSearcher
from raytune_hpo.searchers.base import TableSearcher
from raytune_hpo.searchers.bo import BoSearcher
from raytune_hpo.searchers.random import RandomSearcher
from raytune_hpo.space import Choice, Float, Int, SearchSpace
from raytune_hpo.trial import Config, Outcome, TrialState

LOSS = Objective.of("loss", "min")
SQUARE = SearchSpace({"x": Float(0.0, 1.0), "y": Float(0.0, 1.0)})
FAILED = Outcome(TrialState.FAILED)


def done(*values: float, violations: tuple[float, ...] = ()) -> Outcome:
    return Outcome(TrialState.COMPLETED, values, violations, step=1)


def bowl(config: Config) -> float:
    return float((config["x"] - 0.3) ** 2 + (config["y"] - 0.8) ** 2)


def search(
    searcher: TableSearcher, trials: int, outcome: Callable[[Config], Outcome]
) -> list[Config]:
    """Run trials one by one and return their configs."""
    configs = []
    for trial in range(trials):
        config = searcher.suggest(trial)
        assert config is not None
        configs.append(config)
        searcher.observe(trial, outcome(config))
    return configs


def test_a_bowl_is_found_in_few_trials() -> None:
    configs = search(BoSearcher(SQUARE, LOSS, 1), 20, lambda c: done(bowl(c)))
    assert min(map(bowl, configs)) < 1e-4


@pytest.mark.parametrize("acquisition", ["ei", "pi", "ucb", "thompson", "hedge"])
def test_each_acquisition_beats_random(acquisition: Any) -> None:
    ours = BoSearcher(SQUARE, LOSS, 2, acquisition=acquisition)
    configs = search(ours, 25, lambda c: done(bowl(c)))
    theirs = search(RandomSearcher(SQUARE, LOSS, 2), 25, lambda c: done(bowl(c)))
    assert min(map(bowl, configs)) < min(map(bowl, theirs))


def test_max_is_min_of_the_negative() -> None:
    gain = Objective.of("gain", "max")
    up = search(BoSearcher(SQUARE, gain, 3), 15, lambda c: done(-bowl(c)))
    down = search(BoSearcher(SQUARE, LOSS, 3), 15, lambda c: done(bowl(c)))
    assert up == down


def test_choices_and_whole_numbers() -> None:
    space = SearchSpace({"kind": Choice(tuple("abcdefgh")), "n": Int(1, 1000, log=True)})

    def loss(config: Config) -> float:
        return float((config["kind"] != "f") + abs(np.log(config["n"] / 40.0)))

    configs = search(BoSearcher(space, LOSS, 4), 30, lambda c: done(loss(c)))
    assert min(map(loss, configs)) < 0.1


def test_where_trials_fail_is_left() -> None:
    """The optimum lies where trials fail: the search goes up to the border and no further."""

    def outcome(config: Config) -> Outcome:
        return FAILED if config["x"] > 0.5 else done((config["x"] - 0.7) ** 2 + config["y"])

    configs = search(BoSearcher(SQUARE, LOSS, 5), 40, outcome)
    late = [config["x"] > 0.55 for config in configs[15:]]
    assert sum(late) <= 8
    assert max(config["x"] for config in configs if config["x"] <= 0.5) > 0.45


def test_failures_at_random_do_not_paralyse() -> None:
    fails = np.random.default_rng(1).random(40) < 0.3
    numbers = iter(range(40))
    configs = search(
        BoSearcher(SQUARE, LOSS, 6), 40, lambda c: FAILED if fails[next(numbers)] else done(bowl(c))
    )
    good = [bowl(config) for config, failed in zip(configs, fails, strict=True) if not failed]
    assert min(good) < 1e-3


def test_when_all_fail_no_config_comes_twice() -> None:
    configs = search(BoSearcher(SQUARE, LOSS, 7), 30, lambda c: FAILED)
    assert len({json.dumps(config) for config in configs}) == 30


def test_an_optimum_on_the_border_of_a_constraint() -> None:
    objective = Objective(LOSS.goals, (Constraint.parse("size <= 1"),))

    def outcome(config: Config) -> Outcome:
        over = 0.8 - config["x"] - config["y"]
        return done(config["x"] + 2 * config["y"], violations=(over,))

    configs = search(BoSearcher(SQUARE, objective, 8), 30, outcome)
    allowed = [c["x"] + 2 * c["y"] for c in configs if c["x"] + c["y"] >= 0.8]
    assert min(allowed) < 0.83


def test_a_small_feasible_region_is_found() -> None:
    objective = Objective(LOSS.goals, (Constraint.parse("size <= 1"),))

    def over(config: Config) -> float:
        return bowl(config) - 0.003

    searcher = BoSearcher(SQUARE, objective, 9)
    configs = search(searcher, 30, lambda c: done(1.0, violations=(over(c),)))
    assert min(map(over, configs)) <= 0


def test_two_goals_give_a_wide_front() -> None:
    both = Objective((*LOSS.goals, *Objective.of("cost", "min").goals))

    def values(config: Config) -> tuple[float, float]:
        x, rest = config["x"], 1 + 5 * config["y"]
        return x, rest * (1 - (x / rest) ** 0.5)

    def volume(configs: list[Config]) -> float:
        covered, floor = 0.0, 3.0
        for x, y in sorted(map(values, configs)):
            if y < floor:
                covered += max(1.1 - x, 0.0) * (floor - y)
                floor = y
        return covered

    ours = search(BoSearcher(SQUARE, both, 10), 30, lambda c: done(*values(c)))
    theirs = search(RandomSearcher(SQUARE, both, 10), 30, lambda c: done(*values(c)))
    assert volume(ours) > volume(theirs) + 0.1


def test_pending_trials_are_kept_away_from() -> None:
    searcher = BoSearcher(SQUARE, LOSS, 11)
    search(searcher, 7, lambda c: done(bowl(c)))
    pending = [searcher.suggest(trial) for trial in range(7, 13)]
    points = np.array([[c["x"], c["y"]] for c in pending if c is not None])
    gaps = np.linalg.norm(points[:, None] - points[None], axis=2) + np.eye(6)
    assert gaps.min() > 1e-3


def test_expected_improvement_falls_and_has_the_unit_of_the_goal() -> None:
    gains = []
    for unit in (1.0, 1000.0):
        searcher = BoSearcher(SQUARE, LOSS, 12)
        assert searcher.expected_improvement() is None
        search(searcher, 8, lambda c, unit=unit: done(unit * bowl(c)))  # type: ignore[misc]
        early = searcher.expected_improvement()
        for trial in range(8, 25):
            config = searcher.suggest(trial)
            assert config is not None
            searcher.observe(trial, done(unit * bowl(config)))
        gains.append((early, searcher.expected_improvement()))
    (early, late), (large, small) = gains
    assert early is not None
    assert late is not None
    assert 0 < late < early / 10
    assert (large, small) == pytest.approx((1000 * early, 1000 * late), rel=0.01)


def test_noise_is_no_gain() -> None:
    rng = np.random.default_rng(2)
    searcher = BoSearcher(SQUARE, LOSS, 13)
    search(searcher, 40, lambda c: done(0.1 * rng.standard_normal()))
    gain = searcher.expected_improvement()
    assert gain is not None
    assert gain < 0.05


def test_no_expected_improvement_without_a_feasible_trial() -> None:
    objective = Objective(LOSS.goals, (Constraint.parse("size <= 1"),))
    searcher = BoSearcher(SQUARE, objective, 14)
    search(searcher, 10, lambda c: done(bowl(c), violations=(1.0,)))
    assert searcher.expected_improvement() is None


@pytest.mark.parametrize(
    "space",
    [
        SearchSpace({"x": Float(0, 1)}),
        SearchSpace({"n": Int(0, 10**6), "c": Choice(tuple(range(100)))}),
        SearchSpace({f"x{i}": Float(0, 1) for i in range(40)}),
    ],
    ids=["one", "many values", "many parameters"],
)
@pytest.mark.parametrize("value", [0.0, 1e300], ids=["constant", "huge"])
def test_odd_spaces_and_values(space: SearchSpace, value: float) -> None:
    searcher = BoSearcher(space, LOSS, 15)
    values = iter([value, 0.0] * 20)
    for config in search(searcher, 15, lambda c: done(next(values))):
        space.validate(config)


def test_a_setting_out_of_range_is_refused() -> None:
    with pytest.raises(SpecError, match=r"startup_trials: must be at least 1"):
        BoSearcher(SQUARE, LOSS, 1, startup_trials=0)


def test_auto_asks_tpe_while_bo_is_stuck() -> None:
    """Nothing gets better after the first trial, so from the 16th on each third one is TPE's."""
    values = iter([0.0] + [1.0] * 40)
    auto, alone = AutoSearcher(SQUARE, LOSS, 16), BoSearcher(SQUARE, LOSS, 16)
    differs = []
    for trial in range(24):
        config = auto.suggest(trial)
        assert config is not None
        differs.append(alone.propose(trial) != config)
        alone.adopt(trial, config)
        outcome = done(next(values))
        auto.observe(trial, outcome)
        alone.observe(trial, outcome)
    assert [trial for trial, other in enumerate(differs) if other] == [18, 21]
