"""The Gaussian process against scikit-learn's, and its slopes against differences."""

import math

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern

from raytune_hpo.searchers import gaussian
from raytune_hpo.searchers.gaussian import Draw, Hyper, Priors, Process

GROUP = np.array([0, 1])
PRIORS = Priors(noise=(math.log(1e-3), 2.5))


def observed(n: int = 25, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    x = rng.random((n, 2))
    y = np.sin(6 * x[:, 0]) + noise * rng.standard_normal(n)
    return x, (y - y.mean()) / y.std()


def test_predicts_what_scikit_learn_does() -> None:
    x, y = observed()
    hyper = Hyper(np.array([1 / 0.3**2, 1 / 0.8**2]), 1.7, 1e-3)
    kernel = ConstantKernel(1.7, "fixed") * Matern([0.3, 0.8], "fixed", nu=2.5)
    theirs = GaussianProcessRegressor(kernel, alpha=1e-3, optimizer=None).fit(x, y)
    at = np.random.default_rng(4).random((7, 2))
    mean, covariance = theirs.predict(at, return_cov=True)
    ours = Process(x, y, GROUP, hyper)
    np.testing.assert_allclose(ours.predict(at)[0], mean, atol=1e-5)
    np.testing.assert_allclose(ours.predict(at)[1], np.diag(covariance), atol=1e-5)
    np.testing.assert_allclose(ours.covariance(at), covariance, atol=1e-5)


def test_slopes_are_those_of_the_prediction() -> None:
    x, y = observed()
    process = Process(x, y, GROUP, Hyper(np.array([9.0, 0.5]), 1.2, 1e-3))
    at = np.array([[0.31, 0.62]])
    _, _, by_mean, by_variance = process.slopes(at)
    for slope, which in ((by_mean, 0), (by_variance, 1)):

        def value(point: np.ndarray, which: int = which) -> float:
            return float(process.predict(point[None])[which][0])

        np.testing.assert_allclose(slope[0], approx_fprime(at[0], value, 1e-6), atol=1e-3)


def test_slope_of_the_density_is_right() -> None:
    x, y = observed(12, noise=0.2)
    density = gaussian._Density(x, y, GROUP, PRIORS)
    theta = np.array([-0.4, 0.3, 0.2, -5.0])
    differences = approx_fprime(theta, lambda t: density(t)[0], 1e-6)
    np.testing.assert_allclose(density(theta)[1], differences, rtol=1e-3, atol=1e-3)


def test_fit_finds_which_dimension_matters() -> None:
    hyper = gaussian.fit(*observed(), GROUP, PRIORS)
    assert hyper.scales[0] > 20 * hyper.scales[1]


@pytest.mark.parametrize(("noise", "low", "high"), [(0.0, 0.0, 1e-3), (0.5, 0.05, 0.6)])
def test_fit_finds_how_noisy_values_are(noise: float, low: float, high: float) -> None:
    hyper = gaussian.fit(*observed(80, noise), GROUP, PRIORS)
    assert low <= hyper.noise <= high


def test_sampled_hyperparameters_are_near_the_likely_ones_and_differ() -> None:
    x, y = observed(60)
    likely = gaussian.fit(x, y, GROUP, PRIORS)
    drawn = gaussian.sample(x, y, GROUP, PRIORS, likely, 8, np.random.default_rng(1))
    lengths = [math.log(hyper.scales[0]) for hyper in drawn]
    assert len(set(lengths)) == 8
    assert abs(np.mean(lengths) - math.log(likely.scales[0])) < 1.5


def test_a_drawn_function_goes_through_the_observations() -> None:
    x, y = observed()
    process = Process(x, y, GROUP, Hyper(np.array([9.0, 0.5]), 1.0, 1e-8))
    draws = [Draw(process, np.random.default_rng(seed)) for seed in range(2)]
    for draw in draws:
        np.testing.assert_allclose(draw.values(x), y, atol=0.02)
    far = np.array([[3.0, 3.0]])
    assert draws[0].values(far) != draws[1].values(far)
    slope = approx_fprime(x[0] + 0.01, lambda p: float(draws[0].values(p[None])[0]), 1e-7)
    np.testing.assert_allclose(draws[0].slopes(x[:1] + 0.01)[1][0], slope, atol=1e-2)
