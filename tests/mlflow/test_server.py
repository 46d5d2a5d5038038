"""A real MLflow server, and connections to it that fail."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from raytune_hpo.journal import Follower
from raytune_hpo.testing.mlflow_proxy import CUT, PASS, REFUSE, Proxy, always, mixed
from raytune_hpo.testing.mlflow_server import serve
from raytune_hpo.tracking.feed import Feed
from raytune_hpo.tracking.mlflow import MlflowTracker
from raytune_hpo.tracking.process import TrackerProcess
from raytune_hpo.tracking.store import environment
from raytune_hpo.tracking.sync import sync
from tests.mlflow.made import MadeRun, View
from tests.mlflow.test_follow import until

pytestmark = pytest.mark.mlflow


@pytest.fixture(scope="module")
def port(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_store, folder / "server.db")
    with serve(folder) as number:
        yield number


def fill(run: MadeRun, name: str, uri: str | None = None) -> None:
    run.header(name=name, mlflow={"experiment": name, **({"uri": uri} if uri else {})})
    run.session()
    for number in range(4):
        run.whole_trial(number, 0.5 - number / 10)
    run.trial(4)
    run.start(4)
    run.report(4, 1, None, loss=float("nan"))
    run.end(4, "failed", "exit code 1")
    run.finish()


WHOLE = {"parent": "FINISHED", **dict.fromkeys("0123", "FINISHED"), "4": "FAILED"}


def test_a_server(run: MadeRun, port: int) -> None:
    uri = f"http://127.0.0.1:{port}"
    fill(run, "served", uri)
    assert "has all 23 records" in sync(run.path)
    view = View(uri, "served")
    assert view.statuses() == WHOLE
    assert view.artifacts("parent") == {"experiment.yaml", "resolved.json", "trials.csv"}
    before = repr(view.everything())
    (run.path / "mlflow.json").unlink()
    assert sync(run.path).endswith("0 runs made")
    assert repr(view.everything()) == before


@pytest.mark.parametrize("seed", range(3))
def test_connections_that_fail_lose_nothing_and_double_nothing(
    run: MadeRun, port: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Half of all requests fail: a few in a row are no sign that a file cannot be taken.
    monkeypatch.setattr("raytune_hpo.tracking.mlflow._TEXT_TRIES", 1000)
    proxy = Proxy(port, mixed([PASS, PASS, REFUSE, CUT], seed))
    fill(run, f"shaky-{seed}", proxy.uri)
    try:
        with environment():
            tracker = MlflowTracker(run.path, ahead=2)
            feed = Feed(Follower(run.path, piece=400), tracker)
            now_s = 0.0
            while not feed.ended:
                feed.step(now_s, last=True)
                now_s += 60.0
        tracker.close()
    finally:
        proxy.close()
    view = View(f"http://127.0.0.1:{port}", f"shaky-{seed}")
    assert view.statuses() == WHOLE
    assert tracker.refused == 0
    assert {key: len(view.history(key, "loss")) for key in "01234"} == dict.fromkeys("01234", 1)
    assert view.artifacts("parent") >= {"experiment.yaml", "resolved.json", "trials.csv"}


def test_an_outage_is_told_and_got_over(run: MadeRun, port: int) -> None:
    proxy = Proxy(port, [(always, REFUSE)])
    fill(run, "away", proxy.uri)
    process = TrackerProcess(run.path, ahead=1)
    try:
        until(lambda: "MLflow unreachable" in (process.line() or ""))
        assert process.may_start(0)
        proxy.script = ()
        assert process.close() is None
    finally:
        proxy.close()
    assert View(f"http://127.0.0.1:{port}", "away").statuses() == WHOLE


def test_an_outage_that_does_not_end_is_reported(run: MadeRun, port: int) -> None:
    proxy = Proxy(port, [(always, REFUSE)])
    fill(run, "gone", proxy.uri)
    process = TrackerProcess(run.path, ahead=1)
    try:
        until(lambda: "MLflow unreachable" in (process.line() or ""))
        assert (process.close(8.0) or "").startswith("MLflow unreachable: 23 records kept; later:")
    finally:
        proxy.close()
