"""Rules that end a run: pure functions of what its journal says.

Each returns why the run is to end, or None. They know neither Ray nor the engine, so they judge a
run of yesterday as they judge one that is going on::

    state = RunState.replay(journal.read(run_dir))
    verdict = stopping.plateau(state, trials=20, relative=0.01)
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

from raytune_hpo.experiment import Experiment
from raytune_hpo.state import RunState, TrialRecord
from raytune_hpo.trial import FailureKind, TrialState

SAME_ERROR_LIMIT = 3
"""So many first trials failing with the same error end the run."""

_WRONG_SPEC = frozenset({FailureKind.METRIC_MISSING, FailureKind.NO_CHECKPOINT})
"""Failures of the first trial that all others would share."""


class Verdict(NamedTuple):
    """Why a run ends.

    Attributes:
        reason: One word for programs.
        message: One sentence for a person, with the numbers.
    """

    reason: str
    message: str


Rule = Callable[[RunState, float], Verdict | None]
"""Takes what the journal says, and the run time in seconds."""


def rules(experiment: Experiment) -> Iterator[Rule]:
    """Yield the rules of an experiment, the most urgent first."""
    wanted, max_failed = experiment.stop_when, experiment.max_failed
    yield lambda state, run_s: wrong_spec(state)
    yield lambda state, run_s: target(state)
    yield lambda state, run_s: same_error(state)
    if max_failed is not None:
        yield lambda state, run_s: too_many_failures(state, max_failed)
    trials, limit_s = wanted.no_improvement, wanted.no_improvement_time_s
    if trials is not None:
        yield lambda state, run_s: no_improvement(state, trials)
    if limit_s is not None:
        yield lambda state, run_s: no_improvement_for(state, run_s, limit_s)
    flat, cost = wanted.plateau, wanted.cost
    if flat is not None:
        yield lambda state, run_s: plateau(state, flat.trials, flat.absolute, flat.relative)
    if cost is not None:
        yield lambda state, run_s: cost_reached(state, cost.metric, cost.limit)


def wrong_spec(state: RunState) -> Verdict | None:
    """End after the first trial when what it lacks would fail all others too."""
    ended = (state.trials[number] for number in state.finished)
    # Those that were stopped when the first one ended the run say nothing.
    judged = list(islice((t for t in ended if t.state is not TrialState.STOPPED), 2))
    failure = judged[0].failure if len(judged) == 1 else None
    if failure is None or failure.kind not in _WRONG_SPEC:
        return None
    if failure.kind is FailureKind.METRIC_MISSING and _has_values(state):
        return None
    return Verdict("spec", failure.message)


def target(state: RunState) -> Verdict | None:
    """End once a feasible trial is as good as the objective's target."""
    for number in state.best():
        values = state.trials[number].values
        if values is not None and state.objective.reached(values):
            return Verdict("target", f"trial {number} reached the target")
    return None


def same_error(state: RunState) -> Verdict | None:
    """End when the first trials all failed alike, and no other has shown a value."""
    first = [state.trials[number] for number in state.finished[:SAME_ERROR_LIMIT]]
    errors = {_error_key(trial) for trial in first}
    others = state.failed < len(state.finished) or _has_values(state)
    if len(first) < SAME_ERROR_LIMIT or len(errors) > 1 or None in errors or others:
        return None
    text = first[0].failure.message if first[0].failure else ""
    return Verdict(
        "same_error", f"the first {SAME_ERROR_LIMIT} trials failed with the same error: {text}"
    )


def too_many_failures(state: RunState, limit: int) -> Verdict | None:
    """End at so many failed trials; 0 and 1 mean the first."""
    if state.failed == 0 or state.failed < limit:
        return None
    return Verdict("max_failed", f"{state.failed} trials failed and max_failed is {limit}")


def no_improvement(state: RunState, trials: int) -> Verdict | None:
    """End when so many trials in a row ended without a new best one.

    With several goals a new trial on the Pareto front is a new best one. Nothing ends before there
    is a feasible trial.
    """
    if not state.best() or state.since_best < trials:
        return None
    return Verdict("no_improvement", f"no better trial among the last {state.since_best}")


def no_improvement_for(state: RunState, run_s: float, limit_s: float) -> Verdict | None:
    """End when the best trial, or the Pareto front, has stood for so long.

    Args:
        state: Of the run.
        run_s: Run time in seconds, summed over sessions; what passed between them does not count.
        limit_s: Above 0.
    """
    if not state.best() or run_s - state.best_s < limit_s:
        return None
    stood_s = run_s - state.best_s
    return Verdict("no_improvement", f"no better trial for {stood_s:.4g} s of run time")


def plateau(
    state: RunState, trials: int, absolute: float | None = None, relative: float | None = None
) -> Verdict | None:
    """End when the best value improved by too little while so many trials ended.

    Args:
        state: Of a run with one goal.
        trials: So many last ended trials are looked at; failed ones are among them.
        absolute: Less than this is too little, in the unit of the objective.
        relative: Less than this share of the best value before them is too little.
    """
    bests = state.best_values
    if len(bests) <= trials or (before := bests[-1 - trials]) is None or bests[-1] is None:
        return None
    gain = before - bests[-1]
    enough = max(absolute or 0.0, (relative or 0.0) * abs(before))
    if gain > 0 and gain >= enough:
        return None
    return Verdict(
        "plateau", f"the last {trials} trials made the best value better by {gain:.4g} only"
    )


def cost_reached(state: RunState, metric: str, limit: float) -> Verdict | None:
    """End when the trials have cost so much: the sum of each one's latest value of a metric.

    A fork counts from its parent's value on. What is no number counts nothing.
    """
    trials = state.trials.values()
    parts = (_number(t.metrics, metric) - _number(t.inherited, metric) for t in trials)
    cost = math.fsum(parts)
    if cost < limit:
        return None
    return Verdict("cost", f"the trials cost {cost:.6g} by {metric}, and the limit is {limit:g}")


def little_to_gain(gain: float, least: float) -> Verdict | None:
    """End when the next trial is expected to gain less than ``least``.

    Args:
        gain: What a searcher's ``expected_improvement`` says, in the unit of the objective.
        least: In the same unit.
    """
    if gain >= least:
        return None
    text = f"the next trial is expected to gain {gain:.3g}, less than {least:g}"
    return Verdict("expected_improvement", text)


def _number(metrics: Mapping[str, Any], name: str) -> float:
    value = metrics.get(name)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return 0.0
    return float(value) if math.isfinite(value) else 0.0


def _has_values(state: RunState) -> bool:
    """Return whether a trial that has not ended has shown a value."""
    return any(trial.values is not None for trial in state.unfinished.values())


def _error_key(trial: TrialRecord) -> tuple[str, int | None, str] | None:
    """Return what makes two failures the same error, or None for a trial that did not fail.

    Numbers in the message do not count: they are often the trial's own parameters.
    """
    failure = trial.failure
    if trial.state is not TrialState.FAILED or failure is None:
        return None
    return failure.kind.value, failure.exit_code, re.sub(r"[-+]?\d[\d.eE+-]*", "#", failure.message)
