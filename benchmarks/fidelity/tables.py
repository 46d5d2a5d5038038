"""The report: tables of speed, regret and cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.quality.reference import Reference
from benchmarks.quality.scores import Interval
from benchmarks.quality.tables import table

from .records import Key
from .runs import Run
from .scores import Curves, best_known, curves, mean_at, speedup

Rows = list[list[str]]
RANDOM = "none+random"


def report(
    runs: Mapping[Key, Run],
    references: Mapping[str, Reference],
    *,
    at: float,
    tuners: Sequence[str] | None = None,
    markdown: bool = False,
) -> str:
    """Return a table for each task and number of workers.

    Args:
        runs: All runs; those of tuners that are not shown count for the best known values.
        references: By task.
        at: Random search's level is taken after this share of the budget, and at its end.
        tuners: Which are shown, in this order; None for all, in the order of the file.
        markdown: Whether tables are Markdown's.
    """
    best = best_known(runs, references)
    parts = []
    for task, workers in sorted({(key.task, key.workers) for key in runs}):
        mine = {k: r for k, r in runs.items() if (k.task, k.workers) == (task, workers)}
        names = tuners or list(dict.fromkeys(key.tuner for key in mine))
        budget = min(key.budget for key in mine)
        groups = {n: [r for k, r in mine.items() if k.tuner == n] for n in [RANDOM, *names]}
        groups = {name: group for name, group in groups.items() if group}
        found = {
            name: curves(group, budget, references[task], best[task])
            for name, group in groups.items()
        }
        rows = _rows(found, groups, sorted({at * budget, budget}), names)
        title = f"{task}, {workers} workers"
        parts.append(f"{'### ' * markdown}{title}\n\n{table(rows, markdown)}")
    return "\n\n".join(parts)


def _rows(
    found: Mapping[str, Curves],
    groups: Mapping[str, Sequence[Run]],
    points: Sequence[float],
    names: Sequence[str],
) -> Rows:
    head = ["tuner", "runs", "trials", "full", "ms"]
    head += [f"times faster @{at:g}" for at in points] + [f"regret @{at:g}" for at in points]
    rows = [head]
    for name in names:
        if name not in found:
            continue
        runs = groups[name]
        row = [name, str(len(runs)), f"{np.mean([r.trials for r in runs]):.0f}"]
        row += [f"{np.mean([r.full for r in runs]):.0f}", f"{_cost_ms(runs):.1f}"]
        if RANDOM in found:
            row += [_interval(speedup(found[name], found[RANDOM], at), 1) for at in points]
        else:
            row += ["-"] * len(points)
        rows.append(row + [_interval(mean_at(found[name], at), 3) for at in points])
    return rows


def _cost_ms(runs: Sequence[Run]) -> float:
    """Return the mean CPU time of a suggestion and of what is told of its trial."""
    costs = [np.mean(run.suggest_ms) + run.tell_ms for run in runs if run.suggest_ms]
    return float(np.mean(costs)) if costs else 0.0


def _interval(interval: Interval, digits: int) -> str:
    value, low, high = (f"{x:.{digits}f}" for x in interval)
    return f"{value} [{low}, {high}]"
