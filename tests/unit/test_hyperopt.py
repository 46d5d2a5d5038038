import json
import math
import os
import statistics
import subprocess
import sys
from typing import Literal

import hyperopt
import pytest
from hyperopt import hp

from raytune_hpo.errors import SpecError
from raytune_hpo.objective import Constraint, Mode, Objective
from raytune_hpo.plugins import make_searcher
from raytune_hpo.searchers.base import Searcher
from raytune_hpo.searchers.hyperopt import HyperoptSearcher
from raytune_hpo.searchers.random import RandomSearcher
from raytune_hpo.space import Choice, Float, Int, LogNormal, Normal, Ordinal, SearchSpace
from raytune_hpo.testing.searchers import CONDITIONAL
from raytune_hpo.trial import Config, Outcome, TrialState

LOSS = Objective.of("loss", "min")
SPHERE = SearchSpace({name: Float(-5.0, 5.0) for name in "abcd"})
LINE = SearchSpace({"x": Float(0.0, 1.0)})
FAILED = Outcome(TrialState.FAILED)


def done(value: float, *violations: float) -> Outcome:
    return Outcome(TrialState.COMPLETED, (value,), violations, step=1)


def sphere(config: Config) -> float:
    return float(sum((value - 1.0) ** 2 for value in config.values()))


def take(searcher: Searcher, trial: int) -> Config:
    config = searcher.suggest(trial)
    assert config is not None
    return config


def best_of(searcher: Searcher, trials: int, sign: float = 1.0) -> float:
    best = math.inf
    for trial in range(trials):
        loss = sphere(take(searcher, trial))
        best = min(best, loss)
        searcher.observe(trial, done(sign * loss))
    return best


@pytest.mark.parametrize("mode", ["min", "max"])
def test_beats_random_by_far(mode: Mode) -> None:
    objective, sign = Objective.of("loss", mode), 1.0 if mode == "min" else -1.0
    seeds = range(5)
    ours = [best_of(HyperoptSearcher(SPHERE, objective, s), 80, sign) for s in seeds]
    random = [best_of(RandomSearcher(SPHERE, objective, s), 80, sign) for s in seeds]
    assert statistics.mean(ours) < 0.6 * statistics.mean(random)


def test_startup_is_random_search() -> None:
    ours = HyperoptSearcher(SPHERE, LOSS, 3, startup_trials=7)
    random = RandomSearcher(SPHERE, LOSS, 3)
    for trial in range(8):
        proposals = ours.suggest(trial), random.suggest(trial)
        assert (proposals[0] == proposals[1]) == (trial < 7)
        ours.observe(trial, done(float(trial)))


def test_failures_and_pending_trials_do_not_end_the_startup() -> None:
    ours, random = HyperoptSearcher(SPHERE, LOSS, 3), RandomSearcher(SPHERE, LOSS, 3)
    for trial in range(30):
        assert ours.suggest(trial) == random.suggest(trial)
        if trial % 2:
            ours.observe(trial, FAILED)


def test_the_proposal_is_hyperopts_own() -> None:
    """Its own table of the same trials and the same seed give the same values."""
    space = SearchSpace({"x": Float(0.0, 1.0), "kind": Choice(("a", "b", "c"))})
    ours = HyperoptSearcher(space, LOSS, 5, startup_trials=12)
    domain = hyperopt.Domain(None, {"x": hp.uniform("x", 0, 1), "kind": hp.randint("kind", 3)})
    trials = hyperopt.Trials()
    for trial in range(20):
        config = ours.space.sample(ours.random(trial))
        index = "abc".index(config["kind"])
        loss = abs(config["x"] - 0.3) + index
        ours.adopt(trial, config)
        ours.observe(trial, done(loss))
        misc = {
            "tid": trial, "cmd": None,
            "idxs": {"x": [trial], "kind": [trial]}, "vals": {"x": [config["x"]], "kind": [index]},
        }  # fmt: skip
        result = {"status": hyperopt.STATUS_OK, "loss": loss}
        trials.insert_trial_docs(trials.new_trial_docs([trial], [None], [result], [misc]))
    trials.refresh()
    seed = int(ours.random(20).integers(2**32))
    (theirs,) = hyperopt.tpe.suggest([20], domain, trials, seed, verbose=False)
    values = theirs["misc"]["vals"]
    proposal = take(ours, 20)
    assert proposal["x"] == pytest.approx(values["x"][0], abs=1e-11)
    assert proposal["kind"] == "abc"[values["kind"][0]]


def proposals(outcome: Outcome | None, *, where: float = 0.9, seeds: int = 1) -> list[Config]:
    """Return proposals after 24 trials, one of which ended so."""
    found = []
    for seed in range(seeds):
        ours = HyperoptSearcher(LINE, LOSS, seed, startup_trials=10)
        for trial in range(24):
            config = take(ours, trial)
            ours.observe(trial, done(config["x"]))
        ours.adopt(24, {"x": where})
        if outcome is not None:
            ours.observe(24, outcome)
        found.append(take(ours, 25))
    return found


def test_learns_from_pruned_and_stopped_values_but_not_without() -> None:
    best = (-1.0,)
    learned = proposals(done(-1.0))
    assert proposals(Outcome(TrialState.PRUNED, best, step=1)) == learned
    assert proposals(Outcome(TrialState.STOPPED, best, step=1)) == learned
    ignored = proposals(Outcome(TrialState.STOPPED))
    assert ignored != learned
    assert proposals(Outcome(TrialState.PRUNED)) == ignored


def test_a_pending_trial_counts_as_a_failed_one() -> None:
    """Hyperopt ranks what has no loss as infinitely bad."""
    pending = proposals(None, where=0.02, seeds=8)
    assert pending == proposals(FAILED, where=0.02, seeds=8)
    assert pending != proposals(Outcome(TrialState.STOPPED), where=0.02, seeds=8)


def test_pending_trials_repel() -> None:
    def distance(outcome: Outcome) -> float:
        """Return how far from eight trials of the best part the next proposals are."""
        found = []
        for seed in range(12):
            ours = HyperoptSearcher(LINE, LOSS, seed, startup_trials=10)
            for trial in range(30):
                config = take(ours, trial)
                ours.observe(trial, done(abs(config["x"] - 0.5)))
            for trial in range(30, 38):
                ours.adopt(trial, {"x": 0.46 + 0.01 * (trial - 30)})
                if outcome.state is not TrialState.PENDING:
                    ours.observe(trial, outcome)
            found.append(float(abs(take(ours, 38)["x"] - 0.5)))
        return statistics.mean(found)

    assert distance(Outcome(TrialState.PENDING)) > 1.2 * distance(Outcome(TrialState.STOPPED))


def test_avoids_where_trials_failed() -> None:
    def near_failures(failures: Literal["avoid", "ignore"]) -> int:
        near = 0
        for seed in range(5):
            ours = HyperoptSearcher(LINE, LOSS, seed, startup_trials=10, failures=failures)
            for trial in range(50):
                config = take(ours, trial)
                bad = config["x"] < 0.3
                near += bad and trial >= 25
                ours.observe(trial, FAILED if bad else done(config["x"]))
        return near

    assert near_failures("avoid") < 0.7 * near_failures("ignore")


def test_only_the_order_of_values_counts() -> None:
    def run(scale: float) -> list[Config]:
        ours = HyperoptSearcher(LINE, LOSS, 1, startup_trials=5)
        for trial in range(20):
            config = take(ours, trial)
            ours.observe(trial, done(scale * config["x"]))
        return [config for config, _ in ours.trials.values()]

    assert run(1.0) == run(1e300)


def test_infeasible_trials_rank_behind_feasible_ones_by_their_violation() -> None:
    objective = Objective(LOSS.goals, (Constraint.parse("a <= 1"), Constraint.parse("b <= 1")))
    ours = HyperoptSearcher(LINE, objective, 1)
    outcomes = [
        done(5.0, 0.0, -1.0),
        done(1.0, 0.2, 0.2),
        done(1.0, 0.3, -9.0),
        done(7.0, -1.0, 0.0),
        done(0.0, math.inf, 0.0),
        FAILED,
        Outcome(TrialState.FAILED, (math.nan,)),
        done(2.0, 0.2, 0.2),
        done(5.0, -1.0, 0.0),
    ]
    for trial, outcome in enumerate(outcomes):
        ours.adopt(trial, {"x": trial / 10})
        ours.observe(trial, outcome)
    assert ours._losses() == {0: 0, 8: 0, 3: 1, 2: 2, 1: 3, 7: 4, 4: 5}


def test_constraints_lead_into_the_feasible_part() -> None:
    objective = Objective(LOSS.goals, (Constraint.parse("size <= 20"),))
    shares = []
    for seed in range(3):
        ours = HyperoptSearcher(SPHERE, objective, seed, gamma=1.0)
        feasible = 0
        for trial in range(60):
            config = take(ours, trial)
            violation = 2.0 - config["a"]  # the best of the sphere is at a = 1: infeasible
            feasible += trial >= 30 and violation <= 0
            ours.observe(trial, done(sphere(config), violation))
        shares.append(feasible / 30)
    assert statistics.mean(shares) > 0.5  # 0.3 of the space is feasible


def test_conditional_space_is_learned() -> None:
    wins = 0
    for seed in range(5):
        ours = HyperoptSearcher(CONDITIONAL, LOSS, seed, startup_trials=15, gamma=1.0)
        for trial in range(60):
            config = take(ours, trial)
            loss = 1.0 if config["optimizer"] == "adam" else abs(config["momentum"] - 0.9)
            wins += trial >= 40 and loss < 0.2
            ours.observe(trial, done(loss))
    assert wins > 0.5 * 5 * 20  # random search: 0.5 * 0.2


def test_finite_space_is_searched_near_the_best_first() -> None:
    space = SearchSpace({name: Ordinal(tuple(range(5))) for name in "abc"})
    found = []
    for seed in range(4):
        ours = HyperoptSearcher(space, LOSS, seed)
        seen = set()
        for trial in range(125):
            config = take(ours, trial)
            seen.add(tuple(config.values()))
            if sphere(config) == 0:
                found.append(trial)
            ours.observe(trial, done(sphere(config)))
        assert len(seen) == 125
        assert ours.suggest(125) is None
    assert statistics.mean(found) < 45  # random search: 62


def test_every_value_of_a_parameter_survives_the_model() -> None:
    space = SearchSpace(
        {
            "steps": Float(0.01, 0.5, step=0.07),
            "wide": Int(1, 10**12),
            "log": Int(1, 1000, log=True),
            "stepped": Int(2, 12, step=2),
            "normal": Int(0, 20, prior=Normal(10, 2)),
            "lognormal": Float(0.01, 100.0, prior=LogNormal(0.0, 1.0)),
            "mixed": Choice((1, 1.0, True, "1", None)),
            "lists": Choice(([1, 2], [3])),
        }
    )
    ours = HyperoptSearcher(space, LOSS, 1, startup_trials=2)
    for trial in range(40):
        config = take(ours, trial)
        space.validate(config)
        for name, code in ours._codes.items():
            found = code.axis.decode(code.place(code.encode(config[name])))
            assert (type(found), found) == (type(config[name]), config[name])
        ours.observe(trial, done(float(trial % 7)))


@pytest.mark.parametrize("parameter", [Int(2, 12, step=2), Ordinal(tuple(range(2, 13, 2)))])
@pytest.mark.parametrize("end", [2, 12])
def test_the_outermost_values_are_proposed(parameter: Int | Ordinal, end: int) -> None:
    """A quantised range of Hyperopt's own gives its ends half as often as the rest, or never."""
    space = SearchSpace({"x": parameter, "y": Float(0.0, 1.0)})
    found = 0
    for seed in range(10):
        ours = HyperoptSearcher(space, LOSS, seed, startup_trials=10)
        for trial in range(30):
            config = take(ours, trial)
            found += trial >= 10 and config["x"] == end
            ours.observe(trial, done(abs(config["x"] - end) + 0.1 * config["y"]))
    assert found > 0.25 * 10 * 20  # one of six values


def test_suggestions_do_not_depend_on_the_hash_seed() -> None:
    code = """
import json
from raytune_hpo.objective import Objective
from raytune_hpo.searchers.hyperopt import HyperoptSearcher
from raytune_hpo.testing.searchers import CONDITIONAL
from raytune_hpo.trial import Outcome, TrialState
searcher = HyperoptSearcher(CONDITIONAL, Objective.of("loss"), 1, startup_trials=10)
for trial in range(25):
    config = searcher.suggest(trial)
    searcher.observe(trial, Outcome(TrialState.COMPLETED, (config["rate"],)))
print(json.dumps([config for config, _ in searcher.trials.values()]))
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


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("startup_trials", 0, "at least 1, not 0"),
        ("candidates", 0, "at least 1, not 0"),
        ("gamma", 0, "above 0, not 0"),
        ("gamma", math.nan, "above 0, not nan"),
        ("prior_weight", -1.0, "above 0, not -1.0"),
    ],
)
def test_settings_out_of_range(setting: str, value: float, words: str) -> None:
    with pytest.raises(SpecError, match=rf"search\.settings\.{setting}: must be {words}"):
        make_searcher("hyperopt", LINE, LOSS, 1, {setting: value})
