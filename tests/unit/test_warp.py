"""Values made fit for a model."""

import numpy as np
import pytest

from raytune_hpo.searchers.warp import scaled, warp


def test_the_better_half_keeps_its_scale_and_the_order_stays() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 1e9, 1e12])
    warped = warp(values)
    steps = np.diff(warped.y[:4])
    assert steps == pytest.approx([steps[0]] * 3)
    assert steps[0] * warped.unit == pytest.approx(1.0)
    assert (np.diff(warped.y) > 0).all()
    assert warped.y.max() < 4


def test_equal_values_stay_equal() -> None:
    y = warp(np.array([0.0, 1.0, 2.0, 7.0, 7.0, 7.0])).y
    assert y[3] == y[4] == y[5]


@pytest.mark.parametrize("values", [[3.0], [3.0, 3.0], [3.0, 3.0, 3.0], [1e100, -1e100], [0, 1]])
def test_extremes_stay_finite(values: list[float]) -> None:
    warped = warp(np.array(values, dtype=float))
    assert np.isfinite(warped.y).all()
    assert np.isfinite(warped.unit)
    assert warped.unit > 0


def test_violations_keep_zero_and_sign() -> None:
    found = scaled(np.array([-2.0, 0.0, 3.0, np.inf]))
    assert found[1] == 0
    assert (np.diff(found) > 0).all()
    assert np.isfinite(found).all()
    assert np.isfinite(scaled(np.array([0.0, 0.0]))).all()
    assert np.isfinite(scaled(np.array([np.inf]))).all()
