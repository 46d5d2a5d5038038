"""Syne Tune's multi-fidelity baselines, called as its tuner calls them."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from syne_tune.backend.trial_status import Trial
from syne_tune.config_space import choice, lograndint, loguniform, randint, uniform
from syne_tune.optimizer import baselines
from syne_tune.optimizer.scheduler import SchedulerDecision

from benchmarks.quality.spaces import Axis, Space
from raytune_hpo.schedulers.base import Decision, Move
from raytune_hpo.trial import Config, Outcome, Result, TrialState

from .tuners import Setting, Tuner

logging.getLogger("syne_tune").setLevel(logging.ERROR)

_NEVER = datetime.datetime(2000, 1, 1)


def asha(setting: Setting, **settings: Any) -> Tuner:
    """Return ASHA with random search."""
    return _tuner(baselines.ASHA, setting, settings)


def asha_bore(setting: Setting, **settings: Any) -> Tuner:
    """Return ASHA with density ratios learnt per rung."""
    return _tuner(baselines.ASHABORE, setting, settings)


def bohb(setting: Setting, **settings: Any) -> Tuner:
    """Return ASHA with kernel density estimators learnt per rung."""
    return _tuner(baselines.BOHB, setting, settings)


def _tuner(make: Callable[..., Any], setting: Setting, settings: dict[str, Any]) -> Tuner:
    np.random.seed(setting.seed)
    made = make(
        config_space={axis.name: _domain(axis) for axis in setting.task.space.axes},
        metric="value",
        time_attr="used",
        max_t=setting.task.full,
        grace_period=setting.task.first,
        do_minimize=True,
        random_seed=setting.seed,
        **settings,
    )
    both = _Both(made, setting.task.space)
    return Tuner(both, both)


class _Both:
    """A scheduler of Syne Tune, which proposes configs too; all of them stop and never pause.

    Inactive parameters are searched all the same: it knows no conditions.
    """

    def __init__(self, syne: Any, space: Space) -> None:
        self._syne = syne
        self._space = space
        self._proposed: dict[int, dict[str, Any]] = {}
        self._trials: dict[int, Trial] = {}
        self._last: dict[int, dict[str, Any]] = {}

    # What the engine asks of a searcher

    def suggest(self, trial: int) -> Config | None:
        """Return the config of a new trial."""
        suggestion = self._syne.suggest()
        if suggestion is None:
            return None
        self._proposed[trial] = suggestion.config
        values = {
            axis.name: _value(axis, suggestion.config[axis.name]) for axis in self._space.axes
        }
        return self._space.active(values)

    def adopt(self, trial: int, config: Config) -> None:
        """Do nothing: no config comes from elsewhere."""

    def report(
        self, trial: int, step: int, values: tuple[float, ...], violations: tuple[float, ...] = ()
    ) -> None:
        """Do nothing: the scheduler is told."""

    def observe(self, trial: int, outcome: Outcome) -> None:
        """Do nothing: the scheduler is told."""

    def state(self) -> dict[str, Any]:
        """Return nothing: no run is resumed here."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Do nothing: no run is resumed here."""

    # What it asks of a scheduler

    def on_trial(self, trial: int, config: Config, parent: int | None) -> None:
        """Add the trial."""
        self._trials[trial] = Trial(trial, self._proposed[trial], _NEVER)
        self._syne.on_trial_add(self._trials[trial])

    def on_result(self, result: Result) -> Decision:
        """Pass the report on."""
        report = {"used": result.metrics["used"], "value": result.values[0]}
        self._last[result.trial] = report
        if self._syne.on_trial_result(self._trials[result.trial], report) == SchedulerDecision.STOP:
            return Decision.STOP
        return Decision.CONTINUE

    def on_end(self, trial: int, outcome: Outcome) -> None:
        """Take note of the end."""
        if outcome.state is TrialState.COMPLETED:
            self._syne.on_trial_complete(self._trials[trial], self._last[trial])

    def next_move(self, paused: Sequence[int], *, more: bool) -> Move | None:
        """Return None: nothing is ever paused."""
        return None


def _domain(axis: Axis) -> Any:
    if axis.kind == "choice":
        return choice(list(axis.choices))
    if axis.kind == "int":
        whole = lograndint if axis.log else randint
        return whole(int(axis.low), int(axis.high))
    return (loguniform if axis.log else uniform)(axis.low, axis.high)


def _value(axis: Axis, value: Any) -> Any:
    return str(value) if axis.kind == "choice" else axis.clipped(value)
