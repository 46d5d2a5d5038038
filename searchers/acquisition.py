"""What makes a config worth trying next, as a height with a slope."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr

from raytune_hpo.searchers.gaussian import Draw, Process
from raytune_hpo.searchers.improvement import log_improvement, log_improvement_slopes

Matrix = npt.NDArray[np.float64]

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class Hill(Protocol):
    """A function of coordinates that is to be maximised."""

    def height(self, x: Matrix) -> Matrix:
        """Return the heights at coordinates of shape (m, columns), shape (m,)."""
        ...

    def slope(self, x: Matrix) -> tuple[Matrix, Matrix]:
        """Return the heights, and their derivatives by the coordinates, shape (m, columns)."""
        ...


@dataclass(frozen=True)
class Improvement:
    """The logarithm of the expected improvement.

    Source: Jones et al. 1998, doi:10.1023/A:1008306431147, equation 15.

    Attributes:
        process: Of the objective.
        best: What is to be improved on.
    """

    process: Process
    best: float

    def height(self, x: Matrix) -> Matrix:
        """Return the heights."""
        mean, variance = self.process.predict(x)
        return log_improvement(mean, np.sqrt(variance), self.best)

    def slope(self, x: Matrix) -> tuple[Matrix, Matrix]:
        """Return the heights and slopes."""
        mean, variance, mean_slope, variance_slope = self.process.slopes(x)
        sd = np.sqrt(variance)
        heights, by_mean, by_sd = log_improvement_slopes(mean, sd, self.best)
        by_x = by_mean[:, None] * mean_slope + (by_sd / (2 * sd))[:, None] * variance_slope
        return heights, by_x


@dataclass(frozen=True)
class Below:
    """The logarithm of the probability that a value lies below a limit.

    Of the objective it is the probability of improvement (Kushner 1964, doi:10.1115/1.3653121); of
    a constraint, that of feasibility (Gardner et al. 2014, Bayesian optimization with inequality
    constraints, section 3.1).

    Attributes:
        process: Of the value.
        limit: On the scale of the process.
        noise: Variance that is added to that of the function.
        weight: The logarithm counts so many times.
    """

    process: Process
    limit: float
    noise: float = 0.0
    weight: float = 1.0

    def height(self, x: Matrix) -> Matrix:
        """Return the heights."""
        mean, variance = self.process.predict(x)
        z = (self.limit - mean) / np.sqrt(variance + self.noise)
        return np.asarray(self.weight * log_ndtr(z))

    def slope(self, x: Matrix) -> tuple[Matrix, Matrix]:
        """Return the heights and slopes."""
        mean, variance, mean_slope, variance_slope = self.process.slopes(x)
        sd = np.sqrt(variance + self.noise)
        z = (self.limit - mean) / sd
        log_of = np.asarray(log_ndtr(z))
        by_z = self.weight * np.exp(-0.5 * z * z - _HALF_LOG_2PI - log_of)
        by_x = -mean_slope / sd[:, None] - (z / (2 * sd**2))[:, None] * variance_slope
        return self.weight * log_of, by_z[:, None] * by_x


@dataclass(frozen=True)
class Thompson:
    """One function drawn from the process, upside down.

    Source: Thompson 1933, doi:10.1093/biomet/25.3-4.285.
    """

    draw: Draw

    def height(self, x: Matrix) -> Matrix:
        """Return the heights."""
        return -self.draw.values(x)

    def slope(self, x: Matrix) -> tuple[Matrix, Matrix]:
        """Return the heights and slopes."""
        values, slopes = self.draw.slopes(x)
        return -values, -slopes


@dataclass(frozen=True)
class Total:
    """A sum of hills; flat when there are none."""

    parts: Sequence[Hill]

    def height(self, x: Matrix) -> Matrix:
        """Return the heights."""
        heights = [np.zeros(len(x)), *(part.height(x) for part in self.parts)]
        return np.asarray(np.sum(heights, axis=0))

    def slope(self, x: Matrix) -> tuple[Matrix, Matrix]:
        """Return the heights and slopes."""
        found = [part.slope(x) for part in self.parts]
        heights = np.sum([np.zeros(len(x)), *(height for height, _ in found)], axis=0)
        return heights, np.sum([np.zeros_like(x), *(slope for _, slope in found)], axis=0)
