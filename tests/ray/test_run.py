"""Runs on a real Ray, in this process."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import raytune_hpo as rh
from raytune_hpo import journal
from raytune_hpo.errors import InfrastructureError
from raytune_hpo.trial import FailureKind, TrialState

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("ray_address", "folder"),
    # Ray's own code: files and sockets that it leaves to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

X = {"x": rh.Float(0.0, 1.0)}


def tune(train: Any, **fields: Any) -> rh.RunResult:
    fields = {
        "parameters": X,
        "metric": "loss",
        "trials": 4,
        "search": {"algorithm": "random", "seed": 1},
        "resources": {"cpu": 0.5},
        "mlflow": False,
        "quiet": True,
        **fields,
    }
    return rh.run(train, **fields)


def starts(result: rh.RunResult) -> list[tuple[int, int]]:
    records = journal.read(result.path)
    return [(r["trial"], r["attempt"]) for r in records if r["type"] == "start"]


def squares(config: dict[str, Any]) -> None:
    print("hello from trial", rh.trial_number())
    for step in range(3):
        rh.report(loss=(config["x"] - 0.5) ** 2 / (step + 1), step=step)


def test_a_function_that_reports(folder: Path) -> None:
    result = tune(squares)
    assert [t.state for t in result.state.trials.values()] == [TrialState.COMPLETED] * 4
    assert all(t.step == 3 for t in result.state.trials.values())
    assert result.best.values == (min(t.metrics["loss"] for t in result.state.trials.values()),)
    assert (result.path / "trials/0002/stdout.log").read_text() == "hello from trial 2\n"
    assert not (result.path / ".tune").exists()
    assert len(result.trials) == 4


def test_a_function_that_returns_a_number_and_gets_a_nested_config() -> None:
    parameters = {"model": {"depth": rh.Int(1, 5)}, "kind": rh.Choice(("a", "b"))}
    result = tune(lambda config: config["model"]["depth"] * 1.5, parameters=parameters)
    assert all(t.values == (t.config["model.depth"] * 1.5,) for t in result.state.trials.values())


def crash_once(config: dict[str, Any]) -> None:
    """Report epochs with checkpoints; crash in the third epoch of the first attempt."""
    before = rh.get_checkpoint()
    first = 1 + (int((before / "epoch").read_text()) if before else 0)
    for epoch in range(first, 6):
        if epoch == 3 and before is None:
            raise OSError("the disk has gone")
        Path("epoch").write_text(str(epoch))
        rh.report(loss=1 / epoch, epoch=epoch, checkpoint="epoch")


def test_a_retry_goes_on_from_the_last_checkpoint() -> None:
    result = tune(crash_once, retries=1, workdir="trial", trials=2)
    for trial in result.state.trials.values():
        assert trial.state is TrialState.COMPLETED
        assert [report.metrics["epoch"] for report in trial.reports] == [1, 2, 3, 4, 5]
        assert [report.step for report in trial.reports] == [1, 2, 3, 4, 5]
        assert trial.attempts[0].failure is not None
        assert "the disk has gone" in trial.attempts[0].failure.details
        kept = sorted(
            p.name for p in (result.path / f"trials/{trial.number:04d}/checkpoints").iterdir()
        )
        assert kept == ["002-000003"]


def die(config: dict[str, Any]) -> None:
    rh.report(loss=config["x"])
    if rh.trial_number() == 1:
        os._exit(3)


def test_a_worker_that_dies_fails_its_own_trial_only() -> None:
    result = tune(die)
    failed = result.state.trials[1]
    assert failed.state is TrialState.FAILED
    assert failed.failure is not None
    assert failed.failure.kind is FailureKind.WORKER_DIED
    assert result.state.counts()[TrialState.COMPLETED] == 3


def hang(config: dict[str, Any]) -> None:
    rh.report(loss=config["x"])
    if rh.trial_number() == 0:
        time.sleep(120)


def test_a_silent_trial_is_ended_and_the_others_go_on() -> None:
    result = tune(hang, silent_limit=2)
    silent = result.state.trials[0]
    assert silent.failure is not None
    assert silent.failure.kind is FailureKind.SILENT
    assert result.state.counts()[TrialState.COMPLETED] == 3


def wait(config: dict[str, Any]) -> None:
    for step in range(600):
        rh.report(loss=1 + config["x"] if rh.trial_number() else 1.0 / (step + 1))
        time.sleep(0.05)


def stops_its_own_process(config: dict[str, Any]) -> None:
    rh.report(loss=config["x"])
    if rh.trial_number() == 1:
        os.kill(os.getpid(), signal.SIGSTOP)


def test_a_worker_that_stands_still_is_ended_and_the_others_go_on() -> None:
    """Goal G10: it cannot even see its own limit."""
    result = tune(stops_its_own_process, silent_limit="2s", parallel=2)
    failed = [t for t in result.state.trials.values() if t.state is TrialState.FAILED]
    assert [trial.number for trial in failed] == [1]
    assert failed[0].failure is not None
    assert failed[0].failure.kind is FailureKind.SILENT
    assert failed[0].duration_s < 2 + 10 + 5
    assert result.state.counts()[TrialState.COMPLETED] == 3


def test_a_target_stops_what_still_runs() -> None:
    began = time.monotonic()
    result = tune(wait, metric=None, objective={"metric": "loss", "target": 0.1})
    assert result.state.finish is not None
    assert result.state.finish.reason == "target"
    assert result.state.trials[0].state is TrialState.COMPLETED
    assert {t.state for n, t in result.state.trials.items() if n} == {TrialState.STOPPED}
    assert time.monotonic() - began < 60


def stop_when_begun(run_dir: Path, trials: int) -> None:
    """Ask a run to stop once so many trials have begun, or after two minutes."""
    deadline = time.monotonic() + 120
    begun = 0
    while begun < trials and time.monotonic() < deadline:
        time.sleep(0.1)
        records = journal.read(run_dir) if journal.exists(run_dir) else []
        begun = sum(record["type"] == "begin" for record in records)
    (run_dir / "stop").write_text("")


def test_a_stop_request_leaves_a_run_that_goes_on(folder: Path) -> None:
    run_dir = folder / "raytune-results/again"
    threading.Thread(target=stop_when_begun, args=(run_dir, 2), daemon=True).start()
    result = tune(wait, name="again", trials=2)
    assert result.state.finish is not None
    assert result.state.finish.reason == "stopped"
    assert result.state.counts()[TrialState.PENDING] == 2
    result = tune(squares, name="again", trials=3, resume=True)
    assert result.state.counts()[TrialState.COMPLETED] == 3
    assert starts(result) == [(0, 1), (1, 1), (0, 2), (1, 2), (2, 1)]


def test_what_no_machine_has_is_refused_at_once() -> None:
    with pytest.raises(InfrastructureError, match=r"each trial asks for .*64 GPU.*no machine here"):
        tune(squares, resources={"gpu": 64})


def test_commands_conditions_and_asha() -> None:
    run = (
        "for e in 1 2 3 4; do echo epoch=$e loss=${x}; sleep 0.1; done; "
        "echo kind=0 opt=${optimizer} >&2"
    )
    result = rh.run(
        run,
        {
            "x": rh.Float(0.0, 1.0),
            "optimizer": rh.Choice(("sgd", "adam")),
            "momentum": rh.Float(0.0, 0.9, when="optimizer == sgd"),
        },
        "loss",
        trials=9,
        search={"algorithm": "random", "seed": 3},
        scheduler={"algorithm": "asha", "settings": {"resource": "epoch", "max_resource": 4}},
        resources={"cpu": 0.5},
        mlflow=False,
        quiet=True,
    )
    counts = result.state.counts()
    assert counts[TrialState.PRUNED] + counts[TrialState.COMPLETED] == 9
    assert counts[TrialState.PRUNED] >= 2
    assert result.best.metrics["loss"] == min(
        t.values[0] for t in result.state.trials.values() if t.values
    )


def test_env_and_secrets_reach_the_trial_and_nothing_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", "canary-4711")
    result = rh.run(
        "echo loss=${#MY_TOKEN}",
        X,
        "loss",
        trials=1,
        env={"MY_TOKEN": {"from_env": "MY_TOKEN"}},
        resources={"cpu": 0.5},
        mlflow=False,
        quiet=True,
    )
    assert result.best.values == (11.0,)
    for path in result.path.rglob("*"):
        if path.is_file():
            assert b"canary-4711" not in path.read_bytes(), path
