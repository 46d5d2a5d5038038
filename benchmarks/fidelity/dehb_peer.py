"""DEHB by its ask and tell."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from typing import Any

from ConfigSpace import (
    CategoricalHyperparameter,
    ConfigurationSpace,
    InCondition,
    UniformFloatHyperparameter,
    UniformIntegerHyperparameter,
)
from dehb import DEHB
from loguru import logger

from benchmarks.quality.spaces import Axis, Space
from raytune_hpo.schedulers.base import Decision, Fork, Move
from raytune_hpo.trial import Config, Outcome, Result

from .tasks import Task
from .tuners import Setting, Tuner

logger.remove()

_UNTIL = "until"
"""In the config of a trial, the fidelity of its job."""


def dehb(setting: Setting, **settings: Any) -> Tuner:
    """Return DEHB; it counts one worker, as others would make it start a Dask cluster."""
    task = setting.task
    made = DEHB(
        f=None,
        cs=_configspace(task.space, setting.seed),
        min_fidelity=task.first,
        max_fidelity=task.full,
        n_workers=1,
        output_path=tempfile.mkdtemp(prefix="dehb-"),
        save_freq=None,
        seed=setting.seed,
        log_level="ERROR",
        **settings,
    )
    both = _Both(made, task)
    return Tuner(both, both, lambda config: task.job_until(config, config[_UNTIL]), late=True)


class _Both:
    """DEHB as searcher and scheduler: each of its jobs is a trial that ends at its fidelity.

    A job whose config has been run to a lower fidelity goes on from there, as a fork, if the task
    can go on.
    """

    def __init__(self, optimizer: Any, task: Task) -> None:
        self._optimizer = optimizer
        self._task = task
        self._next: tuple[Any, Config] | None = None
        self._jobs: dict[int, tuple[Any, Config]] = {}
        self._furthest: dict[str, tuple[int, int]] = {}

    def _asked(self) -> tuple[Any, Config]:
        if self._next is None:
            job = self._optimizer.ask()
            space, found = self._task.space, dict(job["config"])
            values = {axis.name: _value(axis, found.get(axis.name)) for axis in space.axes}
            # It may ask for 17.3 epochs.
            until = min(self._task.steps, key=lambda step: abs(step - job["fidelity"]))
            self._next = job, {**space.active(values), _UNTIL: until}
        return self._next

    # What the engine asks of a scheduler

    def next_move(self, paused: Sequence[int], *, more: bool) -> Move | None:
        """Return the fork of a trial with the same config, if there is one that got less far."""
        _, config = self._asked()
        reached, parent = self._furthest.get(_key(config), (config[_UNTIL], -1))
        return Fork(parent, config) if reached < config[_UNTIL] else None

    def on_trial(self, trial: int, config: Config, parent: int | None) -> None:
        """Take note that the job which was asked for starts."""
        self._jobs[trial] = self._asked()
        self._next = None

    def on_result(self, result: Result) -> Decision:
        """End the trial at the fidelity of its job."""
        job, config = self._jobs[result.trial]
        if result.metrics["used"] < config[_UNTIL]:
            return Decision.CONTINUE
        if not self._task.again:
            self._furthest[_key(config)] = config[_UNTIL], result.trial
        self._optimizer.tell(job, {"fitness": result.values[0], "cost": 1.0})
        return Decision.COMPLETE

    def on_end(self, trial: int, outcome: Outcome) -> None:
        """Do nothing: the result was told."""

    # What it asks of a searcher

    def suggest(self, trial: int) -> Config | None:
        """Return the config of the job that was asked for."""
        return self._asked()[1]

    def adopt(self, trial: int, config: Config) -> None:
        """Do nothing: no config comes from elsewhere."""

    def report(
        self, trial: int, step: int, values: tuple[float, ...], violations: tuple[float, ...] = ()
    ) -> None:
        """Do nothing: the result is told by the scheduler."""

    def observe(self, trial: int, outcome: Outcome) -> None:
        """Do nothing: the result is told by the scheduler."""

    def state(self) -> dict[str, Any]:
        """Return nothing: no run is resumed here."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Do nothing: no run is resumed here."""


def _key(config: Config) -> str:
    return json.dumps({**config, _UNTIL: None}, sort_keys=True)


def _configspace(space: Space, seed: int) -> ConfigurationSpace:
    made = ConfigurationSpace(seed=seed)
    made.add([_hyperparameter(axis) for axis in space.axes])
    for axis in space.axes:
        if axis.parent is not None:
            made.add(InCondition(made[axis.name], made[axis.parent], list(axis.values)))
    return made


def _hyperparameter(axis: Axis) -> Any:
    if axis.kind == "choice":
        return CategoricalHyperparameter(axis.name, list(axis.choices))
    if axis.kind == "int":
        return UniformIntegerHyperparameter(axis.name, int(axis.low), int(axis.high), log=axis.log)
    return UniformFloatHyperparameter(axis.name, axis.low, axis.high, log=axis.log)


def _value(axis: Axis, value: Any) -> Any:
    """Return a value as the task has it; None stays None, the parameter being inactive."""
    if value is None:
        return None
    return str(value) if axis.kind == "choice" else axis.clipped(value)
