"""Successive halving whose trials wait for one another: the base of sha and hyperband."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raytune_hpo.objective import Objective
from raytune_hpo.schedulers.base import Decision, Drop, Move, Resume
from raytune_hpo.schedulers.halving import (
    entry_of,
    ranked,
    stands,
    used_by,
)
from raytune_hpo.standing import FAILED, Standing, standing
from raytune_hpo.trial import Config, Outcome, Result, TrialState


class Bracket:
    """Trials that are compared with one another at each rung, once all of them are there.

    Of n members at a rung the best ``max(1, floor(n / reduction_factor))`` are the members at the
    next one, but none that failed.

    Args:
        number: From 0.
        size: Trials that it takes.
        levels: Where the rungs stand, in ascending order; beyond the last one nobody is cut.
        reduction_factor: Of so many trials one passes a rung.
        several_goals: Rank by non-dominated front and crowding distance.

    Attributes:
        due: What is to be done with the trials that wait and have been decided on, in this order.
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
        self.levels = levels
        self.due: dict[int, Drop | Resume] = {}
        # Those that have not been cut, the best at the last rung first; the keys alone matter.
        self._members: dict[int, None] = {}
        self._waiting: set[int] = set()
        self._index = 0
        self._size = size
        self._reduction_factor = reduction_factor
        self._several_goals = several_goals
        self._entries: list[dict[int, Standing]] = [{} for _ in levels]

    @property
    def full(self) -> bool:
        """Whether it takes no more trials."""
        return self._index > 0 or len(self._members) >= self._size

    def add(self, trial: int) -> None:
        """Take in a new trial."""
        self._members[trial] = None

    def enter(self, trial: int, rungs: range, entry: Standing) -> None:
        """Take in a trial's entry at some rungs."""
        for index in rungs:
            self._entries[index][trial] = entry
        self._advance()

    def wait(self, trial: int) -> None:
        """Take note that a trial was paused."""
        self._waiting.add(trial)

    def leave(self, trial: int) -> None:
        """Take note that a trial that was paused goes on or has ended."""
        self._waiting.remove(trial)
        self.due.pop(trial, None)

    def close(self) -> None:
        """Take no more trials."""
        if not self.full:
            self._size = len(self._members)
            self._advance()

    def closed(self) -> Bracket:
        """Return what it would be if it took no more trials."""
        bracket = copy.copy(self)
        bracket.close()
        return bracket

    def fate(self, trial: int) -> Decision:
        """Return what a trial is to do: go on, wait for others, or be cut short."""
        if trial not in self._members:
            return Decision.STOP
        if self._index == len(self.levels) or trial not in self._entries[self._index]:
            return Decision.CONTINUE
        return Decision.PAUSE

    def _advance(self) -> None:
        """Cut the members at each rung where all of them are."""
        before = self._index
        while self.full and self._index < len(self.levels):
            there = self._entries[self._index]
            if len(there) < len(self._members) or not there.keys() >= self._members.keys():
                break
            self._members = self._passing({trial: there[trial] for trial in self._members})
            self._index += 1
        if self._index > before:
            # Drops come first: they are what shows that a bracket with too few trials was decided.
            cut = sorted(self._waiting - self._members.keys())
            going = (trial for trial in self._members if trial in self._waiting)
            self.due = {trial: Drop(trial) for trial in cut}
            self.due |= {t: Resume(t) for t in going if self.fate(t) is Decision.CONTINUE}

    def _passing(self, entries: Mapping[int, Standing]) -> dict[int, None]:
        count = max(1, math.floor(len(entries) / self._reduction_factor))
        best = ranked(entries, several_goals=self._several_goals)[:count]
        return dict.fromkeys(trial for _, trial in best if entries[trial] != FAILED)


class SynchronousHalving(ABC):
    """Fills brackets with trials in the order of their numbers, one bracket after the other.

    A bracket's trials wait, paused, at each rung until all of them are there or have ended. Then
    the best go on and the others are dropped. Meanwhile trials of the next bracket may start. When
    no more trials follow, the last bracket is decided with those that it has.

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
        self._deciding: dict[int, Bracket] = {}
        self._climbs: dict[int, _Climb] = {}

    @abstractmethod
    def shape(self, number: int) -> tuple[int, Sequence[float]]:
        """Return how many trials a bracket takes and where its rungs stand, in ascending order.

        Args:
            number: Of the bracket, from 0.
        """

    def on_trial(self, trial: int, config: Config, parent: int | None) -> None:
        """Assign the trial to the bracket that is being filled."""
        if self._last is None or self._last.full:
            self._last = self._bracket(0 if self._last is None else self._last.number + 1)
        self._last.add(trial)
        self._climbs[trial] = _Climb(self._last)

    def on_result(self, result: Result) -> Decision:
        """Let the trial wait if this report is the first at a rung or beyond.

        The last one of its bracket to come there goes on, or is stopped, at once.

        Raises:
            BadMetric: The metric named by ``resource`` was not reported as a number.
        """
        used = used_by(result, self.resource)
        climb = self._climbs[result.trial]
        bracket = climb.bracket
        if climb.waits:
            # It was resumed, so the bracket was decided with the trials that it had.
            climb.waits = False
            bracket.leave(result.trial)
            bracket.close()
        rungs = range(climb.reached, bisect_right(bracket.levels, used))
        if rungs:
            climb.reached = rungs.stop
            bracket.enter(result.trial, rungs, entry_of(self.objective, result))
        self._note(bracket)
        if self.max_resource is not None and used >= self.max_resource:
            return Decision.COMPLETE
        decision = bracket.fate(result.trial) if rungs else Decision.CONTINUE
        if decision is Decision.PAUSE:
            climb.waits = True
            bracket.wait(result.trial)
        return decision

    def on_end(self, trial: int, outcome: Outcome) -> None:
        """Enter the trial at all rungs that it did not reach, so that nobody waits for it."""
        climb = self._climbs.pop(trial)
        if climb.waits:
            climb.bracket.leave(trial)
        if climb.waits and outcome.state is TrialState.PRUNED:
            # It was dropped, so the bracket was decided with the trials that it had.
            climb.bracket.close()
        ended_itself = outcome.state is TrialState.COMPLETED
        entry = standing(self.objective, outcome) if ended_itself else None
        rungs = range(climb.reached, len(climb.bracket.levels))
        climb.bracket.enter(trial, rungs, entry or FAILED)
        self._note(climb.bracket)

    def next_move(self, paused: Sequence[int], *, more: bool) -> Move | None:
        """Return what is due in the oldest bracket: its drops, then its promotions, best first."""
        brackets = [self._deciding[number] for number in sorted(self._deciding)]
        if not more and self._last is not None:
            brackets.append(self._last.closed())
        due = (move for bracket in brackets for move in bracket.due.values())
        return next((move for move in due if stands(move.trial, paused)), None)

    def _note(self, bracket: Bracket) -> None:
        """Keep a bracket in mind while something is due in it."""
        if bracket.due:
            self._deciding[bracket.number] = bracket
        else:
            self._deciding.pop(bracket.number, None)

    def _bracket(self, number: int) -> Bracket:
        size, levels = self.shape(number)
        several_goals = self.objective.multi
        return Bracket(number, size, levels, self.reduction_factor, several_goals=several_goals)


@dataclass
class _Climb:
    """How far a trial that has not ended has got.

    Attributes:
        bracket: That it belongs to.
        reached: Rungs of the bracket that it has reached.
        waits: It was paused at the last of them and has not reported since.
    """

    bracket: Bracket
    reached: int = 0
    waits: bool = False
