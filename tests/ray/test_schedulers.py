"""Each scheduler on a real Ray, with trials that make real checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import raytune_hpo as rh
from raytune_hpo import journal
from raytune_hpo.chaos.checked_decisions import check_decisions
from raytune_hpo.trial import FailureKind, TrialState
from tests.faults.test_decisions import NAMES, SETTINGS, STEPS
from tests.ray.test_run import pytestmark as _marks
from tests.ray.test_run import tune

pytestmark = _marks

SPACE = {"lr": rh.Float(1e-3, 1.0, log=True), "momentum": rh.Float(0.0, 0.9)}


def descend(config: dict[str, Any]) -> None:
    """Minimise a parabola by gradient descent; its state is in the checkpoint."""
    state = {"w": 5.0, "speed": 0.0, "step": 0}
    before = rh.get_checkpoint()
    if before is not None:
        state = json.loads((before / "state.json").read_text())
    while state["step"] < STEPS:
        state["speed"] = config["momentum"] * state["speed"] - config["lr"] * 2 * state["w"]
        state["w"] += state["speed"]
        state["step"] += 1
        Path("state.json").write_text(json.dumps(state))
        rh.report(loss=state["w"] ** 2, seen=state["step"], checkpoint="state.json")


def steps_of(result: rh.RunResult, trial: int) -> list[int]:
    return [report.metrics["seen"] for report in result.state.trials[trial].reports]


@pytest.mark.parametrize("algorithm", NAMES)
def test_each_scheduler_by_name(algorithm: str) -> None:
    scheduler = {"algorithm": algorithm, "settings": SETTINGS.get(algorithm, {})}
    result = tune(
        descend,
        parameters=SPACE,
        scheduler=scheduler,
        trials=12,
        parallel=4,
        resources={"cpu": 0.25},
        workdir="trial",
    )
    state = result.state
    assert state.finish is not None
    assert state.finish.reason == "trials"
    assert state.proposed == 12
    assert not state.failed
    assert max(trial.step for trial in state.trials.values()) == STEPS
    for trial in state.trials.values():
        first = 1 if trial.parent is None else steps_of(result, trial.number)[0]
        assert steps_of(result, trial.number) == list(range(first, trial.step + 1))
    assert check_decisions(journal.read(result.path)) == []


def test_another_trial_takes_what_a_paused_one_leaves() -> None:
    result = tune(
        descend,
        parameters=SPACE,
        scheduler={"algorithm": "asha", "settings": {"form": "promote", "max_resource": STEPS}},
        trials=6,
        parallel=4,
        # All of the CPUs that Ray has: two trials never run at once.
        resources={"cpu": 2},
        workdir="trial",
    )
    records = journal.read(result.path)
    running: set[int] = set()
    paused: set[int] = set()
    taken = 0
    for record in records:
        if record["type"] == "begin":
            assert not running, "two trials hold the same resources"
            taken += bool(paused - {record["trial"]})
            running.add(record["trial"])
        elif record["type"] == "end":
            running.discard(record["trial"])
            paused.discard(record["trial"])
            if record["state"] == TrialState.PAUSED.value:
                paused.add(record["trial"])
    assert taken >= 5
    resumed = [t for t in result.state.trials.values() if len(t.attempts) > 1]
    assert resumed
    for trial in resumed:
        assert steps_of(result, trial.number) == list(range(1, trial.step + 1))


def forgetful(config: dict[str, Any]) -> None:
    for step in range(STEPS):
        rh.report(loss=config["x"] / (step + 1))


def test_a_population_without_checkpoints_is_refused_after_one_trial() -> None:
    result = tune(forgetful, scheduler={"algorithm": "pbt", "settings": SETTINGS["pbt"]})
    state = result.state
    assert state.finish is not None
    assert state.finish.reason == "spec"
    assert "checkpoint" in state.finish.message
    failed = [t for t in state.trials.values() if t.failure is not None]
    assert [t.failure.kind for t in failed if t.failure] == [FailureKind.NO_CHECKPOINT]
