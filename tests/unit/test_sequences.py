"""Grid and Sobol: searchers that follow a fixed sequence."""

import itertools

import numpy as np
import pytest

from raytune_hpo.errors import SpecError
from raytune_hpo.objective import Objective
from raytune_hpo.searchers.base import Searcher
from raytune_hpo.searchers.grid import GridSearcher
from raytune_hpo.searchers.sobol import SobolSearcher
from raytune_hpo.space import Choice, Constant, Float, Int, Normal, SearchSpace
from raytune_hpo.trial import Config, Outcome, TrialState

LOSS = Objective.of("loss", "min")
SQUARE = SearchSpace({"x": Float(0.0, 1.0), "y": Float(0.0, 1.0)})
TABLE = SearchSpace({"n": Int(1, 3), "kind": Choice(("a", "b")), "data": Constant("d")})


def take(searcher: Searcher, trials: int, first: int = 0) -> list[Config]:
    configs = [searcher.suggest(trial) for trial in range(first, first + trials)]
    assert None not in configs
    return [config for config in configs if config is not None]


@pytest.mark.parametrize("seed", range(5))
def test_sobol_is_even_at_powers_of_two(seed: int) -> None:
    points = [tuple(config.values()) for config in take(SobolSearcher(SQUARE, LOSS, seed), 64)]
    for axis in range(2):
        assert {int(point[axis] * 64) for point in points} == set(range(64))
    cells = {(int(x * 8), int(y * 8)) for x, y in points}
    assert len(cells) == 64


def test_sobol_goes_on_over_many_points_without_a_repetition() -> None:
    configs = take(SobolSearcher(SQUARE, LOSS, 1), 300)
    assert len({tuple(config.values()) for config in configs}) == 300


def test_sobol_does_not_look_at_outcomes_and_foreign_configs() -> None:
    plain = take(SobolSearcher(SQUARE, LOSS, 2), 10)
    searcher = SobolSearcher(SQUARE, LOSS, 2)
    searcher.adopt(0, {"x": 0.5, "y": 0.5})
    searcher.observe(0, Outcome(TrialState.FAILED))
    assert take(searcher, 5, first=1) == plain[:5]
    searcher.adopt(6, {"x": 0.25, "y": 0.5})
    assert take(searcher, 5, first=7) == plain[5:]


def test_sobol_reaches_configs_of_next_to_no_probability() -> None:
    space = SearchSpace({"n": Int(0, 30, prior=Normal(15, 1))})
    searcher = SobolSearcher(space, LOSS, 1)
    assert sorted(config["n"] for config in take(searcher, 31)) == list(range(31))
    assert searcher.suggest(31) is None


def test_sobol_follows_priors() -> None:
    space = SearchSpace({"x": Float(-10.0, 10.0, prior=Normal(2.0, 1.0))})
    values = [config["x"] for config in take(SobolSearcher(space, LOSS, 1), 256)]
    assert np.mean(values) == pytest.approx(2.0, abs=0.05)
    assert np.std(values) == pytest.approx(1.0, abs=0.05)


def test_grid_in_order_is_the_product() -> None:
    searcher = GridSearcher(TABLE, LOSS, 1, shuffle=False)
    expected = [{"n": n, "kind": k, "data": "d"} for n, k in itertools.product((1, 2, 3), "ab")]
    assert take(searcher, 6) == expected
    assert searcher.suggest(6) is None


def test_shuffled_grid_is_the_same_set_in_another_order() -> None:
    orders = [take(GridSearcher(TABLE, LOSS, seed), 6) for seed in (1, 2)]
    assert orders[0] != orders[1]
    sets = [sorted(map(str, order)) for order in orders]
    assert sets[0] == sets[1]


def test_grid_cuts_floats_at_the_resolution() -> None:
    searcher = GridSearcher(SQUARE, LOSS, 1, resolution=3)
    points = {tuple(config.values()) for config in take(searcher, 9)}
    assert points == set(itertools.product((0.0, 0.5, 1.0), repeat=2))
    assert searcher.suggest(9) is None


def test_grid_skips_what_was_tried() -> None:
    searcher = GridSearcher(TABLE, LOSS, 1)
    searcher.adopt(0, {"n": 2, "kind": "b", "data": "d"})
    assert {"n": 2, "kind": "b", "data": "d"} not in take(searcher, 5, first=1)
    assert searcher.suggest(6) is None


def test_huge_grid_is_refused() -> None:
    space = SearchSpace({name: Float(0.0, 1.0) for name in "abcdefghij"})
    with pytest.raises(SpecError, match="9765625 points"):
        GridSearcher(space, LOSS, 1)
