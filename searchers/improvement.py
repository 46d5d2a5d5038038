"""How much a config is expected to improve on the best one, in logarithm, with its slope."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.special import erfcx, log_ndtr

Matrix = npt.NDArray[np.float64]

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def log_improvement(mean: Matrix, sd: Matrix, best: Matrix | float) -> Matrix:
    """Return the logarithm of the expected improvement below ``best``.

    Exact far from the best, where the improvement itself would underflow. Source: Ament et al.
    2023, arXiv:2310.20708, equations 8 and 9.

    Args:
        mean: Any shape.
        sd: Of a shape that goes with it, above 0.
        best: The value to improve on.
    """
    return np.asarray(log_h((best - mean) / sd) + np.log(sd))


def log_h(z: Matrix) -> Matrix:
    """Return the logarithm of ``pdf(z) + z cdf(z)`` of the standard normal distribution."""
    z = np.asarray(z, dtype=float)
    near = np.maximum(z, -1.0)
    plain = np.log(np.exp(-0.5 * near * near - _HALF_LOG_2PI) + near * np.exp(log_ndtr(near)))
    far = np.clip(z, -1e6, -1.0)
    ratio = math.sqrt(math.pi / 2) * -far * erfcx(-far / math.sqrt(2))
    # For z below about -1e4 the difference from 1 is lost in rounding: its series takes over.
    left = np.where(far > -1e4, np.log1p(-np.minimum(ratio, 1 - 1e-12)), -2 * np.log(-far))
    tail = -0.5 * z * z - _HALF_LOG_2PI + left
    return np.where(z > -1.0, plain, tail)


def log_improvement_slopes(
    mean: Matrix, sd: Matrix, best: Matrix | float
) -> tuple[Matrix, Matrix, Matrix]:
    """Return ``log_improvement`` and its derivatives by mean and standard deviation."""
    z = (best - mean) / sd
    log_of = log_h(z)
    by_mean = -np.exp(log_ndtr(z) - log_of) / sd
    by_sd = np.exp(-0.5 * z * z - _HALF_LOG_2PI - log_of) / sd
    return log_of + np.log(sd), by_mean, by_sd
