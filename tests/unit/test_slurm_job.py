"""What follows the end of a driver in a Slurm job."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raytune_hpo import exits
from raytune_hpo.journal import Journal
from raytune_hpo.slurm.job import (
    FAILURES_MOST,
    Ending,
    Next,
    decide,
    progress,
)
from raytune_hpo.slurm.state import State, read_state, write_state

OVER = "all 12 trials are done"
SOON = "interrupted by SIGUSR1"


@pytest.mark.parametrize(
    ("ending", "next_", "state"),
    [
        (Ending(0, "trials", OVER), Next.END, "finished"),
        (Ending(1, "trials", OVER), Next.END, "finished"),
        (Ending(2), Next.END, "finished"),
        # A traceback.
        (Ending(1), Next.AGAIN, "running"),
        # The limit: asked by the signal, or seen by the driver itself.
        (Ending(130, "interrupted", SOON, limit=True), Next.REQUEUE, "requeued"),
        (Ending(130, "interrupted", "the time of the job ends"), Next.REQUEUE, "requeued"),
        # Killed by the signal, before it could hear it or while it did not answer.
        (Ending(-10, limit=True), Next.REQUEUE, "requeued"),
        (Ending(130, limit=True), Next.REQUEUE, "requeued"),
        # It came when all was done.
        (Ending(0, "trials", OVER, limit=True), Next.END, "finished"),
        # Cancelled, or preempted, when Slurm itself sees to the requeue.
        (Ending(130, "interrupted", "SIGTERM", term=True), Next.END, "terminated"),
        (Ending(134, term=True), Next.END, "terminated"),
        (Ending(130, "interrupted", SOON, limit=True, term=True), Next.REQUEUE, "requeued"),
        # A person has asked for the end.
        (Ending(130, "stopped", "stopped by raytune-hpo stop"), Next.END, "stopped"),
        (Ending(130, "stopped", "stopped", limit=True), Next.END, "stopped"),
        # Killed, out of memory, Ray gone.
        (Ending(-9), Next.AGAIN, "running"),
        (Ending(3, "infrastructure", "Ray does not answer"), Next.AGAIN, "running"),
        (Ending(-9, failures=FAILURES_MOST), Next.END, "failed"),
        (
            Ending(130, "interrupted", SOON, limit=True, failures=FAILURES_MOST),
            Next.END,
            "failed",
        ),
        (Ending(3, superseded=True), Next.END, "superseded"),
        (Ending(130, "interrupted", SOON, limit=True, superseded=True), Next.END, "superseded"),
    ],
)
def test_what_follows(ending: Ending, next_: Next, state: str) -> None:
    verdict = decide(ending, restarts=0, max_restarts=50)
    assert (verdict.next, verdict.state) == (next_, state)


def test_exit_codes_are_those_of_the_driver_where_the_run_is_over() -> None:
    assert decide(Ending(1, "trials", OVER), 0, 50).code == 1
    assert decide(Ending(0, "trials", OVER), 0, 50).code == 0
    assert decide(Ending(-9, failures=9), 0, 50).code == exits.INFRASTRUCTURE


def test_the_number_of_restarts_has_an_end() -> None:
    ending = Ending(130, "interrupted", SOON, limit=True)
    assert decide(ending, 49, 50).next is Next.REQUEUE
    verdict = decide(ending, 50, 50)
    assert verdict.next is Next.END
    assert "max_restarts" in verdict.message


def test_the_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "slurm").mkdir()
    assert read_state(tmp_path) is None
    state = State("12", 1, "chained", "job 13 goes on", ["n1", "n2"], "13", "/x/%j.out", 2, 1, "a")
    write_state(tmp_path, state)
    read = read_state(tmp_path)
    assert read is not None
    assert read.t > 0
    read.t = 0.0
    assert read == state
    assert [path.name for path in (tmp_path / "slurm").iterdir()] == ["state.json"]
    assert "\n" in (tmp_path / "slurm" / "state.json").read_text()
    assert json.loads((tmp_path / "slurm" / "state.json").read_text())["next_job"] == "13"


def test_progress_is_what_the_journal_holds(tmp_path: Path) -> None:
    assert progress(tmp_path).records == 0
    log = Journal(tmp_path)
    log.append("experiment", name="x")
    log.append("end", trial=0, state="completed")
    log.append("report", trial=1, checkpoint="trials/0001/checkpoints/1")
    log.append("report", trial=1, checkpoint=None)
    log.append("end", trial=1, state="pending")
    log.append("end", trial=2, state="paused")
    assert progress(tmp_path).reason is None
    log.append("finish", reason="interrupted", message=SOON)
    log.close()
    found = progress(tmp_path)
    assert (found.finished, found.checkpoints, found.records) == (1, 1, 7)
    assert (found.reason, found.message) == ("interrupted", SOON)
