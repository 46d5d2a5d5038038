"""The engine on a virtual clock: what starts, what reports mean, what ends and survives a run."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from raytune_hpo.experiment import Experiment
from raytune_hpo.simulate import Simulation, VirtualClock
from raytune_hpo.space import Choice, Float
from raytune_hpo.state import RunState
from raytune_hpo.trial import Config, FailureKind, TrialState

Steps = Iterator[tuple[float, dict[str, Any]]]


def experiment(**fields: Any) -> Experiment:
    fields = {
        "trials": 20,
        "parallel": 4,
        "search": {"algorithm": "random", "seed": 1},
        "metric": "loss",
        **fields,
    }
    return Experiment.from_python(run="noop", parameters={"x": Float(0.0, 1.0)}, **fields)


def curve(config: Config) -> Steps:
    """Report five times, better each time."""
    for step in range(1, 6):
        yield 1.0 + config["x"], {"loss": config["x"] + 1 / step}


def once(config: Config) -> Steps:
    yield 1.0, {"loss": config["x"]}


def run(spec: Experiment, steps: Callable[[Config], Steps]) -> tuple[RunState, Simulation]:
    simulation = Simulation(spec, steps)
    return simulation.run(), simulation


def reason(state: RunState) -> str:
    assert state.finish is not None
    return state.finish.reason


def test_runs_exactly_the_budget_and_finds_the_best() -> None:
    state, simulation = run(experiment(), curve)
    assert reason(state) == "trials"
    assert state.counts()[TrialState.COMPLETED] == 20
    best = state.trials[state.best()[0]]
    assert best.config["x"] == min(t.config["x"] for t in state.trials.values())
    assert all(t.step == 5 for t in state.trials.values())
    assert [r["n"] for r in simulation.journal.records] == list(
        range(len(simulation.journal.records))
    )


def test_never_more_than_parallel_at_once() -> None:
    _, simulation = run(experiment(parallel=3), curve)
    running: set[int] = set()
    most = 0
    for record in simulation.journal.records:
        if record["type"] == "start":
            running.add(record["trial"])
        elif record["type"] == "end":
            running.discard(record["trial"])
        most = max(most, len(running))
    assert most == 3


def test_others_wait_for_the_first_trial_to_show_the_metric() -> None:
    _, simulation = run(experiment(), once)
    types = [r["type"] for r in simulation.journal.records]
    assert types.index("report") < [i for i, t in enumerate(types) if t == "start"][1]


def test_a_wrong_metric_costs_one_trial() -> None:
    def typo(config: Config) -> Steps:
        yield 1.0, {"los": 1.0, "acc": 2.0}

    state, _ = run(experiment(), typo)
    assert reason(state) == "spec"
    assert len(state.trials) == 1
    assert state.finish is not None
    assert "'loss' was not reported" in state.finish.message
    assert "It reported: acc, los (did you mean 'los'?)" in state.finish.message


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (float("nan"), FailureKind.METRIC_NAN),
        (float("inf"), FailureKind.METRIC_INFINITE),
        (None, FailureKind.METRIC_NOT_NUMBER),
        ("oops", FailureKind.METRIC_NOT_NUMBER),
        (True, FailureKind.METRIC_NOT_NUMBER),
    ],
)
def test_a_bad_metric_touches_its_own_trial_only(value: Any, kind: FailureKind) -> None:
    def sometimes(config: Config) -> Steps:
        yield 1.0, {"loss": value if config["x"] > 0.8 else config["x"]}

    state, _ = run(experiment(), sometimes)
    bad = [t for t in state.trials.values() if t.config["x"] > 0.8]
    assert bad
    assert {t.failure.kind for t in bad if t.failure} == {kind}
    assert all(t.state is TrialState.FAILED for t in bad)
    assert state.counts()[TrialState.COMPLETED] == 20 - len(bad)


def test_the_same_error_three_times_stops_the_run() -> None:
    def broken(config: Config) -> Steps:
        if config["x"] >= 0:
            raise ValueError(f"no such file at {config['x']}")
        yield 0.0, {}

    state, _ = run(experiment(), broken)
    assert reason(state) == "same_error"
    assert state.counts()[TrialState.FAILED] == 3


def test_max_failed_ends_the_run_at_that_failure() -> None:
    def flaky(config: Config) -> Steps:
        if config["x"] > 0.4:
            raise ValueError(str(config["x"] > 0.7))
        yield 1.0, {"loss": config["x"]}

    state, _ = run(experiment(max_failed=4, parallel=1), flaky)
    assert reason(state) == "max_failed"
    assert state.failed == 4


def test_retries_go_on_from_the_last_step_and_are_counted() -> None:
    attempts: Counter[float] = Counter()

    def second_time(config: Config) -> Steps:
        attempts[config["x"]] += 1
        yield 1.0, {"loss": config["x"]}
        if attempts[config["x"]] < 3:
            raise OSError("gone")

    state, _ = run(experiment(retries=2, trials=5), second_time)
    assert state.counts()[TrialState.COMPLETED] == 5
    assert set(attempts.values()) == {3}
    assert all(len(t.attempts) == 3 for t in state.trials.values())
    state, _ = run(experiment(retries=1, trials=5), lambda config: second_time({"x": -1.0}))
    assert state.counts()[TrialState.COMPLETED] == 5


def test_a_target_ends_the_run_and_stops_the_rest() -> None:
    state, _ = run(
        experiment(metric=None, objective={"metric": "loss", "target": 0.5}, trials=1000), curve
    )
    assert reason(state) == "target"
    assert state.counts()[TrialState.STOPPED] <= 3
    assert len(state.trials) < 100


def test_the_time_limit_leaves_the_rest_to_a_later_session() -> None:
    spec = experiment(time_limit="10s", trials=1000)
    simulation = Simulation(spec, curve)
    state = simulation.run()
    assert reason(state) == "time_limit"
    assert state.counts()[TrialState.PENDING] == 4


def test_no_improvement_ends_the_run() -> None:
    state, _ = run(experiment(stop_when={"no_improvement": 7}, trials=1000), once)
    assert reason(state) == "no_improvement"
    assert state.since_best >= 7


def test_a_finite_space_is_exhausted() -> None:
    spec = Experiment.from_python(
        run="noop",
        parameters={"x": Choice((0.1, 0.2, 0.3))},
        metric="loss",
        trials=50,
        search={"algorithm": "grid"},
    )
    state, _ = run(spec, once)
    assert reason(state) == "exhausted"
    assert sorted(t.config["x"] for t in state.trials.values()) == [0.1, 0.2, 0.3]


def test_constraints_decide_what_is_best() -> None:
    def latency(config: Config) -> Steps:
        yield 1.0, {"loss": config["x"], "p99": 1 - config["x"]}

    state, _ = run(experiment(constraints=["p99 <= 0.5"]), latency)
    best = state.trials[state.best()[0]]
    assert best.config["x"] == min(
        t.config["x"] for t in state.trials.values() if t.config["x"] >= 0.5
    )


def test_a_constraint_metric_that_never_comes_fails_the_trial() -> None:
    state, _ = run(experiment(constraints=["p99 <= 0.5"]), once)
    assert reason(state) == "spec"
    assert state.finish is not None
    assert "constraint metric 'p99'" in state.finish.message


def test_metrics_of_one_step_may_come_one_by_one() -> None:
    def apart(config: Config) -> Steps:
        for step in range(3):
            yield 1.0, {"loss": config["x"] / (step + 1)}
            yield 0.0, {"p99": 0.1 * (step + 1)}

    state, _ = run(experiment(constraints=["p99 <= 0.25"]), apart)
    assert all(t.step == 3 for t in state.trials.values())
    assert not state.best()
    assert all(t.violations[0] == pytest.approx(0.05) for t in state.trials.values())


def test_several_objectives_have_a_front() -> None:
    def both(config: Config) -> Steps:
        yield 1.0, {"a": config["x"], "b": (config["x"] - 0.5) ** 2}

    state, _ = run(experiment(metric=None, objective=[{"metric": "a"}, {"metric": "b"}]), both)
    front = {state.trials[n].config["x"] for n in state.best()}
    xs = sorted(t.config["x"] for t in state.trials.values())
    below = [x for x in xs if x <= 0.5]
    assert set(below) <= front
    assert len(front) <= len(below) + 1


def test_asha_prunes_and_the_best_survive() -> None:
    spec = experiment(scheduler={"algorithm": "asha", "settings": {"max_resource": 5}}, trials=60)
    state, _ = run(spec, curve)
    counts = state.counts()
    assert counts[TrialState.PRUNED] >= 20
    assert counts[TrialState.COMPLETED] >= 1
    best = min(t.config["x"] for t in state.trials.values())
    assert state.trials[state.best()[0]].config["x"] <= best + 0.2


def test_baseline_and_initial_come_first() -> None:
    spec = experiment(baseline={"x": 0.5}, search={"initial": [{"x": 0.25}], "algorithm": "random"})
    state, _ = run(spec, once)
    assert [(t.origin, t.config["x"]) for t in list(state.trials.values())[:2]] == [
        ("baseline", 0.5),
        ("initial", 0.25),
    ]
    assert state.trials[2].origin == "search"


# Crashes


def crash_and_resume(
    spec: Experiment, steps: Callable[[Config], Steps], seed: int
) -> tuple[RunState, list[dict[str, Any]]]:
    """Run in sessions that each die after a random number of events, at any record."""
    chance = random.Random(seed)
    clock = VirtualClock()
    records: list[dict[str, Any]] = []
    for _ in range(200):
        simulation = Simulation(spec, steps, records=records, clock=clock)
        state = simulation.run(events=chance.randrange(1, 40))
        records = simulation.journal.records
        if state.finish is not None:
            return state, records
        # A crash may come between any two records of what one event writes.
        records = records[: len(records) - chance.choice([0, 0, 1, 2])]
    raise AssertionError(f"seed {seed}: the run does not end")


@pytest.mark.parametrize(
    ("algorithm", "seed"),
    [*(("random", s) for s in range(40)), *(("sobol", s) for s in range(20))]
    + [(name, s) for name in ("tpe", "bohb", "hyperopt") for s in range(10)],
)
def test_no_crash_repeats_or_loses_a_trial(algorithm: str, seed: int) -> None:
    spec = experiment(
        trials=30,
        search={"algorithm": algorithm, "seed": 5},
        scheduler={"algorithm": "asha", "settings": {"max_resource": 5}},
    )
    state, records = crash_and_resume(spec, curve, seed)
    assert len(state.trials) == 30
    finished: set[int] = set()
    for record in records:
        if record["type"] == "start":
            assert record["trial"] not in finished, f"seed {seed}: a finished trial ran again"
        if record["type"] == "end" and TrialState(record["state"]).finished:
            assert record["trial"] not in finished
            finished.add(record["trial"])
    assert finished == set(range(30))


@pytest.mark.parametrize("algorithm", ["tpe", "bohb", "hyperopt"])
def test_one_at_a_time_a_crash_changes_no_suggestion(algorithm: str) -> None:
    search = {"algorithm": algorithm, "seed": 3, "settings": {"startup_trials": 8}}
    spec = experiment(trials=25, parallel=1, search=search)
    straight, _ = run(spec, once)
    for seed in range(10):
        crashed, _ = crash_and_resume(spec, once, seed)
        assert [t.config for t in crashed.trials.values()] == [
            t.config for t in straight.trials.values()
        ]


def test_the_searcher_is_told_of_every_report_live_and_in_a_replay() -> None:
    spec = experiment(trials=8, scheduler={"algorithm": "asha", "settings": {"max_resource": 5}})
    told: list[list[tuple[object, ...]]] = [[], []]

    def listen(suggestions: Any, notes: list[tuple[object, ...]]) -> None:
        suggestions.report = lambda *report: notes.append(report)

    simulation = Simulation(spec, curve)
    listen(simulation.engine._suggestions, told[0])
    simulation.run()
    replay = Simulation(spec, curve, records=simulation.journal.records[:1])
    listen(replay.engine._suggestions, told[1])
    replay.engine._replay(simulation.journal.records[2:])
    expected = [
        (r["trial"], r["step"], tuple(r["values"]), ())
        for r in simulation.journal.records
        if r["type"] == "report"
    ]
    assert len(expected) > 15
    assert told == [expected, expected]


def test_the_budget_may_be_raised_on_resume() -> None:
    _, first = run(experiment(trials=5), once)
    more = Simulation(experiment(trials=12), once, records=first.journal.records)
    state = more.run()
    assert reason(state) == "trials"
    assert len(state.trials) == 12
    starts = Counter(r["trial"] for r in more.journal.records if r["type"] == "start")
    assert set(starts.values()) == {1}


def test_late_reports_of_an_ended_attempt_are_not_taken() -> None:
    simulation = Simulation(experiment(), curve)
    simulation.run(events=3)
    engine = simulation.engine
    number, trial = next(iter(engine.state.unfinished.items()))
    before = len(simulation.journal.records)
    stale = trial.attempts[-1].number + 7
    assert engine.on_report(number, stale, {"loss": -1.0}).value == "stop"
    engine.on_end(number, stale)
    assert len(simulation.journal.records) == before
