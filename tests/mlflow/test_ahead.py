"""Runs that are made before their trials, so that a trial can be told its run's id."""

from __future__ import annotations

from typing import Any

import pytest

from raytune_hpo.tracking.mlflow import MlflowTracker
from tests.mlflow.made import MadeRun, View

pytestmark = pytest.mark.mlflow


class Live:
    """A tracker that is given what has come since the last time."""

    def __init__(self, run: MadeRun, ahead: int) -> None:
        self.said: list[dict[str, Any]] = []
        self.tracker = MlflowTracker(run.path, ahead=ahead, announce=self.said.append)
        self._run = run
        self._given = 0

    def step(self) -> None:
        records = self._run.records()
        self.tracker.apply(records[self._given :])
        self._given = len(records)

    def ids(self) -> dict[int, str]:
        return {m["trial"]: m["run_id"] for m in self.said if "trial" in m}


def test_runs_are_made_ahead_and_used(run: MadeRun, view: View) -> None:
    run.header()
    run.session()
    live = Live(run, 2)
    live.step()
    assert live.said[0]["ready"] == {
        "uri": view.uri,
        "experiment_id": view.experiment_id,
        "parent_run_id": view.run("parent").info.run_id,
    }
    assert view.statuses() == {"parent": "RUNNING", "0": "SCHEDULED", "1": "SCHEDULED"}
    ahead = view.run(0).info.run_id
    run.whole_trial(0, 0.5)
    live.step()
    assert view.run(0).info.run_id == ahead
    assert view.run(0).data.params == {"lr": "0.0", "layers": "2"}
    assert view.run(0).info.status == "FINISHED"
    assert live.ids() == {n: view.run(n).info.run_id for n in (0, 1, 2)}


def test_none_is_made_before_the_session_or_beyond_the_budget(run: MadeRun, view: View) -> None:
    run.header()
    live = Live(run, 4)
    live.step()
    assert view.statuses() == {"parent": "RUNNING"}
    run.session(trials=2)
    live.step()
    assert live.ids().keys() == {0, 1}


def test_those_never_used_are_deleted_at_the_end(run: MadeRun, view: View) -> None:
    run.header()
    run.session()
    live = Live(run, 3)
    run.whole_trial(0, 0.5)
    live.step()
    assert view.statuses().keys() == {"parent", "0", "1", "2", "3"}
    run.finish("target")
    live.step()
    live.tracker.end()
    assert view.statuses() == {"parent": "FINISHED", "0": "FINISHED"}


def test_those_never_used_are_deleted_when_the_driver_is_gone(run: MadeRun, view: View) -> None:
    run.header()
    run.session()
    live = Live(run, 3)
    live.step()
    live.tracker.end()
    assert view.statuses() == {"parent": "KILLED"}


def test_a_resume_tells_the_ids_of_unfinished_trials_only(run: MadeRun, view: View) -> None:
    run.header()
    run.session()
    run.whole_trial(0, 0.5)
    run.trial(1)
    run.start(1)
    run.track()
    run.session(2)
    live = Live(run, 1)
    live.step()
    assert live.ids() == {n: view.run(n).info.run_id for n in (1, 2)}


def test_reading_a_journal_again_piece_by_piece_changes_no_run(run: MadeRun, view: View) -> None:
    run.header()
    run.session()
    for number in range(4):
        run.whole_trial(number, 0.5)
    run.track()
    before = view.everything()
    again = MlflowTracker(run.path, ahead=2)
    for record in run.records():
        again.apply([record])
    again.close()
    ahead = {"4", "5"}
    assert {key: kept for key, kept in view.everything().items() if key not in ahead} == before


def test_a_run_made_ahead_is_taken_up_by_the_next_process(run: MadeRun, view: View) -> None:
    run.header()
    run.session()
    Live(run, 2).step()
    before = {key: found.info.run_id for key, found in view.runs().items()}
    (run.path / "mlflow.json").unlink()
    live = Live(run, 2)
    live.step()
    assert live.tracker.created == 0
    assert {key: found.info.run_id for key, found in view.runs().items()} == before


def test_a_trial_whose_run_made_ahead_was_deleted_gets_another(run: MadeRun, view: View) -> None:
    run.header()
    run.session()
    Live(run, 1).tracker.apply(run.records())
    view.client.delete_run(view.run(0).info.run_id)
    run.whole_trial(0, 0.5)
    assert run.track().created == 1
    assert view.run(0).info.status == "FINISHED"
