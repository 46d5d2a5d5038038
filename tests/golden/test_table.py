"""The live table, drawn on a terminal that is not there."""

from __future__ import annotations

import contextlib
import io
import os
import pty
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from raytune_hpo.view.live import LiveView
from raytune_hpo.view.table import LiveTable
from tests.golden import made_runs
from tests.golden.made_runs import MadeRun

RUN_DIR = Path("raytune-results/pg-tune")


def drawn(run: MadeRun, width: int = 120, height: int = 40) -> str:
    console = Console(file=io.StringIO(), width=width, height=height, record=True)
    table = LiveTable(io.StringIO(), run.state(), RUN_DIR, lambda: "uri", console=console)
    console.print(table.render(run.now))
    return console.export_text()


def test_rows_show_what_runs_and_what_ended() -> None:
    lines = drawn(made_runs.benchmark()).splitlines()
    assert lines[0].split() == [
        *("trial", "status", "tps", "vs", "baseline", "time", "shared_buffers_mb", "work_mem")
    ]
    assert [line.split()[:3] for line in lines[1:6]] == [
        ["0", "completed", "4240"],
        ["1", "*", "completed"],
        ["2", "infeasible", "9000"],
        ["3", "running@1", "4100"],
        ["4", "running", "-"],
    ]
    assert "94% better" in lines[2]
    assert "3.3% worse" in lines[4]
    assert "MLflow uri" in lines[-2]
    assert "Ctrl-C: stop safely" in lines[-1]


def test_progress_counts_and_estimates() -> None:
    text = drawn(made_runs.benchmark())
    # 3 of 6 done in 142 s
    assert "3/6 done, 1 infeasible | 1.3 trials/min | about 2 min left" in text
    assert "best 8240 (trial 1)  shared_buffers_mb=4096 work_mem=64MB" in text


@pytest.mark.parametrize(("width", "height"), [(40, 10), (79, 24), (200, 12)])
def test_fits_the_terminal(width: int, height: int) -> None:
    run = made_runs.benchmark()
    lines = drawn(run, width, height).splitlines()
    assert len(lines) < height
    assert max(map(cell_len, lines)) <= width


def test_failed_trial_says_why_and_where_to_look() -> None:
    text = drawn(made_runs.minimize(), width=140)
    assert "trial 2 failed: the command ended with exit code 1: boom   raytune-hpo logs" in text


def test_many_running_trials_are_counted_when_they_do_not_fit() -> None:
    run = MadeRun(made_runs.MINIMIZE.replace("trials: 5", "trials: 90"), parallel=60)
    for trial in range(60):
        run.start(trial, {"lr": 0.001, "layers": 3, "optimizer": "sgd"})
    lines = drawn(run, height=20).splitlines()
    assert len(lines) < 20
    assert "60 running" in lines[-1]


def test_terminal_gets_a_table_and_gets_back_its_cursor() -> None:
    run = made_runs.minimize()
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as stream:
        with LiveView(Path("raytune-results/demo"), stream=stream) as view:
            view(run.records[:2])
            for record in run.records[2:]:
                view([record])
            view.note("stopping safely")
        os.set_blocking(master, False)
        parts = []
        # A terminal gives a few thousand characters at a time.
        with contextlib.suppress(BlockingIOError):
            while True:
                parts.append(os.read(master, 65536))
        seen = b"".join(parts).decode()
    os.close(master)
    assert "stopping safely" in seen
    assert "\x1b[?25h" in seen
    assert "5/5 done, 1 pruned, 1 failed" in seen
