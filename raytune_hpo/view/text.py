"""Words and numbers of the screens: pure functions over the state of a run."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raytune_hpo import escape
from raytune_hpo.runs import RESULTS_DIR
from raytune_hpo.state import RunState, TrialRecord
from raytune_hpo.storage import place
from raytune_hpo.tracking.settings import of_header
from raytune_hpo.trial import TrialState


def number(value: float | int | None) -> str:
    """Return a number as people read it: five significant digits, no needless exponent."""
    if value is None:
        return "-"
    if isinstance(value, int) or not math.isfinite(value):
        return str(value)
    size = abs(value)
    if 1e5 <= size < 1e12:
        return f"{value:.0f}"
    return f"{value:.5g}"


def duration(seconds: float) -> str:
    """Return a time span in the unit that suits it: ``0.4 s``, ``58 s``, ``12 min``, ``3 h 05``."""
    if seconds < 9.95:
        return f"{max(seconds, 0.0):.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} d {hours % 24} h"


def plural(count: int, noun: str) -> str:
    """Return ``1 trial`` or ``3 trials``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def value_text(value: Any) -> str:
    """Return a parameter's value on one line; control characters are escaped."""
    if isinstance(value, float):
        return number(value)
    text = value if isinstance(value, str) else repr(value)
    return text if text and text.isprintable() else repr(text)


def config_text(config: Mapping[str, Any]) -> str:
    """Return a config as ``lr=0.01 layers=3``; texts with blanks are quoted."""
    return " ".join(f"{name}={_quoted(value_text(value))}" for name, value in config.items())


def _quoted(text: str) -> str:
    return f"'{text}'" if " " in text and not text.startswith(("'", '"', "[")) else text


def values_text(state: RunState, values: tuple[float, ...]) -> str:
    """Return objective values with their names: ``val_loss=0.21``."""
    pairs = zip(state.objective.names, values, strict=True)
    return ", ".join(f"{name}={number(value)}" for name, value in pairs)


def first_line(text: str, width: int = 160) -> str:
    """Return the first line that says something, cut to ``width`` printable characters."""
    line = next((part.strip() for part in text.splitlines() if part.strip()), "")
    return escape.cut(escape.visible(line.replace("\t", " ")), width)


def gain(state: RunState, value: float, index: int = 0) -> float | None:
    """Return by what part of its size a value is better than the baseline's (below 0: worse).

    None when there is no baseline, it has no value, or that is zero.
    """
    base = baseline_values(state)
    if base is None or base[index] == 0:
        return None
    sign = 1.0 if state.objective.modes[index] == "max" else -1.0
    return sign * (value - base[index]) / abs(base[index])


def gain_text(part: float | None) -> str:
    """Return a gain in words, so that it is clear which way is good: ``12% better``."""
    if part is None:
        return "-"
    percent = abs(part) * 100
    if percent < 0.05:
        return "equal"
    digits = 1 if percent < 9.95 else 0
    return f"{percent:.{digits}f}% {'better' if part > 0 else 'worse'}"


def baseline_values(state: RunState) -> tuple[float, ...] | None:
    """Return the values of the finished baseline trial, or None."""
    if state.baseline is None:
        return None
    trial = state.trials[state.baseline]
    return trial.values if trial.state.finished and trial.state is not TrialState.FAILED else None


def status_text(trial: TrialRecord) -> str:
    """Return the state of a trial in words: ``pruned@3`` is a trial stopped after three reports."""
    if trial.state is TrialState.PRUNED:
        return f"pruned@{trial.step}"
    if trial.state is TrialState.COMPLETED and trial.values is not None and not trial.feasible:
        return "infeasible"
    if trial.state is TrialState.RUNNING and len(trial.attempts) > 1:
        return f"running (try {trial.attempts[-1].number})"
    return trial.state.value


def broken_text(state: RunState, trial: TrialRecord) -> str:
    """Return the constraints that a trial violates, and by how much; empty when it meets all."""
    pairs = zip(state.objective.constraints, trial.violations, strict=False)
    return ", ".join(f"{rule.text} by {number(by)}" for rule, by in pairs if by > 0)


def counts_text(state: RunState) -> str:
    """Return how many trials are in which state: ``12/50 done, 2 pruned, 1 failed``."""
    counts = state.counts()
    total = f"/{state.expected}" if state.expected is not None else ""
    parts = [f"{len(state.finished)}{total} done"]
    for name in (TrialState.PRUNED, TrialState.FAILED, TrialState.STOPPED, TrialState.PAUSED):
        if counts[name]:
            parts.append(f"{counts[name]} {name.value}")
    infeasible = sum(status_text(state.trials[n]) == "infeasible" for n in state.finished)
    return ", ".join([*parts, f"{infeasible} infeasible"] if infeasible else parts)


def best_text(state: RunState) -> str:
    """Return the best so far on one line."""
    best = state.best()
    if not best:
        return "no best yet"
    if state.objective.multi:
        return f"Pareto front: {plural(len(best), 'trial')}"
    return f"best {number(_values(state.trials[best[0]])[0])} (trial {best[0]})"


def _values(trial: TrialRecord) -> tuple[float, ...]:
    return trial.values or ()


def searcher_text(state: RunState) -> str:
    """Return the searcher and why it is this one."""
    reason = state.header.get("algorithm_reason")
    return f"{state.algorithm} ({reason})" if reason else state.algorithm


def scheduler_text(state: RunState) -> str:
    """Return the scheduler and what it means."""
    if state.scheduler == "none":
        return "none (every trial runs to its own end)"
    return state.scheduler


def budget_text(state: RunState) -> str:
    """Return how many trials there will be, and how many at once."""
    budget = state.budget
    trials = "no limit on trials" if budget is None else plural(budget, "trial")
    parallel = state.sessions[-1].parallel if state.sessions else 1
    return f"{trials}, {parallel} at a time"


def reference(run_dir: Path) -> str:
    """Return what to type for this run: its name in the default place, else its path or URL.

    The text is quoted for a shell where it has to be.
    """
    default = Path.cwd() / RESULTS_DIR
    inside = run_dir.resolve().parent == default.resolve()
    return shlex.quote(run_dir.name if inside else place.shown(run_dir))


def mlflow_text(state: RunState) -> str | None:
    """Return where MLflow has a run, on one line and without passwords; None when it is off."""
    if state.spec.get("mlflow") is False:
        return None
    settings = of_header(state.header)
    return f"{settings.shown} (experiment {settings.experiment})"
