"""Observed values made fit for a Gaussian process."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri
from scipy.stats import rankdata

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Warped:
    """Values on the scale of a model.

    Attributes:
        y: Shape (n,); lower is better, with mean about 0 and variance about 1.
        unit: One step on this scale, among the better half, in the objective's unit.
    """

    y: Matrix
    unit: float


def warp(values: Matrix) -> Warped:
    """Return values with the worse half drawn in.

    The better half stays as it is but for shift and scale, so that an improvement keeps its unit.
    The worse half keeps its order only: it is laid out as a normal distribution would be that has
    the spread of the better half, so that a few disasters do not flatten all differences among good
    configs. Source: Song et al. 2024, arXiv:2408.11527, section 3.3.1 (half-rank warping).

    Args:
        values: Shape (n,), finite; lower is better.
    """
    n = len(values)
    median = float(np.median(values))
    good = values <= median
    spread = float(np.sqrt(np.mean((values[good] - median) ** 2)))
    if n < 2 or spread <= 0:
        spread = float(np.std(values)) or 1.0
    y = (values - median) / spread
    bad = ~good
    y[bad] = ndtri((rankdata(values)[bad] - 0.5) / n)
    centre, scale = float(y.mean()), float(y.std()) or 1.0
    return Warped((y - centre) / scale, spread * scale)


def scaled(violations: Matrix) -> Matrix:
    """Return violations drawn in on both sides of 0, which stays where it is.

    Args:
        violations: Shape (n,); above 0 is violated. Infinite ones count as twice the worst.
    """
    finite = violations[np.isfinite(violations)]
    size = float(np.median(np.abs(finite))) if len(finite) else 0.0
    size = size or (float(np.abs(finite).max()) if len(finite) else 0.0) or 1.0
    worst = 2 * max(float(finite.max(initial=0.0)), size)
    clipped = np.clip(np.where(np.isposinf(violations), worst, violations), -1e100, 1e100)
    return np.asarray(np.arcsinh(clipped / size))
