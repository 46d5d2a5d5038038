"""Real runs on a real Ray with a real MLflow store: every trial stands there, once."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

import raytune_hpo as rh
from raytune_hpo import journal
from raytune_hpo.tracking import process
from tests.faults.test_driver import (
    EXPERIMENT,
    TRIAL,
    check_each_trial_finished_once,
    finish,
    start,
    wait_for,
)

pytestmark = [
    pytest.mark.ray,
    pytest.mark.mlflow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have runs wait for MLflow however slow this machine is."""
    monkeypatch.setenv(process.END_WAIT_ENV, "240")
    for name in ("READY_WAIT_S", "TRIAL_WAIT_S", "WAITS_S"):
        monkeypatch.setattr(process, name, 240.0)


def runs_of(folder: Path, name: str) -> tuple[Any, list[Any]]:
    """Return the parent run and the child runs of an experiment."""
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run is not parent]
    assert all(run.data.tags["mlflow.parentRunId"] == parent.info.run_id for run in children)
    return parent, children


def test_after_a_kill_each_trial_stands_in_mlflow_once(
    folder: Path, driver_environment: dict[str, str]
) -> None:
    (folder / "experiment.yaml").write_text(EXPERIMENT.replace("mlflow: false\n", ""))
    (folder / "trial.py").write_text(TRIAL)
    run_dir = folder / "raytune-results/experiment"
    driver = start(folder, driver_environment, "run", "experiment.yaml")
    wait_for(run_dir, "report", 8)
    driver.kill()
    finish(driver)
    driver = start(folder, driver_environment, "resume", "experiment")
    output = finish(driver)
    assert driver.returncode == 0, output
    records = check_each_trial_finished_once(run_dir, 12)
    parent, children = runs_of(folder, "experiment")
    assert parent.info.status == "FINISHED"
    run_id = records[0]["id"]
    keys = Counter(run.data.tags["raytune.trial_key"] for run in children)
    assert keys == Counter(f"{run_id}/{number}" for number in range(12))
    assert {run.info.status for run in children} == {"FINISHED"}
    ends = {r["trial"]: r for r in records if r["type"] == "end"}
    for run in children:
        end = ends[int(run.data.tags["raytune.trial_key"].rpartition("/")[2])]
        assert run.data.tags["raytune.state"] == end["state"]
        assert run.data.metrics["loss"] == end["values"][0]


def log_by_itself(config: dict[str, Any]) -> float:
    """Log to MLflow from inside of a trial, as code does that knows nothing of the tuner."""
    import mlflow

    mlflow.log_metric("inner", config["x"] + 1)
    return float(config["x"])


@pytest.mark.usefixtures("ray_address")
def test_what_a_trial_logs_itself_lands_in_its_own_run(folder: Path) -> None:
    result = rh.run(
        log_by_itself,
        {"x": rh.Float(0.0, 1.0)},
        "loss",
        name="inner",
        trials=3,
        resources={"cpu": 0.5},
        tensorboard=True,
        quiet=True,
    )
    _, children = runs_of(folder, "inner")
    assert len(children) == 3
    for run in children:
        trial = result.state.trials[int(run.data.tags["raytune.trial_key"].rpartition("/")[2])]
        assert run.data.metrics["inner"] == trial.config["x"] + 1
        assert run.data.metrics["loss"] == trial.config["x"]
        assert float(run.data.params["x"]) == trial.config["x"]
    assert list((result.path / "tensorboard").rglob("events.out.*"))


@pytest.mark.usefixtures("ray_address")
def test_a_server_that_is_away_costs_no_trial(folder: Path) -> None:
    began = time.monotonic()
    result = rh.run(
        lambda config: config["x"],
        {"x": rh.Float(0.0, 1.0)},
        "loss",
        name="away",
        trials=4,
        resources={"cpu": 0.5},
        mlflow={"uri": "http://127.0.0.1:9"},
        quiet=True,
    )
    assert len(result.trials) == 4
    assert result.state.finish is not None
    assert result.state.finish.reason == "trials"
    assert time.monotonic() - began < 120
    from raytune_hpo.tracking.sync import sync

    said = sync(result.path, f"sqlite:///{folder}/mlflow.db")
    assert "5 runs made" in said
    assert len(journal.read(result.path)) > 4
    assert len(runs_of(folder, "away")[1]) == 4
