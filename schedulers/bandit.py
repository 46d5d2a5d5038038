"""What a config gains in an interval of training: a Gaussian process over time and config."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve, solve_triangular

Matrix = npt.NDArray[np.float64]

_LENGTHS = (0.1, 0.2, 0.4, 0.8, 1.6)
"""On the unit interval; times the root of the dimensions, since distances grow with it."""
_FORGETTING = (0.0, 0.05, 0.2, 0.5)
_NOISES = (0.01, 0.1, 1.0, 10.0)
_JITTER = 1e-8


@dataclass(frozen=True)
class Rows:
    """Points of time and config.

    Attributes:
        interval: Shape (n,); number of the interval, whole.
        u: Shape (n, d), in the unit cube.
    """

    interval: Matrix
    u: Matrix

    def joined(self, other: Rows) -> Rows:
        """Return these rows and then the others."""
        return Rows(
            np.concatenate([self.interval, other.interval]), np.concatenate([self.u, other.u])
        )


@dataclass(frozen=True)
class Kernel:
    """Squared exponential in the config times ``(1 - forgetting) ** (gap / 2)`` in time.

    Attributes:
        length: In the unit cube.
        forgetting: From 0, the gains stay as they are, to 1, each interval is a new one.
        noise: Variance of an observation, as a multiple of the function's.

    Source: Bogunovic et al. 2016, arXiv:1601.06650, section 2.1 (the kernel in time).
    """

    length: float
    forgetting: float
    noise: float

    def __call__(self, a: Rows, b: Rows) -> Matrix:
        """Return the correlations, shape (len(a), len(b))."""
        squared = np.maximum(
            (a.u**2).sum(axis=1)[:, None] + (b.u**2).sum(axis=1) - 2 * a.u @ b.u.T, 0.0
        )
        gap = np.abs(a.interval[:, None] - b.interval)
        near: Matrix = np.exp(-squared / (2 * self.length**2))
        return near * (1 - self.forgetting) ** (gap / 2)


def fitted(rows: Rows, y: Matrix) -> Kernel:
    """Return the kernel of a small grid that explains the observations best.

    Args:
        rows: Where they were made.
        y: Shape (n,); mean 0.
    """
    lengths = [length * math.sqrt(rows.u.shape[1]) for length in _LENGTHS]
    kernels = [Kernel(ell, f, n) for ell in lengths for f in _FORGETTING for n in _NOISES]
    return max(kernels, key=lambda kernel: _evidence(kernel, rows, y))


def upper_bound(kernel: Kernel, rows: Rows, y: Matrix, pending: Rows, at: Rows) -> Matrix:
    """Return how good places may be: the mean, and some standard deviations more.

    What is pending makes the variance smaller there, so that trials which start one after the other
    differ.

    Args:
        kernel: As ``fitted`` returns it.
        rows: Where something was observed.
        y: Shape (n,); mean 0.
        pending: Where something is going to be observed.
        at: The places, m of them.

    Returns:
        Shape (m,).

    Source: Parker-Holder et al. 2020, arXiv:2002.02518, section 4 (the mean of the observations,
    the variance of a batch); the weight is that of its authors' implementation.
    """
    factor = _factor(kernel, rows)
    mean = kernel(at, rows) @ cho_solve(factor, y)
    signal = _signal(factor, y)
    known = rows.joined(pending)
    lower = np.tril(_factor(kernel, known)[0])
    half = solve_triangular(lower, kernel(known, at), lower=True)
    variance = np.maximum(1.0 - (half**2).sum(axis=0), 0.0)
    weight = 0.2 + max(0.0, math.log(0.4 * len(y)))
    bound: Matrix = mean + np.sqrt(weight * signal * variance)
    return bound


def _factor(kernel: Kernel, rows: Rows) -> tuple[Matrix, bool]:
    k = kernel(rows, rows)
    k.flat[:: len(k) + 1] += kernel.noise + _JITTER
    lower, is_lower = cho_factor(k, lower=True)
    return lower, is_lower


def _signal(factor: tuple[Matrix, bool], y: Matrix) -> float:
    """Return the most likely variance of the function."""
    return max(float(y @ cho_solve(factor, y)) / len(y), _JITTER)


def _evidence(kernel: Kernel, rows: Rows, y: Matrix) -> float:
    """Return the logarithm of the marginal likelihood, at its best variance, up to a constant."""
    factor = _factor(kernel, rows)
    log_det = 2 * float(np.log(np.diag(factor[0])).sum())
    return -0.5 * (len(y) * math.log(_signal(factor, y)) + log_det)
