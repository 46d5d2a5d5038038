"""Optuna's samplers through its ask-and-tell interface."""

from __future__ import annotations

import warnings
from typing import Any

import optuna

from .penalty import WorstSeen
from .spaces import Axis, Config
from .tuners import Setting, Told

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


class _Optuna:
    """A study; conditions are said by not asking, failures by the state FAIL."""

    def __init__(self, setting: Setting, sampler: Any) -> None:
        self._axes = setting.space.axes
        self._study = optuna.create_study(sampler=sampler)

    def ask(self) -> tuple[Any, Config]:
        """Return a trial and its config."""
        trial = self._study.ask()
        config: Config = {}
        for axis in self._axes:
            if axis.parent is None or config.get(axis.parent) in axis.values:
                config[axis.name] = _suggest(trial, axis)
        return trial, config

    def tell(self, handle: Any, told: Told) -> None:
        """End a trial."""
        for number, violation in enumerate(told.violations):
            handle.set_constraint(f"c{number}", violation)
        self._end(handle, told.value)

    def _end(self, trial: Any, value: float | None) -> None:
        if value is None:
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            self._study.tell(trial, value)


def _suggest(trial: Any, axis: Axis) -> Any:
    if axis.kind == "choice":
        return trial.suggest_categorical(axis.name, list(axis.choices))
    if axis.kind == "int":
        return trial.suggest_int(axis.name, int(axis.low), int(axis.high), log=axis.log)
    return trial.suggest_float(axis.name, axis.low, axis.high, log=axis.log)


class Tpe(_Optuna):
    """TPESampler at its defaults."""

    def __init__(self, setting: Setting, **settings: Any) -> None:
        super().__init__(setting, optuna.samplers.TPESampler(seed=setting.seed, **settings))


class Gp(_Optuna):
    """GPSampler at its defaults."""

    def __init__(self, setting: Setting, **settings: Any) -> None:
        super().__init__(setting, optuna.samplers.GPSampler(seed=setting.seed, **settings))


class CmaEs(_Optuna):
    """CmaEsSampler at its defaults; it knows no constraints."""

    def __init__(self, setting: Setting, **settings: Any) -> None:
        sampler = optuna.samplers.CmaEsSampler(
            seed=setting.seed, warn_independent_sampling=False, **settings
        )
        super().__init__(setting, sampler)
        self._worst = WorstSeen()

    def tell(self, handle: Any, told: Told) -> None:
        """End a trial; an infeasible one gets the worst value seen."""
        number = self._worst.number(told)
        self._end(handle, None if told.value is None else number)
