"""What workers note and obey under ``raytune-hpo chaos``, and what they do without it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import raytune_hpo as rh
from raytune_hpo.attempt import Assignment, Attempt, Event, Function, Job, begin
from raytune_hpo.chaos.witness import ORDERED, observed, order_file
from raytune_hpo.trial import FailureKind

PATIENCE_S = 20.0


def job(folder: Path, run: str | tuple[str, ...], function: Function | None, chaos: bool) -> Job:
    """Return a job with or without chaos."""
    return Job(
        run_dir=folder,
        run=run,
        function=function,
        single_metric="loss",
        folder=folder,
        workdir=None,
        env={},
        setup=None,
        time_limit_s=None,
        silent_limit_s=None,
        keep_checkpoints=1,
        chaos=folder / "chaos" if chaos else None,
    )


def all_events(attempt: Attempt) -> list[Event]:
    """Return the events of an attempt up to its end."""
    events: list[Event] = []
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        events += attempt.events(0.2)
        if events and events[-1].is_end:
            return events
    raise AssertionError(f"no end in {PATIENCE_S} s: {events}")


def train(config: Mapping[str, Any]) -> None:
    """Report twice."""
    rh.report(loss=1.0)
    rh.report(loss=0.5)


def test_a_function_s_reports_are_noted_when_they_are_acknowledged(tmp_path: Path) -> None:
    attempt = begin(job(tmp_path, "f", train, True), Assignment(4, 2, {}))
    events = all_events(attempt)
    assert events[-1].failure is None
    lines = observed(tmp_path / "chaos")
    assert [line["what"] for line in lines] == ["began", "acknowledged", "acknowledged", "ended"]
    assert [line["metrics"] for line in lines[1:3]] == [{"loss": 1.0}, {"loss": 0.5}]
    assert {(line["trial"], line["attempt"]) for line in lines} == {(4, 2)}


def test_a_report_that_nobody_acknowledged_is_not_noted(tmp_path: Path) -> None:
    attempt = begin(job(tmp_path, "f", train, True), Assignment(0, 1, {}))
    while not attempt.events(0.2):
        pass
    assert attempt.stop()
    assert "acknowledged" not in [line["what"] for line in observed(tmp_path / "chaos")]


def test_an_order_ends_an_attempt_for_good(tmp_path: Path) -> None:
    attempt = begin(job(tmp_path, ("sleep", "60"), None, True), Assignment(0, 3, {}))
    order = order_file(tmp_path / "chaos", 0, 3)
    order.parent.mkdir()
    order.touch()
    (end,) = attempt.events(0.2)
    assert end.stuck
    assert end.failure is not None
    assert (end.failure.kind, end.failure.message) == (FailureKind.NOT_STARTED, ORDERED)
    assert not end.failure.kind.retryable
    assert attempt.stop()


def test_without_chaos_nothing_is_noted_or_obeyed(tmp_path: Path) -> None:
    order = order_file(tmp_path / "chaos", 0, 1)
    order.parent.mkdir(parents=True)
    order.touch()
    events = all_events(begin(job(tmp_path, "f", train, False), Assignment(0, 1, {})))
    assert [event.metrics for event in events] == [{"loss": 1.0}, {"loss": 0.5}, None]
    assert not (tmp_path / "chaos" / "observed").exists()
