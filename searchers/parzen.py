"""What searchers share that model trials with Optuna's tree-structured Parzen estimators."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from raytune_hpo.axes import Axis, Choice, Constant, Int, Ordinal
from raytune_hpo.objective import Objective
from raytune_hpo.space import SearchSpace
from raytune_hpo.trial import Config

_MOST_CELLS = 10_000
"""Parameters with more values are modelled as continuous."""


class ParzenModel:
    """Trials as Optuna knows them, and the config that its TPE finds most promising.

    Each trial is first added, as pending, and ends in one of three ways: with values, as worse than
    all others, or forgotten.

    Args:
        space: What is searched.
        objective: Of the trials.
        candidates: Configs drawn for each proposal, of which the most promising is taken.
        multivariate: Model parameters jointly; None does so for one goal only, as Optuna does.
        constant_liar: Keep away from the configs of pending trials.

    Attributes:
        parameters: As Optuna sees them, by name.
        multivariate: Whether parameters are modelled jointly.
        study: Optuna's own table of the trials.
    """

    def __init__(
        self,
        space: SearchSpace,
        objective: Objective,
        *,
        candidates: int,
        multivariate: bool | None = None,
        constant_liar: bool = True,
    ) -> None:
        self.space = space
        self.objective = objective
        self.candidates = candidates
        self.multivariate = not objective.multi if multivariate is None else multivariate
        self.constant_liar = constant_liar
        self.parameters = {name: _parameter(name, axis) for name, axis in space.axes.items()}
        self.study = _new_study(len(objective.goals))
        self._conditional = any(p.when is not None for p in space.parameters.values())
        self._pending: dict[int, optuna.Trial] = {}

    def add(self, trial: int, config: Config) -> None:
        """Add a trial as pending."""
        given = {n: p.encode(config[n]) for n, p in self.parameters.items() if n in config}
        self.study.enqueue_trial(given)
        self.study.sampler = _IDLE
        distributions = {name: self.parameters[name].distribution for name in given}
        self._pending[trial] = self.study.ask(distributions)

    def end(self, trial: int, values: Sequence[float], violations: Sequence[float]) -> None:
        """End a trial with finite values, in the user's direction."""
        handle = self._pending.pop(trial)
        for index, violation in enumerate(violations):
            handle.set_constraint(str(index), violation)
        self.study.tell(handle, self.objective.minimized(values))

    def end_as_worst(self, trial: int) -> None:
        """End a trial as worse than all others."""
        handle = self._pending.pop(trial)
        # Without a value, Optuna ranks by the constraints: none is violated more than this one.
        handle.set_constraint("failed", math.inf)
        self.study.tell(handle, state=optuna.trial.TrialState.PRUNED)

    def forget(self, trial: int) -> None:
        """End a trial as if it had never been."""
        self.study.tell(self._pending.pop(trial), state=optuna.trial.TrialState.FAIL)

    def promising(self, seed: int) -> Config:
        """Return the most promising config.

        It is drawn through a trial that is given up at once: the model does not see given-up
        trials, and ``add`` adds the config in the same way here and in a replay.
        """
        self.study.sampler = self._sampler(seed)
        draft = self.study.ask()
        try:
            return self._fill(draft)
        finally:
            self.study.tell(draft, state=optuna.trial.TrialState.FAIL)

    def _fill(self, draft: optuna.Trial) -> Config:
        config: Config = {}
        for name, parameter in self.space.parameters.items():
            if not self.space.is_active(name, config):
                continue
            if isinstance(parameter, Constant):
                config[name] = parameter.value
            else:
                config[name] = self.parameters[name].suggest(draft)
        return config

    def _sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(
                n_startup_trials=0,
                n_ei_candidates=self.candidates,
                seed=seed,
                multivariate=self.multivariate,
                group=self.multivariate and self._conditional,
                constant_liar=self.constant_liar,
            )


@dataclass(frozen=True)
class _Parameter:
    """One parameter as Optuna sees it.

    Attributes:
        name: Of the parameter.
        axis: Codes its values on the unit interval.
        distribution: Over the index of the value when there are ``cells``; else over the unit
            interval if it is one of floats, over the values themselves if it is one of whole
            numbers.
        cells: How many equally wide pieces of the unit interval stand for one value each, or 0.
    """

    name: str
    axis: Axis
    distribution: optuna.distributions.BaseDistribution
    cells: int = 0

    def encode(self, value: Any) -> float | int:
        """Return the value as Optuna knows it."""
        if self.cells:
            return min(int(self.axis.encode(value) * self.cells), self.cells - 1)
        if isinstance(self.distribution, IntDistribution):
            return int(value)
        return float(self.axis.encode(value))

    def suggest(self, draft: optuna.Trial) -> Any:
        """Return a value for the parameter."""
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            index = draft.suggest_categorical(self.name, d.choices)
            return self.axis.decode((index + 0.5) / self.cells)
        if isinstance(d, FloatDistribution):
            return self.axis.decode(draft.suggest_float(self.name, d.low, d.high))
        number = draft.suggest_int(self.name, d.low, d.high, log=d.log)
        return self.axis.decode((number + 0.5) / self.cells) if self.cells else number


def _parameter(name: str, axis: Axis) -> _Parameter:
    if isinstance(axis, Choice) and not isinstance(axis, Ordinal):
        return _Parameter(name, axis, CategoricalDistribution(range(axis.size)), axis.size)
    if isinstance(axis, Int) and axis.log and not (axis.prior or axis.step):
        return _Parameter(name, axis, IntDistribution(axis.low, axis.high, log=True))
    even = isinstance(axis, Ordinal) or not (axis.prior or axis.log)
    if even and axis.size is not None and axis.size <= _MOST_CELLS:
        return _Parameter(name, axis, IntDistribution(0, axis.size - 1), axis.size)
    return _Parameter(name, axis, FloatDistribution(0.0, 1.0))


def _new_study(goals: int) -> optuna.Study:
    """Return a study in memory, without Optuna's note on it."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study(directions=["minimize"] * goals, sampler=_IDLE)
    finally:
        optuna.logging.set_verbosity(verbosity)


_IDLE = optuna.samplers.RandomSampler(seed=0)
"""In place while nothing is sampled, as every parameter is given."""
