"""Regret, ranks and intervals of runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .records import Key, Record
from .reference import Reference, base_name
from .simulation import Run

Curve = npt.NDArray[np.float64]
Cells = Mapping[tuple[str, int], float]
"""A number for each task and seed."""

FLOOR = 1e-4
"""Regrets below it are not told apart in geometric means."""
_RESAMPLES = 2000


class Interval(NamedTuple):
    """An estimate and the bounds of its 95 % interval."""

    value: float
    low: float
    high: float


def incumbents(run: Run) -> Curve:
    """Return the true value of the config that the tuner would return after each trial.

    That is the feasible one with the best observed value; infinity before there is one.
    """
    best_seen, held = np.inf, np.inf
    curve = []
    for true, seen, feasible in zip(run.values, run.observed, run.feasible, strict=True):
        if feasible and true is not None and seen is not None and seen < best_seen:
            best_seen, held = seen, true
        curve.append(held)
    return np.array(curve)


def regret(curve: Curve, reference: Reference, best: float) -> Curve:
    """Return the normalised regret: 0 at the best known value, 1 at the random median and above."""
    return np.minimum((curve - best) / (reference.median - best), 1.0)


def best_known(
    records: Mapping[Key, Record], references: Mapping[str, Reference]
) -> dict[str, float]:
    """Return the best feasible true value of each task, on file or in any run."""
    best = {name: reference.best for name, reference in references.items()}
    for key, record in records.items():
        name = base_name(key.task)
        run = record.run
        good = [v for v, ok in zip(run.values, run.feasible, strict=True) if ok and v is not None]
        best[name] = min([best[name], *good])
    return best


def regrets(records: Mapping[Key, Record], references: Mapping[str, Reference]) -> dict[Key, Curve]:
    """Return the regret of each run after each trial of its budget.

    A run that ended early, its space being exhausted, keeps its last value.
    """
    best = best_known(records, references)
    found = {}
    for key, record in records.items():
        name = base_name(key.task)
        curve = regret(incumbents(record.run), references[name], best[name])
        last = curve[-1] if len(curve) else 1.0
        found[key] = np.append(curve, np.full(key.budget - len(curve), last))
    return found


def mean_of_tasks(cells: Cells) -> Interval:
    """Return the mean over tasks of the mean over seeds; seeds are resampled within each task."""
    groups = [np.array(list(seeds.values())) for seeds in _by_task(cells).values()]
    value = float(np.mean([group.mean() for group in groups]))
    return Interval(value, *_bootstrap(groups, lambda means: means.mean(axis=0)))


def ratio(ours: Cells, theirs: Cells, *, geometric: bool = False) -> Interval | None:
    """Return the ratio of two tuners' regrets, on the tasks and seeds that both have.

    Seeds are resampled in pairs within each task. None when they have none in common.

    Args:
        ours: The numerator.
        theirs: The denominator.
        geometric: Take the geometric mean of the tasks' ratios, regrets below ``FLOOR`` counting
            as that, in place of the ratio of the means over tasks: each task counts alike then.
    """
    common = [cell for cell in ours if cell in theirs]
    pairs = _by_task({cell: np.array([ours[cell], theirs[cell]]) for cell in common})
    if not pairs:
        return None
    groups = [np.array(list(seeds.values())) for seeds in pairs.values()]
    means = np.array([group.mean(axis=0) for group in groups])
    quotient = _geometric_quotient if geometric else _quotient
    with np.errstate(divide="ignore", invalid="ignore"):
        return Interval(float(quotient(means)), *_bootstrap(groups, quotient))


def _quotient(means: Curve) -> Curve:
    """Return the quotient of the means over tasks; tasks come first and the pair last."""
    total = means.mean(axis=0)
    return np.asarray(total[..., 0] / total[..., 1])


def _geometric_quotient(means: Curve) -> Curve:
    logs = np.log(np.maximum(means, FLOOR)).mean(axis=0)
    return np.asarray(np.exp(logs[..., 0] - logs[..., 1]))


def won(ours: Cells, theirs: Cells) -> tuple[float, int]:
    """Return how many pairs the first has won, a tie counting half, and how many there are."""
    pairs = [(ours[cell], theirs[cell]) for cell in ours if cell in theirs]
    return sum((a < b) + (a == b) / 2 for a, b in pairs), len(pairs)


def ranks(all_cells: Mapping[str, Cells]) -> tuple[dict[str, float], int]:
    """Return the mean rank of each tuner on the cells that all of them have, and their number."""
    common = set.intersection(*(set(cells) for cells in all_cells.values()))
    if not common:
        return {}, 0
    names = list(all_cells)
    table = np.array([[all_cells[name][cell] for name in names] for cell in sorted(common)])
    below = (table[:, None, :] < table[:, :, None]).sum(axis=2)
    equal = (table[:, None, :] == table[:, :, None]).sum(axis=2)
    means = (1 + below + (equal - 1) / 2).mean(axis=0)
    return dict(zip(names, map(float, means), strict=True)), len(common)


def _by_task(cells: Mapping[tuple[str, int], Any]) -> dict[str, dict[int, Any]]:
    groups: dict[str, dict[int, Any]] = {}
    for task, seed in sorted(cells):
        groups.setdefault(task, {})[seed] = cells[task, seed]
    return groups


def _bootstrap(groups: Sequence[Curve], statistic: Callable[[Curve], Curve]) -> tuple[float, float]:
    """Return the 95 % percentile interval of a statistic of the groups' means, groups first."""
    rng = np.random.default_rng(0)
    means = np.array(
        [
            group[rng.integers(len(group), size=(_RESAMPLES, len(group)))].mean(axis=1)
            for group in groups
        ]
    )
    low, high = np.quantile(statistic(means), (0.025, 0.975))
    return float(low), float(high)
