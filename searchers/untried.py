"""What searchers share that do not propose a config twice."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from raytune_hpo.objective import Objective
from raytune_hpo.searchers.base import TableSearcher
from raytune_hpo.space import SearchSpace
from raytune_hpo.trial import Config

REDRAWS = 20
"""How often a random config is drawn again before the untried ones are listed."""
LISTED = 100_000
"""Spaces with more configs than this are never listed."""


class UntriedSearcher(TableSearcher):
    """A searcher that looks whether a config is in the table already.

    Attributes:
        cardinality: Configs in the space, or None for infinitely many.
    """

    def __init__(self, space: SearchSpace, objective: Objective, seed: int) -> None:
        super().__init__(space, objective, seed)
        self.cardinality = space.cardinality
        self._tried: set[str] = set()

    @property
    def exhausted(self) -> bool:
        """Whether every config of the space is in the table."""
        return self.cardinality is not None and len(self._tried) >= self.cardinality

    def tried(self, config: Config) -> bool:
        """Return whether a config is in the table."""
        return config_key(config) in self._tried

    def adopt(self, trial: int, config: Config) -> None:
        """Keep a config as pending."""
        super().adopt(trial, config)
        self._tried.add(config_key(config))

    def untried(self, draw: Callable[[], Config], rng: np.random.Generator) -> Config | None:
        """Return a drawn config that is not in the table.

        Args:
            draw: Gives a random config at each call.
            rng: Chooses from the untried ones of a small space when drawing finds none.

        Returns:
            None when every config was tried; one that was tried already if the space is too large
            to be listed and draw gave only such.
        """
        if self.exhausted:
            return None
        for _ in range(REDRAWS):
            config = draw()
            if not self.tried(config):
                return config
        if self.cardinality is None or self.cardinality > LISTED:
            return config
        left = [c for c in self.space.grid() if not self.tried(c)]
        return left[int(rng.integers(len(left)))] if left else None

    def neighbour(self, config: Config, rng: np.random.Generator) -> Config:
        """Return a config that differs in one parameter, and in those that depend on it."""
        active = [name for name in self.space.dimensions if name in config]
        u = self.space.encode(config)
        u = np.where(np.isnan(u), rng.random(len(u)), u)
        changed = active[int(rng.integers(len(active)))]
        u[self.space.dimensions.index(changed)] = rng.random()
        return self.space.decode(u)


class SequenceSearcher(UntriedSearcher):
    """Proposes the first config of a fixed sequence that is not in the table.

    So a config that came from elsewhere is not proposed again, and it makes no difference whether a
    config of the sequence was proposed or replayed. Subclasses define ``sequence``.
    """

    def __init__(self, space: SearchSpace, objective: Objective, seed: int) -> None:
        super().__init__(space, objective, seed)
        self._rest: Iterator[Config] | None = None
        self._next: Config | None = None

    @abstractmethod
    def sequence(self) -> Iterable[Config]:
        """Return the configs in their order; the same for the same space and seed."""

    def propose(self, trial: int) -> Config | None:
        """Return the first config of the sequence that is not in the table."""
        if self.exhausted:
            return None
        if self._rest is None:
            self._rest = iter(self.sequence())
            self._next = next(self._rest, None)
        while self._next is not None and self.tried(self._next):
            self._next = next(self._rest, None)
        return None if self._next is None else dict(self._next)


def config_key(config: Config) -> str:
    """Return a text that is the same for equal configs only."""
    return json.dumps(config, sort_keys=True)
