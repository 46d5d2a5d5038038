"""What a store has after a journal was brought to it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from raytune_hpo.tracking.mlflow import MlflowTracker
from tests.mlflow.made import T0, UUID, MadeRun, View

pytestmark = pytest.mark.mlflow


def test_a_trial_is_a_child_run(run: MadeRun, view: View) -> None:
    run.header()
    run.session()
    run.trial(7, lr=0.25, layers=3)
    run.start(7)
    run.report(7, 1, [0.5], loss=0.5, acc=0.9)
    run.report(7, 2, [0.4], loss=0.4, acc=0.95)
    run.end(7, "completed", values=[0.4])
    run.track()
    child = view.run(7)
    assert child.info.run_name == "trial-0007"
    assert child.info.status == "FINISHED"
    assert child.data.params == {"lr": "0.25", "layers": "3"}
    assert child.data.metrics == {"loss": 0.4, "acc": 0.95}
    assert view.history(7, "loss") == [(1, 0.5, (T0 + 5) * 1000), (2, 0.4, (T0 + 6) * 1000)]
    assert child.info.end_time == (T0 + 7) * 1000
    tags = child.data.tags
    assert tags["mlflow.parentRunId"] == view.run("parent").info.run_id
    assert tags["raytune.trial_key"] == f"{UUID}/7"
    assert tags["raytune.origin"] == "search"
    assert tags["raytune.attempts"] == "1"
    assert tags["raytune.state"] == "completed"
    assert tags["mlflow.user"] == "ada"
    assert tags["mlflow.source.git.commit"] == "c0ffee"


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("completed", "FINISHED"),
        ("pruned", "FINISHED"),
        ("failed", "FAILED"),
        ("stopped", "KILLED"),
        ("paused", "SCHEDULED"),
        ("pending", "SCHEDULED"),
    ],
)
def test_the_status_says_how_a_trial_ended(
    run: MadeRun, view: View, state: str, status: str
) -> None:
    run.header()
    run.session()
    run.trial(0)
    run.start(0)
    run.end(0, state, "exit code 1\nmore" if state == "failed" else None)
    run.track()
    assert view.run(0).info.status == status
    assert view.run(0).data.tags["raytune.state"] == state


def test_a_running_trial_is_running(run: MadeRun, view: View) -> None:
    run.header()
    run.session()
    run.trial(0)
    run.start(0)
    run.track()
    assert view.statuses() == {"parent": "RUNNING", "0": "RUNNING"}


def test_a_failed_trial_says_why(run: MadeRun, view: View) -> None:
    run.header()
    run.session()
    run.trial(0)
    run.start(0)
    run.end(0, "failed", "exit code 1\nmore")
    run.track()
    assert view.run(0).data.tags["raytune.error"] == "exit_code: exit code 1"
    assert view.artifacts(0) == {"error.txt"}


def test_a_retried_trial_keeps_its_run_and_the_error_of_the_first_attempt(
    run: MadeRun, view: View
) -> None:
    run.header(retries=1)
    run.session()
    run.trial(0)
    run.start(0)
    run.report(0, 1, [0.9], loss=0.9)
    run.end(0, "pending", "exit code 1", charged=True)
    run.start(0, attempt=2)
    run.report(0, 1, [0.8], loss=0.8)
    run.end(0, "completed", values=[0.8])
    run.track()
    tags = view.run(0).data.tags
    assert tags["raytune.attempts"] == "2"
    assert tags["raytune.error.1"] == "exit_code: exit code 1"
    assert "raytune.error" not in tags
    assert [value for _, value, _ in view.history(0, "loss")] == [0.8, 0.9]


def test_names_are_cleaned_and_kept_apart(run: MadeRun, view: View) -> None:
    run.header()
    run.session()
    run.append("trial", trial=0, config={"-XX:+UseG1GC": True}, origin="search")
    run.start(0)
    metrics = {"p99(ms)": 1.0, "p99[ms]": 2.0, "../up": 3.0, "a//b": 4.0, "loss": 0.5}
    run.report(0, 1, [0.5], **metrics)
    run.track()
    data = view.run(0).data
    assert data.params == {"-XX:_UseG1GC": "True"}
    assert data.metrics == {
        "p99_ms_": 1.0,
        "p99_ms__2": 2.0,
        "__/up": 3.0,
        "a/_/b": 4.0,
        "loss": 0.5,
    }
    assert json.loads(data.tags["raytune.names"]) == {
        "-XX:_UseG1GC": "-XX:+UseG1GC",
        "p99_ms_": "p99(ms)",
        "p99_ms__2": "p99[ms]",
        "__/up": "../up",
        "a/_/b": "a//b",
    }


def test_what_is_no_finite_number(run: MadeRun, view: View) -> None:
    run.header()
    run.session()
    run.trial(0)
    run.start(0)
    run.report(0, 1, None, loss=math.nan, big=math.inf, ok=True, note="fine\0", list=[1], none=None)
    run.track()
    data = view.run(0).data
    assert math.isnan(data.metrics["loss"])
    assert data.metrics["big"] > 1e308
    assert data.metrics["ok"] == 1.0
    assert data.metrics.keys() == {"loss", "big", "ok"}
    assert data.tags["raytune.nonfinite"] == "true"
    assert data.tags["raytune.text.note"] == "fine\N{REPLACEMENT CHARACTER}"


def test_an_expression_is_the_metric_objective(run: MadeRun, view: View) -> None:
    run.header(objective={"expression": "loss / acc"})
    run.session()
    run.trial(0)
    run.start(0)
    run.report(0, 1, [0.5], loss=0.25, acc=0.5)
    run.end(0, "completed", values=[0.5])
    run.finish()
    run.track()
    assert view.run(0).data.metrics == {"loss": 0.25, "acc": 0.5, "objective": 0.5}
    tags = view.client.get_experiment(view.experiment_id).tags
    assert tags["mlflow.experiment.primaryMetric.name"] == "objective"
    assert tags["mlflow.experiment.primaryMetric.greaterIsBetter"] == "False"


def test_the_parent_follows_the_best(run: MadeRun, view: View) -> None:
    run.header()
    run.session()
    for number, loss in [(0, 0.5), (2, 0.3), (1, 0.2), (3, 0.4)]:
        run.whole_trial(number, loss)
    run.track()
    history = view.history("parent", "best/loss")
    assert [(step, value) for step, value, _ in history] == [(1, 0.5), (2, 0.3), (3, 0.2)]
    assert view.run("parent").data.metrics == {"best/loss": 0.2}
    assert view.run("parent").data.tags["raytune.best_trial"] == "1"
    best = {key: run.data.tags.get("raytune.best") for key, run in view.runs().items()}
    assert best == {"parent": None, "0": "false", "2": "false", "1": "true", "3": None}


def test_the_parent_describes_the_run(run: MadeRun, view: View) -> None:
    (run.path / "requirements.txt").write_text("numpy==2\n")
    run.header(mlflow={"tags": {"team": "a(b)", "x%": "1"}}, description="Why we do it")
    run.session()
    run.whole_trial(0, 0.5)
    run.finish()
    run.track()
    parent = view.run("parent")
    assert parent.info.run_name == "tiny"
    assert parent.info.status == "FINISHED"
    assert parent.data.params["search"] == "tpe"
    assert parent.data.params["seed"] == "7"
    assert parent.data.params["trials"] == "10"
    tags = parent.data.tags
    assert (tags["team"], tags["x_"]) == ("a(b)", "1")
    assert "Trial 0: loss=0.5" in tags["mlflow.note.content"]
    assert "Why we do it" in tags["mlflow.note.content"]
    names = {"experiment.yaml", "resolved.json", "requirements.txt", "trials.csv"}
    assert view.artifacts("parent") == names
    table = Path(view.client.download_artifacts(parent.info.run_id, "trials.csv")).read_text()
    head, row = table.splitlines()
    assert head.startswith("number,state,origin,feasible,objective.loss,config.lr")
    assert row.startswith("0,completed,search,True,0.5,0.0,2,0.5")


@pytest.mark.parametrize(
    ("reason", "status"),
    [("target", "FINISHED"), ("same_error", "FAILED"), ("interrupted", "KILLED")],
)
def test_the_status_of_the_parent_says_why_it_ended(
    run: MadeRun, view: View, reason: str, status: str
) -> None:
    run.header()
    run.session()
    run.finish(reason)
    run.track()
    assert view.run("parent").info.status == status
    assert view.run("parent").data.tags["raytune.finish"] == reason


def test_more_points_than_one_batch_takes(run: MadeRun, view: View) -> None:
    run.header()
    run.session()
    run.trial(0)
    run.start(0)
    for step in range(1, 4):
        run.report(0, step, [0.5], loss=0.5, **{f"m{i}": i + step for i in range(700)})
    run.track()
    data = view.run(0).data
    assert len(data.metrics) == 701
    assert [value for _, value, _ in view.history(0, "m699")] == [700, 701, 702]


def test_a_resend_changes_nothing(run: MadeRun, view: View) -> None:
    run.header()
    run.session()
    run.whole_trial(0, 0.5)
    run.trial(1)
    run.start(1)
    run.report(1, 1, None, loss=math.nan, big=math.inf)
    run.end(1, "pruned")
    run.whole_trial(2, 0.4)
    run.finish()
    run.track()
    before = view.everything()
    (run.path / "mlflow.json").unlink()
    tracker = run.track()
    assert tracker.created == 0
    assert tracker.refused == 0
    assert repr(view.everything()) == repr(before)


def test_a_resume_goes_on_in_the_same_runs(run: MadeRun, view: View) -> None:
    run.header()
    run.session()
    run.whole_trial(0, 0.5)
    run.trial(1)
    run.start(1)
    tracker = MlflowTracker(run.path)
    tracker.apply(run.records())
    tracker.end()
    assert view.statuses() == {"parent": "KILLED", "0": "FINISHED", "1": "KILLED"}
    assert view.run(1).data.tags["raytune.state"] == "interrupted"
    ids = {key: found.info.run_id for key, found in view.runs().items()}
    run.session(2, trials=20)
    run.end(1, "pending")
    run.start(1, attempt=2)
    assert run.track().created == 0
    assert view.statuses() == {"parent": "RUNNING", "0": "FINISHED", "1": "RUNNING"}
    assert view.run("parent").data.tags["raytune.state"] == "running"
    assert view.run("parent").data.tags["raytune.trials"] == "20"
    assert {key: found.info.run_id for key, found in view.runs().items()} == ids


def test_a_crash_between_creation_and_saving_makes_no_doubles(
    run: MadeRun, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raytune_hpo.tracking import memory

    run.header()
    run.session()
    run.whole_trial(0, 0.5)
    with monkeypatch.context() as patch:
        patch.setattr(memory, "save", lambda *arguments: None)
        assert run.track().created == 2
    assert not (run.path / "mlflow.json").exists()
    assert run.track().created == 0
    assert view.statuses() == {"parent": "RUNNING", "0": "FINISHED"}


def test_a_run_that_somebody_deleted_is_left_alone(run: MadeRun, view: View) -> None:
    run.header()
    run.session()
    run.whole_trial(0, 0.5)
    run.whole_trial(1, 0.4)
    run.track()
    view.client.delete_run(view.run(0).info.run_id)
    (run.path / "mlflow.json").unlink()
    tracker = run.track()
    assert tracker.created == 0
    assert tracker.refused == 0
    assert view.statuses() == {"parent": "RUNNING", "1": "FINISHED"}


def test_a_param_that_the_trial_itself_logged_otherwise(run: MadeRun, view: View) -> None:
    run.header()
    run.session()
    tracker = MlflowTracker(run.path, ahead=1)
    tracker.apply(run.records())
    view.client.log_param(view.run(0).info.run_id, "lr", "0.10000")
    first = len(run.records())
    run.trial(0, lr=0.1, layers=2)
    run.start(0)
    run.report(0, 1, [0.5], loss=0.5)
    tracker.apply(run.records()[first:])
    data = view.run(0).data
    assert data.params == {"lr": "0.10000", "config/lr": "0.1", "layers": "2"}
    assert data.metrics == {"loss": 0.5}
    assert tracker.refused == 0


def test_a_double_is_removed(run: MadeRun, view: View) -> None:
    run.header()
    run.session()
    run.whole_trial(0, 0.5)
    run.track()
    kept = view.run(0)
    view.client.create_run(view.experiment_id, tags={"raytune.trial_key": f"{UUID}/0"})
    run.track()
    assert view.run(0).info.run_id == kept.info.run_id


def test_a_store_that_was_wiped_gets_everything_again(run: MadeRun, view: View) -> None:
    run.header(mlflow={"experiment": "other"})
    run.session()
    run.whole_trial(0, 0.5)
    run.track()
    view.experiment = "other"
    for found in view.runs().values():
        view.client.delete_tag(found.info.run_id, "raytune.trial_key")
    run.track()
    keyed = view.client.search_runs(
        [view.experiment_id], f"tags.`raytune.trial_key` LIKE '{UUID}/%'"
    )
    assert len(keyed) == 2
    assert {found.info.status for found in keyed} == {"RUNNING", "FINISHED"}


def test_a_run_that_the_store_has_lost_is_made_again(run: MadeRun, view: View) -> None:
    run.header()
    run.session()
    run.whole_trial(0, 0.5)
    run.track()
    lost = view.run(0).info.run_id
    view.client.delete_tag(lost, "raytune.trial_key")
    assert run.track().created == 1
    found = view.client.search_runs([view.experiment_id], f"tags.`raytune.trial_key` = '{UUID}/0'")
    assert [(r.info.status, r.data.metrics) for r in found] == [("FINISHED", {"loss": 0.5})]
    assert found[0].info.run_id != lost
