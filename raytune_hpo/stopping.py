"""Rules that end a run: pure functions of what its journal says.

Each returns why the run is to end, or None. They know neither Ray nor the engine, so they judge a
run of yesterday as they judge one that is going on::

    state = RunState.replay(journal.read(run_dir))
    verdict = stopping.plateau(state, trials=20, relative=0.01)

Example:
    >>> import raytune_hpo as rh
    >>> from raytune_hpo.simulate import Simulation
    >>> experiment = rh.Experiment.from_python(
    ...     run="noop", parameters={"x": rh.Float(0, 1)}, metric="loss", trials=8, parallel=1
    ... )
    >>> losses = iter([5.0, 3.0, 2.9, 2.9, 2.9, 2.9, 2.9, 2.9])
    >>> steps = lambda config: [(60.0, {"loss": next(losses), "usd": 0.5})]
    >>> state = Simulation(experiment, steps).run()
    >>> no_improvement(state, trials=5)
    Verdict(reason='no_improvement', message='no better trial among the last 5')
    >>> no_improvement_for(state, run_s=480, limit_s=600) is None
    True
    >>> plateau(state, trials=6, relative=0.1).message
    'the last 6 trials made the best value better by 0.1 only'
    >>> cost_reached(state, "usd", limit=4).message
    'the trials cost 4 by usd, and the limit is 4'
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

from raytune_hpo.errors import did_you_mean
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
        yield lambda state, run_s: cost_unknown(state, cost.metric)
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
    if len(first) < SAME_ERROR_LIMIT or len(errors) > 1 or None in errors or _has_values(state):
        return None
    ended = (state.trials[number] for number in state.finished)
    if any(t.values is not None and t.state is not TrialState.FAILED for t in ended):
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


def cost_unknown(state: RunState, metric: str) -> Verdict | None:
    """End when a trial of this session ran to its end and no trial told its cost.

    Else a mistake in the name would leave the cost without a limit.
    """
    if any(_number(trial.metrics, metric) is not None for trial in state.trials.values()):
        return None
    for trial in map(state.trials.__getitem__, state.finished):
        this_session = trial.attempts[-1].session == len(state.sessions)
        if this_session and trial.state is TrialState.COMPLETED:
            reported = ", ".join(sorted(trial.metrics))
            text = f"trial {trial.number} did not report {metric}, the metric of stop_when.cost, "
            text += f"as a number. It reported: {reported}{did_you_mean(metric, trial.metrics)}"
            return Verdict("spec", text)
    return None


def cost_reached(state: RunState, metric: str, limit: float) -> Verdict | None:
    """End when the trials have cost so much: the sum of each one's latest value of a metric.

    A fork that counts on from its parent's value costs what it adds. What is no number counts
    nothing.
    """
    cost = math.fsum(_cost(trial, metric) for trial in state.trials.values())
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


def _cost(trial: TrialRecord, metric: str) -> float:
    latest = _number(trial.metrics, metric) or 0.0
    before = _number(trial.inherited, metric) or 0.0
    # A fork that has less than its parent had began to count anew.
    return latest - before if latest >= before else latest


def _number(metrics: Mapping[str, Any], name: str) -> float | None:
    value = metrics.get(name)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    return float(value) if math.isfinite(value) else None


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
