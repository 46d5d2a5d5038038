"""Tree-structured Parzen estimators, computed by Hyperopt."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import hyperopt
import numpy as np
from hyperopt import hp, tpe

from raytune_hpo.axes import Axis, Choice, Ordinal
from raytune_hpo.errors import Problem, SpecError
from raytune_hpo.objective import Objective
from raytune_hpo.searchers.base import check_at_least_one
from raytune_hpo.searchers.untried import UntriedSearcher
from raytune_hpo.space import SearchSpace
from raytune_hpo.trial import Config, Outcome, TrialState

_MOST_CELLS = 10_000
"""Parameters with more values are modelled as continuous."""


class HyperoptSearcher(UntriedSearcher):
    """Proposes configs that are likely among the good trials and unlikely among the others.

    Each parameter is modelled by itself, over the trials that have it. A value counts whatever the
    state it came with; a trial that was stopped without a value teaches nothing. Pending trials
    count among the others. Trials that violate a constraint rank behind all that do not, by the sum
    of what they violate. In a finite space no config is proposed twice.

    Args:
        space: What to search; priors shape the first proposals and the scale of the later ones.
        objective: One goal, with or without constraints.
        seed: Each proposal draws from its own generator, seeded by this and the trial's number.
        startup_trials: Proposals are random until so many trials have ended with a value.
        candidates: Values drawn for each parameter, of which the most promising is taken.
        gamma: ``gamma * sqrt(n)`` of n trials count as good, and never more than 25.
        prior_weight: Of the prior among the trials; a trial weighs 1, or less when it is old.
        failures: ``avoid`` ranks failed trials as worse than all others; ``ignore`` forgets them,
            for failures that have nothing to do with the config.

    Raises:
        SpecError: When a setting is out of range.

    Source: Bergstra et al. 2011, Algorithms for Hyper-Parameter Optimization; Bergstra et al. 2013,
    Proceedings of Machine Learning Research 28, 115-123.

    Example:
        >>> from raytune_hpo.objective import Objective
        >>> from raytune_hpo.space import Float, SearchSpace
        >>> space = SearchSpace({"x": Float(0, 1)})
        >>> searcher = HyperoptSearcher(space, Objective.of("loss"), seed=1)
        >>> for trial in range(40):
        ...     loss = searcher.suggest(trial)["x"] ** 2
        ...     searcher.observe(trial, Outcome(TrialState.COMPLETED, (loss,)))
        >>> min(config["x"] for config, _ in searcher.trials.values()) < 0.05
        True
    """

    several_goals: ClassVar[bool] = False

    def __init__(
        self,
        space: SearchSpace,
        objective: Objective,
        seed: int,
        *,
        startup_trials: int = 20,
        candidates: int = 24,
        gamma: float = 0.25,
        prior_weight: float = 1.0,
        failures: Literal["avoid", "ignore"] = "avoid",
    ) -> None:
        super().__init__(space, objective, seed)
        check_at_least_one(startup_trials=startup_trials, candidates=candidates)
        _check_above_zero(gamma=gamma, prior_weight=prior_weight)
        self.startup_trials = startup_trials
        self.candidates = candidates
        self.gamma = gamma
        self.prior_weight = prior_weight
        self.failures = failures
        self._codes = {name: _code(axis) for name, axis in space.axes.items()}
        self._points: dict[int, dict[str, float]] = {}

    def propose(self, trial: int) -> Config | None:
        """Return the most promising config, or a random one in the beginning."""
        rng = self.random(trial)
        if self.exhausted:
            return None
        losses = self._losses()
        if len(losses) < self.startup_trials or not self._codes:
            return self.untried(lambda: self.space.sample(rng), rng)
        config = self._promising(trial, losses, int(rng.integers(2**32)))
        if not self.tried(config):
            return config
        return self.untried(lambda: self.neighbour(config, rng), rng)

    def adopt(self, trial: int, config: Config) -> None:
        """Keep a config as pending."""
        super().adopt(trial, config)
        self._points[trial] = {
            name: code.encode(config[name]) for name, code in self._codes.items() if name in config
        }

    @cached_property
    def _domain(self) -> hyperopt.Domain:
        """All parameters, without their conditions.

        Each parameter is drawn by itself, over the trials that have it, so nested choices would
        give it the same values.
        """
        return hyperopt.Domain(None, {name: code.node(name) for name, code in self._codes.items()})

    def _losses(self) -> dict[int, float]:
        """Return the rank of each trial that has a value, as only the order counts."""
        keys = {}
        for trial, (_, outcome) in self.trials.items():
            if outcome is not None and outcome.values is not None:
                violated = sum(v for v in outcome.violations if v > 0)
                keys[trial] = violated, *self.objective.minimized(outcome.values)
        ranks = {key: float(rank) for rank, key in enumerate(sorted(set(keys.values())))}
        return {trial: ranks[key] for trial, key in keys.items()}

    def _promising(self, trial: int, losses: dict[int, float], seed: int) -> Config:
        documents = [
            _document(number, self._points[number], list(self._codes), losses.get(number))
            for number, (_, outcome) in self.trials.items()
            if number in losses or self._counts_as_worst(outcome)
        ]
        (found,) = tpe.suggest(
            [trial],
            self._domain,
            hyperopt.trials_from_docs(documents, validate=False),
            seed,
            prior_weight=self.prior_weight,
            n_startup_jobs=0,
            n_EI_candidates=self.candidates,
            gamma=self.gamma,
            verbose=False,
        )
        values = found["misc"]["vals"]
        place = [self._codes[name].place(values[name][0]) for name in self.space.dimensions]
        return self.space.decode(np.array(place))

    def _counts_as_worst(self, outcome: Outcome | None) -> bool:
        """Return whether a trial without a value is pending, or failed and to be avoided."""
        if outcome is None:
            return True
        return outcome.state is TrialState.FAILED and self.failures == "avoid"


@dataclass(frozen=True)
class _Code:
    """One parameter as Hyperopt sees it.

    Attributes:
        axis: Codes its values on the unit interval.
        cells: How many equally wide pieces of the unit interval stand for one value each, or 0.
        ordered: Whether neighbouring values are alike.
    """

    axis: Axis
    cells: int = 0
    ordered: bool = True

    def node(self, name: str) -> Any:
        """Return Hyperopt's own description: indices of cells, or the unit interval."""
        if not self.cells:
            return hp.uniform(name, 0.0, 1.0)
        if not self.ordered:
            return hp.randint(name, self.cells)
        return hp.quniform(name, -0.5, self.cells - 0.5, 1.0)

    def encode(self, value: Any) -> float:
        """Return the value as Hyperopt knows it."""
        u = self.axis.encode(value)
        return min(int(u * self.cells), self.cells - 1) if self.cells else u

    def place(self, found: float) -> float:
        """Return the place on the unit interval of what Hyperopt gave."""
        return (float(found) + 0.5) / self.cells if self.cells else float(found)


def _code(axis: Axis) -> _Code:
    if isinstance(axis, Choice):
        return _Code(axis, axis.size, ordered=isinstance(axis, Ordinal))
    if axis.size is not None and axis.size <= _MOST_CELLS and not (axis.prior or axis.log):
        return _Code(axis, axis.size)
    return _Code(axis)


def _document(
    number: int, point: dict[str, float], names: list[str], loss: float | None
) -> dict[str, Any]:
    """Return a trial as Hyperopt keeps it; without a loss it ranks it as infinitely bad."""
    return {
        "tid": number,
        "state": hyperopt.JOB_STATE_DONE,
        "result": {} if loss is None else {"status": hyperopt.STATUS_OK, "loss": loss},
        "misc": {
            "tid": number,
            "idxs": {name: [number] if name in point else [] for name in names},
            "vals": {name: [point[name]] if name in point else [] for name in names},
        },
    }


def _check_above_zero(**settings: float) -> None:
    problems = [
        Problem(f"search.settings.{name}", f"must be above 0, not {number!r}")
        for name, number in settings.items()
        if not (number > 0 and math.isfinite(number))
    ]
    if problems:
        raise SpecError(problems)
