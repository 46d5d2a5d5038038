"""Asynchronous successive halving, in the form that stops trials and the one that promotes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from raytune_hpo.errors import Problem, SpecError
from raytune_hpo.objective import Objective
from raytune_hpo.schedulers.base import Decision, Move, Resume
from raytune_hpo.schedulers.halving import (
    SETTINGS,
    Rung,
    entry_of,
    stands,
    used_by,
    wrong_counts,
    wrong_numbers,
)
from raytune_hpo.space import SearchSpace
from raytune_hpo.standing import FAILED, standing
from raytune_hpo.trial import Config, Outcome, Result, TrialState

_GOLDEN = (math.sqrt(5) - 1) / 2


class Asha:
    """Lets the trials go on that are among the best ``1/reduction_factor`` at a rung.

    The rungs of bracket ``s`` stand at ``min_resource * reduction_factor ** (s + k)`` for
    k = 0, 1, ..., below ``max_resource``, where a trial is complete. The first report at or beyond
    a rung is the trial's entry there; a report that skips rungs is its entry in each of them.

    In the form that stops, a trial goes on when it is among the best
    ``max(1, floor(n / reduction_factor))`` of the n entries so far, its own included, or equal to
    one of them; so the first to reach a rung always goes on. The others are stopped for good.

    In the form that promotes, a trial goes on when it is among the best
    ``floor(n / reduction_factor)``, and is paused otherwise. Before a new trial starts, a paused
    one that has come among the best of its rung goes on, from the highest rung downwards. When no
    new trials follow and nothing runs any more in a bracket, the best at each rung counts as one
    of the best there even of fewer than ``reduction_factor`` entries.

    A trial that ends by itself enters the rung that it was heading for with its last value. One
    that fails is the worst there, and at all rungs before. Other entries stay whatever becomes of
    their trial. With several goals trials rank by front and crowding distance, and those that
    violate constraints behind all others.

    Args:
        objective: One goal or several, with or without constraints.
        form: ``stop``, ``promote``, or ``auto``, which promotes trials that have made a checkpoint
            when they reach the rung, and stops others: paused without one, they would begin anew.
        resource: The metric that counts what a trial has used, such as ``epoch``; None counts its
            reports with an objective value.
        min_resource: No trial is stopped or paused before.
        max_resource: Trials are complete here; None lets the best run to their own end.
        reduction_factor: Of so many trials about one passes a rung.
        brackets: Groups of trials; each begins one rung later than the one before and gets
            ``1/reduction_factor`` of its trials. More than 1 for curves that cross early.

    Raises:
        SpecError: When settings are out of range.

    Source: Li et al. 2020, arXiv:1810.05934, Algorithm 2; the form that stops has no pausing in it.

    Example:
        >>> from raytune_hpo.objective import Objective
        >>> from raytune_hpo.space import Float, SearchSpace
        >>> space = SearchSpace({"x": Float(0, 1)})
        >>> asha = Asha(space, Objective.of("loss", "min"), seed=1, max_resource=9)
        >>> for trial in range(3):
        ...     asha.on_trial(trial, {"x": 0.5}, None)
        >>> asha.on_result(Result(trial=0, step=1, values=(0.5,)))
        <Decision.CONTINUE: 'continue'>
        >>> asha.on_result(Result(trial=1, step=1, values=(0.7,)))
        <Decision.STOP: 'stop'>
        >>> asha.on_result(Result(trial=2, step=1, values=(0.6,), checkpoint=True))
        <Decision.PAUSE: 'pause'>
    """

    def __init__(
        self,
        space: SearchSpace,
        objective: Objective,
        seed: int,
        *,
        form: Literal["auto", "stop", "promote"] = "auto",
        resource: str | None = None,
        min_resource: float = 1,
        max_resource: float | None = None,
        reduction_factor: float = 3,
        brackets: int = 1,
    ) -> None:
        self.objective = objective
        self.form = form
        self.resource = resource
        self.min_resource = min_resource
        self.max_resource = max_resource
        self.reduction_factor = reduction_factor
        self.brackets = brackets
        problems = self._problems()
        if problems:
            raise SpecError(problems)
        self._rungs: dict[tuple[int, int], Rung] = {}
        self._climbs: dict[int, _Climb] = {}

    def on_trial(self, trial: int, config: Config, parent: int | None) -> None:
        """Assign the trial to a bracket."""
        self._climbs[trial] = _Climb(bracket_of(trial, self.brackets, self.reduction_factor))

    def on_result(self, result: Result) -> Decision:
        """Decide on the trial if this report is the first at a rung or beyond.

        Raises:
            BadMetric: The metric named by ``resource`` was not reported as a number.
        """
        used = used_by(result, self.resource)
        climb = self._climbs[result.trial]
        self._leave(result.trial, climb)
        before = climb.reached
        while self._level(climb.bracket, climb.reached) <= used:
            climb.reached += 1
        rungs = [self._rung(climb.bracket, index) for index in range(before, climb.reached)]
        entry = entry_of(self.objective, result) if rungs else FAILED
        for rung in rungs:
            rung.enter(result.trial, entry)
        if self.max_resource is not None and used >= self.max_resource:
            return Decision.COMPLETE
        if not rungs:
            return Decision.CONTINUE
        if self.form == "promote" or (self.form == "auto" and result.checkpoint):
            if rungs[-1].rank(result.trial) < self._share(rungs[-1]):
                return Decision.CONTINUE
            rungs[-1].wait(result.trial)
            climb.waits = True
            return Decision.PAUSE
        survived = (rung.better(result.trial) < max(1, self._share(rung)) for rung in rungs)
        return Decision.CONTINUE if all(survived) else Decision.STOP

    def on_end(self, trial: int, outcome: Outcome) -> None:
        """Take in what the end says of the trial; of one that was cut short it says nothing."""
        climb = self._climbs.pop(trial)
        self._leave(trial, climb)
        entry = standing(self.objective, outcome)
        if outcome.state is TrialState.FAILED:
            for index in range(climb.reached):
                self._rung(climb.bracket, index).enter(trial, FAILED)
        elif outcome.state is not TrialState.COMPLETED:
            return
        if entry is not None and math.isfinite(self._level(climb.bracket, climb.reached)):
            self._rung(climb.bracket, climb.reached).enter(trial, entry)

    def next_move(self, paused: Sequence[int], *, more: bool) -> Move | None:
        """Return the promotion of the best paused trial at the highest rung that has one."""
        if not paused:
            return None
        for bracket, index in sorted(self._rungs, key=lambda rung: (-sum(rung), rung)):
            rung = self._rungs[bracket, index]
            share = self._share(rung)
            if share == 0 and not more and not self._runs(bracket, paused):
                share = 1
            trial = rung.promotable(share, paused)
            if trial is not None:
                return Resume(trial)
        return None

    def _leave(self, trial: int, climb: _Climb) -> None:
        """Take note that a trial does not wait any more, if it did."""
        if climb.waits:
            climb.waits = False
            self._rung(climb.bracket, climb.reached - 1).leave(trial)

    def _runs(self, bracket: int, paused: Sequence[int]) -> bool:
        """Return whether a trial of the bracket has neither ended nor stands paused."""
        climbs = self._climbs.items()
        return any(c.bracket == bracket and not stands(trial, paused) for trial, c in climbs)

    def _level(self, bracket: int, index: int) -> float:
        """Return where a rung stands; infinity when there is none."""
        level = self.min_resource * self.reduction_factor ** (bracket + index)
        return level if self.max_resource is None or level < self.max_resource else math.inf

    def _rung(self, bracket: int, index: int) -> Rung:
        if (bracket, index) not in self._rungs:
            self._rungs[bracket, index] = Rung(several_goals=self.objective.multi)
        return self._rungs[bracket, index]

    def _share(self, rung: Rung) -> int:
        """Return how many of the entries at a rung are the best ones."""
        return math.floor(len(rung) / self.reduction_factor)

    def _problems(self) -> list[Problem]:
        problems = wrong_numbers(
            min_resource=self.min_resource,
            max_resource=self.max_resource,
            reduction_factor=self.reduction_factor,
        ) + wrong_counts(brackets=self.brackets)
        return problems or self._no_room()

    def _no_room(self) -> list[Problem]:
        """Return the problem that the last bracket has no rung below ``max_resource``."""
        if math.isfinite(self._level(self.brackets - 1, 0)):
            return []
        first = self.min_resource * self.reduction_factor ** (self.brackets - 1)
        text = (
            f"must be above {first:g}, the first rung of the last bracket "
            f"(min_resource * reduction_factor ** (brackets - 1)), not {self.max_resource!r}"
        )
        return [Problem(SETTINGS + "max_resource", text)]


@dataclass
class _Climb:
    """How far a trial that has not ended has got.

    Attributes:
        bracket: From 0.
        reached: Rungs of the bracket that it has reached.
        waits: It was paused at the last of them and has not reported since.
    """

    bracket: int
    reached: int = 0
    waits: bool = False


def bracket_of(trial: int, brackets: int, reduction_factor: float) -> int:
    """Return the bracket of a trial, from 0.

    Bracket s gets a share proportional to ``reduction_factor ** -s`` of the trials, evenly spread:
    the fractional parts of the multiples of the golden ratio fill the unit interval evenly.
    """
    shares = [reduction_factor**-s for s in range(brackets)]
    point = (trial * _GOLDEN) % 1.0 * sum(shares)
    for bracket, share in enumerate(shares[:-1]):
        if point < share:
            return bracket
        point -= share
    return brackets - 1
