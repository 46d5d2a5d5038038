"""The texts about a whole run: at its end, and what ``status`` says meanwhile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raytune_hpo import escape
from raytune_hpo.state import RunState, TrialRecord
from raytune_hpo.storage import place
from raytune_hpo.trial import TrialState
from raytune_hpo.view import text
from raytune_hpo.view.importance import importances

_MAX_FRONT = 20
_MAX_RUNNING = 10
_TOP = 3
_SURE_TRIALS = 30
_TO_CORRECT = frozenset({"spec", "same_error", "max_failed"})
"""Ends that a resume would only repeat."""
_NOTABLE_WAIT = 0.01
"""Share of the workers' time from which on it is said that they waited for the searcher."""
_COMPLETE = frozenset(
    {"target", "no_improvement", "plateau", "expected_improvement", "cost", "exhausted"}
)
"""Ends after which nothing is left to do."""


def summary(state: RunState, run_dir: Path, *, tracking: str | None = None) -> str:
    """Return the text shown at the end of a run.

    Args:
        state: The run.
        run_dir: Its directory.
        tracking: One line on where MLflow has it, or None.
    """
    end_t = 0.0 if state.finish is None else state.finish.t
    lines = [_ended(state), *result_lines(state), *_waited(state, end_t)]
    lines += _places(state, run_dir, tracking)
    lines += _next_steps(state, run_dir)
    return escape.lines(lines)


def status(
    state: RunState,
    run_dir: Path,
    *,
    holder: Mapping[str, Any] | None,
    now_t: float,
    tracking: str | None = None,
) -> str:
    """Return where a run stands, be it running, interrupted or over.

    Args:
        state: The run.
        run_dir: Its directory.
        holder: The living driver's host, pid and start time, or None when there is none.
        now_t: Unix time in seconds.
        tracking: One line on where MLflow has it, or None.
    """
    lines = [_now(state, holder, now_t)]
    lines += [f"  {text.budget_text(state)}, {state.algorithm} + {state.scheduler}"]
    if holder is not None:
        lines += _running_lines(state, now_t)
    lines += result_lines(state) + _waited(state, now_t)
    lines += _places(state, run_dir, tracking)
    lines += _steps_while_running(run_dir) if holder else _next_steps(state, run_dir)
    return escape.lines(lines)


def _ended(state: RunState) -> str:
    if state.finish is None:
        return f"{state.name}: not finished; {text.counts_text(state)}"
    word = "interrupted" if state.finish.reason in ("interrupted", "stopped") else "ended"
    spent = text.duration(state.finish.t - state.sessions[-1].t) if state.sessions else "no time"
    why = text.first_line(state.finish.message, 300)
    return f"{state.name}: {word} after {spent}: {why}; {text.counts_text(state)}"


def _now(state: RunState, holder: Mapping[str, Any] | None, now_t: float) -> str:
    if holder is not None:
        since = text.duration(now_t - float(holder["since"]))
        who = f"process {holder['pid']} on {holder['host']}, for {since}"
        return f"{state.name}: running ({who}); {text.counts_text(state)}"
    if state.finish is not None:
        return _ended(state)
    return f"{state.name}: its driver died before the end; {text.counts_text(state)}"


def _running_lines(state: RunState, now_t: float) -> list[str]:
    running = [t for t in state.unfinished.values() if t.state is TrialState.RUNNING]
    lines = []
    for trial in running[:_MAX_RUNNING]:
        spent = text.duration(now_t - trial.attempts[-1].started_t)
        value = "no value yet"
        if trial.values is not None:
            value = f"{text.values_text(state, trial.values)} at report {trial.step}"
        lines.append(
            f"  trial {trial.number} {text.status_text(trial)} for {spent}: {value}; "
            f"{text.config_text(trial.config)}"
        )
    if len(running) > _MAX_RUNNING:
        lines.append(f"  and {len(running) - _MAX_RUNNING} more running")
    return lines


def result_lines(state: RunState) -> list[str]:
    """Return the lines on what was found: best or Pareto front, gain, what matters; or why not."""
    best = state.best()
    if best and state.objective.multi:
        return [*_front(state, best), *_important(state)]
    if best:
        return [*_best(state, state.trials[best[0]]), *_important(state)]
    infeasible = [t for t in state.trials.values() if text.status_text(t) == "infeasible"]
    if infeasible:
        return _nearest(state, infeasible)
    return _common_error(state)


def _best(state: RunState, trial: TrialRecord) -> list[str]:
    values = tuple(trial.values or [])
    lines = [f"  best       trial {trial.number}: {text.values_text(state, values)}"]
    lines += [f"             {text.config_text(trial.config)}"]
    if trial.parent is not None:
        lines += [f"             grown from {' > '.join(map(str, _ancestors(state, trial)))}"]
    base = text.baseline_values(state)
    if base is None:
        return lines
    if trial.origin == "baseline":
        return [*lines, "  gain       none: no trial was better than the baseline"]
    words = text.gain_text(text.gain(state, values[0]))
    words = {"-": "over the baseline", "equal": "equal to the baseline"}.get(
        words, f"{words} than the baseline"
    )
    numbers = f"{text.number(base[0])} -> {text.number(values[0])}"
    return [*lines, f"  gain       {words} ({numbers})"]


def _ancestors(state: RunState, trial: TrialRecord) -> list[int]:
    """Return the trials that a fork goes back to, the oldest first."""
    found: list[int] = []
    while trial.parent is not None:
        found.insert(0, trial.parent)
        trial = state.trials[trial.parent]
    return found


def _front(state: RunState, best: Sequence[int]) -> list[str]:
    """Return the Pareto front as a table, sorted by the first objective."""
    names = [escape.visible(name) for name in state.objective.names]
    rows = [["trial", *names, "parameters"]]
    trials = sorted((state.trials[n] for n in best), key=lambda t: (t.values or (), t.number))
    for trial in trials[:_MAX_FRONT]:
        cells = [_with_gain(state, trial, i) for i in range(len(names))]
        rows.append([str(trial.number), *cells, text.config_text(trial.config)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(names) + 1)]
    lines = [f"  Pareto front of {text.plural(len(best), 'trial')}:"]
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[:-1], widths, strict=True)]
        lines.append("    " + "  ".join([*cells, row[-1]]))
    if len(trials) > _MAX_FRONT:
        lines.append(f"    and {len(trials) - _MAX_FRONT} more")
    return lines


def _with_gain(state: RunState, trial: TrialRecord, index: int) -> str:
    value = (trial.values or ())[index]
    if trial.origin == "baseline":
        return f"{text.number(value)} (baseline)"
    part = text.gain(state, value, index)
    return text.number(value) + ("" if part is None else f" ({text.gain_text(part)})")


def _important(state: RunState) -> list[str]:
    shares = importances(state)
    top = [f"{name} {share:.0%}" for name, share in list(shares.items())[:_TOP]]
    completed = state.counts()[TrialState.COMPLETED]
    caution = f" (a hint only, from {completed} trials)" if completed < _SURE_TRIALS else ""
    return [f"  matters    {', '.join(top)}{caution}"] if top else []


def _nearest(state: RunState, trials: Sequence[TrialRecord]) -> list[str]:
    """Return what is said when trials have values, but none meets the constraints."""
    nearest = min(trials, key=lambda t: (sum(max(v, 0.0) for v in t.violations), t.number))
    return [
        "  best       none: no trial meets the constraints",
        f"  nearest    trial {nearest.number} violates {text.broken_text(state, nearest)}: "
        f"{text.values_text(state, nearest.values or ())}",
        f"             {text.config_text(nearest.config)}",
    ]


def _common_error(state: RunState) -> list[str]:
    """Return the most frequent error, with the user's own frames or last lines of output."""
    failed = [t for t in state.trials.values() if t.state is TrialState.FAILED and t.failure]
    if not failed:
        return ["  best       none yet: no trial has finished with a value"]
    messages = Counter(trial.failure.message for trial in failed if trial.failure)
    message, count = messages.most_common(1)[0]
    example = next(t for t in failed if t.failure and t.failure.message == message)
    lines = [
        "  best       none: no trial succeeded",
        f"  error      in {count} of {text.plural(len(failed), 'failed trial')}: "
        f"{text.first_line(message, 400)}",
    ]
    details = example.failure.details if example.failure else ""
    return [*lines, *(f"    {line.expandtabs(4)}" for line in details.rstrip().splitlines())]


def _waited(state: RunState, now_t: float) -> list[str]:
    """Return what is said when workers had to wait for the searcher, if that is worth a line."""
    waited_s = sum(trial.waited_s for trial in state.trials.values())
    attempts = [attempt for trial in state.trials.values() for attempt in trial.attempts]
    busy_s = sum(max((a.ended_t or now_t) - a.started_t, 0.0) for a in attempts)
    if waited_s <= _NOTABLE_WAIT * (waited_s + busy_s):
        return []
    share = f"{waited_s / (waited_s + busy_s):.0%}"
    return [
        f"  waited     {share} of the workers' time, {text.duration(waited_s)}, for the searcher"
    ]


def _places(state: RunState, run_dir: Path, tracking: str | None) -> list[str]:
    lines = [f"  run        {place.shown(run_dir)}"]
    return [*lines, f"  MLflow     {tracking}"] if tracking else lines


def _next_steps(state: RunState, run_dir: Path) -> list[str]:
    """Return the commands that make sense now."""
    name = text.reference(run_dir)
    lines = []
    failed = [n for n in state.finished if state.trials[n].state is TrialState.FAILED]
    if state.best():
        choice = " --trial N" if len(state.best()) > 1 else ""
        lines.append(f"  apply      raytune-hpo best {name}{choice} --format env")
    if failed:
        lines.append(f"  look at    raytune-hpo logs {name} {failed[0]}")
    reason = state.finish.reason if state.finish else "interrupted"
    if reason == "searcher":
        lines.append(f"  look at    raytune-hpo logs {name}")
    if reason in _TO_CORRECT:
        return [*lines, "  go on      correct the cause and run the experiment again"]
    if reason in _COMPLETE:
        return lines
    count = len(state.unfinished)
    note = f"   ({text.plural(count, 'unfinished trial')} will go on)" if count else ""
    return [*lines, f"  go on      raytune-hpo resume {name}{_more_trials(state)}{note}"]


def _more_trials(state: RunState) -> str:
    """Return the option that a resume needs to have anything to do."""
    budget, expected = state.budget, state.expected
    if budget is None or expected is None or len(state.finished) < expected:
        return ""
    return f" --trials {2 * budget}"


def _steps_while_running(run_dir: Path) -> list[str]:
    name = text.reference(run_dir)
    return [
        f"  look at    raytune-hpo logs {name} -f",
        f"  stop       raytune-hpo stop {name}",
    ]
