import json
import logging
import math
import os
import statistics
import subprocess
import sys
from typing import Literal

import optuna
import pytest

from raytune_hpo.errors import SpecError
from raytune_hpo.objective import Constraint, Mode, Objective
from raytune_hpo.plugins import make_searcher
from raytune_hpo.searchers.base import Searcher
from raytune_hpo.searchers.random import RandomSearcher
from raytune_hpo.searchers.tpe import TpeSearcher
from raytune_hpo.space import Choice, Float, Int, Normal, Ordinal, SearchSpace
from raytune_hpo.testing.searchers import CONDITIONAL, MIXED
from raytune_hpo.trial import Config, Outcome, TrialState

LOSS = Objective.of("loss", "min")
SPHERE = SearchSpace({name: Float(-5.0, 5.0) for name in "abcd"})
LINE = SearchSpace({"x": Float(0.0, 1.0)})
Failures = Literal["avoid", "ignore"]
FAILED = Outcome(TrialState.FAILED)


def done(*values: float, violations: tuple[float, ...] = ()) -> Outcome:
    return Outcome(TrialState.COMPLETED, values, violations, step=1)


def sphere(config: Config) -> float:
    return float(sum((value - 1.0) ** 2 for value in config.values()))


def best_of(searcher: Searcher, trials: int, sign: float = 1.0) -> float:
    best = math.inf
    for trial in range(trials):
        config = searcher.suggest(trial)
        assert config is not None
        loss = sphere(config)
        best = min(best, loss)
        searcher.observe(trial, done(sign * loss))
    return best


def take(searcher: Searcher, trials: int, first: int = 0) -> list[Config]:
    configs = [searcher.suggest(trial) for trial in range(first, first + trials)]
    assert None not in configs
    return [config for config in configs if config is not None]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_beats_random_by_far(mode: Mode) -> None:
    objective, sign = Objective.of("loss", mode), 1.0 if mode == "min" else -1.0
    seeds = range(5)
    tpe = [best_of(TpeSearcher(SPHERE, objective, seed), 60, sign) for seed in seeds]
    random = [best_of(RandomSearcher(SPHERE, objective, seed), 60, sign) for seed in seeds]
    assert statistics.mean(tpe) < 0.35 * statistics.mean(random)


def test_startup_is_random_search() -> None:
    tpe, random = TpeSearcher(SPHERE, LOSS, 3, startup_trials=7), RandomSearcher(SPHERE, LOSS, 3)
    for trial in range(8):
        proposals = tpe.suggest(trial), random.suggest(trial)
        assert (proposals[0] == proposals[1]) == (trial < 7)
        tpe.observe(trial, done(float(trial)))


def test_failures_do_not_end_the_startup() -> None:
    tpe, random = TpeSearcher(SPHERE, LOSS, 3), RandomSearcher(SPHERE, LOSS, 3)
    for trial in range(20):
        assert tpe.suggest(trial) == random.suggest(trial)
        tpe.observe(trial, FAILED)


def test_learns_from_pruned_and_stopped_values_but_not_without() -> None:
    def proposal(outcome: Outcome) -> Config | None:
        tpe = TpeSearcher(LINE, LOSS, 1, startup_trials=4)
        for trial in range(12):
            x = tpe.suggest(trial)
            assert x is not None
            tpe.observe(trial, done(x["x"]))
        tpe.adopt(12, {"x": 0.9})
        tpe.observe(12, outcome)
        return tpe.suggest(13)

    best = (-1.0,)
    learned = proposal(done(*best))
    assert proposal(Outcome(TrialState.PRUNED, best, step=1)) == learned
    assert proposal(Outcome(TrialState.STOPPED, best, step=1)) == learned
    ignored = proposal(Outcome(TrialState.STOPPED))
    assert ignored != learned
    assert proposal(Outcome(TrialState.PRUNED)) == ignored


def test_avoids_where_trials_failed() -> None:
    def near_failures(failures: Failures) -> int:
        near = 0
        for seed in range(5):
            tpe = TpeSearcher(LINE, LOSS, seed, failures=failures)
            for trial in range(40):
                (config,) = take(tpe, 1, trial)
                bad = config["x"] < 0.3
                near += bad and trial >= 20
                tpe.observe(trial, FAILED if bad else done(config["x"]))
        return near

    assert near_failures("avoid") < 0.6 * near_failures("ignore")


def test_nan_and_infinite_values_are_failures() -> None:
    def proposals(outcome: Outcome) -> list[Config]:
        tpe = TpeSearcher(LINE, LOSS, 1, startup_trials=4)
        for trial in range(20):
            (config,) = take(tpe, 1, trial)
            tpe.observe(trial, done(config["x"]) if trial % 4 else outcome)
        return take(tpe, 2, 20)

    expected = proposals(FAILED)
    for value in (math.nan, math.inf, -math.inf):
        assert proposals(Outcome(TrialState.FAILED, (value,))) == expected


@pytest.mark.parametrize("failures", ["avoid", "ignore"])
def test_no_trial_is_left_running(failures: Failures) -> None:
    tpe = TpeSearcher(MIXED, LOSS, 1, startup_trials=3, failures=failures)
    outcomes = [
        FAILED, done(1.0), Outcome(TrialState.STOPPED), Outcome(TrialState.PRUNED, (2.0,)),
        Outcome(TrialState.FAILED, (math.nan,)),
    ]  # fmt: skip
    for trial in range(25):
        tpe.suggest(trial)
        tpe.observe(trial, outcomes[trial % 5])
    assert all(trial.state.is_finished() for trial in tpe._model.study.trials)


def test_constraints_lead_into_the_feasible_part() -> None:
    objective = Objective(LOSS.goals, (Constraint.parse("size <= 20"),))
    shares = []
    for seed in range(3):
        tpe = TpeSearcher(SPHERE, objective, seed)
        feasible = 0
        for trial in range(60):
            (config,) = take(tpe, 1, trial)
            violation = 2.0 - config["a"]  # the best of the sphere is at a = 1: infeasible
            feasible += trial >= 30 and violation <= 0
            tpe.observe(trial, done(sphere(config), violations=(violation,)))
        shares.append(feasible / 30)
    assert statistics.mean(shares) > 0.5  # 0.3 of the space is feasible


def test_several_goals_approach_the_front() -> None:
    goals = (*Objective.of("left", "min").goals, *Objective.of("right", "max").goals)

    def mean_of_rest(searcher: Searcher) -> float:
        rest: list[float] = []
        for trial in range(60):
            (config,) = take(searcher, 1, trial)
            off = config["b"] ** 2 + config["c"] ** 2 + config["d"] ** 2  # 0 on the front
            rest.append(off)
            searcher.observe(
                trial, done((config["a"] - 1) ** 2 + off, -((config["a"] + 1) ** 2) - off)
            )
        return statistics.mean(rest[30:])

    objective = Objective(goals)
    tpe = statistics.mean(mean_of_rest(TpeSearcher(SPHERE, objective, s)) for s in range(3))
    random = statistics.mean(mean_of_rest(RandomSearcher(SPHERE, objective, s)) for s in range(3))
    assert tpe < 0.6 * random


def test_conditional_space_is_learned() -> None:
    wins = 0
    for seed in range(5):
        tpe = TpeSearcher(CONDITIONAL, LOSS, seed)
        for trial in range(50):
            (config,) = take(tpe, 1, trial)
            loss = 1.0 if config["optimizer"] == "adam" else abs(config["momentum"] - 0.9)
            wins += trial >= 30 and loss < 0.2
            tpe.observe(trial, done(loss))
    assert wins > 0.6 * 5 * 20  # random search: 0.5 * 0.2


def test_pending_trials_repel() -> None:
    def spread(*, liar: bool) -> float:
        spreads: list[float] = []
        for seed in range(6):
            tpe = TpeSearcher(LINE, LOSS, seed, constant_liar=liar)
            for trial in range(20):
                (config,) = take(tpe, 1, trial)
                tpe.observe(trial, done(abs(config["x"] - 0.5)))
            spreads.append(statistics.pstdev(c["x"] for c in take(tpe, 8, 20)))
        return statistics.mean(spreads)

    assert spread(liar=True) > spread(liar=False)


def test_finite_space_is_searched_near_the_best_first() -> None:
    space = SearchSpace({name: Ordinal(tuple(range(6))) for name in "abc"})
    found = []
    for seed in range(3):
        tpe = TpeSearcher(space, LOSS, seed)
        seen = set()
        for trial in range(216):
            (config,) = take(tpe, 1, trial)
            seen.add(tuple(config.values()))
            if len(seen) == trial + 1 and sphere(config) == 0:
                found.append(trial)
            tpe.observe(trial, done(sphere(config)))
        assert len(seen) == 216
        assert tpe.suggest(216) is None
    assert statistics.mean(found) < 70  # random search: 108


def test_known_proposal_is_changed_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    space = SearchSpace({name: Choice(("x", "y", "z")) for name in "abcdefgh"})
    known = dict.fromkeys("abcdefgh", "x")
    for seed in range(10):
        tpe = TpeSearcher(space, LOSS, seed, startup_trials=1)
        tpe.adopt(0, known)
        tpe.observe(0, done(1.0))
        monkeypatch.setattr(tpe._model, "promising", lambda seed: dict(known))
        (config,) = take(tpe, 1, 1)
        assert sum(config[name] != known[name] for name in known) == 1


def test_every_value_of_a_parameter_survives_the_model() -> None:
    space = SearchSpace(
        {
            "steps": Float(0.01, 0.5, step=0.07),
            "wide": Int(1, 10**12),
            "log": Int(1, 1000, log=True),
            "stepped": Int(2, 12, step=2),
            "normal": Int(0, 20, prior=Normal(10, 2)),
            "mixed": Choice((1, 1.0, True, "1", None)),
            "lists": Choice(([1, 2], [3])),
        }
    )
    tpe = TpeSearcher(space, LOSS, 1, startup_trials=2)
    for trial in range(40):
        (config,) = take(tpe, 1, trial)
        space.validate(config)
        assert [type(config[name]) for name in ("steps", "wide", "log", "stepped", "normal")] == [
            float, int, int, int, int,
        ]  # fmt: skip
        for name, known in tpe._model.parameters.items():
            code = known.encode(config[name])
            assert known.distribution.to_internal_repr(code) == code
        tpe.observe(trial, done(float(trial % 7)))


@pytest.mark.parametrize("value", [1, 1.0, True, "1", None, [1]])
def test_equal_choices_of_other_type_are_told_apart(value: object) -> None:
    values = (1, 1.0, True, "1", None, [1])
    tpe = TpeSearcher(SearchSpace({"x": Choice(values)}), LOSS, 1)
    codes = [tpe._model.parameters["x"].encode(v) for v in values]
    assert codes == list(range(6))


def test_suggestions_do_not_depend_on_the_hash_seed() -> None:
    code = """
import json
from raytune_hpo.objective import Objective
from raytune_hpo.searchers.tpe import TpeSearcher
from raytune_hpo.testing.searchers import CONDITIONAL
from raytune_hpo.trial import Outcome, TrialState
tpe = TpeSearcher(CONDITIONAL, Objective.of("loss"), 1)
for trial in range(25):
    config = tpe.suggest(trial)
    tpe.observe(trial, Outcome(TrialState.COMPLETED, (config["rate"],)))
print(json.dumps([config for config, _ in tpe.trials.values()]))
"""
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in (1, 2)
    }
    assert len(outputs) == 1
    assert len(json.loads(outputs.pop())) == 25


def test_optuna_is_left_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    before = optuna.logging.get_verbosity()
    with caplog.at_level(logging.DEBUG):
        best_of(TpeSearcher(SPHERE, LOSS, 1), 15)
    assert optuna.logging.get_verbosity() == before
    assert not [record for record in caplog.records if record.name.startswith("optuna")]


@pytest.mark.parametrize("setting", ["startup_trials", "candidates"])
def test_settings_out_of_range(setting: str) -> None:
    with pytest.raises(SpecError, match=rf"search\.settings\.{setting}: must be at least 1, not 0"):
        make_searcher("tpe", LINE, LOSS, 1, {setting: 0})
