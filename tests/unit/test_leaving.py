"""How a run leaves machines that are taken away, on a virtual clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from raytune_hpo.experiment import Experiment
from raytune_hpo.leaving import Limit, Pace
from raytune_hpo.simulate import Simulation
from raytune_hpo.space import Float
from raytune_hpo.state import RunState
from raytune_hpo.trial import Config, Failure, FailureKind, TrialState

Steps = Iterator[tuple[float, dict[str, Any]]]


def experiment(**fields: Any) -> Experiment:
    fields = {
        "trials": 8,
        "parallel": 4,
        "search": {"algorithm": "random", "seed": 1},
        "metric": "loss",
        **fields,
    }
    return Experiment.from_python(run="noop", parameters={"x": Float(0.0, 1.0)}, **fields)


def curve(config: Config) -> Steps:
    """Report ten times, one second apart."""
    for step in range(1, 11):
        yield 1.0, {"loss": config["x"] + 1 / step}


def computed(simulation: Simulation) -> Counter[tuple[int, int]]:
    """Return how often each step of each trial was reported."""
    records = simulation.journal.records
    return Counter((r["trial"], r["step"]) for r in records if r["type"] == "report")


def finish(simulation: Simulation) -> tuple[str, str]:
    state = RunState.replay(simulation.journal.records)
    assert state.finish is not None
    return state.finish.reason, state.finish.message


def test_a_drained_trial_ends_at_its_next_checkpoint_and_goes_on_from_it() -> None:
    first = Simulation(experiment(), curve, checkpoints=True)
    first.run(events=18)
    first.engine.drain("interrupted", "soon", within_s=60.0)
    starts = sum(r["type"] == "start" for r in first.journal.records)
    state = first.run()
    assert finish(first) == ("interrupted", "soon")
    assert sum(r["type"] == "start" for r in first.journal.records) == starts
    assert {t.state for t in state.unfinished.values()} == {TrialState.PENDING}
    second = Simulation(
        experiment(), curve, checkpoints=True, records=first.journal.records, clock=first.clock
    )
    assert second.run().counts()[TrialState.COMPLETED] == 8
    # No step was computed twice.
    assert set(computed(second).values()) == {1}
    assert len(computed(second)) == 80


def test_a_drain_lets_trials_without_checkpoints_end_by_themselves() -> None:
    simulation = Simulation(experiment(), curve)
    simulation.run(events=18)
    simulation.engine.drain("interrupted", "soon", within_s=60.0)
    state = simulation.run()
    assert finish(simulation)[0] == "interrupted"
    assert state.counts()[TrialState.COMPLETED] == len(state.trials)


def test_a_drain_is_over_after_its_time() -> None:
    simulation = Simulation(experiment(), curve)
    simulation.run(events=18)
    simulation.engine.drain("interrupted", "soon", within_s=2.0)
    began_s = simulation.clock.now_s
    state = simulation.run()
    assert simulation.clock.now_s - began_s <= 3.0
    assert TrialState.PENDING in {t.state for t in state.unfinished.values()}
    assert not any(t.failures_charged for t in state.trials.values())


def test_a_second_reason_ends_a_drain_at_once() -> None:
    simulation = Simulation(experiment(), curve)
    simulation.run(events=18)
    simulation.engine.drain("interrupted", "soon", within_s=60.0)
    simulation.engine.drain("interrupted", "again", within_s=0.0)
    records = simulation.journal.records
    assert not any(record["type"] == "finish" for record in records)
    simulation.engine.stop("stopped", "by a person")
    assert finish(simulation) == ("stopped", "by a person")


def test_a_run_drains_by_itself_before_its_machines_are_taken_away() -> None:
    limit = Limit(end_by_s=20.0, margin_s=6.0)
    simulation = Simulation(experiment(trials=40), curve, checkpoints=True, limit=limit)
    simulation.run()
    reason, message = finish(simulation)
    assert reason == "interrupted"
    assert "taken away" in message
    assert 14.0 <= simulation.clock.now_s <= 17.0
    starts = [r["t"] for r in simulation.journal.records if r["type"] == "start"]
    assert max(starts) < 14.0


def test_no_trial_is_started_that_cannot_end_in_time() -> None:
    limit = Limit(end_by_s=26.0, margin_s=4.0)
    simulation = Simulation(experiment(trials=40), curve, limit=limit)
    state = simulation.run()
    reason, message = finish(simulation)
    assert reason == "interrupted"
    assert "10 s" in message
    # Two rounds of four, and none of a third one, which would end at 31 s.
    assert len(state.trials) == state.counts()[TrialState.COMPLETED] == 8
    assert simulation.clock.now_s <= 24.0


def test_trials_that_save_checkpoints_start_until_the_end_is_near() -> None:
    limit = Limit(end_by_s=26.0, margin_s=4.0)
    with_checkpoints = Simulation(experiment(trials=40), curve, checkpoints=True, limit=limit)
    assert len(with_checkpoints.run().trials) > 8


def test_trials_whose_machine_is_taken_away_go_on_elsewhere_uncharged() -> None:
    simulation = Simulation(experiment(), curve, checkpoints=True)
    simulation.run(events=18)
    engine = simulation.engine
    moved = [t.number for t in engine.state.unfinished.values()][:2]
    engine.move(moved)
    state = simulation.run()
    assert finish(simulation)[0] == "trials"
    assert [len(state.trials[number].attempts) for number in moved] == [2, 2]
    assert Counter(len(t.attempts) for t in state.trials.values()) == {1: 6, 2: 2}
    assert set(computed(simulation).values()) == {1}
    assert not any(t.failures_charged or t.lost for t in state.trials.values())


def test_a_machine_that_goes_as_announced_is_never_the_trials_fault() -> None:
    simulation = Simulation(experiment(parallel=1), curve, checkpoints=True)
    for _ in range(6):
        simulation.run(events=2)
        trial = next(t for t in simulation.engine.state.unfinished.values())
        failure = Failure(FailureKind.PREEMPTED, "gone")
        simulation.engine.on_end(trial.number, trial.attempts[-1].number, failure)
        simulation._due.clear()
    state = simulation.run()
    assert state.counts()[TrialState.COMPLETED] == 8
    assert not any(t.failures_charged or t.lost for t in state.trials.values())


def lose_every_attempt(simulation: Simulation, reports: int, losses: int) -> RunState:
    """Lose the machine of the only running trial, again and again, after some reports each."""
    for _ in range(losses):
        simulation.run(events=reports)
        trial = next(iter(simulation.engine.state.unfinished.values()))
        failure = Failure(FailureKind.NODE_LOST, "gone")
        simulation.engine.on_end(trial.number, trial.attempts[-1].number, failure)
        simulation._due.clear()
    return simulation.run()


def test_a_trial_that_gets_on_may_lose_any_number_of_machines() -> None:
    simulation = Simulation(experiment(parallel=1, trials=1), curve, checkpoints=True)
    state = lose_every_attempt(simulation, reports=1, losses=7)
    assert state.counts()[TrialState.COMPLETED] == 1
    assert set(computed(simulation).values()) == {1}


def test_a_trial_that_never_gets_on_is_given_up() -> None:
    simulation = Simulation(experiment(parallel=1, trials=1), curve)
    state = lose_every_attempt(simulation, reports=1, losses=4)
    assert state.counts()[TrialState.FAILED] == 1


def test_the_time_limit_counts_over_sessions_that_were_cut_short() -> None:
    spec = experiment(trials=1000, time_limit="25s")
    first = Simulation(spec, curve, checkpoints=True, limit=Limit(end_by_s=15.0, margin_s=2.0))
    first.run()
    assert finish(first)[0] == "interrupted"
    first.clock.now_s += 1000.0  # in the queue
    again = Limit(end_by_s=first.clock.now_s + 100.0, margin_s=2.0)
    second = Simulation(
        spec, curve, checkpoints=True, records=first.journal.records, clock=first.clock, limit=again
    )
    began_s = second.clock.now_s
    second.run()
    assert finish(second)[0] == "time_limit"
    assert second.clock.now_s - began_s == pytest.approx(12.0, abs=1.5)
    # Who goes on after that wants it to run for as long again.
    third = Simulation(
        spec, curve, checkpoints=True, records=second.journal.records, clock=second.clock
    )
    began_s = third.clock.now_s
    third.run()
    assert third.clock.now_s - began_s == pytest.approx(25.0, abs=1.5)


@pytest.mark.parametrize("state", ["failed", "pending", "stopped"])
def test_the_pace_is_that_of_attempts_that_ended_by_themselves(state: str) -> None:
    pace = Pace()
    pace.take({"type": "start", "trial": 0, "t": 0.0})
    pace.take({"type": "end", "trial": 0, "t": 100.0, "state": state})
    nothing = pace.typical_s
    assert nothing is None
    for trial, seconds in enumerate((5.0, 7.0, 30.0)):
        pace.take({"type": "start", "trial": trial, "t": 0.0})
        pace.take({"type": "begin", "trial": trial, "t": 1.0})
        pace.take({"type": "end", "trial": trial, "t": 1.0 + seconds, "state": "completed"})
    assert pace.typical_s == 7.0
    assert [pace.too_long(left_s) is None for left_s in (8.0, 6.0)] == [True, False]
    pace.take({"type": "report", "trial": 0, "t": 0.0, "checkpoint": "x"})
    assert pace.too_long(6.0) is None
