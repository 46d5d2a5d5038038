"""Acquisition functions against those of bayesian-optimization, and their slopes."""

import numpy as np
import pytest
from bayes_opt.acquisition import (
    ExpectedImprovement,
    ProbabilityOfImprovement,
    UpperConfidenceBound,
)
from scipy.optimize import approx_fprime

from raytune_hpo.searchers.acquisition import Below, Hill, Improvement, Thompson, Total
from raytune_hpo.searchers.confidence import Bound
from raytune_hpo.searchers.gaussian import Draw, Hyper, Process
from raytune_hpo.searchers.improvement import log_h, log_improvement

RNG = np.random.default_rng(5)
X = RNG.random((15, 3))
Y = np.cos(4 * X[:, 0]) + X[:, 1]
PROCESS = Process(X, Y, np.array([0, 1, 1]), Hyper(np.array([8.0, 2.0]), 1.0, 1e-2))
AT = RNG.random((6, 3))
BEST = float(Y.min())
HILLS: dict[str, Hill] = {
    "improvement": Improvement(PROCESS, BEST),
    "below": Below(PROCESS, BEST, noise=0.1),
    "bound": Bound(PROCESS, UpperConfidenceBound(2.0)),
    "thompson": Thompson(Draw(PROCESS, np.random.default_rng(1))),
    "total": Total([Improvement(PROCESS, BEST), Below(PROCESS, 0.3)]),
}


@pytest.mark.parametrize("name", sorted(HILLS))
def test_slopes_are_those_of_the_height(name: str) -> None:
    hill = HILLS[name]
    heights, slopes = hill.slope(AT)
    np.testing.assert_allclose(heights, hill.height(AT), atol=1e-9)
    for point, slope in zip(AT, slopes, strict=True):
        differences = approx_fprime(point, lambda p: float(hill.height(p[None])[0]), 1e-6)
        np.testing.assert_allclose(slope, differences, rtol=1e-3, atol=1e-3)


def test_heights_are_those_of_bayesian_optimization() -> None:
    mean, variance = PROCESS.predict(AT)
    sd = np.sqrt(variance)
    theirs = ExpectedImprovement(xi=0.0)
    theirs.y_max = -BEST
    np.testing.assert_allclose(
        np.exp(HILLS["improvement"].height(AT)), theirs.base_acq(-mean, sd), rtol=1e-6, atol=1e-12
    )
    chance = ProbabilityOfImprovement(xi=0.0)
    chance.y_max = -BEST
    np.testing.assert_allclose(
        np.exp(Below(PROCESS, BEST).height(AT)), chance.base_acq(-mean, sd), rtol=1e-6
    )
    np.testing.assert_allclose(HILLS["bound"].height(AT), 2.0 * sd - mean)


def test_improvement_far_away_keeps_its_order() -> None:
    z = -np.logspace(-2, 7, 2000)
    heights = log_h(z)
    assert np.isfinite(heights[-1500:]).all()
    assert (np.diff(heights) < 0).all()
    # The first terms of the series for large arguments: pdf(z) / z**2.
    for far in (-40.0, -1e3, -1e5):
        series = -0.5 * far**2 - 0.5 * np.log(2 * np.pi) - 2 * np.log(-far)
        assert log_h(np.array([far]))[0] == pytest.approx(series, rel=1e-5)


def test_improvement_scales_with_its_unit() -> None:
    one = log_improvement(np.array([1.0]), np.array([0.5]), 0.7)
    thousand = log_improvement(np.array([1000.0]), np.array([500.0]), 700.0)
    assert np.exp(thousand - one)[0] == pytest.approx(1000.0)
