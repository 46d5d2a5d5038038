"""What the examples run, without Ray: a few epochs, a few transactions."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from raytune_hpo import checkpoints, reporting, spec
from raytune_hpo.attempt import Assignment, Event, Job, begin
from raytune_hpo.collect import MetricOptions, make_collector
from raytune_hpo.trial import Config

EXAMPLES = Path(__file__).parents[2] / "examples"
CONFIG: Config = {
    "lr": 0.01,
    "layers": 2,
    "width": 32,
    "solver": "sgd",
    "momentum": 0.9,
    "alpha": 1e-4,
    "batch_size": 128,
}


class Trial:
    """A running function trial that is cut short after some reports."""

    def __init__(self, folder: Path, reports: int, checkpoint: Path | None = None) -> None:
        self.trial = 0
        self.folder = folder
        self.left = reports
        self.checkpoint = checkpoint
        self.metrics: list[dict[str, Any]] = []

    def report(self, metrics: dict[str, Any], checkpoint: Path | None) -> None:
        assert checkpoint is not None
        self.metrics.append(metrics)
        self.checkpoint = checkpoints.save(checkpoint, self.folder, attempt=1)
        if len(self.metrics) == self.left:
            raise reporting.TrialStopped


@pytest.fixture
def digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.chdir(tmp_path)
    found = importlib.util.spec_from_file_location("digits", EXAMPLES / "digits" / "train.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def run(digits: ModuleType, trial: Trial, config: Config) -> list[dict[str, Any]]:
    reporting.set_session(trial)
    try:
        with pytest.raises(reporting.TrialStopped):
            digits.train(config)
    finally:
        reporting.set_session(None)
    return trial.metrics


def test_digits_learns_and_goes_on_from_its_checkpoint(digits: ModuleType, tmp_path: Path) -> None:
    first = Trial(tmp_path, reports=3)
    before = run(digits, first, CONFIG)
    assert [report["epoch"] for report in before] == [1, 2, 3]
    assert before[-1]["loss"] < before[0]["loss"]
    after = run(digits, Trial(tmp_path, reports=1, checkpoint=first.checkpoint), CONFIG)
    assert [report["epoch"] for report in after] == [4]
    # Anew it would be about as bad as in the first epoch.
    assert after[0]["loss"] < before[1]["loss"]


def test_digits_checkpoint_holds_all_weights(digits: ModuleType, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((40, 64)), np.arange(40) % 10
    trained, fresh = (digits.make_model({**CONFIG, "batch_size": 20}) for _ in range(2))
    for _ in range(3):
        trained.partial_fit(x, y, classes=np.unique(y))
    digits.save(trained, 3, tmp_path / "model.npz")
    fresh.partial_fit(x[:20], y[:20], classes=np.unique(y))
    assert not np.array_equal(fresh.predict_proba(x), trained.predict_proba(x))
    assert digits.load(fresh, tmp_path / "model.npz") == 3
    assert np.array_equal(fresh.predict_proba(x), trained.predict_proba(x))


def test_digits_takes_every_config(digits: ModuleType) -> None:
    experiment = spec.load(EXAMPLES / "digits" / "experiment.yaml")
    rng = np.random.default_rng(0)
    for config in (experiment.search_space.sample(rng) for _ in range(20)):
        model = digits.make_model(config)
        assert model.momentum == config.get("momentum", 0.9)
    assert experiment.scheduler.settings["max_resource"] == digits.EPOCHS


def script(name: str, *options: str, folder: Path) -> list[dict[str, Any]]:
    """Run a script of the examples and return what its lines say to the collector."""
    words = [sys.executable, str(EXAMPLES / name), *options]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True)
    collector = make_collector(MetricOptions())
    return [found for line in done.stdout.splitlines() for found in collector.feed(line)]


def test_digits_script_prints_what_is_collected(tmp_path: Path) -> None:
    found = script("digits_script/train.py", "--lr", "0.01", "--epochs", "2", folder=tmp_path)
    assert [set(report) for report in found] == [{"epoch", "loss", "val_accuracy"}] * 2
    assert found[1]["loss"] < found[0]["loss"]
    assert 0.2 < found[1]["val_accuracy"] <= 1


def test_the_options_of_a_bench_reach_sqlite(tmp_path: Path) -> None:
    small = ["--visits", "10", "--synchronous", "normal"]
    pages = ["--page-size", "65536", "--journal-mode", "wal"]
    (found,) = script("sqlite_pragmas/bench.py", *small, *pages, folder=tmp_path)
    assert found["tps"] > 0
    assert found["p99_ms"] > 0
    pages_of_64_kib = found["mib"] * 16
    assert pages_of_64_kib == pytest.approx(round(pages_of_64_kib), abs=0.01)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "more"), [("digits_script", " --epochs 1"), ("sqlite_pragmas", " --visits 10")]
)
def test_the_command_of_an_experiment_works(
    name: str, more: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The experiment's own command, shortened, with one of its configs."""
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    experiment = spec.load(EXAMPLES / name / "experiment.yaml")
    assert isinstance(experiment.run, str)
    folder = EXAMPLES / name
    job = Job(
        run_dir=tmp_path,
        run=experiment.run.rstrip() + more,
        function=None,
        single_metric=None,
        folder=folder,
        workdir=None if experiment.workdir == "trial" else folder,
        env={},
        setup=None,
        time_limit_s=None,
        silent_limit_s=None,
        keep_checkpoints=1,
        parameters=tuple(experiment.search_space.parameters),
    )
    config = experiment.baseline or experiment.search_space.sample(np.random.default_rng(1))
    attempt = begin(job, Assignment(0, 1, dict(config)))
    events: list[Event] = []
    while not events or not events[-1].is_end:
        events += attempt.events(5.0)
    assert attempt.stop()
    assert events[-1].failure is None
    (metrics,) = (event.metrics for event in events if event.metrics is not None)
    assert experiment.objectives.values(metrics)
    assert len(experiment.objectives.violations(metrics)) == len(experiment.constraints)
