"""The searcher `mfbo`: what it learns from trials that did not get to the end."""

import json
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from raytune_hpo.experiment import Experiment
from raytune_hpo.objective import Constraint, Objective
from raytune_hpo.schedulers.asha import Asha
from raytune_hpo.searchers.base import Searcher
from raytune_hpo.searchers.bo import BoSearcher
from raytune_hpo.searchers.mfbo import MfboSearcher
from raytune_hpo.searchers.random import RandomSearcher
from raytune_hpo.simulate import Simulation
from raytune_hpo.space import Float, SearchSpace
from raytune_hpo.trial import Config, Outcome, TrialState

LOSS = Objective.of("loss", "min")
LINE = SearchSpace({"x": Float(0.0, 1.0)})
SQUARE = SearchSpace({"x": Float(0.0, 1.0), "y": Float(0.0, 1.0)})
FAILED = Outcome(TrialState.FAILED)

Curve = Callable[[float, int], float]


def ended(state: TrialState, value: float, step: int) -> Outcome:
    return Outcome(state, (value,), (), step)


def told(searcher: Searcher, trial: int, x: float, curve: Curve, steps: int, *, end: bool) -> None:
    """Tell of a trial that reported so often, and was pruned then if it has ended."""
    searcher.adopt(trial, {"x": x})
    for step in range(1, steps + 1):
        searcher.report(trial, step, (curve(x, step),))
    if end:
        searcher.observe(trial, ended(TrialState.PRUNED, curve(x, steps), steps))


def places(searcher: Searcher, first: int, count: int = 4) -> list[float]:
    """Return what is proposed when nothing of it is known yet."""
    found = []
    for trial in range(first, first + count):
        config = searcher.suggest(trial)
        assert config is not None
        found.append(float(config["x"]))
    return found


def reached(searcher: MfboSearcher) -> list[float]:
    """Return how far each trial with a value counts to have got, 1 being the end."""
    found: list[float] = searcher._observed(searcher._evidence())[:, -1].tolist()
    return found


def test_trials_that_got_less_far_are_not_taken_for_worse() -> None:
    """Of the bad half of the space most got nine steps, of the good one none did."""

    def curve(x: float, step: int) -> float:
        return abs(x - 0.8) + 1.0 / step

    def proposals(kind: type[BoSearcher]) -> list[float]:
        searcher = kind(LINE, LOSS, 1)
        for trial in range(16):
            x = trial / 15
            told(searcher, trial, x, curve, 9 if x < 0.5 and trial % 3 else 1, end=True)
        return places(searcher, 16, 3)

    assert min(proposals(MfboSearcher)) > 0.5
    assert max(proposals(BoSearcher)) < 0.5


def test_the_end_counts_where_the_first_steps_mislead() -> None:
    def curve(x: float, step: int) -> float:
        return abs(x - (0.1 if step == 1 else 0.9))

    searcher = MfboSearcher(LINE, LOSS, 2)
    for trial in range(20):
        told(searcher, trial, trial / 19, curve, 9 if trial % 2 else 1, end=True)
    assert statistics.mean(places(searcher, 20)) > 0.7


@pytest.mark.parametrize("end", [False, True])
def test_a_trial_that_still_runs_counts_by_its_latest_value(*, end: bool) -> None:
    """So do those that stand paused: to a searcher they are the same."""
    searcher = MfboSearcher(LINE, LOSS, 3)
    for trial in range(12):
        told(searcher, trial, trial / 11, lambda x, step: abs(x - 0.3), 3, end=end)
    assert all(abs(x - 0.3) < 0.1 for x in places(searcher, 12, 2))


def test_a_completed_trial_counts_at_the_end_however_few_its_steps() -> None:
    searcher = MfboSearcher(LINE, LOSS, 1)
    for trial, (state, step) in enumerate(
        [(TrialState.COMPLETED, 2), (TrialState.PRUNED, 2), (TrialState.PRUNED, 8)]
    ):
        searcher.adopt(trial, {"x": trial / 10})
        searcher.observe(trial, ended(state, 0.5, step))
    assert reached(searcher) == [1.0, pytest.approx(1 / 3), 1.0]


def test_where_nothing_is_stopped_all_trials_are_at_the_end() -> None:
    searcher = MfboSearcher(LINE, LOSS, 1)
    for trial in range(4):
        searcher.adopt(trial, {"x": trial / 10})
        searcher.observe(trial, Outcome(TrialState.COMPLETED, (0.5,)))
    assert reached(searcher) == [1.0] * 4


def test_steps_that_come_again_change_nothing() -> None:
    searcher = MfboSearcher(LINE, LOSS, 1)
    searcher.adopt(0, {"x": 0.1})
    for step, value in ((1, 0.9), (2, 0.8), (1, 0.1), (2, 0.2)):
        searcher.report(0, step, (value,))
    assert searcher._evidence().values.tolist() == [[0.8]]
    assert searcher._evidence().steps.tolist() == [2]


def test_a_trial_that_fails_is_no_value_any_more() -> None:
    searcher = MfboSearcher(LINE, LOSS, 1)
    for trial in range(3):
        told(searcher, trial, trial / 10, lambda x, step: x, 2, end=False)
    searcher.observe(1, FAILED)
    evidence = searcher._evidence()
    assert evidence.values.tolist() == [[0.0], [0.2]]
    assert evidence.failed.tolist() == [False, True, False]


def test_it_keeps_away_from_where_trials_fail_late() -> None:
    searcher = MfboSearcher(LINE, LOSS, 4)
    late = []
    for trial in range(30):
        (x,) = places(searcher, trial, 1)
        late += [x] * (trial >= 10)
        searcher.report(trial, 1, (x,))  # low is good, and below 0.4 they fail
        searcher.observe(trial, FAILED if x < 0.4 else ended(TrialState.PRUNED, x, 1))
    assert sum(x < 0.35 for x in late) <= 3


def test_constraints_are_learnt_from_trials_that_still_run() -> None:
    objective = Objective(LOSS.goals, (Constraint.parse("size <= 20"),))
    searcher = MfboSearcher(LINE, objective, 5)
    for trial in range(14):
        x = trial / 13
        searcher.adopt(trial, {"x": x})
        searcher.report(trial, 1, (x,), (0.6 - x,))
    assert all(0.5 < x < 0.75 for x in places(searcher, 14, 3))


def test_a_restored_one_goes_on_the_same_with_trials_that_run() -> None:
    kept = MfboSearcher(SQUARE, LOSS, 6)
    running: list[int] = []
    for trial in range(30):
        fresh = MfboSearcher(SQUARE, LOSS, 6)
        fresh.restore(json.loads(json.dumps(kept.state())))
        config = kept.suggest(trial)
        assert config is not None
        assert fresh.suggest(trial) == config
        running.append(trial)
        for number in running:
            kept.report(number, trial - number + 1, (config["x"] / (trial - number + 1),))
        if len(running) == 4:
            number = running.pop(trial % 4)
            kept.observe(number, FAILED if trial % 5 == 0 else ended(TrialState.PRUNED, 0.5, 1))


def test_with_asha_it_finds_more_than_random_search() -> None:
    def curve(config: Config) -> Iterator[tuple[float, dict[str, Any]]]:
        for step in range(1, 10):
            yield 1.0, {"loss": sum((v - 0.3) ** 2 for v in config.values()) + 1 / step}

    def best(kind: type[MfboSearcher] | type[RandomSearcher]) -> float:
        found = []
        for seed in range(4):
            experiment = Experiment.from_python(
                run="noop",
                parameters={name: Float(0.0, 1.0) for name in "abcd"},
                metric="loss",
                trials=40,
                parallel=4,
            )
            space, objective = experiment.search_space, experiment.objectives
            state = Simulation(
                experiment,
                curve,
                searcher=kind(space, objective, seed),
                scheduler=Asha(space, objective, seed, max_resource=9),
                checkpoints=True,
            ).run()
            found += [state.trials[number].values or () for number in state.best()]
        return statistics.mean(value for (value,) in found) - 1 / 9

    assert best(MfboSearcher) < 0.2 * best(RandomSearcher)
