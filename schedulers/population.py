"""A population of trials that learn from one another: what all such schedulers share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from raytune_hpo.errors import Problem, SpecError, did_you_mean
from raytune_hpo.objective import BadMetric, Objective
from raytune_hpo.schedulers.base import Decision, Drop, Fork, Move, Resume
from raytune_hpo.schedulers.halving import SETTINGS, entry_of, used_by, wrong_numbers
from raytune_hpo.space import SearchSpace
from raytune_hpo.standing import Standing
from raytune_hpo.trial import Config, FailureKind, Outcome, Result, TrialState

_FAILURES_IN_A_ROW = 3
"""So many members that fail before their next interval are replaced one after the other."""
_NO_CHECKPOINT = (
    "{} needs checkpoints, and trial {} has used {:g} without any: "
    "call report(..., checkpoint=path) at least once every interval, "
    "and go on from get_checkpoint()"
)


@dataclass
class Member:
    """A trial of the population.

    Attributes:
        config: What it runs with.
        born: Interval at whose end it began.
        inherited: How good its parent was there; None without a parent.
        passed: Intervals at whose end it has been so far, its ancestors' included.
        failures: Members in its place that failed in a row before their next interval.
        standings: How good it was at the end of each interval that it has passed by itself.
        alive: Whether it has not ended.
    """

    config: Config
    born: int = 0
    inherited: Standing | None = None
    passed: int = 0
    failures: int = 0
    standings: dict[int, Standing] = field(default_factory=dict)
    alive: bool = True

    def standing_at(self, interval: int) -> Standing | None:
        """Return how good it was last up to an interval's end; None before its birth."""
        own = [passed for passed in self.standings if passed <= interval]
        if own:
            return self.standings[max(own)]
        return self.inherited if self.born < interval else None


class Place(NamedTuple):
    """A place in the population that a fork is to take.

    Attributes:
        trial: That had it before.
        interval: Of the comparison that the new parent is to be good in.
        failures: As in ``Member``.
    """

    trial: int
    interval: int
    failures: int


class Population(ABC):
    """The exploit step of population-based training; a subclass gives the explore step.

    The searcher's trials are the population. At the end of each interval of the resource a member
    is compared with the others. If it is in the bottom quantile it ends, and a fork of a random
    member of the top quantile takes its place, with an explored config. A member that fails is
    replaced likewise. Each member is paused at the end of its first interval until all have
    started, so there may be fewer workers than members. From then on nobody gets further than an
    interval ahead of the others, or not at all when it is synchronous.

    Members are compared by what they had at the same interval's end, those that are not there yet
    by their latest value, and those that were forked and not heard of since by their parent's.

    Args:
        space: That configs belong to.
        objective: Has to have one goal.
        seed: Each fork draws from its own generator, seeded by this and the trial it replaces.
        interval: Of the resource, between two comparisons.
        resource: Metric that counts what a trial has used; None counts reports.
        burn_in: Nobody is replaced before.
        quantile: Share of the population at the bottom, and at the top; at least one member.
        max_resource: Trials are complete here; None leaves their end to them.
        synchronous: All wait for one another at the end of each interval.
        fixed: Parameters that a fork keeps from its parent.

    Raises:
        SpecError: When settings are out of range or the objective has several goals.
    """

    name: str
    """Of the algorithm, in the experiment file."""

    def __init__(
        self,
        space: SearchSpace,
        objective: Objective,
        seed: int,
        *,
        interval: float,
        resource: str | None,
        burn_in: float,
        quantile: float,
        max_resource: float | None,
        synchronous: bool,
        fixed: Collection[str],
    ) -> None:
        self.space = space
        self.objective = objective
        self.seed = seed
        self.interval = interval
        self.resource = resource
        self.burn_in = burn_in
        self.quantile = quantile
        self.max_resource = max_resource
        self.synchronous = synchronous
        self.fixed = fixed
        problems = self._problems()
        if problems:
            raise SpecError(problems)
        self.members: dict[int, Member] = {}
        self._free: list[Place] = []
        self._planned: Fork | None = None

    @abstractmethod
    def explored(self, parent: int, interval: int, rng: np.random.Generator) -> Config:
        """Return the config of a fork; changes nothing.

        Args:
            parent: Trial that it goes on from.
            interval: After whose end it does.
            rng: To draw from.
        """

    def on_trial(self, trial: int, config: Config, parent: int | None) -> None:
        """Take in a new member; a fork takes the place that has been free for longest."""
        self._planned = None
        if parent is None:
            self.members[trial] = Member(config)
            return
        place = self._free.pop(0)
        source = self.members[parent]
        self.members[trial] = Member(
            config,
            born=source.passed,
            inherited=source.standing_at(source.passed),
            passed=source.passed,
            failures=place.failures,
        )

    def on_result(self, result: Result) -> Decision:
        """Compare the trial with the others if it is the first time at the end of an interval.

        Raises:
            BadMetric: The trial has no checkpoint there, or the metric named by ``resource`` was
                not reported as a number.
        """
        self._planned = None
        used = used_by(result, self.resource)
        if self.max_resource is not None and used >= self.max_resource:
            return Decision.COMPLETE
        member = self.members[result.trial]
        # Sums such as 0.1 + 0.2 count as what they are meant to be.
        passed = math.floor(used / self.interval + 1e-9)
        if passed <= member.passed:
            return Decision.CONTINUE
        if not result.checkpoint:
            text = _NO_CHECKPOINT.format(self.name, result.trial, used)
            raise BadMetric(FailureKind.NO_CHECKPOINT, text)
        is_first = member.passed == 0
        member.passed = passed
        member.standings[passed] = entry_of(self.objective, result)
        if is_first or self._ahead(member):
            return Decision.PAUSE
        return Decision.STOP if self._replaceable(result.trial) else Decision.CONTINUE

    def on_end(self, trial: int, outcome: Outcome) -> None:
        """Free the trial's place if it was replaceable or failed."""
        self._planned = None
        member = self.members[trial]
        member.alive = False
        if outcome.state is TrialState.PRUNED:
            self._free.append(Place(trial, member.passed, 0))
        elif outcome.state is TrialState.FAILED:
            failures = 0 if member.standings else member.failures + 1
            if failures <= _FAILURES_IN_A_ROW:
                self._free.append(Place(trial, member.passed + 1, failures))

    def next_move(self, paused: Sequence[int], *, more: bool) -> Move | None:
        """Return the fork for a free place; else drop who is replaceable, or resume the slowest.

        While there are more of the searcher's trials they come first.
        """
        if self._free and self._planned is None:
            # A fork may have to wait, and be asked for many times until it can start.
            self._planned = self._fork(self._free[0])
        if self._planned is not None or more:
            return self._planned
        order = sorted(paused, key=lambda trial: (self.members[trial].passed, trial))
        ready = [trial for trial in order if not self._ahead(self.members[trial])]
        # Those who go on overwrite what forks are to begin with, so they are last.
        for trial in ready:
            if self._replaceable(trial):
                return Drop(trial)
        return Resume(ready[0]) if ready else None

    def _fork(self, place: Place) -> Fork | None:
        """Return the fork that takes a place, or None while there is no parent for it."""
        parents = self._parents(place.interval)
        if not parents:
            return None
        rng = np.random.default_rng([self.seed, place.trial])
        parent = parents[int(rng.integers(len(parents)))]
        return Fork(parent, self.explored(parent, self.members[parent].passed, rng))

    def _alive(self) -> list[Member]:
        return [member for member in self.members.values() if member.alive]

    def _ahead(self, member: Member) -> bool:
        """Return whether a member has to wait for others before it goes on."""
        slowest = min(other.passed for other in self._alive())
        return member.passed - slowest > (0 if self.synchronous else 1)

    def _replaceable(self, trial: int) -> bool:
        """Return whether a member is in the bottom quantile and a parent is better."""
        interval = self.members[trial].passed
        if interval * self.interval < self.burn_in:
            return False
        if any(member.passed == 0 for member in self._alive()):
            return False
        ranked = self._ranked(interval)
        bottom = ranked[len(ranked) - self._share(len(ranked)) :]
        parents = self._able(ranked)
        own = next((at for at, other in bottom if other == trial), None)
        return own is not None and any(at < own for at, _ in parents)

    def _parents(self, interval: int) -> list[int]:
        """Return the trials that may be forked after a comparison, the best first."""
        return [trial for _, trial in self._able(self._ranked(interval))]

    def _able(self, ranked: Sequence[tuple[Standing, int]]) -> list[tuple[Standing, int]]:
        """Return the living members of the top quantile that have run an interval themselves."""
        able = [
            (at, trial)
            for at, trial in ranked
            if self.members[trial].alive and self.members[trial].standings
        ]
        return able[: max(1, self._share(len(ranked)))]

    def _share(self, count: int) -> int:
        """Return the size of a quantile: never none, unless top and bottom would overlap."""
        return min(max(1, math.floor(self.quantile * count + 1e-9)), count // 2)

    def _ranked(self, interval: int) -> list[tuple[Standing, int]]:
        """Return the trials to be compared at the end of an interval, the best first.

        Those that were there count whatever became of them, so that who was dropped does not push
        another one into the bottom quantile.
        """
        found = []
        for trial, member in self.members.items():
            at = member.standing_at(interval)
            if at is not None and (member.alive or interval in member.standings):
                found.append((at, trial))
        return sorted(found)

    def _problems(self) -> list[Problem]:
        """Return what is wrong with the settings."""
        problems = []
        if self.objective.multi:
            text = f"{self.name} ranks trials by one goal; use scheduler none for several goals"
            problems.append(Problem("scheduler.algorithm", text))
        problems += wrong_numbers(interval=self.interval, max_resource=self.max_resource)
        if not 0 <= self.burn_in < math.inf:
            text = f"must be a number from 0 on, not {self.burn_in!r}"
            problems.append(Problem(SETTINGS + "burn_in", text))
        if not 0 < self.quantile <= 0.5:
            text = f"must be above 0 and at most 0.5, not {self.quantile!r}"
            problems.append(Problem(SETTINGS + "quantile", text))
        return problems + self._fixed_problems()

    def _fixed_problems(self) -> list[Problem]:
        if isinstance(self.fixed, str) or not isinstance(self.fixed, Collection):
            text = f"must be a list of parameters, not {self.fixed!r}"
            return [Problem(SETTINGS + "fixed", text)]
        return [
            Problem(
                SETTINGS + "fixed",
                f"'{name}' is no parameter{did_you_mean(str(name), self.space.parameters)}",
            )
            for name in self.fixed
            if name not in self.space.parameters
        ]


def share_problem(name: str, share: float) -> list[Problem]:
    """Return the problem that a setting is no share from 0 to 1, or none."""
    if 0 <= share <= 1:
        return []
    return [Problem(SETTINGS + name, f"must be from 0 to 1, not {share!r}")]
