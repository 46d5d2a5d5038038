"""The protocol of a searcher, and the base class the built-in ones share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

import numpy as np

from raytune_hpo.objective import Objective
from raytune_hpo.space import SearchSpace
from raytune_hpo.trial import Config, Outcome, TrialState


class Searcher(Protocol):
    """Proposes configs. It is built with ``(space, objective, seed, **settings)``.

    The order of calls: ``suggest`` or ``adopt`` makes a trial pending; ``observe`` ends it. The
    same seed and the same order of calls give the same suggestions, bit for bit.
    """

    def suggest(self, trial: int) -> Config | None:
        """Return the config of a new trial, or None when the space is exhausted."""

    def adopt(self, trial: int, config: Config) -> None:
        """Take note of a pending trial whose config came from elsewhere.

        That is: a point the user wants evaluated first, a trial of an earlier run (warm start),
        or a suggestion of this searcher's own that is replayed from the journal.
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
        trials: Config and outcome of every trial, in the order they became known; the outcome is
            None while the trial is pending. The order in which trials ended is not kept.
    """

    def __init__(self, space: SearchSpace, objective: Objective, seed: int) -> None:
        self.space = space
        self.objective = objective
        self.seed = seed
        self.trials: dict[int, tuple[Config, Outcome | None]] = {}

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

        A pure function of ``space``, ``objective``, ``seed``, ``trials`` and ``trial``.
        """

    def adopt(self, trial: int, config: Config) -> None:
        """Keep a config as pending."""
        self.trials[trial] = (config, None)

    def observe(self, trial: int, outcome: Outcome) -> None:
        """Keep the outcome of a trial."""
        self.trials[trial] = (self.trials[trial][0], outcome)

    def state(self) -> dict[str, Any]:
        """Return the table as JSON values."""
        return {
            "trials": [
                [number, config, None if outcome is None else _to_json(outcome)]
                for number, (config, outcome) in self.trials.items()
            ]
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Rebuild the table by replaying it."""
        for number, config, outcome in state["trials"]:
            self.adopt(number, config)
            if outcome is not None:
                self.observe(number, _from_json(outcome))


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
