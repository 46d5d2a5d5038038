"""How much faster than random search a tuner is, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from benchmarks.quality.reference import Reference
from benchmarks.quality.scores import Interval, regret

from .records import Key
from .runs import Run

Curves = npt.NDArray[np.float64]
"""Regret of some runs, shape (runs, times)."""

_RESAMPLES = 2000
_STEPS = 4
"""Times in a full-job equivalent."""
_ROUNDING = 1e-9


def times(budget: float) -> Curves:
    """Return the times at which regret is looked at, in full-job equivalents."""
    return np.arange(1, round(budget * _STEPS) + 1) / _STEPS


def best_known(runs: Mapping[Key, Run], references: Mapping[str, Reference]) -> dict[str, float]:
    """Return the best value of each task, on file or in any run."""
    best = {name: reference.best for name, reference in references.items()}
    for key, run in runs.items():
        best[key.task] = min([best[key.task], *(value for _, value in run.incumbents)])
    return best


def curves(runs: Sequence[Run], budget: float, reference: Reference, best: float) -> Curves:
    """Return the regret of runs at all times; 1 while they hold no config."""
    found = []
    for run in runs:
        held = np.array([np.inf, *(value for _, value in run.incumbents)])
        changed = np.array([at for at, _ in run.incumbents])
        found.append(held[np.searchsorted(changed, times(budget), side="right")])
    return regret(np.array(found), reference, best)


def speedup(tuner: Curves, random: Curves, at: float) -> Interval:
    """Return how many times faster a tuner gets to where random search is at a time.

    That is where the mean regret of random search is, and when that of the tuner first is there. 0
    stands for never. Runs of both are resampled.

    Args:
        tuner: Its curves.
        random: Those of random search.
        at: The time, in full-job equivalents.
    """
    rng = np.random.default_rng(0)
    column = round(at * _STEPS) - 1
    samples = [
        _speedup(_resampled(tuner, rng).mean(axis=0), _resampled(random, rng)[:, column].mean(), at)
        for _ in range(_RESAMPLES)
    ]
    value = _speedup(tuner.mean(axis=0), random[:, column].mean(), at)
    low, high = np.quantile(samples, (0.025, 0.975))
    return Interval(value, float(low), float(high))


def mean_at(curve: Curves, at: float) -> Interval:
    """Return the mean regret of runs at a time."""
    rng = np.random.default_rng(0)
    values = curve[:, round(at * _STEPS) - 1]
    picks = rng.integers(len(values), size=(_RESAMPLES, len(values)))
    low, high = np.quantile(values[picks].mean(axis=1), (0.025, 0.975))
    return Interval(float(values.mean()), float(low), float(high))


def _resampled(rows: Curves, rng: np.random.Generator) -> Curves:
    return np.asarray(rows[rng.integers(len(rows), size=len(rows))])


def _speedup(mean: Curves, level: float, at: float) -> float:
    there = np.flatnonzero(mean <= level * (1 + _ROUNDING))
    return float(at * _STEPS / (there[0] + 1)) if len(there) else 0.0
