import math
import statistics
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest

from raytune_hpo.errors import SpecError
from raytune_hpo.experiment import Experiment
from raytune_hpo.objective import Constraint, Objective
from raytune_hpo.plugins import make_searcher
from raytune_hpo.searchers.base import Searcher
from raytune_hpo.searchers.bohb import _END, BohbSearcher
from raytune_hpo.searchers.random import RandomSearcher
from raytune_hpo.searchers.tpe import TpeSearcher
from raytune_hpo.simulate import Simulation
from raytune_hpo.space import Float, SearchSpace
from raytune_hpo.trial import Config, Outcome, TrialState

LOSS = Objective.of("loss", "min")
LINE = SearchSpace({"x": Float(0.0, 1.0)})
SQUARE = SearchSpace({"x": Float(0.0, 1.0), "y": Float(0.0, 1.0)})
FAILED = Outcome(TrialState.FAILED)


def bohb(space: SearchSpace = LINE, seed: int = 1, **settings: Any) -> BohbSearcher:
    return BohbSearcher(space, LOSS, seed, **{"random_fraction": 0.0, **settings})


def ended(state: TrialState, value: float, step: int) -> Outcome:
    return Outcome(state, (value,), (), step)


def take(searcher: Searcher, trial: int) -> Config:
    config = searcher.suggest(trial)
    assert config is not None
    return config


def rungs(searcher: BohbSearcher) -> dict[int, list[int]]:
    """Return the trials at each rung."""
    return {rung: list(entries) for rung, entries in searcher._rungs.items()}


def halving(searcher: Searcher, value: Callable[[Config, int], float], trials: int) -> list[Config]:
    """Run trials to step 9, a third of them, step 3 or step 1; return their configs."""
    configs = []
    for trial in range(trials):
        config = take(searcher, trial)
        configs.append(config)
        last = (1, 3, 9)[trial % 3]
        for step in range(1, last + 1):
            searcher.report(trial, step, (value(config, step),))
        state = TrialState.COMPLETED if last == 9 else TrialState.PRUNED
        searcher.observe(trial, ended(state, value(config, last), last))
    return configs


def test_the_first_value_at_each_rung_is_kept() -> None:
    searcher = bohb()
    searcher.adopt(0, {"x": 0.1})
    for step in range(1, 11):
        searcher.report(0, step, (float(step),))
    assert {rung: entries[0][0] for rung, entries in searcher._rungs.items()} == {
        0: (1.0,), 1: (3.0,), 2: (9.0,),
    }  # fmt: skip
    searcher.report(0, 3, (-1.0,))  # a second attempt
    assert searcher._rungs[1][0] == ((3.0,), ())


def test_a_report_that_skips_rungs_counts_at_the_highest() -> None:
    searcher = bohb(reduction_factor=2.5)
    for trial, step in enumerate((1, 2, 3, 6, 7, 16)):
        searcher.adopt(trial, {"x": 0.1})
        searcher.report(trial, step, (0.0,))
    assert rungs(searcher) == {0: [0, 1], 1: [2, 3], 2: [4], 3: [5]}


def test_outcomes_count_at_their_step_and_completed_ones_at_the_end() -> None:
    searcher = bohb()
    for trial, state in enumerate((TrialState.COMPLETED, TrialState.PRUNED, TrialState.STOPPED)):
        searcher.adopt(trial, {"x": 0.1})
        searcher.observe(trial, ended(state, 0.5, 4))
    searcher.adopt(3, {"x": 0.2})
    searcher.observe(3, Outcome(TrialState.PRUNED))
    searcher.adopt(4, {"x": 0.2})
    searcher.observe(4, Outcome(TrialState.COMPLETED, (math.nan,), step=4))
    assert rungs(searcher) == {1: [0, 1, 2], _END: [0]}


def test_the_highest_rung_with_enough_values_is_used() -> None:
    searcher = bohb(startup_trials=4)
    assert searcher._usable_rung() is None
    halving(searcher, lambda config, step: config["x"], 9)
    assert {rung: len(trials) for rung, trials in rungs(searcher).items()} == {
        0: 9, 1: 6, 2: 3, _END: 3,
    }  # fmt: skip
    assert searcher._usable_rung() == 1
    for trial in range(9, 12):
        searcher.adopt(trial, {"x": 0.1})
        searcher.report(trial, 9, (0.5,))
    assert searcher._usable_rung() == 2


def test_a_rung_needs_as_many_values_as_there_are_parameters_and_two() -> None:
    space = SearchSpace({name: Float(0.0, 1.0) for name in "abcdef"})
    assert bohb(space, startup_trials=3).need == 8
    assert bohb(space).need == 10


def test_startup_is_random_search() -> None:
    ours, random = bohb(SQUARE, 3, startup_trials=7), RandomSearcher(SQUARE, LOSS, 3)
    for trial in range(8):
        proposals = ours.suggest(trial), random.suggest(trial)
        assert (proposals[0] == proposals[1]) == (trial < 7)
        ours.report(trial, 1, (float(trial),))


def test_learns_where_low_rungs_mislead() -> None:
    """The best at step 1 is the worst at step 9; the last values alone do not tell which is so."""

    def value(config: Config, step: int) -> float:
        return float(abs(config["x"] - (0.9 if step == 9 else 0.1)) - (step == 1))

    def mean_of_rest(searcher: Searcher) -> float:
        return statistics.mean(float(c["x"]) for c in halving(searcher, value, 75)[36:])

    ours = [mean_of_rest(bohb(SQUARE, seed)) for seed in range(4)]
    last_value = [mean_of_rest(TpeSearcher(SQUARE, LOSS, seed)) for seed in range(4)]
    assert statistics.mean(ours) > 0.65
    assert statistics.mean(last_value) < 0.4


def test_the_share_of_random_proposals() -> None:
    def random_ones(fraction: float) -> int:
        searcher = bohb(SQUARE, random_fraction=fraction, startup_trials=4)
        halving(searcher, lambda config, step: config["x"], 12)
        found = 0
        for trial in range(12, 212):
            rng = searcher.random(trial)
            drawn = rng.random() < fraction
            is_random = take(searcher, trial) == searcher.space.sample(rng)
            assert is_random == drawn
            found += is_random
        return found

    assert random_ones(0.0) == 0
    assert random_ones(1.0) == 200
    assert 45 < random_ones(1 / 3) < 90


def test_pending_trials_that_are_not_there_yet_repel() -> None:
    def spread(*, liar: bool) -> float:
        spreads = []
        for seed in range(6):
            searcher = bohb(LINE, seed, constant_liar=liar)
            halving(searcher, lambda config, step: abs(config["x"] - 0.5), 60)
            places = [float(take(searcher, trial)["x"]) for trial in range(60, 68)]
            spreads.append(statistics.pstdev(places))
        return statistics.mean(spreads)

    assert spread(liar=True) > spread(liar=False)


def test_a_pending_trial_at_the_rung_counts_by_its_value() -> None:
    def proposal(value: float | None) -> Config:
        searcher = bohb(LINE, startup_trials=4)
        for trial in range(12):
            searcher.adopt(trial, {"x": trial / 20})
            searcher.report(trial, 1, (trial / 20,))
        searcher.adopt(12, {"x": 0.9})
        if value is not None:
            searcher.report(12, 1, (value,))
        return take(searcher, 13)

    assert proposal(-1.0) != proposal(None)


def test_a_failed_trial_leaves_its_rungs() -> None:
    searcher = bohb()
    for trial in range(2):
        searcher.adopt(trial, {"x": 0.1})
        searcher.report(trial, 1, (0.5,))
        searcher.report(trial, 3, (0.5,))
    searcher.observe(0, FAILED)
    assert rungs(searcher) == {0: [1], 1: [1]}


def test_avoids_where_trials_failed_late() -> None:
    def near_failures(failures: Literal["avoid", "ignore"]) -> int:
        near = 0
        for seed in range(5):
            searcher = bohb(LINE, seed, failures=failures)
            for trial in range(45):
                config = take(searcher, trial)
                bad = config["x"] < 0.3
                near += bad and trial >= 20
                searcher.report(trial, 1, (config["x"],))  # it looked well first
                outcome = FAILED if bad else ended(TrialState.PRUNED, config["x"], 1)
                searcher.observe(trial, outcome)
        return near

    assert near_failures("avoid") < 0.6 * near_failures("ignore")


def test_the_model_kept_up_to_date_is_the_one_made_anew() -> None:
    """Over changes of the rung, failures and pending trials."""
    kept = bohb(SQUARE, 5, startup_trials=5)
    pending: list[int] = []
    for trial in range(40):
        fresh = bohb(SQUARE, 5, startup_trials=5)
        fresh.restore(kept.state())
        config = take(kept, trial)
        assert fresh.suggest(trial) == config
        pending.append(trial)
        for number in pending:
            step = trial - number + 1
            kept.report(number, step, (config["x"] / step,))
        if len(pending) == 4:
            number = pending.pop(trial % 4)
            outcome = ended(TrialState.PRUNED, 0.5, 1)
            kept.observe(number, FAILED if trial % 5 == 0 else outcome)
    assert max(rungs(kept)) >= 2


def test_constraints_lead_into_the_feasible_part() -> None:
    objective = Objective(LOSS.goals, (Constraint.parse("size <= 20"),))
    feasible = 0
    for seed in range(4):
        searcher = BohbSearcher(SQUARE, objective, seed, random_fraction=0.0)
        for trial in range(50):
            config = take(searcher, trial)
            violation = 0.7 - config["x"]
            feasible += trial >= 25 and violation <= 0
            searcher.report(trial, 1, (config["x"],), (violation,))
            outcome = Outcome(TrialState.PRUNED, (config["x"],), (violation,), 1)
            searcher.observe(trial, outcome)
    assert feasible > 0.5 * 4 * 25  # 0.3 of the space is feasible


def test_with_asha_it_finds_more_than_random_search() -> None:
    def curve(config: Config) -> Iterator[tuple[float, dict[str, Any]]]:
        for step in range(1, 10):
            yield 1.0, {"loss": sum((v - 0.3) ** 2 for v in config.values()) + 1 / step}

    def best(algorithm: str) -> float:
        found = []
        for seed in range(4):
            experiment = Experiment.from_python(
                run="noop",
                parameters={name: Float(0.0, 1.0) for name in "abcd"},
                metric="loss",
                trials=60,
                parallel=4,
                search={"algorithm": algorithm, "seed": seed},
                scheduler={"algorithm": "asha", "settings": {"max_resource": 9}},
            )
            state = Simulation(experiment, curve).run()
            found += [state.trials[number].values or () for number in state.best()]
        return statistics.mean(value for (value,) in found) - 1 / 9

    assert best("bohb") < 0.6 * best("random")


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("startup_trials", 0, "at least 1, not 0"),
        ("candidates", 0, "at least 1, not 0"),
        ("reduction_factor", 1, "above 1, not 1"),
        ("reduction_factor", math.inf, "above 1, not inf"),
        ("random_fraction", -0.1, "from 0 to 1, not -0.1"),
        ("random_fraction", 1.5, "from 0 to 1, not 1.5"),
    ],
)
def test_settings_out_of_range(setting: str, value: float, words: str) -> None:
    with pytest.raises(SpecError, match=rf"search\.settings\.{setting}: must be {words}"):
        make_searcher("bohb", LINE, LOSS, 1, {setting: value})
