"""The rules that end a run."""

from __future__ import annotations

import doctest
import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from raytune_hpo import plugins, stopping
from raytune_hpo.errors import SearcherError, SpecError
from raytune_hpo.experiment import Experiment
from raytune_hpo.journal import Record
from raytune_hpo.simulate import Simulation, VirtualClock
from raytune_hpo.space import Float
from raytune_hpo.state import RunState
from raytune_hpo.suggestions import NOT_READY, InBackground, NotReady, Suggestions
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


def test_the_examples_are_right() -> None:
    found = doctest.testmod(stopping)
    assert found.attempted
    assert not found.failed


# All rules, over sessions


RULES: list[tuple[str, dict[str, Any]]] = [
    ("target", {"objective": {"metric": "loss", "target": 0.0005}}),
    ("max_failed", {"max_failed": 2}),
    ("no_improvement", {"stop_when": {"no_improvement": 5}}),
    ("no_improvement", {"stop_when": {"no_improvement_time": 65}}),
    ("plateau", {"stop_when": {"plateau": {"trials": 6, "absolute": 0.25}}}),
    ("cost", {"stop_when": {"cost": {"metric": "usd", "limit": 27.5}}}),
    (
        "expected_improvement",
        {"search": {"algorithm": "bo", "seed": 2}, "stop_when": {"expected_improvement": 0.01}},
    ),
]


def some_fail(config: Config) -> Steps:
    if 0.6 < config["x"] < 0.75:
        raise ValueError(f"x is {config['x']}")
    yield 10.0, {"loss": (config["x"] - 0.3) ** 2, "usd": 2.5}


@pytest.mark.parametrize(("reason", "fields"), RULES)
def test_a_crash_changes_nothing_of_how_a_run_ends(reason: str, fields: dict[str, Any]) -> None:
    spec = experiment(**fields)
    straight = Simulation(spec, some_fail).run()
    assert straight.finish is not None
    assert straight.finish.reason == reason
    assert 3 < len(straight.finished) < 40
    for seed in range(8):
        chance = random.Random(seed)
        clock, records = VirtualClock(), list[Record]()
        for _ in range(200):
            simulation = Simulation(spec, some_fail, records=records, clock=clock)
            state = simulation.run(events=chance.randrange(2, 16))
            records = list(simulation.journal.records)
            if state.finish is not None:
                break
            # A crash may come between any two records; the clock goes on meanwhile.
            records = records[: len(records) - chance.choice([0, 0, 1, 2])]
            clock.now_s += 1e6
        assert state.finish is not None
        assert state.finish.reason == reason
        if "no_improvement_time" not in fields.get("stop_when", {}):
            # A trial that has to be run again takes its time.
            assert state.finish.message == straight.finish.message
            assert len(state.trials) == len(straight.trials)


@pytest.mark.parametrize(("reason", "fields"), RULES)
def test_a_run_that_a_rule_ended_ends_again_at_once(reason: str, fields: dict[str, Any]) -> None:
    spec = experiment(**fields)
    ended_run = Simulation(spec, some_fail)
    before = ended_run.run()
    clock = VirtualClock(ended_run.clock.now_s + 1e6)
    again = Simulation(spec, some_fail, records=ended_run.journal.records, clock=clock).run()
    assert again.finish is not None
    assert before.finish is not None
    assert again.finish.reason == reason
    assert again.finish.message == before.finish.message
    assert len(again.trials) == len(before.trials)


@pytest.mark.parametrize(("reason", "fields"), RULES[1:])
def test_a_run_goes_on_once_the_rule_is_gone(reason: str, fields: dict[str, Any]) -> None:
    first = Simulation(experiment(**fields), some_fail)
    first.run()
    without = {key: value for key, value in fields.items() if key == "search"}
    spec = experiment(trials=35, **without)
    state = Simulation(spec, some_fail, records=first.journal.records, clock=first.clock).run()
    assert ended(state) == ("trials", 35), reason


# No improvement


def test_no_improvement_obeys_the_direction() -> None:
    up = {"objective": {"metric": "loss", "mode": "max"}, "stop_when": {"no_improvement": 2}}
    assert ended(made_of([1, 2, 3, 2, 2, 9], **up)) == ("no_improvement", 5)
    assert ended(made_of([3, 2, 1, 4], **up)) == ("no_improvement", 3)


def test_trials_that_were_cut_short_are_among_those_that_ended() -> None:
    cut = {"algorithm": "threshold", "settings": {"worst": 5.5}}
    for rule in ({"no_improvement": 3}, {"plateau": {"trials": 3, "relative": 0.01}}):
        state = made_of([4, 6, 6, 6, 1], scheduler=cut, stop_when=rule)
        assert ended(state) == (next(iter(rule)), 4)
        assert [t.state for t in state.trials.values()][1:] == [TrialState.PRUNED] * 3


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


def test_failures_are_among_the_trials_of_a_plateau() -> None:
    wanted = {"plateau": {"trials": 3, "absolute": 0.5}}
    assert ended(made_of([9, None, 8.9, None, 1], stop_when=wanted)) == ("plateau", 4)
    assert ended(made_of([None, None, 9, 9, 8], stop_when=wanted)) == ("trials", 5)


def test_a_plateau_of_both_kinds_is_either_one() -> None:
    wanted = {"plateau": {"trials": 2, "absolute": 2.5, "relative": 0.1}}
    assert ended(made_of([10, 9, 8, 1], stop_when=wanted)) == ("plateau", 3)
    assert ended(made_of([100, 97, 95, 1], stop_when=wanted)) == ("plateau", 3)
    assert ended(made_of([10, 9, 7, 1], stop_when=wanted)) == ("trials", 4)


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


def test_a_fork_that_counts_anew_costs_what_it_counts() -> None:
    state = made_of([1.0, 2.0])
    state.trials[1].inherited = {"usd": 50.0}
    assert stopping.cost_reached(state, "usd", 4.1) is None
    assert stopping.cost_reached(state, "usd", 4.0) is not None


def test_failed_trials_cost_too() -> None:
    def steps(config: Config) -> Steps:
        yield 1.0, {"loss": 1.0, "usd": 3.0}
        raise ValueError(f"x is {config['x']}")

    spec = experiment(
        objective=[{"metric": "loss"}, {"metric": "usd"}],
        stop_when={"cost": {"metric": "usd", "limit": 6}},
    )
    state = Simulation(spec, steps).run()
    assert ended(state)[0] == "cost"
    assert state.failed == 1
    assert len(state.trials) == 2


@pytest.mark.parametrize("wrong", [{}, {"usd": "2 dollars"}, {"usd": float("nan")}])
def test_a_cost_that_no_trial_tells_ends_the_run_at_once(wrong: dict[str, Any]) -> None:
    def steps(config: Config) -> Steps:
        yield 10.0, {"loss": 1.0, "usdt": 2.0, **wrong}

    spec = experiment(stop_when={"cost": {"metric": "usd", "limit": 5}})
    first = Simulation(spec, steps)
    state = first.run()
    assert ended(state) == ("spec", 1)
    assert state.finish is not None
    assert state.finish.message.startswith("trial 0 did not report usd, the metric of stop_when")
    assert "did you mean" in state.finish.message or wrong

    def right(config: Config) -> Steps:
        yield 10.0, {"loss": 1.0, "usd": 2.0}

    again = Simulation(spec, right, records=first.journal.records, clock=first.clock).run()
    assert ended(again)[0] == "cost", "once the script is right, the run goes on"


def test_a_cost_may_be_told_late() -> None:
    """A trial that was cut short or failed need not have told its cost."""

    def steps(config: Config) -> Steps:
        yield 1.0, {"loss": config["x"]}
        if config["x"] < 0.1:
            raise ValueError(f"x is {config['x']}")
        yield 1.0, {"loss": config["x"]}
        yield 0.0, {"usd": 2.0}

    cut = {"algorithm": "threshold", "settings": {"worst": 0.2}}
    spec = experiment(scheduler=cut, stop_when={"cost": {"metric": "usd", "limit": 3}})
    state = Simulation(spec, steps).run()
    assert ended(state)[0] == "cost"
    assert state.trials[0].state is TrialState.PRUNED


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


class Slow(Suggestions):
    """A searcher whose expectations take their time, and then are those given."""

    gain: float | NotReady | None = NOT_READY
    error: SearcherError | None = None
    asked = 0

    def request_gain(self) -> None:
        self.asked += 1

    def take_gain(self) -> float | NotReady | None:
        if self.error is not None:
            raise self.error
        return self.gain


def expecting(**fields: Any) -> Simulation:
    spec = experiment(
        search={"algorithm": "bo", "seed": 1}, stop_when={"expected_improvement": 1.5}
    )
    return Simulation(spec, bowl, suggestions=Slow, **fields)


def slow(simulation: Simulation) -> Slow:
    found = simulation.engine._suggestions
    assert isinstance(found, Slow)
    return found


def test_nobody_waits_for_what_is_expected() -> None:
    run = expecting()
    run.run(events=12)
    assert len(run.engine.state.finished) == 6
    assert slow(run).asked == 1
    slow(run).gain = 2.0
    run.engine.tick()
    assert not run.engine.finished
    slow(run).gain = NOT_READY
    run.run(events=4)
    assert slow(run).asked == 2
    assert not run.engine.finished
    slow(run).gain = 1.4
    run.engine.tick()
    finish = run.engine.state.finish
    assert finish is not None
    assert finish.message == "the next trial is expected to gain 1.4, less than 1.5"
    assert run.journal.records[-1]["type"] == "finish"


def test_a_searcher_that_cannot_tell_yet_is_asked_again() -> None:
    run = expecting()
    slow(run).gain = None
    run.run(events=12)
    assert slow(run).asked == 6


def test_a_resumed_run_starts_nothing_new_before_it_knows_whether_it_goes_on() -> None:
    first = expecting()
    first.run(events=12)
    records = first.journal.records[:-3]
    for gain, goes_on in ((0.1, False), (None, True), (2.0, True)):
        again = expecting(records=records)
        assert again.engine.next_start() is None
        assert not again.engine.finished
        slow(again).gain = gain
        again.engine.tick()
        assert again.engine.finished is not goes_on
        assert (again.engine.next_start() is not None) is goes_on


def test_what_was_running_goes_on_without_an_answer() -> None:
    first = expecting()
    first.run(events=13)
    again = expecting(records=first.journal.records)
    start = again.engine.next_start()
    assert start is not None
    assert start.attempt == 2


def test_a_searcher_that_fails_ends_the_run() -> None:
    run = expecting()
    run.run(events=8)
    slow(run).error = SearcherError("the searcher failed: ValueError: no")
    run.engine.tick()
    assert run.engine.state.finish is not None
    assert run.engine.state.finish.reason == "searcher"


class _Expecting:
    """A searcher of another thread that only tells what it expects."""

    def __init__(self, gain: float | Exception) -> None:
        self.gain = gain

    def expected_improvement(self) -> float:
        if isinstance(self.gain, Exception):
            raise self.gain
        return self.gain


def told_by(searcher: Any) -> float | NotReady | None:
    suggestions, done = InBackground(searcher), threading.Event()
    suggestions.request_gain()
    suggestions._call(done.set)
    while suggestions._thread.is_alive() and not done.wait(0.01):
        pass
    return suggestions.take_gain()


def test_the_searcher_tells_in_its_own_thread(capfd: pytest.CaptureFixture[str]) -> None:
    assert told_by(_Expecting(0.25)) == 0.25
    with pytest.raises(SearcherError, match="no model"):
        told_by(_Expecting(ValueError("no model")))
    assert "no model" in capfd.readouterr().err


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
    found = plugins.expectant()
    assert {"auto", "bo"} <= set(found)
    return found


def test_a_plateau_has_to_say_what_is_enough() -> None:
    assert refused(stop_when={"plateau": {"trials": 3}}) == {
        "stop_when.plateau": "needs absolute or relative: the improvement that is enough"
    }
    assert "stop_when.cost.limit" in refused(stop_when={"cost": {"metric": "usd"}})


@pytest.mark.parametrize("number", [0.004, 12.75, 1000])
def test_amounts_may_be_any_number_above_0(number: float) -> None:
    fields: dict[str, Any] = {"search": {"algorithm": "bo"}}
    wanted = {"expected_improvement": number, "cost": {"metric": "usd", "limit": number}}
    wanted |= {"plateau": {"trials": 3, "absolute": number, "relative": number}}
    spec = experiment(stop_when=wanted, **fields)
    assert spec.stop_when.expected_improvement == number
    assert spec.stop_when.cost is not None
    assert spec.stop_when.cost.limit == number


@pytest.mark.parametrize("number", [0, -1.5, float("inf"), "much"])
def test_amounts_that_mean_nothing_are_refused(number: Any) -> None:
    wanted = {"expected_improvement": number, "cost": {"metric": "usd", "limit": number}}
    wanted |= {"plateau": {"trials": 3, "absolute": number, "relative": number}}
    found = refused(stop_when=wanted, search={"algorithm": "bo"})
    assert set(found) == {
        f"stop_when.{name}"
        for name in ("expected_improvement", "cost.limit", "plateau.absolute", "plateau.relative")
    }


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
