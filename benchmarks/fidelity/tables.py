"""The report: tables of speed, regret and cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

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
    """Return all tables, a part for each number of workers.

    Args:
        runs: All runs; those of tuners that are not shown count for the best known values.
        references: By task.
        at: The level of random search is the one after this share of the budget.
        tuners: Which are shown, in this order; None for all, in the order of the files.
        markdown: Whether tables are Markdown's.
    """
    best = best_known(runs, references)
    parts = []
    for workers in sorted({key.workers for key in runs}):
        mine = {key: run for key, run in runs.items() if key.workers == workers}
        part = _Part(mine, references, best, at, tuners)
        title = f"{workers} workers, {part.budget:g} full-job equivalents"
        parts.append(f"{'### ' * markdown}{title}\n\n{part.text(markdown=markdown)}")
    return "\n\n".join(parts)


class _Part:
    """The runs of one number of workers."""

    def __init__(
        self,
        runs: Mapping[Key, Run],
        references: Mapping[str, Reference],
        best: Mapping[str, float],
        at: float,
        tuners: Sequence[str] | None,
    ) -> None:
        self.budget = min(key.budget for key in runs)
        self.level = at * self.budget
        self.tasks = sorted({key.task for key in runs})
        self.runs: dict[tuple[str, str], list[Run]] = {}
        for key, run in runs.items():
            self.runs.setdefault((key.tuner, key.task), []).append(run)
        self.curves = {
            (tuner, task): curves(group, self.budget, references[task], best[task])
            for (tuner, task), group in self.runs.items()
        }
        there = dict.fromkeys(tuner for tuner, _ in self.runs)
        self.tuners = list(there) if tuners is None else [name for name in tuners if name in there]

    def text(self, *, markdown: bool) -> str:
        """Return the tables."""
        tables = [
            (f"Times faster to the level of {RANDOM} at {self.level:g}", self._speed),
            (f"Regret at {self.budget:g}", self._regret),
            ("Trials, of these full jobs, and CPU milliseconds a trial", _cost),
        ]
        return "\n\n".join(f"{title}\n\n{table(self._rows(c), markdown)}" for title, c in tables)

    def _rows(self, cell: Callable[[Sequence[Run], Curves, str], str]) -> Rows:
        rows = [["tuner", "runs", *self.tasks]]
        for tuner in self.tuners:
            row = []
            for task in self.tasks:
                runs = self.runs.get((tuner, task))
                row.append(cell(runs, self.curves[tuner, task], task) if runs else "-")
            counts = {len(group) for (name, _), group in self.runs.items() if name == tuner}
            shown = sorted({min(counts), max(counts)})
            rows.append([tuner, " to ".join(map(str, shown)), *row])
        return rows

    def _speed(self, runs: Sequence[Run], curve: Curves, task: str) -> str:
        random = self.curves.get((RANDOM, task))
        return "-" if random is None else _interval(speedup(curve, random, self.level), 1)

    def _regret(self, runs: Sequence[Run], curve: Curves, task: str) -> str:
        return _interval(mean_at(curve, self.budget), 3)


def _cost(runs: Sequence[Run], curve: Curves, task: str) -> str:
    """Return the mean numbers, and the CPU time of a suggestion and all that is told of a trial."""
    costs = [np.mean(run.suggest_ms) + run.tell_ms for run in runs if run.suggest_ms]
    trials, full = (np.mean([getattr(run, name) for run in runs]) for name in ("trials", "full"))
    return f"{trials:.0f}, {full:.0f}, {np.mean(costs) if costs else 0.0:.1f}"


def _interval(interval: Interval, digits: int) -> str:
    value, low, high = (f"{x:.{digits}f}" for x in interval)
    return f"{value} [{low}, {high}]"
