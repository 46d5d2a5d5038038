"""SMAC3's facade for hyperparameter optimisation, by ask and tell."""

from __future__ import annotations

import tempfile
from typing import Any

from ConfigSpace import (
    Categorical,
    ConfigurationSpace,
    Float,
    InCondition,
    Integer,
)
from smac import HyperparameterOptimizationFacade, Scenario
from smac.runhistory.dataclasses import TrialValue
from smac.runhistory.enumerations import StatusType

from .penalty import WorstSeen
from .spaces import Axis, Config, Space
from .tuners import Setting, Told


class Smac:
    """A random forest at the facade's defaults; it counts on the true budget.

    A trial that failed or violates a constraint has crashed, at the cost of the worst value seen:
    with the default cost, infinity, the facade's model learns nothing more. It is told so once
    there is such a value.
    """

    def __init__(self, setting: Setting) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._axes = {axis.name: axis for axis in setting.space.axes}
        scenario = Scenario(
            _space(setting.space, setting.seed),
            n_trials=setting.budget,
            seed=setting.seed,
            deterministic=True,
            output_directory=self._folder.name,
        )
        self._facade = HyperparameterOptimizationFacade(
            scenario, lambda config, seed=0: 0.0, overwrite=True, logging_level=False
        )
        self._worst = WorstSeen()
        self._held: list[Any] = []

    def ask(self) -> tuple[Any, Config]:
        """Return a trial and its config."""
        trial = self._facade.ask()
        config = {name: _plain(self._axes[name], v) for name, v in dict(trial.config).items()}
        return trial, config

    def tell(self, handle: Any, told: Told) -> None:
        """End a trial."""
        number = self._worst.number(told)
        if number is None:
            self._held.append(handle)
            return
        for trial in self._held:
            self._end(trial, number, StatusType.CRASHED)
        self._held = []
        self._end(handle, number, StatusType.SUCCESS if told.feasible else StatusType.CRASHED)

    def _end(self, trial: Any, cost: float, status: StatusType) -> None:
        self._facade.tell(trial, TrialValue(cost=cost, status=status), save=False)


def _space(space: Space, seed: int) -> ConfigurationSpace:
    found = ConfigurationSpace(seed=seed)
    parameters = {axis.name: _parameter(axis) for axis in space.axes}
    found.add(list(parameters.values()))
    for axis in space.axes:
        if axis.parent is not None:
            parent = parameters[axis.parent]
            found.add(InCondition(parameters[axis.name], parent, list(axis.values)))
    return found


def _parameter(axis: Axis) -> Any:
    if axis.kind == "choice":
        return Categorical(axis.name, list(axis.choices))
    if axis.kind == "int":
        return Integer(axis.name, (int(axis.low), int(axis.high)), log=axis.log)
    return Float(axis.name, (axis.low, axis.high), log=axis.log)


def _plain(axis: Axis, value: Any) -> Any:
    return str(value) if axis.kind == "choice" else axis.clipped(value)
