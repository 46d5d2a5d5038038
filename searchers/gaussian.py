"""Gaussian-process regression for a few hundred observations, fast enough to be done every time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import lapack, solve_triangular
from scipy.optimize import minimize

Matrix = npt.NDArray[np.float64]
Groups = npt.NDArray[np.int64]

_JITTER = 1e-8
_FIT_STEPS = 40
_WAVES = 512
_THINNED = 4


@dataclass(frozen=True)
class Hyper:
    """What a kernel is made of.

    Attributes:
        scales: Shape (dimensions,); inverse squared length of each dimension.
        signal: Variance of the function.
        noise: Variance of an observation around it.
    """

    scales: Matrix
    signal: float
    noise: float


@dataclass(frozen=True)
class Priors:
    """Normal priors on the logarithms of the hyperparameters: mean and standard deviation.

    Attributes:
        noise: Of the noise variance, observations having variance 1.
        length: Of a dimension's length on the unit interval, with one dimension; the mean grows by
            half the logarithm of their number, so that distances do not grow with it. Source:
            Hvarfner et al. 2024, arXiv:2402.02229, equation 5.
        signal: Of the signal variance.
    """

    noise: tuple[float, float]
    length: tuple[float, float] = (0.0, 1.0)
    signal: tuple[float, float] = (0.0, 1.0)


class Process:
    """A Gaussian process conditioned on observations, with a Matern 5/2 kernel.

    Args:
        x: Coordinates, shape (n, columns).
        y: Observations, shape (n,).
        group: The dimension of each coordinate.
        hyper: Of the kernel.
    """

    def __init__(self, x: Matrix, y: Matrix, group: Groups, hyper: Hyper) -> None:
        self.hyper = hyper
        self.group = group
        self.y = y
        self.x = x
        self._root = np.sqrt(hyper.scales)[group]
        self._scaled = x * self._root
        k = hyper.signal * matern(_squared(self._scaled, self._scaled))
        k.flat[:: len(x) + 1] += hyper.noise + _JITTER * hyper.signal
        self._factor = np.linalg.cholesky(k)
        self._alpha = self.solve(y)

    def solve(self, y: Matrix) -> Matrix:
        """Return the covariance matrix of the observations, inverted, times a matrix."""
        return np.asarray(lapack.dpotrs(self._factor, y, lower=1)[0])

    def kernel(self, x: Matrix) -> Matrix:
        """Return the covariance of the function at places and at the observed ones, (m, n)."""
        return self.hyper.signal * matern(_squared(x * self._root, self._scaled))

    def predict(self, x: Matrix) -> tuple[Matrix, Matrix]:
        """Return mean and variance of the function.

        Args:
            x: Shape (m, columns).

        Returns:
            Shapes (m,) and (m,); the variance is without noise and above 0.
        """
        k = self.kernel(x)
        half = solve_triangular(self._factor, k.T, lower=True, check_finite=False)
        variance = self.hyper.signal - np.einsum("ij,ij->j", half, half)
        return k @ self._alpha, self._above_zero(variance)

    def slopes(self, x: Matrix) -> tuple[Matrix, Matrix, Matrix, Matrix]:
        """Return mean and variance, and their derivatives by the coordinates.

        Returns:
            Shapes (m,), (m,), (m, columns) and (m, columns).
        """
        at = x * self._root
        distance = _squared(at, self._scaled)
        k = self.hyper.signal * matern(distance)
        steep = self.hyper.signal * _matern_slope(distance)
        solved = self.solve(k.T)
        variance = self.hyper.signal - np.einsum("ij,ji->i", k, solved)
        # d k_i / d x_c = steep_i * 2 * root_c * (at_c - scaled_ic)
        gap = 2 * (at[:, None, :] - self._scaled[None, :, :]) * steep[:, :, None]
        mean_slope = np.einsum("mnc,n->mc", gap, self._alpha)
        variance_slope = -2 * np.einsum("mnc,nm->mc", gap, solved)
        return (
            k @ self._alpha,
            self._above_zero(variance),
            mean_slope * self._root,
            variance_slope * self._root,
        )

    def covariance(self, x: Matrix) -> Matrix:
        """Return the covariance matrix of the function at several places, shape (m, m)."""
        at = x * self._root
        half = solve_triangular(self._factor, self.kernel(x).T, lower=True, check_finite=False)
        own = self.hyper.signal * matern(_squared(at, at))
        return np.asarray(own - half.T @ half)

    def _above_zero(self, variance: Matrix) -> Matrix:
        return np.maximum(variance, 1e-12 * self.hyper.signal)


class Draw:
    """A function drawn from a process.

    A draw from the prior, as a sum of random waves, is corrected where it misses the observations.
    Source: Wilson et al. 2020, arXiv:2002.09309, equation 8; waves: Rahimi and Recht 2007, Random
    features for large-scale kernel machines (the spectrum of Matern 5/2 is Student's t with 5
    degrees of freedom).

    Args:
        process: What to draw from.
        rng: Draws the waves.
    """

    def __init__(self, process: Process, rng: np.random.Generator) -> None:
        root = np.sqrt(process.hyper.scales)[process.group]
        columns = len(root)
        normal = rng.standard_normal((columns, _WAVES))
        self._waves = normal * np.sqrt(5.0 / rng.chisquare(5.0, _WAVES)) * root[:, None]
        self._phases = rng.uniform(0.0, 2 * math.pi, _WAVES)
        self._weights = rng.standard_normal(_WAVES) * math.sqrt(2.0 * process.hyper.signal / _WAVES)
        noise = math.sqrt(process.hyper.noise) * rng.standard_normal(len(process.x))
        missed = process.y - self._prior(process.x) - noise
        self._correction = Process(process.x, missed, process.group, process.hyper)

    def values(self, x: Matrix) -> Matrix:
        """Return the function at coordinates of shape (m, columns), shape (m,)."""
        return self._prior(x) + self._correction.predict(x)[0]

    def slopes(self, x: Matrix) -> tuple[Matrix, Matrix]:
        """Return the function and its derivatives by the coordinates, shape (m, columns)."""
        mean, _, slope, _ = self._correction.slopes(x)
        steep = -np.sin(x @ self._waves + self._phases) * self._weights
        return self._prior(x) + mean, steep @ self._waves.T + slope

    def _prior(self, x: Matrix) -> Matrix:
        return np.asarray(np.cos(x @ self._waves + self._phases) @ self._weights)


def fit(
    x: Matrix, y: Matrix, group: Groups, priors: Priors, starts: tuple[float, ...] = (0.0,)
) -> Hyper:
    """Return the hyperparameters of the highest posterior density.

    Args:
        x: Coordinates, shape (n, columns).
        y: Shape (n,), about standardised.
        group: The dimension of each coordinate; each has a length scale of its own.
        priors: On the hyperparameters.
        starts: Where the search begins: the logarithm by which lengths differ from their prior.
    """
    density = _Density(x, y, group, priors)
    found = [density.climb(start) for start in starts]
    theta = min(found, key=lambda pair: pair[0])[1]
    return density.hyper(theta)


def sample(
    x: Matrix,
    y: Matrix,
    group: Groups,
    priors: Priors,
    start: Hyper,
    count: int,
    rng: np.random.Generator,
) -> list[Hyper]:
    """Return hyperparameters drawn from their posterior density.

    Source: Murray et al. 2010, arXiv:1001.0175, figure 2 (elliptical slice sampling).

    Args:
        x: As ``fit`` takes it.
        y: As ``fit`` takes it.
        group: As ``fit`` takes it.
        priors: On the hyperparameters.
        start: Where the walk begins, such as the most likely ones.
        count: How many to draw.
        rng: Drives the walk.
    """
    density = _Density(x, y, group, priors)
    off, found = density.standard(start), []
    for step in range(count * _THINNED):
        off = density.slice(off, rng)
        if step % _THINNED == _THINNED - 1:
            found.append(density.hyper(density.theta(off)))
    return found


class _Density:
    """The negative logarithm of the posterior density of hyperparameters, and its slope.

    Rasmussen and Williams 2006, equations 2.30 and 5.9, plus the priors. Hyperparameters are
    ``theta`` = log lengths, log signal, log noise.
    """

    def __init__(self, x: Matrix, y: Matrix, group: Groups, priors: Priors) -> None:
        self._y = y
        self._dimensions = int(group.max()) + 1
        rows, columns = np.tril_indices(len(x), -1)
        self._pairs = rows, columns
        gaps = (x[rows] - x[columns]) ** 2
        self._gaps = np.stack(
            [gaps[:, group == d].sum(axis=1) for d in range(self._dimensions)], axis=1
        )
        length = priors.length[0] + 0.5 * math.log(self._dimensions)
        self._mean = np.array(
            [length] * self._dimensions + [priors.signal[0], priors.noise[0]], dtype=float
        )
        self._sd = np.array(
            [priors.length[1]] * self._dimensions + [priors.signal[1], priors.noise[1]]
        )

    def hyper(self, theta: Matrix) -> Hyper:
        scales = np.exp(-2 * theta[:-2])
        return Hyper(scales, float(np.exp(theta[-2])), float(np.exp(theta[-1])))

    def theta(self, off: Matrix) -> Matrix:
        """Return what lies so many standard deviations off the prior's mean."""
        return np.asarray(self._mean + self._sd * off)

    def standard(self, hyper: Hyper) -> Matrix:
        """Return how many standard deviations hyperparameters are off the prior's mean."""
        logs = [*(-0.5 * np.log(hyper.scales)), math.log(hyper.signal), math.log(hyper.noise)]
        return np.asarray((np.array(logs) - self._mean) / self._sd)

    def slice(self, off: Matrix, rng: np.random.Generator) -> Matrix:
        """Return the next step of a walk over the posterior."""
        other = rng.standard_normal(len(off))
        level = self._likelihood(off) + math.log(rng.random())
        angle = rng.uniform(0.0, 2 * math.pi)
        low, high = angle - 2 * math.pi, angle
        while True:
            step = np.asarray(off * math.cos(angle) + other * math.sin(angle))
            if self._likelihood(step) > level or high - low < 1e-9:
                return step
            low, high = (angle, high) if angle < 0 else (low, angle)
            angle = rng.uniform(low, high)

    def _likelihood(self, off: Matrix) -> float:
        value, _ = self(self.theta(off))
        return 0.5 * float(off @ off) - value

    def climb(self, start: float) -> tuple[float, Matrix]:
        theta = self._mean.copy()
        theta[: self._dimensions] += start
        limits = [(m - 4 * s, m + 4 * s) for m, s in zip(self._mean, self._sd, strict=True)]
        found = minimize(
            self,
            theta,
            jac=True,
            method="L-BFGS-B",
            bounds=limits,
            options={"maxiter": _FIT_STEPS, "maxfun": 2 * _FIT_STEPS},
        )
        return float(found.fun), np.asarray(found.x)

    def __call__(self, theta: Matrix) -> tuple[float, Matrix]:
        hyper = self.hyper(theta)
        distance = self._gaps @ hyper.scales
        n = len(self._y)
        k = np.empty((n, n))
        half = hyper.signal * matern(distance)
        k[self._pairs] = half
        k.flat[:: n + 1] = hyper.signal * (1 + _JITTER) + hyper.noise
        factor, failed = lapack.dpotrf(k, lower=1)
        if failed:
            return 1e25, np.zeros_like(theta)
        inverse, _ = lapack.dpotri(factor, lower=1)
        lower = inverse[self._pairs]
        diagonal = inverse.diagonal()
        y = self._y
        alpha = np.empty(n)
        alpha[:] = lapack.dpotrs(factor, y, lower=1)[0]
        value = 0.5 * float(y @ alpha) + float(np.log(factor.diagonal()).sum())
        weights = lower - alpha[self._pairs[0]] * alpha[self._pairs[1]]
        own = float((diagonal - alpha**2).sum())
        slope = np.empty_like(theta)
        steep = hyper.signal * _matern_slope(distance)
        slope[:-2] = -2 * hyper.scales * ((weights * steep) @ self._gaps)
        slope[-2] = float(weights @ half) + 0.5 * hyper.signal * own
        slope[-1] = 0.5 * hyper.noise * own
        off = (theta - self._mean) / self._sd
        return value + 0.5 * float(off @ off), slope + off / self._sd


def matern(squared: Matrix) -> Matrix:
    """Return the Matern 5/2 correlation at squared distances."""
    r = np.sqrt(5.0 * squared)
    return np.asarray((1.0 + r + r * r / 3.0) * np.exp(-r))


def _matern_slope(squared: Matrix) -> Matrix:
    """Return the derivative of ``matern`` by the squared distance."""
    r = np.sqrt(5.0 * squared)
    return np.asarray((-5.0 / 6.0) * (1.0 + r) * np.exp(-r))


def _squared(a: Matrix, b: Matrix) -> Matrix:
    """Return squared distances, shape (len(a), len(b))."""
    squares = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)[None, :] - 2 * a @ b.T
    return np.asarray(np.maximum(squares, 0.0))
