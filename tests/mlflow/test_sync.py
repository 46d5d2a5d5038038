"""Bringing a whole run to a store at once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from raytune_hpo import lock
from raytune_hpo.errors import InfrastructureError, RunError, RunLockedError
from raytune_hpo.tracking import memory
from raytune_hpo.tracking.sync import sync
from tests.mlflow.made import MadeRun, View

pytestmark = pytest.mark.mlflow


def finished(run: MadeRun) -> None:
    run.header()
    run.session()
    run.whole_trial(0, 0.5)
    run.finish()


def test_sync_brings_everything_and_is_safe_to_repeat(run: MadeRun, view: View) -> None:
    finished(run)
    assert sync(run.path) == (
        f"{view.uri} (experiment tiny) has all 7 records of tiny; 2 runs made"
    )
    before = view.everything()
    assert sync(run.path).endswith("0 runs made")
    assert view.everything() == before


def test_trials_of_later_sessions_stay(
    run: MadeRun, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of a session, where a piece of the journal may end, is not that of the run."""
    run.header()
    run.session()
    run.whole_trial(0, 0.5)
    run.finish("interrupted")
    run.session(2)
    run.whole_trial(1, 0.4)
    run.finish()
    sync(run.path)
    before = view.everything()
    monkeypatch.setattr("raytune_hpo.tracking.sync.PIECE_BYTES", 1)
    assert sync(run.path).endswith("0 runs made")
    assert view.everything() == before
    (run.path / memory.FILE_NAME).unlink()
    assert sync(run.path).endswith("0 runs made")
    assert view.everything() == before


def test_sync_into_another_store(run: MadeRun, view: View, tmp_path: Path) -> None:
    finished(run)
    shutil.copy(tmp_path / "mlflow.db", tmp_path / "second.db")
    sync(run.path)
    second = View(f"sqlite:///{tmp_path / 'second.db'}", "elsewhere")
    sync(run.path, uri=second.uri, experiment="elsewhere")
    assert second.statuses() == view.statuses() == {"parent": "FINISHED", "0": "FINISHED"}
    assert second.run(0).info.run_id != view.run(0).info.run_id
    assert sync(run.path).endswith("0 runs made")
    assert sync(run.path, second.uri, "elsewhere").endswith("0 runs made")


def test_a_run_without_a_driver_is_marked_as_interrupted(run: MadeRun, view: View) -> None:
    run.header()
    run.session()
    run.trial(0)
    run.start(0)
    sync(run.path)
    assert view.statuses() == {"parent": "KILLED", "0": "KILLED"}


def test_a_run_with_a_driver_goes_on(run: MadeRun, view: View) -> None:
    run.header()
    run.session()
    run.trial(0)
    run.start(0)
    held = lock.RunLock(run.path)
    sync(run.path)
    held.release()
    assert view.statuses() == {"parent": "RUNNING", "0": "RUNNING"}


def test_one_tracker_at_a_time(run: MadeRun) -> None:
    finished(run)
    with memory.exclusive(run.path, 0), pytest.raises(RunLockedError, match="another process"):
        sync(run.path)


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no run here"):
        sync(tmp_path)


def test_a_store_that_cannot_be_reached(run: MadeRun, tmp_path: Path) -> None:
    finished(run)
    (tmp_path / "file").write_text("")
    with pytest.raises(InfrastructureError, match="go on with: raytune-hpo mlflow sync"):
        sync(run.path, uri="http://127.0.0.1:9")


def test_a_relative_store_of_the_experiment_starts_at_its_folder(
    run: MadeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    shutil.move(tmp_path / "mlflow.db", tmp_path / "data" / "x.db")
    run.header(mlflow={"uri": "sqlite:///data/x.db"})
    monkeypatch.chdir(tmp_path / "data")
    assert f"sqlite:///{tmp_path}/data/x.db " in sync(run.path)


def test_a_user_s_environment_names_the_default_store(
    run: MadeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(run)
    shutil.move(tmp_path / "mlflow.db", tmp_path / "mine.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mine.db'}")
    assert "mine.db" in sync(run.path)
    assert not (tmp_path / "mlflow.db").exists()
