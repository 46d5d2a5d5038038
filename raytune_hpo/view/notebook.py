"""A result as a small piece of HTML that needs nothing from outside, for notebooks."""

from __future__ import annotations

import html
from math import isfinite

from raytune_hpo import escape
from raytune_hpo.state import RunState, TrialRecord
from raytune_hpo.view import text

_MAX_ROWS = 10
_MAX_CELL = 500
_WIDTH, _HEIGHT, _MARGIN = 520, 160, 36


def result_html(state: RunState) -> str:
    """Return the best configuration, the best trials and the chart of the best value so far."""
    parts = [
        '<div style="font-family:system-ui,sans-serif;font-size:13px;max-width:60em">',
        f"<b>{_html(state.name)}</b>: {_html(text.counts_text(state))}; "
        f"{_html(text.best_text(state))}",
        _table(state),
        best_so_far_svg(state),
        "</div>",
    ]
    return "\n".join(part for part in parts if part)


def _table(state: RunState) -> str:
    rows = _ranked(state)[:_MAX_ROWS]
    if not rows:
        return "<p>No trial has finished with a value.</p>"
    names = state.experiment.search_space.dimensions
    head = ["trial", "state", *state.objective.names, *names]
    lines = ['<table style="border-collapse:collapse;margin:.5em 0">', _row("th", head)]
    best = set(state.best())
    for trial in rows:
        config = [text.value_text(trial.config[n]) if n in trial.config else "-" for n in names]
        values = [text.number(value) for value in trial.values or ()]
        cells = [str(trial.number), text.status_text(trial), *values, *config]
        lines.append(_row("td", cells, bold=trial.number in best))
    return "\n".join([*lines, "</table>"])


def _html(words: str) -> str:
    """Return a text of a stranger's as HTML that is nothing but text."""
    return html.escape(escape.cut(escape.visible(words), _MAX_CELL))


def _row(tag: str, cells: list[str], *, bold: bool = False) -> str:
    style = "padding:2px 8px;text-align:right;border-bottom:1px solid #8884"
    weight = ";font-weight:bold" if bold else ""
    inner = "".join(f'<{tag} style="{style}{weight}">{_html(cell)}</{tag}>' for cell in cells)
    return f"<tr>{inner}</tr>"


def _ranked(state: RunState) -> list[TrialRecord]:
    """Return the finished feasible trials, best first; by the first objective when several."""
    finished = [state.trials[number] for number in state.finished]
    usable = [trial for trial in finished if trial.feasible]
    best = set(state.best())
    return sorted(
        usable,
        key=lambda t: (t.number not in best, state.objective.minimized(t.values or ()), t.number),
    )


def best_so_far_svg(state: RunState) -> str:
    """Return an SVG of each finished trial's value and the best so far; empty with under two.

    Drawn for one objective only, over the order in which trials ended.
    """
    points = _points(state)
    if state.objective.multi or len(points) < 2:
        return ""
    low, high = min(p[1] for p in points), max(p[1] for p in points)
    span = (high - low) or 1.0
    last = max(p[0] for p in points)

    def place(index: int, value: float) -> str:
        x = _MARGIN + (_WIDTH - 2 * _MARGIN) * index / max(last, 1)
        y = _MARGIN / 2 + (_HEIGHT - _MARGIN) * (high - value) / span
        return f"{x:.1f},{y:.1f}"

    dots = "".join(_dot(place(index, value)) for index, value, _ in points)
    steps: list[str] = []
    for index, _, best in points:
        if steps:
            steps.append(f"{place(index, best).split(',')[0]},{steps[-1].split(',')[1]}")
        steps.append(place(index, best))
    return _svg(state, dots, " ".join(steps), low, high)


def _svg(state: RunState, dots: str, line: str, low: float, high: float) -> str:
    name = _html(state.objective.names[0])
    label = 'font-size="11" fill="currentColor"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" role="img" '
        f'aria-label="best {name} so far">'
        f'<text x="4" y="12" {label}>{text.number(high)}</text>'
        f'<text x="4" y="{_HEIGHT - 12}" {label}>{text.number(low)}</text>'
        f'<text x="{_WIDTH // 2}" y="{_HEIGHT - 2}" text-anchor="middle" {label}>'
        f"{name}: finished trials, and the best so far</text>"
        f"{dots}"
        f'<polyline points="{line}" fill="none" stroke="#1f77b4" stroke-width="2"/></svg>'
    )


def _dot(place: str) -> str:
    x, y = place.split(",")
    return f'<circle cx="{x}" cy="{y}" r="2.5" fill="currentColor" opacity="0.35"/>'


def _points(state: RunState) -> list[tuple[int, float, float]]:
    """Return (place in the order of ending, value, best so far) of the usable trials."""
    points: list[tuple[int, float, float]] = []
    best: tuple[float, ...] | None = None
    for index, number in enumerate(state.finished):
        trial = state.trials[number]
        if not trial.feasible or trial.values is None or not all(map(isfinite, trial.values)):
            continue
        if best is None or state.objective.better(trial.values, best):
            best = trial.values
        points.append((index, trial.values[0], best[0]))
    return points
