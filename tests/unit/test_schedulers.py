"""What holds for every scheduler, by name, on the engine in virtual time."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any

import pytest

from raytune_hpo import plugins
from raytune_hpo.chaos.checked_decisions import check_decisions
from raytune_hpo.experiment import Experiment
from raytune_hpo.journal import Record
from raytune_hpo.simulate import Simulation, VirtualClock
from raytune_hpo.space import Float
from raytune_hpo.trial import Config, FailureKind, TrialState
from tests.faults.test_decisions import NAMES, SETTINGS, STEPS

SPACE = {"x": Float(0.0, 1.0), "y": Float(0.0, 1.0)}


def experiment(algorithm: str, **fields: Any) -> Experiment:
    scheduler = {"algorithm": algorithm, "settings": SETTINGS.get(algorithm, {})}
    fields = {"trials": 14, "parallel": 4, "search": {"algorithm": "random", "seed": 2}, **fields}
    return Experiment.from_python("noop", SPACE, "loss", scheduler=scheduler, **fields)


def curve(config: Config) -> Iterator[tuple[float, dict[str, Any]]]:
    for step in range(1, STEPS + 1):
        yield 0.5 + config["y"], {"loss": config["x"] + 1 / step}


def diverging(config: Config) -> Iterator[tuple[float, dict[str, Any]]]:
    for step in range(1, STEPS + 1):
        bad = config["y"] > 0.7 and step > 1
        yield 1.0, {"loss": math.nan if bad else config["x"] + 1 / step}


@pytest.mark.parametrize("algorithm", NAMES)
def test_a_nan_is_a_failure(algorithm: str) -> None:
    state = Simulation(experiment(algorithm), diverging, checkpoints=True).run()
    assert not state.unfinished
    for trial in state.trials.values():
        if trial.state is TrialState.FAILED:
            assert trial.failure is not None
            assert trial.failure.kind is FailureKind.METRIC_NAN
            assert trial.config["y"] > 0.7
        elif trial.config["y"] > 0.7:
            assert trial.step <= 1, "it went on after a NaN"
    assert state.best()


@pytest.mark.parametrize("parallel", [1, 3, 20])
@pytest.mark.parametrize("algorithm", NAMES)
def test_any_number_of_workers_does(algorithm: str, parallel: int) -> None:
    state = Simulation(experiment(algorithm, parallel=parallel), curve, checkpoints=True).run()
    assert state.finish is not None
    assert state.finish.reason == "trials"
    assert state.proposed == 14
    assert not state.unfinished
    assert max(trial.step for trial in state.trials.values()) == STEPS


@pytest.mark.parametrize(
    ("algorithm", "checkpoints"),
    [*((name, True) for name in NAMES)]
    + [(name, False) for name in NAMES if name not in plugins.POPULATIONS],
)
@pytest.mark.parametrize("seed", range(8))
def test_no_crash_changes_a_decision(algorithm: str, seed: int, *, checkpoints: bool) -> None:
    chance = random.Random(seed)
    clock = VirtualClock()
    records: list[Record] = []
    spec = experiment(algorithm)
    # A trial without checkpoints begins anew after each crash, so they have to be rare.
    most = 25 if checkpoints else 80
    for _ in range(300):
        run = Simulation(spec, curve, records=records, clock=clock, checkpoints=checkpoints)
        state = run.run(events=chance.randrange(1, most))
        records = list(run.journal.records)
        if state.finish is not None:
            assert state.finish.reason == "trials"
            assert check_decisions(records) == []
            return
        records = records[: len(records) - chance.choice([0, 0, 1, 2])]
    raise AssertionError("the run does not end")
