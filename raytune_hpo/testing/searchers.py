"""What every searcher has to do."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from raytune_hpo.objective import Constraint, Objective
from raytune_hpo.searchers.base import Searcher
from raytune_hpo.space import Choice, Constant, Float, Int, Ordinal, SearchSpace
from raytune_hpo.trial import Config, Outcome, TrialState

MIXED = SearchSpace(
    {
        "rate": Float(1e-5, 1e-1, log=True),
        "dropout": Float(0.0, 0.9),
        "fraction": Float(0.1, 0.7, step=0.2),
        "model": {"layers": Int(1, 8), "width": Int(16, 1024, log=True)},
        "batch": Ordinal((16, 32, 64, 128)),
        "optimizer": Choice(("sgd", "adam", "lion")),
        "flag": Choice((True, False, None)),
        "dataset": Constant("digits"),
    }
)
"""Every kind of parameter."""

CONDITIONAL = SearchSpace(
    {
        "optimizer": Choice(("sgd", "adam")),
        "rate": Float(1e-4, 1.0, log=True),
        "momentum": Float(0.0, 0.99, when="optimizer == sgd"),
        "nesterov": Choice((True, False), when="optimizer == sgd and momentum > 0.5"),
        "layers": Int(1, 4),
        "last_width": Int(8, 64, when="layers > 2"),
    }
)
"""Parameters that exist for some configs only, two levels deep."""

FINITE = SearchSpace({"kind": Choice(("a", "b", "c")), "size": Ordinal((1, 2, 4, 8))})
"""Twelve configs."""

SPACES = {"mixed": MIXED, "conditional": CONDITIONAL}

_JSON_TYPES = (str, int, float, bool, type(None))


class SearcherContract(ABC):
    """Tests of the searcher protocol; a subclass gives ``make`` and pytest does the rest.

    Attributes:
        trials: Trials of a test run: enough that a model is in use after two thirds of them.
        seeded: Whether another seed gives other suggestions.
        exhausts: Whether ``suggest`` tries each config of a finite space once and then gives None.

    What a searcher's class says by ``several_goals`` and ``constraints`` decides on the tests of
    these; a class that says nothing has to pass them.
    """

    trials = 30
    seeded = True
    exhausts = True

    @abstractmethod
    def make(self, space: SearchSpace, objective: Objective, seed: int) -> Searcher:
        """Return a new searcher."""

    @pytest.fixture(params=sorted(SPACES))
    def space(self, request: pytest.FixtureRequest) -> SearchSpace:
        """Return each of the spaces in turn."""
        return SPACES[request.param]

    # Suggestions

    def test_suggestions_are_legal(self, space: SearchSpace) -> None:
        """Each suggestion is within bounds and has exactly the active parameters."""
        run = _Run(self.make(space, _loss(), seed=1), space).go(self.trials)
        assert len(run.configs) == self.trials
        for config in run.configs.values():
            space.validate(config)

    def test_values_are_plain(self, space: SearchSpace) -> None:
        """Suggestions hold Python's own types: no numpy scalars and no subclasses."""
        run = _Run(self.make(space, _loss(), seed=1), space).go(self.trials)
        types = {type(value) for config in run.configs.values() for value in config.values()}
        assert types <= set(_JSON_TYPES)

    def test_same_seed_same_suggestions(self, space: SearchSpace) -> None:
        """Two searchers with one seed and one order of outcomes agree bit for bit."""
        first = _Run(self.make(space, _loss(), seed=2), space).go(self.trials)
        second = _Run(self.make(space, _loss(), seed=2), space).go(self.trials)
        assert first.bits() == second.bits()

    def test_other_seed_differs(self, space: SearchSpace) -> None:
        """Another seed gives other suggestions."""
        if not self.seeded:
            pytest.skip("this searcher says that it does not depend on the seed")
        first = _Run(self.make(space, _loss(), seed=2), space).go(self.trials)
        second = _Run(self.make(space, _loss(), seed=3), space).go(self.trials)
        assert first.bits() != second.bits()

    def test_large_seed(self) -> None:
        """A seed may be any whole number from 0 to 2**63 - 1."""
        for seed in (0, 2**63 - 1):
            run = _Run(self.make(MIXED, _loss(), seed=seed), MIXED).go(self.trials)
            assert len(run.configs) == self.trials

    def test_parallel_suggestions_differ(self, space: SearchSpace) -> None:
        """Trials that are pending together have different configs, early and late."""
        run = _Run(self.make(space, _loss(), seed=4), space)
        early = [run.suggest() for _ in range(8)]
        run.end_all()
        run.go(self.trials)
        late = [run.suggest() for _ in range(8)]
        for group in (early, late):
            assert len({json.dumps(config, sort_keys=True) for config in group}) == len(group)

    def test_space_without_choice(self) -> None:
        """A space of constants has one config."""
        space = SearchSpace({"x": Constant(3)})
        assert self.make(space, _loss(), seed=1).suggest(0) == {"x": 3}

    def test_finite_space_is_exhausted(self) -> None:
        """Each config of a finite space is suggested once, then None comes."""
        if not self.exhausts:
            pytest.skip("this searcher says that it suggests configs again")
        run = _Run(self.make(FINITE, _loss(), seed=5), FINITE).go(12)
        assert len(set(run.bits())) == 12
        assert run.searcher.suggest(12) is None
        assert run.searcher.suggest(13) is None

    # State

    def test_state_is_json(self, space: SearchSpace) -> None:
        """The state survives JSON unchanged, non-finite numbers excluded."""
        run = _Run(self.make(space, _loss(), seed=6), space).go(self.trials)
        state = run.searcher.state()
        assert json.loads(json.dumps(state, allow_nan=False)) == state

    @pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.8])
    def test_restore_goes_on_alike(self, space: SearchSpace, share: float) -> None:
        """A restored searcher suggests bit for bit what the original one would have."""
        run = _Run(self.make(space, _loss(), seed=7), space).go(int(self.trials * share))
        restored = self.make(space, _loss(), seed=7)
        restored.restore(json.loads(json.dumps(run.searcher.state())))
        other = run.with_searcher(restored)
        assert run.go(self.trials).bits() == other.go(self.trials).bits()

    @pytest.mark.parametrize("share", [0.1, 0.8])
    def test_replay_goes_on_alike(self, space: SearchSpace, share: float) -> None:
        """Adopting and observing what happened is as good as restoring the state."""
        run = _Run(self.make(space, _loss(), seed=8), space).go(int(self.trials * share))
        replayed = self.make(space, _loss(), seed=8)
        for call, arguments in run.calls:
            kept = json.loads(json.dumps(arguments)) if call == "adopt" else arguments
            getattr(replayed, call)(*kept)
        other = run.with_searcher(replayed)
        assert run.go(self.trials).bits() == other.go(self.trials).bits()

    def test_state_twice_is_the_same(self, space: SearchSpace) -> None:
        """Asking for the state changes nothing, and restoring it gives it back."""
        run = _Run(self.make(space, _loss(), seed=9), space).go(self.trials)
        state = run.searcher.state()
        restored = self.make(space, _loss(), seed=9)
        restored.restore(state)
        assert run.searcher.state() == state == restored.state()

    # Outcomes

    @pytest.mark.parametrize(
        "outcome",
        [
            Outcome(TrialState.FAILED),
            Outcome(TrialState.FAILED, violations=(math.inf,)),
            Outcome(TrialState.FAILED, (math.nan,), step=1),
            Outcome(TrialState.COMPLETED, (math.nan,), step=1),
            Outcome(TrialState.PRUNED, (math.inf,), step=1),
            Outcome(TrialState.STOPPED),
            Outcome(TrialState.STOPPED, (0.5,), step=3),
            Outcome(TrialState.PRUNED),
            Outcome(TrialState.PRUNED, (0.5,), step=1),
            Outcome(TrialState.COMPLETED, (0.5,), step=9),
            Outcome(TrialState.COMPLETED, (-1e300,), step=9),
        ],
        ids=lambda outcome: f"{outcome.state.value}-{outcome.values}-{outcome.violations}",
    )
    def test_outcome_of_every_trial(self, space: SearchSpace, outcome: Outcome) -> None:
        """Even when all trials end the same way, legal suggestions go on."""
        searcher = self.make(space, _loss(), seed=10)
        for trial in range(self.trials):
            config = searcher.suggest(trial)
            assert config is not None
            space.validate(config)
            searcher.observe(trial, outcome)

    def test_bad_values_are_no_values(self, space: SearchSpace) -> None:
        """A failed trial whose value is no finite number is as good as one without a value."""
        searcher, other = (self.make(space, _loss(), seed=16) for _ in range(2))
        bad = (math.nan, math.inf, -math.inf)
        for trial in range(self.trials):
            config = _not_none(searcher.suggest(trial))
            space.validate(config)
            assert other.suggest(trial) == config
            outcome = Outcome(TrialState.COMPLETED, (_score(space, config),), step=1)
            if trial % 3 == 1:
                outcome = Outcome(TrialState.FAILED)
            other.observe(trial, outcome)
            if trial % 3 == 1:
                outcome = Outcome(TrialState.FAILED, (bad[trial // 3 % 3],))
            searcher.observe(trial, outcome)

    def test_failed_configs_are_not_repeated(self, space: SearchSpace) -> None:
        """However often trials fail, none is tried again."""
        searcher = self.make(space, _loss(), seed=17)
        tried = set()
        for trial in range(self.trials):
            config = _not_none(searcher.suggest(trial))
            tried.add(json.dumps(config, sort_keys=True))
            good = trial % 4 == 0
            score = (_score(space, config),)
            outcome = Outcome(TrialState.COMPLETED, score) if good else Outcome(TrialState.FAILED)
            searcher.observe(trial, outcome)
        assert len(tried) == self.trials

    def test_finite_space_where_all_fails(self) -> None:
        """In a finite space each config fails once, then None comes."""
        if not self.exhausts:
            pytest.skip("this searcher says that it suggests configs again")
        searcher = self.make(FINITE, _loss(), seed=18)
        tried = set()
        for trial in range(12):
            tried.add(json.dumps(_not_none(searcher.suggest(trial)), sort_keys=True))
            searcher.observe(trial, Outcome(TrialState.FAILED))
        assert len(tried) == 12
        assert searcher.suggest(12) is None

    def test_constraints(self, space: SearchSpace) -> None:
        """Outcomes with violations are taken in, all of them infeasible too."""
        objective = Objective(_loss().goals, (Constraint.parse("size <= 20"),))
        searcher = self.make(space, objective, seed=11)
        if not getattr(searcher, "constraints", True):
            pytest.skip("this searcher says that it takes no constraints")
        for trial in range(self.trials):
            config = searcher.suggest(trial)
            assert config is not None
            space.validate(config)
            violation = math.inf if trial % 5 == 0 else _score(space, config)
            searcher.report(trial, 1, (1.0,), (violation,))
            outcome = Outcome(TrialState.COMPLETED, (1.0,), (violation,), step=1)
            searcher.observe(trial, outcome)

    def test_several_goals(self, space: SearchSpace) -> None:
        """With two goals of opposite direction, suggestions stay legal."""
        if not getattr(self.make(space, _loss(), seed=12), "several_goals", True):
            pytest.skip("this searcher says that it takes one goal")
        goals = (*_loss().goals, *Objective.of("speed", "max").goals)
        searcher = self.make(space, Objective(goals), seed=12)
        for trial in range(self.trials):
            config = searcher.suggest(trial)
            assert config is not None
            space.validate(config)
            score = _score(space, config)
            searcher.report(trial, 1, (score, score % 0.3))
            searcher.observe(trial, Outcome(TrialState.COMPLETED, (score, score % 0.3), step=1))

    # Configs from elsewhere

    def test_foreign_configs(self, space: SearchSpace) -> None:
        """Configs that the user gave are taken in, before and between suggestions."""
        searcher = self.make(space, _loss(), seed=13)
        rng = np.random.default_rng(0)
        for trial in range(self.trials):
            if trial % 3 == 0:
                config: Config | None = space.sample(rng)
                assert config is not None
                searcher.adopt(trial, config)
            else:
                config = searcher.suggest(trial)
                assert config is not None
                space.validate(config)
            searcher.observe(trial, _outcome(space, trial, config))

    def test_warm_start(self, space: SearchSpace) -> None:
        """A searcher can begin with the trials of an earlier run, and its state keeps them."""
        rng = np.random.default_rng(1)
        searcher, again = (self.make(space, _loss(), seed=14) for _ in range(2))
        for trial in range(self.trials):
            config = space.sample(rng)
            searcher.adopt(trial, config)
            searcher.observe(trial, _outcome(space, trial, config))
        again.restore(json.loads(json.dumps(searcher.state())))
        for trial in range(self.trials, self.trials + 3):
            suggestion = _not_none(searcher.suggest(trial))
            space.validate(suggestion)
            assert again.suggest(trial) == suggestion

    def test_foreign_config_is_not_suggested_again(self) -> None:
        """In a finite space a config that the user gave counts as tried."""
        if not self.exhausts:
            pytest.skip("this searcher says that it suggests configs again")
        searcher = self.make(FINITE, _loss(), seed=15)
        given = {"kind": "b", "size": 4}
        searcher.adopt(0, given)
        rest = [searcher.suggest(trial) for trial in range(1, 12)]
        assert None not in rest
        assert given not in rest
        assert searcher.suggest(12) is None


class _Run:
    """A searcher at work with up to three trials pending, whose ends come out of order.

    Each pending trial reports once between two suggestions.
    """

    def __init__(self, searcher: Searcher, space: SearchSpace) -> None:
        self.searcher = searcher
        self.space = space
        self.configs: dict[int, Config] = {}
        self.pending: dict[int, int] = {}  # with the step of the last report
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def go(self, trials: int) -> _Run:
        """Go on until there are so many trials; the last ones stay pending."""
        while len(self.configs) < trials:
            if len(self.pending) == 3:
                self.end(list(self.pending)[len(self.configs) % 3])
            self.suggest()
            self.report_all()
        return self

    def suggest(self) -> Config:
        trial = len(self.configs)
        config = _not_none(self.searcher.suggest(trial))
        self.configs[trial] = dict(config)
        self.pending[trial] = 0
        self.calls.append(("adopt", (trial, dict(config))))
        return config

    def report_all(self) -> None:
        for trial in self.pending:
            self.pending[trial] += 1
            step = self.pending[trial]
            value = _score(self.space, self.configs[trial]) + 1 / step
            self.calls.append(("report", (trial, step, (value,))))
            self.searcher.report(trial, step, (value,))

    def end(self, trial: int) -> None:
        outcome = _outcome(self.space, trial, self.configs[trial])
        outcome = replace(outcome, step=self.pending.pop(trial))
        self.calls.append(("observe", (trial, outcome)))
        self.searcher.observe(trial, outcome)

    def end_all(self) -> None:
        for trial in list(self.pending):
            self.end(trial)

    def with_searcher(self, searcher: Searcher) -> _Run:
        """Return a copy of this run that goes on with another searcher."""
        other = _Run(searcher, self.space)
        other.configs = dict(self.configs)
        other.pending = dict(self.pending)
        return other

    def bits(self) -> list[str]:
        """Return each config as a text that tells all different floats apart."""
        return [json.dumps(config, sort_keys=True) for config in self.configs.values()]


def _loss() -> Objective:
    return Objective.of("loss", "min")


def _score(space: SearchSpace, config: Mapping[str, Any]) -> float:
    return float(np.nansum((space.encode(dict(config)) - 0.3) ** 2))


def _outcome(space: SearchSpace, trial: int, config: Config) -> Outcome:
    """Return how a trial ends: mostly with its score, sometimes badly."""
    score = _score(space, config)
    if trial % 10 == 3:
        return Outcome(TrialState.FAILED)
    if trial % 10 == 6:
        return Outcome(TrialState.STOPPED)
    if trial % 10 in (4, 8):
        return Outcome(TrialState.PRUNED, (score + 1.0,), step=1)
    return Outcome(TrialState.COMPLETED, (score,), step=9)


def _not_none(config: Config | None) -> Config:
    assert config is not None, "the searcher says that this space is exhausted"
    return config
