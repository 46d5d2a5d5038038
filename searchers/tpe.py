"""Tree-structured Parzen estimators, computed by Optuna."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from raytune_hpo.axes import Axis, Choice, Constant, Int, Ordinal
from raytune_hpo.errors import Problem, SpecError
from raytune_hpo.objective import Objective
from raytune_hpo.searchers.untried import UntriedSearcher
from raytune_hpo.space import SearchSpace
from raytune_hpo.trial import Config, Outcome, TrialState

_MOST_CELLS = 10_000
"""Parameters with more values are modelled as continuous."""


class TpeSearcher(UntriedSearcher):
    """Proposes configs that are likely among the good trials and unlikely among the others.

    A value counts whatever the state it came with, so pruned trials teach too; a trial that was
    stopped without a value teaches nothing. Pending trials count among the others. In a finite
    space no config is proposed twice.

    Args:
        space: What to search; priors shape the first proposals and the scale of the later ones.
        objective: One goal or several, with or without constraints.
        seed: Each proposal draws from its own generator, seeded by this and the trial's number.
        startup_trials: Proposals are random until so many trials have ended with a value.
        candidates: Configs drawn for each proposal, of which the most promising is taken.
        multivariate: Model parameters jointly; None does so for one goal only, as Optuna does.
        constant_liar: Keep away from the configs of pending trials.
        failures: ``avoid`` ranks failed trials as worse than all others; ``ignore`` forgets them,
            for failures that have nothing to do with the config.

    Raises:
        SpecError: When a setting is out of range.

    Source: Bergstra et al. 2011, Algorithms for Hyper-Parameter Optimization; Watanabe 2023,
    arXiv:2304.11127; Ozaki et al. 2022, doi:10.1613/jair.1.13188 (several goals).

    Example:
        >>> from raytune_hpo.objective import Objective
        >>> from raytune_hpo.space import Float, SearchSpace
        >>> searcher = TpeSearcher(SearchSpace({"x": Float(0, 1)}), Objective.of("loss"), seed=1)
        >>> for trial in range(30):
        ...     loss = searcher.suggest(trial)["x"] ** 2
        ...     searcher.observe(trial, Outcome(TrialState.COMPLETED, (loss,)))
        >>> min(config["x"] for config, _ in searcher.trials.values()) < 0.05
        True
    """

    def __init__(
        self,
        space: SearchSpace,
        objective: Objective,
        seed: int,
        *,
        startup_trials: int = 10,
        candidates: int = 24,
        multivariate: bool | None = None,
        constant_liar: bool = True,
        failures: Literal["avoid", "ignore"] = "avoid",
    ) -> None:
        super().__init__(space, objective, seed)
        _check_at_least_one(startup_trials=startup_trials, candidates=candidates)
        self.startup_trials = startup_trials
        self.candidates = candidates
        self.multivariate = not objective.multi if multivariate is None else multivariate
        self.constant_liar = constant_liar
        self.failures = failures
        self._modelled = {name: _parameter(name, axis) for name, axis in space.axes.items()}
        self._conditional = any(p.when is not None for p in space.parameters.values())
        self._study = _new_study(len(objective.goals))
        self._handles: dict[int, optuna.Trial] = {}
        self._with_value = 0

    def propose(self, trial: int) -> Config | None:
        """Return the most promising config, or a random one in the beginning."""
        rng = self.random(trial)
        if self.exhausted:
            return None
        if self._with_value < self.startup_trials or not self._modelled:
            return self.untried(lambda: self.space.sample(rng), rng)
        config = self._promising(int(rng.integers(2**32)))
        if not self.tried(config):
            return config
        return self.untried(lambda: self._neighbour(config, rng), rng)

    def adopt(self, trial: int, config: Config) -> None:
        """Keep a config as pending."""
        super().adopt(trial, config)
        given = {name: self._modelled[name].encode(config[name]) for name in self._active(config)}
        self._study.enqueue_trial(given)
        self._study.sampler = _IDLE
        self._handles[trial] = self._study.ask({n: self._modelled[n].distribution for n in given})

    def observe(self, trial: int, outcome: Outcome) -> None:
        """Keep the outcome of a trial."""
        super().observe(trial, outcome)
        handle = self._handles.pop(trial)
        if outcome.values is not None and all(map(math.isfinite, outcome.values)):
            self._with_value += 1
            for index, violation in enumerate(outcome.violations):
                handle.set_constraint(str(index), violation)
            self._study.tell(handle, self.objective.minimized(outcome.values))
        elif outcome.state is TrialState.FAILED and self.failures == "avoid":
            # Without a value, Optuna ranks by the constraints: none is violated more than this one.
            handle.set_constraint("failed", math.inf)
            self._study.tell(handle, state=optuna.trial.TrialState.PRUNED)
        else:
            self._study.tell(handle, state=optuna.trial.TrialState.FAIL)

    def _active(self, config: Config) -> list[str]:
        return [name for name in self._modelled if name in config]

    def _promising(self, seed: int) -> Config:
        """Return a config from the model.

        It is drawn through a trial that is given up at once: the model does not see given-up
        trials, and ``adopt`` adds the config in the same way here and in a replay.
        """
        self._study.sampler = self._sampler(seed)
        draft = self._study.ask()
        try:
            return self._fill(draft)
        finally:
            self._study.tell(draft, state=optuna.trial.TrialState.FAIL)

    def _fill(self, draft: optuna.Trial) -> Config:
        config: Config = {}
        for name, parameter in self.space.parameters.items():
            if not self.space.is_active(name, config):
                continue
            if isinstance(parameter, Constant):
                config[name] = parameter.value
            else:
                config[name] = self._modelled[name].suggest(draft)
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

    def _neighbour(self, config: Config, rng: np.random.Generator) -> Config:
        """Return a config that differs in one parameter, and in those that depend on it."""
        u = self.space.encode(config)
        u = np.where(np.isnan(u), rng.random(len(u)), u)
        changed = self._active(config)[int(rng.integers(len(self._active(config))))]
        u[self.space.dimensions.index(changed)] = rng.random()
        return self.space.decode(u)


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


def _check_at_least_one(**settings: int) -> None:
    problems = [
        Problem(f"search.settings.{name}", f"must be at least 1, not {number!r}")
        for name, number in settings.items()
        if number < 1
    ]
    if problems:
        raise SpecError(problems)


_IDLE = optuna.samplers.RandomSampler(seed=0)
"""In place while nothing is sampled, as every parameter is given."""
