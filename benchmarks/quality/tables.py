"""The report: tables of regret, ratios and cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from .records import Key, Record
from .reference import Reference
from .scores import Cells, Curve, Interval, mean_of_tasks, ranks, ratio, regrets, won
from .tasks import kind_of

Rows = list[list[str]]


def report(
    records: Mapping[Key, Record],
    references: Mapping[str, Reference],
    *,
    at: Sequence[int],
    against: str | None,
    searchers: Sequence[str] | None = None,
    markdown: bool = False,
) -> str:
    """Return all tables, a part for each number of workers and budget.

    Args:
        records: All runs; those of searchers that are not shown count for the best known values.
        references: By task without noise.
        at: After how many trials regret is shown; ranks and ratios are at the last one.
        against: Whose regret the ratios are of; None for no ratios.
        searchers: Which are shown, in this order; None for all, the best first.
        markdown: Whether tables are Markdown's.
    """
    curves = regrets(records, references)
    parts, seen = [], {}
    for workers, budget in sorted({(key.workers, key.budget) for key in curves}):
        mine = {k: c for k, c in curves.items() if (k.workers, k.budget) == (workers, budget)}
        points = [n for n in at if n <= budget] or [budget]
        part = _Part(mine, records, points, against, searchers)
        if part.names:
            seen[workers, budget] = part
            title = f"{workers} worker{'s' * (workers > 1)}, {budget} trials"
            parts.append(f"{'## ' * markdown}{title}\n\n{part.text(markdown=markdown)}")
    parts += [
        f"{'## ' * markdown}{title}\n\n{table(rows, markdown)}" for title, rows in _losses(seen)
    ]
    return "\n\n".join(parts)


def _losses(parts: Mapping[tuple[int, int], _Part]) -> Iterator[tuple[str, Rows]]:
    """Yield a title and the tuners' regret over that of their own runs with one worker."""
    for (workers, budget), part in parts.items():
        alone = parts.get((1, budget))
        if workers == 1 or alone is None:
            continue
        rows = [["tuner", "mean", "geometric"]]
        for name in part.names:
            cells = [p.cells[p.at[-1]].get(name, {}) for p in (part, alone)]
            quotients = [ratio(*cells, geometric=geometric) for geometric in (False, True)]
            rows.append([name, *("-" if q is None else _interval(q, 2) for q in quotients)])
        yield f"Regret at {part.at[-1]}: {workers} workers over 1 worker", rows


class _Part:
    """The runs of one number of workers and budget."""

    def __init__(
        self,
        curves: Mapping[Key, Curve],
        records: Mapping[Key, Record],
        at: Sequence[int],
        against: str | None,
        searchers: Sequence[str] | None,
    ) -> None:
        self.at = at
        self.against = against
        self.records = records
        names = {key.searcher for key in curves}
        self.keys = [k for k in curves if searchers is None or k.searcher in searchers]
        shown = [n for n in searchers if n in names] if searchers else sorted(names)
        self.cells = {n: {name: _cells(curves, name, n) for name in shown} for n in at}
        last = self.cells[at[-1]]
        means = {name: mean_of_tasks(last[name]).value for name in shown}
        self.names = shown if searchers else sorted(shown, key=lambda name: means[name])
        self.tasks = sorted({key.task for key in self.keys})

    def text(self, *, markdown: bool) -> str:
        """Return the tables."""
        tables = [
            ("Regret, mean over tasks [95 % interval over seeds]", self._overview()),
            (f"Regret by class of task at {self.at[-1]}", self._kinds()),
            (f"Regret by task at {self.at[-1]}", self._tasks()),
            ("Tuner's CPU milliseconds a trial, median over runs", self._cost()),
        ]
        return "\n\n".join(f"{title}\n\n{table(rows, markdown)}" for title, rows in tables)

    def _overview(self) -> Rows:
        last = self.cells[self.at[-1]]
        positions, count = ranks(last)
        head = ["tuner", "runs", "tasks", f"rank ({count})", *(f"@{n}" for n in self.at)]
        if self.against:
            head += [f"@{self.at[-1]} / {self.against}", "geometric", "won"]
        rows = [head]
        for name in self.names:
            cells = last[name]
            tasks = len({task for task, _ in cells})
            row = [name, str(len(cells)), str(tasks)]
            row.append(f"{positions[name]:.2f}" if positions else "-")
            row += [_interval(mean_of_tasks(self.cells[n][name])) for n in self.at]
            rows.append(row + self._against(cells))
        return rows

    def _against(self, cells: Cells) -> list[str]:
        if self.against is None:
            return []
        theirs = self.cells[self.at[-1]].get(self.against, {})
        quotients = [ratio(cells, theirs, geometric=geometric) for geometric in (False, True)]
        wins, pairs = won(cells, theirs)
        shown = ["-" if quotient is None else _interval(quotient, 2) for quotient in quotients]
        return [*shown, f"{wins:g} of {pairs}" if pairs else "-"]

    def _kinds(self) -> Rows:
        kinds = sorted({kind_of(task) for task in self.tasks})
        rows = [["tuner", *kinds]]
        last = self.cells[self.at[-1]]
        theirs = last.get(self.against or "", {})
        for name in self.names:
            rows.append([name, *(_kind_cell(last[name], theirs, kind) for kind in kinds)])
        return rows

    def _tasks(self) -> Rows:
        rows = [["task", *self.names]]
        for task in self.tasks:
            row = [task]
            for name in self.names:
                values = [v for (t, _), v in self.cells[self.at[-1]][name].items() if t == task]
                row.append(f"{np.mean(values):.4f} ({len(values)})" if values else "-")
            rows.append(row)
        return rows

    def _cost(self) -> Rows:
        rows = [["tuner", "median", *(f"around {n}" for n in self.at)]]
        for name in self.names:
            runs = [self.records[key].run for key in self.keys if key.searcher == name]
            costs = [
                1000 * (np.array(run.ask_s[: len(run.tell_s)]) + np.array(run.tell_s))
                for run in runs
            ]
            row = [name, f"{np.median([np.median(cost) for cost in costs]):.3g}"]
            for n in self.at:
                near = [np.mean(cost[max(n - 10, 0) : n]) for cost in costs if len(cost) >= n]
                row.append(f"{np.median(near):.3g}" if near else "-")
            rows.append(row)
        return rows


def _cells(curves: Mapping[Key, Curve], name: str, at: int) -> dict[tuple[str, int], float]:
    return {
        (key.task, key.seed): float(curve[at - 1])
        for key, curve in curves.items()
        if key.searcher == name
    }


def _kind_cell(ours: Cells, theirs: Cells, kind: str) -> str:
    """Return the mean regret within a class, and its ratio in brackets."""
    ours, theirs = ({c: v for c, v in x.items() if kind_of(c[0]) == kind} for x in (ours, theirs))
    if not ours:
        return "-"
    mean = f"{mean_of_tasks(ours).value:.4f}"
    quotient = ratio(ours, theirs) if theirs else None
    return mean if quotient is None else f"{mean} ({_interval(quotient, 2)})"


def _interval(interval: Interval, digits: int = 4) -> str:
    value, low, high = (f"{x:.{digits}f}" for x in interval)
    return f"{value} [{low}, {high}]"


def table(rows: Rows, markdown: bool) -> str:
    """Return rows as a table, the first being its head."""
    if markdown:
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    padded = ([cell.ljust(w) for cell, w in zip(row, widths, strict=True)] for row in rows)
    return "\n".join("  ".join(cells).rstrip() for cells in padded)
