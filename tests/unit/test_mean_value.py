"""A trial's value as the mean of its reports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from raytune_hpo.experiment import Experiment
from raytune_hpo.objective import StepMean
from raytune_hpo.simulate import Simulation
from raytune_hpo.space import Int
from raytune_hpo.state import RunState
from raytune_hpo.trial import Config

Steps = Iterator[tuple[float, dict[str, Any]]]


def experiment(**fields: Any) -> Experiment:
    fields = {
        "objective": {"metric": "cost", "at": "mean"},
        "trials": 3,
        "parallel": 1,
        "search": {"algorithm": "grid", "settings": {"shuffle": False}},
        **fields,
    }
    return Experiment.from_python(run="noop", parameters={"i": Int(0, 2)}, **fields)


def steps(costs: Sequence[Sequence[float]]) -> Any:
    def run(config: Config) -> Steps:
        for cost in costs[config["i"]]:
            yield 1.0, {"cost": cost}

    return run


def values(state: RunState) -> list[float | None]:
    return [None if t.values is None else t.values[0] for t in state.trials.values()]


def test_the_mean_of_all_reports_counts() -> None:
    state = Simulation(experiment(), steps([[1, 2, 6], [4, 4, 4], [5, 0, 1]])).run()
    assert values(state) == pytest.approx([3, 4, 2])
    assert state.best() == [2]


def test_a_trial_of_few_reports_is_not_the_best_of_those_with_more() -> None:
    """Whichever ends first; a mean over the first, easy instances does not compare."""
    for costs in ([[1, 1], [2, 2, 2, 2], [3, 3, 3, 3]], [[3] * 4, [2] * 4, [1, 1]]):
        state = Simulation(experiment(), steps(costs)).run()
        assert state.best() == [1]
    state = Simulation(experiment(), steps([[1], [2, 2], [3, 3, 3]])).run()
    assert state.best() == [2]


def test_steps_that_come_again_count_once() -> None:
    """The first attempt is lost after two reports, and the second begins anew."""
    spec = experiment(trials=1)
    simulation = Simulation(spec, steps([[1, 2, 6], [], []]))
    simulation.run(events=2)
    assert values(simulation.engine.state) == [1.5]
    again = Simulation(spec, steps([[1, 2, 6], [], []]), records=simulation.journal.records)
    assert values(again.run()) == pytest.approx([3])
    reports = [r for r in again.journal.records if r["type"] == "report"]
    assert [r["step"] for r in reports] == [1, 2, 1, 2, 3]


def test_a_replay_of_the_journal_gives_the_same_values() -> None:
    simulation = Simulation(experiment(), steps([[0.1, 0.2, 0.7], [0.3] * 7, [1e308, 1e308]]))
    state = simulation.run()
    for count in range(len(simulation.journal.records) + 1):
        RunState.replay(simulation.journal.records[:count])
    replayed = RunState.replay(simulation.journal.records)
    assert values(replayed) == values(state)
    assert replayed.best() == state.best()


def test_the_journal_holds_each_report_and_the_searcher_the_mean() -> None:
    simulation = Simulation(experiment(), steps([[1, 2, 6], [4], [5]]))
    simulation.run()
    records = [r for r in simulation.journal.records if r.get("trial") == 0]
    assert [r["values"] for r in records if r["type"] == "report"] == [[1], [2], [6]]
    assert [r["values"] for r in records if r["type"] == "end"] == [[3]]


def test_constraints_are_met_on_average() -> None:
    spec = experiment(constraints=["memory <= 4"])

    def run(config: Config) -> Steps:
        for memory in ([3, 6], [9, 1], [1, 4])[config["i"]]:
            yield 1.0, {"cost": float(config["i"]), "memory": memory}

    state = Simulation(spec, run).run()
    assert [t.violations for t in state.trials.values()] == [(0.5,), (1.0,), (-1.5,)]
    assert state.best() == [2]


def test_a_constraint_whose_metric_comes_at_the_end_counts_from_then_on() -> None:
    spec = experiment(constraints=["memory <= 4"])

    def run(config: Config) -> Steps:
        yield 1.0, {"cost": 1.0}
        yield 1.0, {"cost": 1.0}
        yield 1.0, {"memory": 3 + config["i"]}

    state = Simulation(spec, run).run()
    assert [t.violations for t in state.trials.values()] == [(-1.0,), (0.0,), (1.0,)]


def test_the_mean_of_equal_numbers_is_exact_and_huge_ones_do_not_overflow() -> None:
    for number in (0.1, 1 / 3, -1.7e308, 1.7e308, 5e-324):
        mean = StepMean()
        assert {mean.take(step, (number,)) for step in range(1, 50)} == {(number,)}
    mean = StepMean()
    mean.take(1, (1.7e308,))
    assert mean.take(2, (-1.7e308,)) == (0.0,)


def test_the_file_takes_mean_and_names_what_is_valid() -> None:
    assert experiment().objectives.goals[0].at == "mean"
    with pytest.raises(Exception, match="last or best or mean"):
        experiment(objective={"metric": "cost", "at": "average"})
