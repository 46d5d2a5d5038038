"""Synchronous successive halving."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Mapping, Sequence

from raytune_hpo.errors import Problem, SpecError
from raytune_hpo.objective import Objective
from raytune_hpo.schedulers.base import Decision, Drop, Move, Resume
from raytune_hpo.schedulers.halving import (
    SETTINGS,
    entry_of,
    ranked,
    used_by,
    wrong_counts,
    wrong_numbers,
)
from raytune_hpo.space import SearchSpace
from raytune_hpo.standing import FAILED, Standing, standing
from raytune_hpo.trial import Config, Outcome, Result, TrialState


class Bracket:
    """Trials that are compared with one another at each rung, once all of them are there.

    Of n members at a rung the best ``max(1, floor(n / reduction_factor))`` are the members at the
    next one; of failed ones none is.

    Args:
        number: Of the bracket, from 0.
        size: Trials that it takes; lowered to the trials that it has to close it.
        levels: Where the rungs stand, in ascending order; above the last one nobody is cut.
        reduction_factor: Of so many trials one passes a rung.
        several_goals: Rank by non-dominated front and crowding distance.

    Attributes:
        members: Trials that have not been cut, the best at the last rung first.
        index: The rung that they are to be compared at next.
    """

    def __init__(
        self,
        number: int,
        size: int,
        levels: Sequence[float],
        reduction_factor: float,
        *,
        several_goals: bool,
    ) -> None:
        self.number = number
        self.size = size
        self.levels = levels
        self.members: list[int] = []
        self.index = 0
        self._reduction_factor = reduction_factor
        self._several_goals = several_goals
        self._entries: list[dict[int, Standing]] = [{} for _ in levels]

    @property
    def full(self) -> bool:
        """Whether no trial is to come any more."""
        return self.index > 0 or len(self.members) >= self.size

    def enter(self, trial: int, rungs: int, entry: Standing) -> bool:
        """Take in a trial's entry at each of the lowest rungs where it has none yet.

        Returns:
            Whether there was such a rung.
        """
        new = [entries for entries in self._entries[:rungs] if trial not in entries]
        for entries in new:
            entries[trial] = entry
        self.advance()
        return bool(new)

    def close(self) -> None:
        """Take no more trials."""
        self.size = min(self.size, len(self.members))
        self.advance()

    def closed(self) -> Bracket:
        """Return what the bracket would be if it took no more trials."""
        bracket = copy.copy(self)
        bracket.close()
        return bracket

    def advance(self) -> None:
        """Cut the members at each rung where all of them are."""
        while self.full and self.index < len(self.levels):
            entries = self._entries[self.index]
            if not entries.keys() >= set(self.members):
                return
            self.members = self._passing({trial: entries[trial] for trial in self.members})
            self.index += 1

    def fate(self, trial: int) -> Decision:
        """Return what a trial is to do: go on, wait for others, or be cut short."""
        if trial not in self.members:
            return Decision.STOP
        if self.index == len(self.levels) or trial not in self._entries[self.index]:
            return Decision.CONTINUE
        return Decision.PAUSE

    def _passing(self, entries: Mapping[int, Standing]) -> list[int]:
        count = max(1, math.floor(len(entries) / self._reduction_factor))
        best = ranked(entries, several_goals=self._several_goals)[:count]
        return [trial for _, trial in best if entries[trial] != FAILED]


class SynchronousHalving(ABC):
    """Fills brackets with trials in their order, one bracket after the other.

    A bracket's trials are paused at each rung until all of them are there or have ended. Then the
    best go on and the others are dropped. Meanwhile trials of the next bracket start. When no more
    trials follow, the last bracket is decided with those that it has.

    A trial that ends by itself stands with its last value at all rungs that it did not reach; one
    that ends otherwise is the worst there.
    """

    def __init__(
        self,
        objective: Objective,
        resource: str | None,
        max_resource: float | None,
        reduction_factor: float,
    ) -> None:
        self.objective = objective
        self.resource = resource
        self.max_resource = max_resource
        self.reduction_factor = reduction_factor
        self._last: Bracket | None = None
        self._brackets: dict[int, Bracket] = {}
        self._waiting: set[int] = set()

    @abstractmethod
    def shape(self, number: int) -> tuple[int, Sequence[float]]:
        """Return how many trials a bracket takes, and where its rungs stand.

        Args:
            number: Of the bracket, from 0.
        """

    def on_trial(self, trial: int, config: Config, parent: int | None) -> None:
        """Assign the trial to the bracket that is being filled."""
        if self._last is None or self._last.full:
            number = 0 if self._last is None else self._last.number + 1
            several = self.objective.multi
            shape = self.shape(number)
            self._last = Bracket(number, *shape, self.reduction_factor, several_goals=several)
        self._last.members.append(trial)
        self._brackets[trial] = self._last

    def on_result(self, result: Result) -> Decision:
        """Let the trial wait at a rung that this report reaches first, or decide there.

        Raises:
            BadMetric: The metric named by ``resource`` was not reported as a number.
        """
        used = used_by(result, self.resource)
        bracket = self._brackets[result.trial]
        if result.trial in self._waiting:
            # It was resumed: the bracket has been decided.
            self._waiting.remove(result.trial)
            bracket.close()
        rungs = bisect_right(bracket.levels, used)
        new = bracket.enter(result.trial, rungs, entry_of(self.objective, result))
        if self.max_resource is not None and used >= self.max_resource:
            return Decision.COMPLETE
        decision = bracket.fate(result.trial) if new else Decision.CONTINUE
        if decision is Decision.PAUSE:
            self._waiting.add(result.trial)
        return decision
