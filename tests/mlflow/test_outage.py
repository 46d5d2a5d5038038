"""An MLflow server that fails in every way: no result is lost, none is there twice."""

from __future__ import annotations

import contextlib
import math
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raytune_hpo import journal
from raytune_hpo.errors import InfrastructureError
from raytune_hpo.journal import Follower
from raytune_hpo.testing.mlflow_proxy import (
    BROKEN_JSON,
    CUT,
    DRIP,
    EMPTY_JSON,
    HANG,
    HTML,
    PASS,
    REFUSE,
    STRANGE_JSON,
    Condition,
    Fate,
    Proxy,
    Request,
    always,
    mixed,
    slow,
    status,
)
from raytune_hpo.testing.mlflow_server import serve
from raytune_hpo.tracking.feed import Feed
from raytune_hpo.tracking.mlflow import MlflowTracker
from raytune_hpo.tracking.process import READY_WAIT_S, WAITS_S, WAITS_SHARE, TrackerProcess
from raytune_hpo.tracking.store import environment
from raytune_hpo.tracking.sync import sync
from tests.mlflow.made import MadeRun, View
from tests.mlflow.test_feed import Shaky
from tests.mlflow.test_follow import until

pytestmark = pytest.mark.mlflow

STATUS = {"completed": "FINISHED", "pruned": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
ANSWERS = {
    "refuse": REFUSE,
    "cut": CUT,
    "500": status(500),
    "503": status(503),
    "429": status(429, retry_after_s=1),
    "html": HTML,
    "broken-json": BROKEN_JSON,
}
REQUEST_TIMEOUT_S = 1.0


@pytest.fixture(scope="module")
def port(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_store, folder / "server.db")
    with serve(folder) as number:
        yield number


@pytest.fixture
def proxy(port: int) -> Iterator[Proxy]:
    with Proxy(port) as made:
        yield made


class Growing:
    """A run whose journal grows as an engine's does, with trials that take turns.

    Args:
        run: Where it is written.
        uri: Of the MLflow store; None leaves it to the environment.
        seed: Of the values and of the order.
        trials: How many.
    """

    def __init__(self, run: MadeRun, uri: str | None, *, seed: int = 0, trials: int = 4) -> None:
        self.run = run
        self.name = f"outage-{run.folder.name}"
        self._rng = random.Random(seed)
        self._left = list(range(trials))
        self._open: dict[int, int] = {}
        given = {} if uri is None else {"uri": uri}
        run.header(name=self.name, mlflow={"experiment": self.name, **given}, trials=trials)
        run.session(trials=trials)

    def grow(self) -> bool:
        """Write one more record or a few; return whether there is more to come."""
        if self._left and len(self._open) < 3:
            number = self._left.pop(0)
            self.run.trial(number)
            self.run.start(number)
            self._open[number] = 0
        elif self._open:
            self._advance(self._rng.choice(list(self._open)))
        else:
            self.run.finish()
            return False
        return True

    def _advance(self, number: int) -> None:
        step = self._open[number] = self._open[number] + 1
        loss = round(self._rng.random(), 6)
        if step < 3:
            extra = math.nan if number == 1 else loss / 2
            self.run.report(number, step, [loss], loss=loss, extra=extra, note=f"at {step}")
        elif number == 2:
            del self._open[number]
            self.run.end(number, "failed", "exit code 1")
        else:
            del self._open[number]
            self.run.end(number, "completed" if number % 2 else "pruned", values=[loss])

    def whole(self) -> None:
        """Write all that is to come."""
        while self.grow():
            pass


def difference(run: MadeRun, view: View) -> list[str]:
    """Return in what MLflow differs from the journal, which is read here without the tracker."""
    expected: dict[str, dict[str, Any]] = {}
    for record in journal.read(run.path):
        number = str(record.get("trial"))
        if record["type"] == "trial":
            params = {name: str(value) for name, value in record["config"].items()}
            expected[number] = {"status": "RUNNING", "params": params, "metrics": {}}
        elif record["type"] == "report":
            for name, value in record["metrics"].items():
                if not isinstance(value, str):
                    point = (record["step"], repr(float(value)), int(record["t"] * 1000))
                    expected[number]["metrics"].setdefault(name, []).append(point)
        elif record["type"] == "end":
            expected[number]["status"] = STATUS[record["state"]]
    runs = view.runs()
    found = {
        key: {
            "status": one.info.status,
            "params": one.data.params,
            "metrics": {
                name: [(step, repr(value), ms) for step, value, ms in view.history(key, name)]
                for name in one.data.metrics
            },
        }
        for key, one in runs.items()
        if key != "parent"
    }
    lines = [
        f"{key}: {found.get(key)} != {expected.get(key)}"
        for key in sorted(expected.keys() | found.keys())
        if found.get(key) != expected.get(key)
    ]
    if runs["parent"].info.status != "FINISHED" or not runs["parent"].info.end_time:
        lines.append(f"parent: {runs['parent'].info}")
    best = [step for step, _, _ in view.history("parent", "best/loss")]
    if len(set(best)) != len(best):
        lines.append(f"parent: best/loss at {best}")
    wanted = {"experiment.yaml", "resolved.json", "trials.csv"}
    if not view.artifacts("parent") >= wanted:
        lines.append(f"parent: {view.artifacts('parent')}")
    return lines


def bring(growing: Growing, proxy: Proxy) -> MlflowTracker:
    """Follow a growing journal in this process, on a clock that leaps over all waits."""
    with environment(request_timeout_s=REQUEST_TIMEOUT_S):
        tracker = MlflowTracker(growing.run.path, ahead=2)
        feed = Feed(Follower(growing.run.path, piece=800), tracker)
        now_s, more = 0.0, True
        while not feed.ended:
            for _ in range(4):
                more = more and growing.grow()
            feed.step(now_s, last=not more)
            now_s += 60.0
        tracker.close()
    return tracker


def visible(fate: Fate, condition: Condition) -> Callable[[Request], Fate]:
    """Return a script with a fate that the client sees.

    MLflow's client does not read the answer to an upload: a false success is one.
    """

    def script(request: Request) -> Fate:
        false_success = fate.kind == "answer" and fate.status == 200
        if false_success and "mlflow-artifacts" in request.path:
            return PASS
        return fate if request.number < 4 or condition(request) else PASS

    return script


@pytest.mark.parametrize("kind", ANSWERS)
def test_each_kind_of_failure(run: MadeRun, port: int, proxy: Proxy, kind: str) -> None:
    proxy.script = visible(ANSWERS[kind], lambda request: request.number % 3 == 0)
    growing = Growing(run, proxy.uri)
    tracker = bring(growing, proxy)
    assert tracker.refused == 0
    assert difference(run, View(f"http://127.0.0.1:{port}", growing.name)) == []


@pytest.mark.parametrize("fate", [EMPTY_JSON, STRANGE_JSON])
def test_false_successes(run: MadeRun, port: int, proxy: Proxy, fate: Fate) -> None:
    tries: dict[str, int] = {}

    def script(request: Request) -> Fate:
        place = request.path.partition("?")[0]
        tries[place] = tries.get(place, 0) + 1
        read = place.endswith(("get-by-name", "runs/create"))
        return fate if read and tries[place] % 2 else PASS

    proxy.script = script
    growing = Growing(run, proxy.uri)
    assert bring(growing, proxy).refused == 0
    assert difference(run, View(f"http://127.0.0.1:{port}", growing.name)) == []


def test_a_gateway_that_knows_no_mlflow(run: MadeRun, port: int, proxy: Proxy) -> None:
    missing = Fate("answer", status=404, body=b"<html>404</html>", content_type="text/html")
    proxy.script = [(lambda request: request.number % 3 == 0, missing)]
    growing = Growing(run, proxy.uri)
    bring(growing, proxy)
    proxy.script = ()
    sync(run.path)
    assert difference(run, View(f"http://127.0.0.1:{port}", growing.name)) == []


@pytest.mark.parametrize("seed", range(3))
def test_mixed_failures(run: MadeRun, port: int, proxy: Proxy, seed: int) -> None:
    draw = mixed([*[PASS] * 24, *ANSWERS.values(), slow(0.2), HANG], seed)
    proxy.script = lambda request: visible(draw(request), always)(request)
    growing = Growing(run, proxy.uri, seed=seed, trials=5)
    assert bring(growing, proxy).refused == 0
    assert difference(run, View(f"http://127.0.0.1:{port}", growing.name)) == []


def unreachable(process: TrackerProcess) -> bool:
    """Return whether the screen says so."""
    return (process.line() or "").startswith("MLflow unreachable, results are kept: ")


def ready(process: TrackerProcess) -> bool:
    """Return whether the screen says where MLflow is."""
    return (process.line() or "").startswith("MLflow: ")


def command(run: MadeRun, *options: str) -> list[str]:
    """Return what a driver starts, with other limits."""
    return [sys.executable, "-m", "raytune_hpo.tracking", "follow", str(run.path), *options]


def test_outages_of_a_running_server(run: MadeRun, port: int, proxy: Proxy) -> None:
    growing = Growing(run, proxy.uri, trials=16)
    words = command(run, "--ahead", "2", "--request-timeout", str(REQUEST_TIMEOUT_S))
    process = TrackerProcess(run.path, ahead=2, command=words)
    until(lambda: process.environment(0))
    longest_s = 0.0
    for fate in (status(503), CUT, HANG, status(429, retry_after_s=30), None):
        with proxy.down() if fate is None else contextlib.nullcontext():
            proxy.script = [] if fate is None else [(always, fate)]
            for _ in range(6):
                growing.grow()
            until(lambda: unreachable(process))
            began_s = time.monotonic()
            assert process.may_start(99)
            process.environment(99)
            longest_s = max(longest_s, time.monotonic() - began_s)
            for _ in range(6):
                growing.grow()
        proxy.script = ()
    growing.whole()
    assert process.close() is None
    assert longest_s < 1.0
    assert difference(run, View(f"http://127.0.0.1:{port}", growing.name)) == []


def test_a_server_that_is_away_at_the_start(run: MadeRun, port: int, proxy: Proxy) -> None:
    growing = Growing(run, proxy.uri)
    with proxy.down():
        process = TrackerProcess(run.path, ahead=2, clock=lambda: 0.0)
        until(lambda: unreachable(process))
        assert process.may_start(0)
        growing.whole()
        said = process.close(4.0) or ""
    assert said.startswith(f"MLflow unreachable: {len(run.records())} records kept; later: raytune")
    assert "2 runs made" not in sync(run.path)
    assert difference(run, View(f"http://127.0.0.1:{port}", growing.name)) == []


class Clock:
    """A time that the test sets."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_server_that_never_answers(run: MadeRun, port: int, proxy: Proxy) -> None:
    proxy.script = [(always, DRIP)]
    growing = Growing(run, proxy.uri)
    clock = Clock()
    words = command(run, "--hard-limit", "1")
    process = TrackerProcess(run.path, ahead=2, clock=clock, command=words)
    began_s = time.monotonic()
    until(process.line)
    assert time.monotonic() - began_s < 20.0
    assert process.line() == "MLflow is not ready after 8 s, results are kept"
    assert not process.may_start(0)
    clock.now_s = READY_WAIT_S
    assert process.may_start(0)
    growing.whole()
    assert (process.close(1.0) or "").startswith("MLflow may lack the last results, which are kept")
    proxy.script = ()
    sync(run.path)
    assert difference(run, View(f"http://127.0.0.1:{port}", growing.name)) == []


def test_a_dead_driver_and_a_server_that_never_answers(run: MadeRun, proxy: Proxy) -> None:
    proxy.script = [(always, DRIP)]
    Growing(run, proxy.uri)
    words = command(run, "--catch-up", "0.5", "--hard-limit", "0.5")
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        until(lambda: proxy.requests)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(30) == 3


def test_a_server_that_becomes_slow(run: MadeRun, port: int, proxy: Proxy) -> None:
    growing = Growing(run, proxy.uri, trials=8)
    process = TrackerProcess(run.path, ahead=1, clock=lambda: 0.0)
    until(lambda: process.environment(0))
    assert not process.may_start(7)
    proxy.script = [(always, slow(1.2))]
    growing.grow()
    until(lambda: process.may_start(7))
    assert "unreachable" not in (process.line() or "")
    proxy.script = ()
    growing.grow()
    until(lambda: process.environment(3) or growing.grow())
    growing.whole()
    assert process.close() is None
    assert difference(run, View(f"http://127.0.0.1:{port}", growing.name)) == []


def test_a_slow_server_gets_everything_within_the_end_s_wait(
    run: MadeRun, port: int, proxy: Proxy
) -> None:
    proxy.script = [(always, slow(0.3))]
    growing = Growing(run, proxy.uri, trials=12)
    growing.whole()
    process = TrackerProcess(run.path, ahead=1)
    until(lambda: ready(process))
    assert process.close() is None
    assert difference(run, View(f"http://127.0.0.1:{port}", growing.name)) == []


def test_a_database_that_another_holds(run: MadeRun, database: Path, view: View) -> None:
    growing = Growing(run, f"sqlite:///{database}")
    view.experiment = growing.name
    holder = sqlite3.connect(database, isolation_level=None)
    holder.execute("PRAGMA locking_mode = EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    process = TrackerProcess(run.path, ahead=1)
    until(process.trouble)
    # MLflow gives up after some tries of its own, which take it about as long as our patience.
    line = process.trouble() or ""
    assert "not ready after 8 s, results are kept" in line or "database is locked" in line
    growing.whole()
    holder.close()
    until(lambda: ready(process))
    assert process.close() is None
    assert difference(run, view) == []


def test_a_database_that_cannot_be_made(run: MadeRun, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    growing = Growing(run, f"sqlite:///{tmp_path / 'file' / 'mlflow.db'}")
    process = TrackerProcess(run.path, ahead=1)
    until(lambda: unreachable(process))
    assert "\n" not in (process.line() or "")
    growing.whole()
    assert "records kept" in (process.close(4.0) or "")


def test_a_password_is_shown_nowhere(
    run: MadeRun, port: int, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "s3cr3t-c4n4ry"
    uri = proxy.uri.replace("http://", f"http://ada:{secret}@")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    growing = Growing(run, None)
    growing.whole()
    said: list[str | None] = []
    proxy.script = [(always, status(500))]
    with pytest.raises(InfrastructureError) as caught:
        sync(run.path)
    said.append(str(caught.value))
    draw = mixed([*[PASS] * 8, *ANSWERS.values()], 0)
    proxy.script = lambda request: visible(draw(request), always)(request)
    process = TrackerProcess(run.path, ahead=1)
    until(process.line)
    said += [process.line(), process.close(5.0)]
    proxy.script = ()
    said.append(sync(run.path))
    files = [run.path / name for name in ("mlflow.log", "mlflow.json")]
    assert secret not in repr(said)
    assert [file.name for file in files if secret in file.read_text()] == []
    view = View(f"http://127.0.0.1:{port}", growing.name)
    assert secret not in repr(view.everything())
    assert difference(run, view) == []


def test_after_a_long_outage_the_end_is_soon_tried(run: MadeRun) -> None:
    run.header()
    tracker = Shaky(failures=20)
    feed = Feed(Follower(run.path), tracker)
    for second in range(300):
        feed.step(float(second))
    tracker.failures = 0
    for tenth in range(30):
        feed.step(300.0 + tenth / 10, last=True)
    assert feed.ended


def test_waits_for_run_ids_are_a_small_share_of_the_time(run: MadeRun) -> None:
    ready = '{"ready": {"uri": "http://h", "experiment_id": "4", "parent_run_id": "p"}}'
    script = f"import sys\nprint({ready!r}, flush=True)\nsys.stdin.read()"
    clock = Clock()
    process = TrackerProcess(run.path, ahead=1, clock=clock, command=[sys.executable, "-c", script])
    until(process.line)
    waited_s = 0.0
    for trial in range(1000):
        while not process.may_start(trial):
            clock.now_s += 0.1
            waited_s += 0.1
        clock.now_s += 1.0
    process.close()
    assert WAITS_S < waited_s <= WAITS_S + WAITS_SHARE * clock.now_s + 0.5
