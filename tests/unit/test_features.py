"""Coordinates for models: distances, snapping, conditions."""

import numpy as np
import pytest

from raytune_hpo.searchers.features import Features
from raytune_hpo.space import Choice, Float, Int, Ordinal, SearchSpace
from raytune_hpo.testing.searchers import CONDITIONAL, MIXED


def distance(space: SearchSpace, a: dict[str, object], b: dict[str, object]) -> float:
    rows = Features(space).embed(np.array([space.encode(a), space.encode(b)]))
    return float(((rows[0] - rows[1]) ** 2).sum())


@pytest.mark.parametrize("count", [3, 40])
def test_any_two_values_of_a_choice_are_one_apart(count: int) -> None:
    space = SearchSpace({"c": Choice(tuple(range(count)))})
    pairs = [(0, 1), (0, count - 1), (1, count - 1)]
    assert [distance(space, {"c": a}, {"c": b}) for a, b in pairs] == pytest.approx([1.0] * 3)


def test_numbers_lie_as_the_space_lays_them_out() -> None:
    space = SearchSpace({"x": Float(1e-4, 1.0, log=True), "o": Ordinal((1, 2, 3, 4))})
    assert distance(space, {"x": 1e-4, "o": 1}, {"x": 1.0, "o": 1}) == pytest.approx(1.0)
    assert distance(space, {"x": 1.0, "o": 1}, {"x": 1.0, "o": 4}) == pytest.approx(0.75**2)


def test_configs_without_a_parameter_are_alike_in_it() -> None:
    space = SearchSpace({"on": Choice((True, False)), "x": Float(0, 1, when="on == True")})
    features = Features(space)
    without = np.array([[0.75, np.nan], [0.75, np.nan], [0.25, 0.5]])
    rows = features.embed(without)
    assert (rows[0] == rows[1]).all()
    x = features.group == 1
    assert ((rows[0, x] - rows[2, x]) ** 2).sum() > 0


@pytest.mark.parametrize("space", [MIXED, CONDITIONAL], ids=["mixed", "conditional"])
def test_snapped_points_are_configs(space: SearchSpace) -> None:
    features = Features(space)
    points = features.snap(np.random.default_rng(2).random((200, len(space.dimensions))))
    # What has many values is continuous here, and found on its values when it is decoded.
    exact = [d for d, cells in enumerate(features.cells) if cells is not None]
    for point in points:
        again = space.encode(space.decode(point))
        np.testing.assert_array_equal(again[exact], point[exact])
        np.testing.assert_allclose(again, point, atol=0.01)


def test_a_parameter_of_many_values_is_continuous() -> None:
    space = SearchSpace({"n": Int(1, 10**6), "m": Int(1, 5)})
    assert Features(space).smooth == [0]


def test_a_condition_on_a_number() -> None:
    space = SearchSpace({"x": Float(0, 1), "y": Float(0, 1, when="x > 0.5")})
    snapped = Features(space).snap(np.array([[0.4, 0.3], [0.6, 0.3]]))
    assert np.isnan(snapped[:, 1]).tolist() == [True, False]
