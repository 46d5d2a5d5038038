"""Races of configurations over instances or seeds, without waiting for one another."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from raytune_hpo.errors import Problem, SpecError
from raytune_hpo.objective import Objective
from raytune_hpo.schedulers import races
from raytune_hpo.schedulers.base import Decision, Move
from raytune_hpo.schedulers.halving import SETTINGS, entry_of, wrong_counts
from raytune_hpo.space import SearchSpace
from raytune_hpo.standing import Standing
from raytune_hpo.trial import Config, Outcome, Result, TrialState


class Irace:
    """Stops a trial when it is significantly worse than the best on the instances they share.

    A trial's report number i is its cost on instance i, in an order of instances that is the same
    for all. A trial that has run ``first_test`` instances, and after every ``each_test`` more, is
    tested against its rivals: the elites, and the running trials that have run as many. When none
    has, the instances count that the furthest of them has run. The elites are the best trials that
    have run all instances. Trials that were stopped or failed are out of the race.

    With constraints, an instance on which a trial violates some ranks behind all others there.

    Args:
        space: What is searched; gives the default of ``elites``.
        objective: Has to have one goal. Its ``at: mean`` makes a trial's value its mean cost.
        test: ``friedman`` compares by ranks (Friedman's test with Conover's comparisons,
            Wilcoxon's signed ranks for two trials), so that each instance counts alike; ``t`` by
            paired t-tests, so that the instances with large differences count most.
        first_test: Nobody is stopped before so many instances.
        each_test: Instances between two tests of a trial.
        confidence: Of a test, such as 0.95; lower values stop more, and sooner.
        instances: A trial is complete after so many; None when trials end by themselves.
        elites: So many complete trials stay in the race; None for ``floor(2 + log2(d))`` with d
            parameters.

    Raises:
        SpecError: When settings are out of range or the objective has several goals.

    Source: Lopez-Ibanez et al. 2016, doi:10.1016/j.orp.2016.09.002, sections 2.1 and 2.2.

    Example:
        >>> from raytune_hpo.space import Float
        >>> race = Irace(SearchSpace({"x": Float(0, 1)}), Objective.of("cost"), seed=1)
        >>> for trial in range(2):
        ...     race.on_trial(trial, {"x": 0.5}, None)
        >>> for instance in range(1, 6):
        ...     first = race.on_result(Result(0, instance, (float(instance),)))
        ...     second = race.on_result(Result(1, instance, (instance + 0.5,)))
        >>> first, second
        (<Decision.CONTINUE: 'continue'>, <Decision.STOP: 'stop'>)
    """

    def __init__(
        self,
        space: SearchSpace,
        objective: Objective,
        seed: int,
        *,
        test: races.Test = "friedman",
        first_test: int = 5,
        each_test: int = 1,
        confidence: float = 0.95,
        instances: int | None = None,
        elites: int | None = None,
    ) -> None:
        self.objective = objective
        self.test: races.Test = test
        self.first_test = first_test
        self.each_test = each_test
        self.confidence = confidence
        self.instances = instances
        # Section 2.2: the number of configurations that survive a race.
        self.elites = math.floor(2 + math.log2(max(1, len(space.dimensions))))
        if elites is not None:
            self.elites = elites
        problems = self._problems(elites)
        if problems:
            raise SpecError(problems)
        self._costs: dict[int, list[Standing]] = {}
        self._elites: list[int] = []

    def on_trial(self, trial: int, config: Config, parent: int | None) -> None:
        """Take the trial into the race."""
        self._costs[trial] = []

    def on_result(self, result: Result) -> Decision:
        """Decide on a trial by its costs so far; one that comes again is not looked at."""
        costs = self._costs[result.trial]
        if result.step <= len(costs):
            return Decision.CONTINUE
        costs.append(entry_of(self.objective, result))
        if self.instances is not None and len(costs) >= self.instances:
            return Decision.COMPLETE
        beyond = len(costs) - self.first_test
        if beyond < 0 or beyond % self.each_test:
            return Decision.CONTINUE
        return Decision.STOP if self._is_worse(result.trial) else Decision.CONTINUE

    def on_end(self, trial: int, outcome: Outcome) -> None:
        """Take the trial out of the race unless it is, or stays, an elite."""
        if outcome.state is not TrialState.COMPLETED or not self._costs[trial]:
            del self._costs[trial]
            return
        self._elites.append(trial)
        if len(self._elites) > self.elites:
            worst = self._worst_elite()
            self._elites.remove(worst)
            del self._costs[worst]

    def next_move(self, paused: Sequence[int], *, more: bool) -> Move | None:
        """Return None: nothing is ever paused."""
        return None

    def _is_worse(self, trial: int) -> bool:
        """Test a trial against its rivals on the instances that it shares with the furthest."""
        others = (len(costs) for other, costs in self._costs.items() if other != trial)
        shared = min(len(self._costs[trial]), max(others, default=0))
        if shared < self.first_test:
            return False
        field = [other for other, costs in self._costs.items() if len(costs) >= shared]
        worse = races.worse(self._table(field, shared), self.test, self.confidence)
        return bool(worse[field.index(trial)])

    def _worst_elite(self) -> int:
        """Return the elite with the fewest instances; of several the worst, then the latest."""
        fewest = min(len(self._costs[trial]) for trial in self._elites)
        merits = races.merits(self._table(self._elites, fewest), self.test)
        keys = {
            trial: (-len(self._costs[trial]), float(merit), trial)
            for trial, merit in zip(self._elites, merits, strict=True)
        }
        return max(self._elites, key=lambda trial: keys[trial])

    def _table(self, trials: Sequence[int], instances: int) -> races.Costs:
        """Return the costs of trials on the first instances, shape (instances, trials).

        Where one violates constraints they are ranks.
        """
        rows = [self._costs[trial][:instances] for trial in trials]
        costs = np.array([[cost.values[0] for cost in row] for row in rows]).T
        violations = np.array([[cost.violation for cost in row] for row in rows]).T
        return races.ranks(costs, violations) if violations.any() else costs

    def _problems(self, elites: int | None) -> list[Problem]:
        problems = wrong_counts(each_test=self.each_test, instances=self.instances, elites=elites)
        if self.first_test < 2:
            text = f"must be at least 2, not {self.first_test!r}"
            problems.append(Problem(SETTINGS + "first_test", text))
        if not 0 < self.confidence < 1:
            text = f"must be above 0 and below 1, not {self.confidence!r}"
            problems.append(Problem(SETTINGS + "confidence", text))
        if self.objective.multi:
            text = "irace compares trials by one goal; asha, sha and hyperband take several"
            problems.append(Problem("scheduler.algorithm", text))
        return problems
