"""Where a trial comes from, and its schedule run again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import pytest

from raytune_hpo.chaos.checked_decisions import check_decisions
from raytune_hpo.errors import SpecError
from raytune_hpo.experiment import Experiment
from raytune_hpo.journal import Record
from raytune_hpo.lineage import Stage, lineage, replay_fields
from raytune_hpo.objective import BadMetric, Objective
from raytune_hpo.schedulers.base import Decision, Fork
from raytune_hpo.schedulers.pbt import Pbt
from raytune_hpo.schedulers.replay import PbtReplay
from raytune_hpo.simulate import Simulation
from raytune_hpo.space import Float, SearchSpace
from raytune_hpo.state import RunState
from raytune_hpo.trial import Config, FailureKind, Outcome, Result, TrialState

SPACE = SearchSpace({"x": Float(0.0, 1.0)})
LOSS = Objective.of("loss")
STEPS = 20


def curve(config: Config) -> Iterator[tuple[float, dict[str, Any]]]:
    yield 0.5, {"note": 1}
    for step in range(1, STEPS + 1):
        yield 1.0, {"loss": config["x"] + 1 / step}


def plain(config: Config) -> Iterator[tuple[float, dict[str, Any]]]:
    for step in range(1, STEPS + 1):
        yield 1.0, {"loss": config["x"] + 1 / step}


def experiment(**fields: Any) -> Experiment:
    options = {"trials": 8, "parallel": 3, "search": {"algorithm": "random", "seed": 2}, **fields}
    return Experiment.from_python(run="noop", parameters=SPACE.parameters, metric="loss", **options)


@pytest.fixture(scope="module")
def records() -> Sequence[Record]:
    scheduler = Pbt(SPACE, LOSS, 1, interval=4, max_resource=STEPS)
    run = Simulation(experiment(), plain, scheduler=scheduler, checkpoints=True)
    run.run()
    return list(run.journal.records)


@pytest.fixture
def state(records: Sequence[Record]) -> RunState:
    return RunState.replay(records, keep_reports=True)


def test_a_trial_that_is_no_fork_has_one_stage(state: RunState) -> None:
    first = state.trials[0]
    assert lineage(state, 0) == [Stage(0, first.config, 0, first.step)]


def test_stages_follow_one_another_without_gaps(state: RunState) -> None:
    deepest = max(state.trials, key=lambda number: len(lineage(state, number)))
    stages = lineage(state, deepest)
    assert len(stages) >= 3
    assert stages[0].from_step == 0
    assert stages[-1].to_step == STEPS
    for before, after in pairwise(stages):
        assert state.trials[after.trial].parent == before.trial
        assert before.to_step == after.from_step
        assert before.to_step <= state.trials[before.trial].step
        assert after.config == state.trials[after.trial].config


def test_a_stage_begins_where_the_journal_says(records: Sequence[Record], state: RunState) -> None:
    forks = [r for r in records if r["type"] == "trial" and r["origin"] == "fork"]
    assert forks
    for fork in forks:
        assert lineage(state, fork["trial"])[-1].from_step == fork["step"]


def test_the_lineage_of_a_fork_that_has_not_reported(records: Sequence[Record]) -> None:
    fork = next(r for r in records if r["type"] == "trial" and r["origin"] == "fork")
    state = RunState.replay(records[: fork["n"] + 1], keep_reports=True)
    stages = lineage(state, fork["trial"])
    assert [stage.trial for stage in stages] == [fork["parent"], fork["trial"]]
    assert stages[1].from_step == fork["step"]


def test_reports_without_the_objective_are_not_counted() -> None:
    # The checkpoint of a report that does not count belongs to the step before.
    run = Simulation(experiment(trials=1), curve, checkpoints=True)
    run.run()
    state = RunState.replay(run.journal.records, keep_reports=True)
    assert lineage(state, 0)[0].to_step == STEPS


def test_a_schedule_is_run_again_as_one_trial(state: RunState) -> None:
    deepest = max(state.trials, key=lambda number: len(lineage(state, number)))
    wanted = [(s.config, s.from_step, s.to_step) for s in lineage(state, deepest)]
    fields = json.loads(json.dumps(replay_fields(state, deepest)))
    spec = experiment(**{**fields, "scheduler": {"algorithm": "none"}})
    settings = fields["scheduler"]["settings"]
    assert fields["scheduler"]["algorithm"] == "pbt_replay"
    records: list[Record] = []
    again = RunState()
    for _ in range(20):
        scheduler = PbtReplay(SPACE, LOSS, 1, **settings)
        run = Simulation(spec, plain, records=records, scheduler=scheduler, checkpoints=True)
        again = run.run(events=7)
        records = list(run.journal.records)
        if again.finish is not None:
            break
    assert again.finish is not None
    assert check_decisions(records, PbtReplay(SPACE, LOSS, 1, **settings)) == []
    again = RunState.replay(records, keep_reports=True)
    last = max(again.trials)
    assert [(s.config, s.from_step, s.to_step) for s in lineage(again, last)] == wanted
    assert again.trials[last].state is TrialState.COMPLETED


SCHEDULE = [{"from": 0, "config": {"x": 0.1}}, {"from": 4, "config": {"x": 0.2}}]


def replay(schedule: Any = SCHEDULE) -> PbtReplay:
    return PbtReplay(SPACE, LOSS, 1, schedule=schedule)


def test_a_change_between_two_reports_comes_at_the_later_one() -> None:
    scheduler = replay()
    scheduler.on_trial(0, {"x": 0.1}, None)
    assert scheduler.on_result(Result(0, 3, (1.0,), checkpoint=True)) is Decision.CONTINUE
    assert scheduler.on_result(Result(0, 5, (1.0,), checkpoint=True)) is Decision.STOP
    scheduler.on_end(0, Outcome(TrialState.PRUNED, (1.0,), step=5))
    assert scheduler.next_move([], more=False) == Fork(0, {"x": 0.2})
    scheduler.on_trial(1, {"x": 0.2}, 0)
    assert scheduler.next_move([], more=False) is None
    assert scheduler.on_result(Result(1, 6, (1.0,), checkpoint=True)) is Decision.CONTINUE


def test_a_trial_that_failed_has_no_next_stage() -> None:
    scheduler = replay()
    scheduler.on_trial(0, {"x": 0.1}, None)
    scheduler.on_end(0, Outcome(TrialState.FAILED))
    assert scheduler.next_move([], more=False) is None


def test_another_first_config_is_refused() -> None:
    scheduler = replay()
    scheduler.on_trial(0, {"x": 0.3}, None)
    with pytest.raises(BadMetric, match=r"search\.initial: \[\{'x': 0\.1\}\]"):
        scheduler.on_result(Result(0, 1, (1.0,), checkpoint=True))


def test_without_a_checkpoint_the_reason_is_told() -> None:
    scheduler = replay()
    scheduler.on_trial(0, {"x": 0.1}, None)
    with pytest.raises(BadMetric, match="pbt_replay needs checkpoints") as caught:
        scheduler.on_result(Result(0, 4, (1.0,)))
    assert caught.value.kind is FailureKind.NO_CHECKPOINT


@pytest.mark.parametrize(
    ("schedule", "told"),
    [
        ([], "has to be a list"),
        ("schedule.json", "has to be a list"),
        ([{"from": 0}], "each entry has 'from' and 'config'"),
        ([3], "each entry has 'from' and 'config'"),
        ([{"from": 0.5, "config": {"x": 0.1}}], "whole number"),
        ([{"from": 0, "config": 3}], "has to name parameters"),
        ([{"from": 0, "config": {"x": 3.0}}], "config from 0: .*x"),
        ([{"from": 1, "config": {"x": 0.1}}], "has to begin from 0"),
        ([SCHEDULE[0], SCHEDULE[1], SCHEDULE[1]], "ascend"),
    ],
)
def test_what_is_no_schedule_is_refused(schedule: Any, told: str) -> None:
    with pytest.raises(SpecError, match=told):
        replay(schedule)
