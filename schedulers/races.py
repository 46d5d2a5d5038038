"""Which configurations are worse than the best one, by tests over the instances that all have run.

Costs have the shape (n, k): n instances, k configurations; lower is better. The instances make
pairs, or blocks: a hard instance is hard for all.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import chdtrc, ndtr, stdtr, stdtrit

Costs = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Test = Literal["friedman", "t"]

_EXACT = 30
"""Up to so many pairs the distribution of the signed ranks is computed, then a normal one."""


def worse(costs: Costs, test: Test, confidence: float) -> Mask:
    """Return which configurations are significantly worse than the best, shape (k,).

    Args:
        costs: Shape (n, k), n at least 2 and k at least 2.
        test: ``friedman``, which for two configurations is Wilcoxon's, or ``t``.
        confidence: 1 minus the chance of an error, above 0 and below 1.

    Source: Lopez-Ibanez et al. 2016, doi:10.1016/j.orp.2016.09.002, section 2.2 (the tests).
    """
    alpha = 1 - confidence
    with np.errstate(all="ignore"):  # differences of huge costs are infinite, and no evidence
        if test == "t":
            return _worse_by_t(costs, alpha)
        return _worse_of_two(costs, alpha) if costs.shape[1] == 2 else _friedman(costs, alpha)


def merits(costs: Costs, test: Test) -> Costs:
    """Return what a test calls a configuration good by: its rank sum or mean, lower being better.

    Returns shape (k,).

    Args:
        costs: Shape (n, k), n at least 1.
        test: As ``worse`` takes it.
    """
    # The numbers are divided first so that the sum of huge ones does not overflow.
    parts = ranks(costs) if test == "friedman" else costs / len(costs)
    found: Costs = parts.sum(axis=0)
    return found


def ranks(costs: Costs, violations: Costs | None = None) -> Costs:
    """Return the rank of each configuration on each instance, from 1; equal ones share the mean.

    Args:
        costs: Shape (n, k).
        violations: Shape (n, k); the lower one is better whatever the costs. None for none.
    """
    mine, theirs = costs[:, :, None], costs[:, None, :]
    lower, equal = theirs < mine, theirs == mine
    if violations is not None:
        mine, theirs = violations[:, :, None], violations[:, None, :]
        lower, equal = (theirs < mine) | ((theirs == mine) & lower), (theirs == mine) & equal
    found: Costs = lower.sum(axis=2) + (equal.sum(axis=2) + 1) / 2
    return found


def _friedman(costs: Costs, alpha: float) -> Mask:
    """Test whether any differ, and if so each against the best.

    Source: Conover 1999, Practical Nonparametric Statistics, 3rd edition, section 5.8: the
    statistic with ties (T1 of equation 3, by the chi-squared distribution) and the comparisons
    (equation 6).
    """
    n, k = costs.shape
    ranked = ranks(costs)
    sums = ranked.sum(axis=0)
    squares = float((ranked**2).sum())
    spread = squares - n * k * (k + 1) ** 2 / 4
    if spread <= 0:  # all are equal on every instance
        return np.zeros(k, dtype=bool)
    statistic = (k - 1) * float(((sums - n * (k + 1) / 2) ** 2).sum()) / spread
    if not chdtrc(k - 1, statistic) < alpha:
        return np.zeros(k, dtype=bool)
    freedom = (n - 1) * (k - 1)
    variance = max(2 * (n * squares - float((sums**2).sum())) / freedom, 0.0)
    least = stdtrit(freedom, 1 - alpha / 2) * math.sqrt(variance)
    found: Mask = sums - sums.min() > least
    return found


def _worse_of_two(costs: Costs, alpha: float) -> Mask:
    """Compare two by Wilcoxon's signed ranks, unless one is nowhere worse than the other.

    Source: Conover 1999, section 5.7; Lopez-Ibanez et al. 2016, the package's section 2.2.
    """
    differences = costs[:, 0] - costs[:, 1]
    first, second = bool((differences > 0).any()), bool((differences < 0).any())
    if not (first and second):
        return np.array([first, second])
    differences = differences[differences != 0]
    if not np.isfinite(differences).all():
        return np.zeros(2, dtype=bool)
    # In halves, so that mean ranks of equal differences are whole numbers.
    doubled = np.rint(2 * ranks(np.abs(differences)[None, :])[0]).astype(int)
    positive = int(doubled[differences > 0].sum())
    low = min(positive, int(doubled.sum()) - positive)
    if not min(1.0, 2 * _signed_rank_tail(doubled, low)) < alpha:
        return np.zeros(2, dtype=bool)
    return np.array([positive > low, positive == low])


def _signed_rank_tail(doubled: npt.NDArray[np.int_], low: int) -> float:
    """Return the chance that ranks with random signs have a positive sum of at most ``low``.

    Args:
        doubled: Shape (n,); the ranks times 2.
        low: Times 2 as well.
    """
    if len(doubled) > _EXACT:
        mean, sd = doubled.sum() / 2, math.sqrt(float((doubled.astype(float) ** 2).sum())) / 2
        return float(ndtr((low - mean) / sd))
    chances = np.zeros(int(doubled.sum()) + 1)
    chances[0] = 1.0
    for rank in doubled:
        chances[rank:] = (chances[rank:] + chances[:-rank]) / 2
        chances[:rank] /= 2
    return float(chances[: low + 1].sum())


def _worse_by_t(costs: Costs, alpha: float) -> Mask:
    """Compare each with the one of the lowest mean by a paired t-test.

    One that is nowhere better than the best, and worse somewhere, is worse without a test, whose
    assumptions such costs need not meet.
    """
    n, _ = costs.shape
    best = int(np.argmin(merits(costs, "t")))
    differences = costs - costs[:, [best]]
    dominated = (differences >= 0).all(axis=0) & (differences > 0).any(axis=0)
    error = differences.std(axis=0, ddof=1) / math.sqrt(n)
    chance = 2 * stdtr(n - 1, -differences.mean(axis=0) / error)
    found: Mask = dominated | (chance < alpha)
    return found
