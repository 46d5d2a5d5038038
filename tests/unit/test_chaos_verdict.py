"""The verdict over a run under faults: each planted loss is found."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from raytune_hpo.chaos import screen
from raytune_hpo.chaos.campaign import Outcome, Struck
from raytune_hpo.chaos.plan import FaultKind
from raytune_hpo.chaos.tracked import compare
from raytune_hpo.chaos.verdict import Verdict, judge
from raytune_hpo.chaos.witness import ACKNOWLEDGED, BEGAN, ORDERED, Line, Witness, observed
from raytune_hpo.journal import MemoryJournal, Record
from raytune_hpo.state import RunState
from raytune_hpo.tracking.store import Known

SPEC: dict[str, Any] = {
    "name": "tiny",
    "run": "module:train",
    "objective": {"metric": "loss"},
    "parameters": {"x": {"min": 0.0, "max": 1.0}},
    "trials": 3,
    "retries": 3,
}


def run() -> tuple[list[Line], list[Record]]:
    """Return notes and journal: trial 0 is killed once, 1 fails as ordered, 2 just runs."""
    log = MemoryJournal(lambda: 0.0)
    lines: list[Line] = []

    def began(trial: int, attempt: int, checkpoint: str | None = None) -> None:
        log.append("start", trial=trial, attempt=attempt, checkpoint=checkpoint)
        log.append("begin", trial=trial, attempt=attempt, node="here", pid=1)
        lines.append({"what": BEGAN, "trial": trial, "attempt": attempt, "t": 0.0})

    def reported(trial: int, attempt: int, step: int) -> None:
        metrics = {"loss": 1.0 / step}
        log.append(
            "report",
            trial=trial,
            attempt=attempt,
            step=step,
            advanced=True,
            metrics=metrics,
            values=[1.0 / step],
            violations=[],
            checkpoint=None,
        )
        line = {"what": ACKNOWLEDGED, "trial": trial, "attempt": attempt, "metrics": metrics}
        lines.append({**line, "t": 0.0})

    def ended(trial: int, attempt: int, state: str, failure: str | None = None) -> None:
        kind = "not_started" if failure == ORDERED else "worker_died"
        cause = {"kind": kind, "message": failure, "details": "", "exit_code": None}
        log.append(
            "end",
            trial=trial,
            attempt=attempt,
            state=state,
            values=None,
            violations=[],
            failure=failure and cause,
            charged=failure is not None,
        )

    log.append("experiment", version=1, id="ab", name="tiny", spec=SPEC)
    log.append(
        "session",
        session=1,
        host="here",
        pid=1,
        run_dir="/tiny",
        trials=3,
        parallel=1,
        resources={},
    )
    for trial in range(3):
        log.append("trial", trial=trial, config={"x": 0.5}, origin="search")
        began(trial, 1)
        reported(trial, 1, 1)
        reported(trial, 1, 2)
        if trial == 0:
            ended(0, 1, "pending", "its worker process died: killed")
            began(0, 2)
            reported(0, 2, 1)
            reported(0, 2, 2)
        if trial == 1:
            ended(1, 1, "failed", ORDERED)
        else:
            ended(trial, 2 - trial // 2, "completed")
    log.append("finish", reason="trials", message="all")
    return lines, log.records


def numbered(records: list[Record]) -> list[Record]:
    """Return records with numbers as a journal would give them."""
    return [{**record, "n": number} for number, record in enumerate(records)]


def found(verdict: Verdict) -> dict[str, int]:
    """Return the losses that were found."""
    return {loss.what: len(loss.found) for loss in verdict.losses if loss.found}


def test_a_run_without_losses() -> None:
    lines, records = run()
    verdict = judge(lines, records, records)
    assert verdict.nothing_lost
    assert (verdict.trials, verdict.budget, verdict.ended) == (3, 3, "trials")
    assert verdict.states == {"completed": 2, "failed": 1}
    assert verdict.attempts == {1: 2, 2: 1}
    assert verdict.failed == {f"not_started: {ORDERED}": 1}
    assert (verdict.interruptions, verdict.reports_again) == (1, 2)
    assert verdict.acknowledged == verdict.reports == 8
    assert verdict.failed_of_their_own == 0


def test_a_finished_trial_that_began_again_by_the_workers_notes() -> None:
    lines, records = run()
    lines.append({"what": BEGAN, "trial": 2, "attempt": 2, "t": 9.0})
    assert found(judge(lines, records, records)) == {"finished trials run again": 1}


def test_a_finished_trial_that_began_again_by_the_journal() -> None:
    lines, records = run()
    again = {"type": "start", "t": 0.0, "trial": 1, "attempt": 2, "checkpoint": None}
    final = numbered([*records[:-1], again, records[-1]])
    assert found(judge(lines, final, final))["finished trials run again"] == 1


def test_an_acknowledged_report_that_is_not_in_the_journal() -> None:
    lines, records = run()
    index = next(i for i, record in enumerate(records) if record["type"] == "report")
    final = numbered([*records[:index], *records[index + 1 :]])
    assert found(judge(lines, final, final)) == {"acknowledged reports lost": 1}


def test_one_of_two_equal_reports_is_missed() -> None:
    lines, records = run()
    twice = next(line for line in lines if line["what"] == ACKNOWLEDGED)
    assert found(judge([*lines, twice], records, records)) == {"acknowledged reports lost": 1}


def test_a_report_with_another_value_counts_as_lost() -> None:
    lines, records = run()
    final = [dict(record) for record in records]
    report = next(record for record in final if record["type"] == "report")
    report["metrics"] = {"loss": 2.0}
    assert found(judge(lines, final, final)) == {"acknowledged reports lost": 1}


def test_values_that_are_no_numbers_are_compared_too() -> None:
    lines, records = run()
    report = next(record for record in records if record["type"] == "report")
    line = next(line for line in lines if line["what"] == ACKNOWLEDGED)
    report["metrics"] = {"loss": float("nan")}
    line["metrics"] = {"loss": float("nan")}
    assert judge(lines, records, records).nothing_lost


@pytest.mark.parametrize("planted", ["changed", "gone"])
def test_a_record_that_was_seen_and_is_no_more(planted: str) -> None:
    lines, records = run()
    seen = [*records, {"n": len(records), "t": 0.0, "type": "session"}]
    if planted == "changed":
        seen = [{**record, "t": 1.0} if record["n"] == 3 else record for record in records]
    assert found(judge(lines, seen, records)) == {"journal records gone or changed": 1}


def test_a_trial_that_only_the_workers_know() -> None:
    lines, records = run()
    lines.append({"what": BEGAN, "trial": 7, "attempt": 1, "t": 0.0})
    assert found(judge(lines, records, records)) == {"trials lost": 1}


def test_a_trial_without_an_end() -> None:
    _, records = run()
    final = numbered([record for record in records if record["type"] != "end"])
    assert found(judge([], final, final)) == {"trials lost": 3}


def test_more_and_fewer_trials_than_asked_for() -> None:
    lines, records = run()
    for budget in (2, 4):
        final = [
            {**record, "trials": budget} if record["type"] == "session" else record
            for record in records
        ]
        assert found(judge(lines, final, final)) == {"trials beside the budget": 1}


def test_a_run_without_an_end() -> None:
    lines, records = run()
    assert found(judge(lines, records[:-1], records[:-1])) == {"trials beside the budget": 1}


def test_differences_in_mlflow_are_losses() -> None:
    lines, records = run()
    state = RunState.replay(records)
    runs = [
        Known(key, key, status, deleted=False, spare=False)
        for key, status in (("parent", "FINISHED"), ("0", "FINISHED"), ("1", "FAILED"))
    ]
    whole = [*runs, Known("2", "2", "FINISHED", deleted=False, spare=False)]
    spare = Known("3", "3", "RUNNING", deleted=False, spare=True)
    assert judge(lines, records, records, tracked=compare(state, [*whole, spare])).nothing_lost
    for wrong in (runs, [*whole, whole[-1]], [*whole, Known("8", "8", "FAILED", False, False)]):
        verdict = judge(lines, records, records, tracked=compare(state, wrong))
        assert found(verdict) == {"MLflow runs beside one a trial": 1}
    other = [*runs, Known("2", "2", "RUNNING", deleted=False, spare=False)]
    verdict = judge(lines, records, records, tracked=compare(state, other))
    assert found(verdict) == {"MLflow runs of other status": 1}


def outcome(records: list[Record]) -> Outcome:
    """Return what a chaos process saw that struck one trial."""
    struck = (Struck(3.0, 1, 1, FaultKind.KILL, (0,)),)
    return Outcome(tuple(records), struck, 12.0, (0,), 0)


def test_the_screen_says_it_in_one_sentence() -> None:
    lines, records = run()
    console = Console(file=io.StringIO(), record=True, width=100)
    screen.show(console, judge(lines, records, records), outcome(records))
    text = console.export_text()
    assert "Nothing was lost: 3 trials, 8 reports" in text
    assert "1 kill" in text
    screen.show(console, judge([*lines, lines[1]], records, records), outcome(records))
    assert "Something was lost (acknowledged reports lost: 1)" in console.export_text()


def test_the_figures_are_json() -> None:
    lines, records = run()
    figures = screen.figures(judge(lines, records, records), outcome(records), seed=4)
    again = json.loads(json.dumps(figures))
    assert again["nothing_lost"] is True
    assert again["losses"]["trials lost"] == []
    assert again["strikes"][0]["trials"] == [0]
    assert again["seed"] == 4


def test_a_witness_notes_line_by_line_and_sees_its_order(tmp_path: Path) -> None:
    witness = Witness(tmp_path, 3, 2, "trials/0003/checkpoints/001-000001")
    witness.acknowledged({"loss": 0.5})
    ordered = [witness.ordered]
    (tmp_path / "orders").mkdir()
    for attempt in (1, 2):
        (tmp_path / "orders" / f"3-{attempt}").touch()
        ordered.append(witness.ordered)
    assert ordered == [False, False, True]
    witness.ended(ORDERED)
    (file,) = (tmp_path / "observed").iterdir()
    file.write_text(file.read_text() + '{"what": "cut sho')
    lines = observed(tmp_path)
    assert [line["what"] for line in lines] == ["began", "acknowledged", "ended"]
    assert {(line["trial"], line["attempt"]) for line in lines} == {(3, 2)}
