"""The protocol of a searcher, and the base class the built-in ones share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, ClassVar, Protocol

import numpy as np

from raytune_hpo.errors import Problem, SpecError
from raytune_hpo.objective import Objective
from raytune_hpo.space import SearchSpace
from raytune_hpo.trial import Config, Outcome, TrialState


class Searcher(Protocol):
    """Proposes configs. It is built with ``(space, objective, seed, **settings)``.

    The order of calls: ``suggest`` or ``adopt`` makes a trial pending; ``report`` may come while it
    is; ``observe`` ends it. The same seed and the same order of calls give the same suggestions,
    bit for bit.
    """

    def suggest(self, trial: int) -> Config | None:
        """Return the config of a new trial, or None when the space is exhausted."""

    def adopt(self, trial: int, config: Config) -> None:
        """Take note of a pending trial whose config came from elsewhere.

        That is: a point the user wants evaluated first, a trial of an earlier run (warm start),
        or a suggestion of this searcher's own that is replayed from the journal.
        """

    def report(
        self, trial: int, step: int, values: tuple[float, ...], violations: tuple[float, ...] = ()
    ) -> None:
        """Take note of an intermediate result.

        Args:
            trial: Number of a pending trial.
            step: Counts the trial's reports with an objective value, from 1. One may come again
                after a failed attempt.
            values: One finite number a goal, in the user's unit and direction.
            violations: One number a constraint: above 0 is violated.
        """

    def observe(self, trial: int, outcome: Outcome) -> None:
        """Take note of how a trial ended, failures included."""

    def state(self) -> dict[str, Any]:
        """Return all that is needed to go on, as JSON values."""

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what ``state`` returned; the next suggestion is what it would have been."""


class TableSearcher(ABC):
    """A searcher whose whole state is the table of its trials.

    Randomness is drawn from a generator seeded by (seed, number of the trial), so no random state
    has to be kept and a replay of the table goes on bit for bit. Subclasses define ``suggest``.

    Attributes:
        several_goals: Whether an objective may have more than one goal.
        constraints: Whether an objective may have constraints.
        trials: Config and outcome of every trial, in the order they became known; the outcome is
            None while the trial is pending.
        ended: Numbers of the trials that have ended, in that order.
    """

    several_goals: ClassVar[bool] = True
    constraints: ClassVar[bool] = True

    def __init__(self, space: SearchSpace, objective: Objective, seed: int) -> None:
        self.space = space
        self.objective = objective
        self.seed = seed
        self.trials: dict[int, tuple[Config, Outcome | None]] = {}
        self.ended: list[int] = []

    def random(self, trial: int) -> np.random.Generator:
        """Return the generator of one trial, always the same for the same seed and number."""
        return np.random.default_rng([self.seed, trial])

    def suggest(self, trial: int) -> Config | None:
        """Return the config of a new trial and keep it as pending."""
        config = self.propose(trial)
        if config is not None:
            self.adopt(trial, config)
        return config

    @abstractmethod
    def propose(self, trial: int) -> Config | None:
        """Return the config of a new trial, or None when the space is exhausted.

        A pure function of ``space``, ``objective``, ``seed``, ``trials``, ``ended`` and ``trial``.
        """

    def adopt(self, trial: int, config: Config) -> None:
        """Keep a config as pending."""
        self.trials[trial] = (config, None)

    def report(  # noqa: B027 (most searchers look at outcomes only)
        self, trial: int, step: int, values: tuple[float, ...], violations: tuple[float, ...] = ()
    ) -> None:
        """Do nothing. A searcher that keeps reports adds them to its state."""

    def observe(self, trial: int, outcome: Outcome) -> None:
        """Keep the outcome of a trial, without values that are no finite numbers."""
        if outcome.values is not None and not all(map(math.isfinite, outcome.values)):
            outcome = replace(outcome, values=None)
        self.trials[trial] = (self.trials[trial][0], outcome)
        self.ended.append(trial)

    def state(self) -> dict[str, Any]:
        """Return the table as JSON values."""
        return {
            "trials": [
                [number, config, None if outcome is None else _to_json(outcome)]
                for number, (config, outcome) in self.trials.items()
            ],
            "ended": list(self.ended),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Rebuild the table by replaying it."""
        outcomes = {}
        for number, config, outcome in state["trials"]:
            self.adopt(number, config)
            outcomes[number] = outcome
        for number in state["ended"]:
            self.observe(number, _from_json(outcomes[number]))


def check_at_least_one(**settings: int) -> None:
    """Check settings by name.

    Raises:
        SpecError: Names each that is below 1.
    """
    problems = [
        Problem(f"search.settings.{name}", f"must be at least 1, not {number!r}")
        for name, number in settings.items()
        if number < 1
    ]
    if problems:
        raise SpecError(problems)


def _to_json(outcome: Outcome) -> dict[str, Any]:
    return {
        "state": outcome.state.value,
        "values": None if outcome.values is None else list(outcome.values),
        "violations": list(outcome.violations),
        "step": outcome.step,
    }


def _from_json(data: dict[str, Any]) -> Outcome:
    return Outcome(
        state=TrialState(data["state"]),
        values=None if data["values"] is None else tuple(data["values"]),
        violations=tuple(data["violations"]),
        step=data["step"],
    )
