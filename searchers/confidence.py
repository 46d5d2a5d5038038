"""The confidence bound; apart from the rest because its library takes a second to import."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from bayes_opt.acquisition import UpperConfidenceBound

from raytune_hpo.searchers.gaussian import Process

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Bound:
    """How low a value may be, upside down.

    Source: Srinivas et al. 2010, arXiv:0912.3995, equation 6, as in bayesian-optimization.

    Attributes:
        process: Of the objective.
        rule: Says how many standard deviations the bound lies off the mean.
    """

    process: Process
    rule: UpperConfidenceBound

    def height(self, x: Matrix) -> Matrix:
        """Return the heights."""
        mean, variance = self.process.predict(x)
        return np.asarray(self.rule.base_acq(-mean, np.sqrt(variance)))

    def slope(self, x: Matrix) -> tuple[Matrix, Matrix]:
        """Return the heights and slopes."""
        mean, variance, mean_slope, variance_slope = self.process.slopes(x)
        sd = np.sqrt(variance)
        by_x = self.rule.kappa * variance_slope / (2 * sd[:, None]) - mean_slope
        return np.asarray(self.rule.base_acq(-mean, sd)), by_x
