"""The rules that end a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from raytune_hpo import stopping
from raytune_hpo.errors import SpecError
from raytune_hpo.experiment import Experiment
from raytune_hpo.simulate import Simulation, VirtualClock
from raytune_hpo.space import Float
from raytune_hpo.state import RunState
from raytune_hpo.trial import Config, TrialState

Steps = Iterator[tuple[float, dict[str, Any]]]


def experiment(**fields: Any) -> Experiment:
    fields = {
        "trials": 40,
        "parallel": 1,
        "search": {"algorithm": "random", "seed": 1},
        "objective": {"metric": "loss"},
        **fields,
    }
    return Experiment.from_python(run="noop", parameters={"x": Float(0.0, 1.0)}, **fields)


def made_of(values: list[float | None], **fields: Any) -> RunState:
    """Return a run whose trials end with these values, None being a failure; 10 s each."""
    upcoming = iter(values)

    def steps(config: Config) -> Steps:
        value = next(upcoming)
        if value is None:
            raise ValueError(f"a failure of its own: {'abcdefgh'[values.index(None)]}")
        yield 10.0, {"loss": value, "usd": 2.0}

    return Simulation(experiment(trials=len(values), **fields), steps).run()


def ended(state: RunState) -> tuple[str, int]:
    assert state.finish is not None
    return state.finish.reason, len(state.finished)


# No improvement


def test_no_improvement_counts_trials() -> None:
    wanted = {"no_improvement": 3}
    assert ended(made_of([5, 4, 6, 6, 6, 1], stop_when=wanted)) == ("no_improvement", 5)
    assert ended(made_of([5, 4, 6, 6, 3, 1], stop_when=wanted)) == ("trials", 6)
    assert ended(made_of([5, None, 6, 6, 3, 1], stop_when=wanted)) == ("no_improvement", 4)


def test_no_improvement_counts_run_time() -> None:
    wanted = {"no_improvement_time": 25}
    state = made_of([5, 4, 6, 6, 6, 1], stop_when=wanted)
    assert ended(state) == ("no_improvement", 5)
    assert state.finish is not None
    assert "30 s of run time" in state.finish.message


def test_time_between_sessions_is_no_run_time() -> None:
    spec = experiment(stop_when={"no_improvement_time": 45}, trials=20)
    values = iter([5.0] + [6.0] * 30)

    def steps(config: Config) -> Steps:
        yield 10.0, {"loss": next(values)}

    clock = VirtualClock()
    first = Simulation(spec, steps, clock=clock)
    first.run(events=4)
    records = list(first.journal.records)
    clock.now_s += 1e6
    second = Simulation(spec, steps, clock=clock, records=records)
    state = second.run()
    assert ended(state)[0] == "no_improvement"
    # Standing at 5 from 10 s on: 45 s later are ten seconds each, however many sessions.
    assert len(state.finished) == 6
    assert state.earlier_s == pytest.approx(20.0)


def test_it_needs_a_feasible_trial() -> None:
    wanted = {"no_improvement": 2, "no_improvement_time": 5}
    state = made_of([5, 6, 7, 8], stop_when=wanted, constraints=["loss <= 1"])
    assert ended(state) == ("trials", 4)


def test_with_several_goals_a_new_front_is_an_improvement() -> None:
    pairs = iter([(3, 3), (1, 5), (5, 1), (2, 4), (6, 6), (7, 7), (1, 1)])

    def steps(config: Config) -> Steps:
        a, b = next(pairs)
        yield 1.0, {"a": float(a), "b": float(b)}

    spec = experiment(
        objective=[{"metric": "a"}, {"metric": "b"}], trials=7, stop_when={"no_improvement": 2}
    )
    assert ended(Simulation(spec, steps).run()) == ("no_improvement", 6)


# Plateau


def test_a_plateau_is_too_little_improvement_over_some_trials() -> None:
    wanted = {"plateau": {"trials": 3, "absolute": 0.5}}
    assert ended(made_of([9, 8.9, 8.8, 8.7, 1], stop_when=wanted)) == ("plateau", 4)
    assert ended(made_of([9, 8.9, 8.8, 8.5, 8.4, 8.3, 1], stop_when=wanted)) == ("trials", 7)
    assert ended(made_of([9, 8, 7, 6, 5, 4], stop_when=wanted)) == ("trials", 6)


def test_a_plateau_may_be_relative_and_maximised() -> None:
    wanted = {"plateau": {"trials": 2, "relative": 0.1}}
    assert ended(made_of([100, 95, 91, 1], stop_when=wanted)) == ("plateau", 3)
    assert ended(made_of([100, 95, 89, 60], stop_when=wanted)) == ("trials", 4)
    up = {"objective": {"metric": "loss", "mode": "max"}, "stop_when": wanted}
    assert ended(made_of([100, 105, 109, 200], **up)) == ("plateau", 3)
    assert ended(made_of([100, 105, 111, 150], **up)) == ("trials", 4)


def test_a_plateau_at_zero_needs_no_share_of_it() -> None:
    wanted = {"plateau": {"trials": 2, "relative": 0.1}}
    assert ended(made_of([0, -1, -2, -3], stop_when=wanted)) == ("trials", 4)
    assert ended(made_of([0, 0, 0, -3], stop_when=wanted)) == ("plateau", 3)


def test_a_plateau_says_how_much() -> None:
    state = made_of([9, 8.9, 8.8, 8.7], stop_when={"plateau": {"trials": 3, "absolute": 0.5}})
    assert state.finish is not None
    assert state.finish.message == "the last 3 trials made the best value better by 0.3 only"


# Cost


def test_the_cost_of_all_trials_is_limited() -> None:
    state = made_of([5, 4, 3, 2, 1], stop_when={"cost": {"metric": "usd", "limit": 6}})
    assert ended(state) == ("cost", 3)
    assert state.finish is not None
    assert state.finish.message == "the trials cost 6 by usd, and the limit is 6"


def test_a_trial_that_runs_costs_too() -> None:
    def steps(config: Config) -> Steps:
        for step in range(1, 100):
            yield 1.0, {"loss": 1.0, "usd": float(step)}

    spec = experiment(stop_when={"cost": {"metric": "usd", "limit": 10}}, parallel=2)
    state = Simulation(spec, steps).run()
    assert ended(state)[0] == "cost"
    assert sum(t.metrics["usd"] for t in state.trials.values()) <= 12
    assert {t.state for t in state.trials.values()} == {TrialState.STOPPED}


def test_what_is_no_number_costs_nothing() -> None:
    state = made_of([1.0])
    for value in ("much", None, True, float("nan"), float("inf")):
        state.trials[0].metrics["usd"] = value
        assert stopping.cost_reached(state, "usd", 0.5) is None


def test_a_fork_costs_what_it_adds() -> None:
    state = made_of([1.0, 2.0])
    state.trials[1].inherited = {"usd": 1.5}
    assert stopping.cost_reached(state, "usd", 2.6) is None
    assert stopping.cost_reached(state, "usd", 2.5) is not None


# Expected improvement


def bowl(config: Config) -> Steps:
    yield 1.0, {"loss": 100 * (config["x"] - 0.3) ** 2}


@pytest.mark.parametrize("algorithm", ["auto", "bo"])
def test_the_run_ends_when_little_is_expected(algorithm: str) -> None:
    search = {"algorithm": algorithm, "seed": 1}
    early = experiment(search=search, stop_when={"expected_improvement": 1.0})
    late = experiment(search=search, stop_when={"expected_improvement": 1e-4})
    counts = []
    for spec in (early, late):
        state = Simulation(spec, bowl).run()
        reason, count = ended(state)
        assert reason == "expected_improvement"
        counts.append(count)
        best = state.trials[state.best()[0]].values
        assert best is not None
        assert best[0] < 1.5
    assert 5 <= counts[0] < counts[1] < 40
    assert state.finish is not None
    assert "is expected to gain" in state.finish.message


def test_little_to_gain_is_a_question_of_the_unit() -> None:
    assert stopping.little_to_gain(0.5, 0.5) is None
    verdict = stopping.little_to_gain(0.4999, 0.5)
    assert verdict is not None
    assert verdict.reason == "expected_improvement"


# The file


def refused(**fields: Any) -> dict[str, str]:
    with pytest.raises(SpecError) as caught:
        experiment(**fields)
    return {problem.path: problem.message for problem in caught.value.problems}


def test_rules_that_cannot_be_applied_are_refused() -> None:
    several = [{"metric": "a"}, {"metric": "b"}]
    plateau = {"trials": 3, "absolute": 1}
    found = refused(objective=several, stop_when={"plateau": plateau, "expected_improvement": 1})
    assert set(found) == {"stop_when.plateau", "stop_when.expected_improvement"}
    found = refused(stop_when={"expected_improvement": 1}, search={"algorithm": "tpe"})
    assert found == {
        "stop_when.expected_improvement": "tpe cannot tell what it expects; these can: "
        + ", ".join(stoppers())
    }
    found = refused(
        stop_when={"expected_improvement": 1},
        search={"algorithm": "auto"},
        scheduler={"algorithm": "pbt"},
    )
    assert found["stop_when.expected_improvement"].startswith("sobol cannot tell")


def stoppers() -> list[str]:
    from raytune_hpo import plugins

    found = plugins.expectant()
    assert {"auto", "bo"} <= set(found)
    return found


def test_a_plateau_has_to_say_what_is_enough() -> None:
    assert refused(stop_when={"plateau": {"trials": 3}}) == {
        "stop_when.plateau": "needs absolute or relative: the improvement that is enough"
    }
    assert "stop_when.cost.limit" in refused(stop_when={"cost": {"metric": "usd"}})


@pytest.mark.parametrize(
    "wanted",
    [
        {"no_improvement_time": "2h"},
        {"plateau": {"trials": 3, "relative": 0.1}},
        {"cost": {"metric": "usd", "limit": 5}},
    ],
)
def test_a_rule_limits_a_run_without_a_number_of_trials(wanted: dict[str, Any]) -> None:
    spec = Experiment.from_python(
        run="noop", parameters={"x": Float(0.0, 1.0)}, metric="loss", stop_when=wanted
    )
    assert spec.trials is None
    assert Experiment.from_json(spec.to_json()).stop_when == spec.stop_when


# Hasty ends


def test_failures_beside_trials_with_values_do_not_end_the_run() -> None:
    def steps(config: Config) -> Steps:
        if config["x"] < 0.35:
            raise ValueError("too small")
        for _ in range(5):
            yield 10.0, {"loss": config["x"]}

    spec = experiment(parallel=20, trials=20)
    state = Simulation(spec, steps).run()
    assert state.failed >= 3
    assert ended(state)[0] == "trials"
