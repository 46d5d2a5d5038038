"""Screens on hand-made journals, held against text files.

``UPDATE_GOLDEN=1 pytest tests/golden/test_screens.py`` writes them anew; read the difference.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from raytune_hpo.view.live import LiveView
from raytune_hpo.view.summary import status, summary
from tests.golden import made_runs
from tests.golden.made_runs import MadeRun

FOLDER = Path(__file__).with_name("screens")
RUN_DIR = Path("raytune-results")
TRACKING = "sqlite:///mlflow.db"


def agree(name: str, seen: str) -> None:
    """Hold a screen against its golden file."""
    path = FOLDER / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(seen, "utf-8")
    assert seen == path.read_text("utf-8")


def plain_lines(run: MadeRun, seen_before: int = 0) -> str:
    stream = io.StringIO()
    run_dir = RUN_DIR / run.experiment.name
    with LiveView(run_dir, stream=stream, tracking=lambda: TRACKING) as view:
        first = max(seen_before, 2)
        view(run.records[:first])
        for record in run.records[first:]:
            view([record])
    return stream.getvalue()


@pytest.mark.parametrize(
    "made", [made_runs.minimize, made_runs.benchmark, made_runs.several, made_runs.failed]
)
def test_plain_lines(made: Callable[[], MadeRun]) -> None:
    agree(f"plain_{made.__name__}", plain_lines(made()))


@pytest.mark.parametrize("made", [made_runs.minimize, made_runs.several, made_runs.failed])
def test_summary(made: Callable[[], MadeRun]) -> None:
    run = made()
    text = summary(run.state(), RUN_DIR / run.experiment.name, tracking=TRACKING)
    agree(f"summary_{made.__name__}", text)


def test_status_of_a_living_run() -> None:
    run = made_runs.benchmark()
    holder = {"host": "node1", "pid": 4711, "since": made_runs.T0}
    agree(
        "status_running",
        status(run.state(), RUN_DIR / "pg-tune", holder=holder, now_t=run.now, tracking=TRACKING),
    )


def test_status_of_a_run_whose_driver_died() -> None:
    run = made_runs.benchmark()
    agree("status_died", status(run.state(), RUN_DIR / "pg-tune", holder=None, now_t=run.now))


def test_resumed_run_shows_no_old_trials() -> None:
    run = made_runs.minimize()
    run.session(trials=7)
    before = len(run.records)
    run.start(5, {"lr": 0.001, "layers": 3, "optimizer": "sgd"})
    run.report(5, {"val_loss": 0.1})
    run.end(5)
    lines = plain_lines(run, seen_before=before).splitlines()
    assert lines[0] == "demo: 7 trials, 2 at a time (5 done before), seed 7, session 2"
    assert lines[5:] == [
        "6/7  trial 5 completed in 1.0 s: val_loss=0.1; lr=0.001 layers=3 optimizer=sgd "
        "| best 0.1 (trial 5)"
    ]


def test_infeasible_run_names_the_nearest() -> None:
    run = MadeRun(made_runs.BENCHMARK)
    for trial, p99 in enumerate([40.0, 21.0]):
        run.start(trial, {"shared_buffers_mb": 64, "work_mem": "4MB"})
        run.report(trial, {"tps": 100.0, "p99_ms": p99})
        run.end(trial)
    run.finish()
    text = summary(run.state(), RUN_DIR / "pg-tune")
    assert "best       none: no trial meets the constraints" in text
    assert "nearest    trial 1 violates p99_ms <= 20 by 1: tps=100" in text


def test_importance_needs_ten_completed_trials(capfd: pytest.CaptureFixture[str]) -> None:
    run = MadeRun(made_runs.MINIMIZE.replace("trials: 5", "trials: 12"))
    for trial in range(12):
        config = {"lr": 10 ** (-1 - trial / 3), "layers": 2 + trial % 3, "optimizer": "sgd"}
        run.start(trial, config)
        run.report(trial, {"val_loss": float((trial - 4) ** 2)})
        if trial == 9:
            assert "matters" not in summary(run.state(), RUN_DIR / "demo")
        run.end(trial)
    run.finish()
    line = next(x for x in summary(run.state(), RUN_DIR / "demo").splitlines() if "matters" in x)
    assert line.split()[1] == "lr"
    assert capfd.readouterr() == ("", "")


class ClosedStream(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_closed_screen_does_not_end_the_run() -> None:
    run = made_runs.minimize()
    with LiveView(RUN_DIR / "demo", stream=ClosedStream()) as view:
        view(run.records)
    assert view.state.best() == [3]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_screen_that_cannot_show_every_sign(encoding: str) -> None:
    raw = io.BytesIO()
    run = MadeRun(made_runs.MINIMIZE)
    run.start(0, {"lr": 0.001, "layers": 3, "optimizer": "sgd"})
    run.end(0, "failed", message="Ошибка → " + "x" * 300)
    stream = io.TextIOWrapper(raw, encoding=encoding)
    with LiveView(RUN_DIR / "demo", stream=stream) as view:
        view(run.records)
    assert b"trial 0 failed in 1.0 s: ?" in raw.getvalue()
