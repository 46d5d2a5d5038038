"""The checker of simulated schedules: a sound log passes, and each broken promise is named."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raytune_hpo.chaos import observed as seen
from raytune_hpo.chaos.checker import check, compare_untimed, figures
from raytune_hpo.chaos.observed import Observation
from raytune_hpo.chaos.shrink import shrink
from raytune_hpo.experiment import Experiment
from raytune_hpo.journal import Record
from raytune_hpo.plugins import make_searcher
from raytune_hpo.simulate import header
from raytune_hpo.space import Float

EXPERIMENT = Experiment.from_python(
    run="noop",
    parameters={"x": Float(0.0, 1.0)},
    metric="loss",
    trials=2,
    parallel=1,
    retries=1,
    max_failed=2,
    search={"algorithm": "random", "seed": 1},
)
_SEARCHER = make_searcher("random", EXPERIMENT.search_space, EXPERIMENT.objectives, 1)
CONFIGS = [_SEARCHER.suggest(trial) or {} for trial in range(2)]
FIRST, SECOND = "trials/0/checkpoints/001-000001", "trials/0/checkpoints/002-000002"


class Story:
    """A run written down by hand, as the executor saw it and as the journal has it.

    Trial 0 reports once, the driver is killed, and in the second session trial 0 goes on to its
    end and trial 1 runs.
    """

    def __init__(self) -> None:
        self.observed: list[Observation] = [
            seen.SessionStarted(1, 0.0, 2, 1, None),
            seen.SessionReady(1),
            seen.Suggested(1, 0, CONFIGS[0]),
            seen.AttemptStarted(1, 0, 1, CONFIGS[0], 0, None),
            seen.AttemptBegan(1, 0, 1),
            seen.ReportMade(1, 0, 1, 1, {"loss": 2.0}, FIRST),
            seen.ReportAcknowledged(1, 0, 1, 1, "continue"),
            seen.DriverKilled(1, 0),
            seen.SessionStarted(2, 5.0, 2, 1, None),
            seen.Adopted(2, 0, CONFIGS[0]),
            seen.SessionReady(2),
            seen.AttemptStarted(2, 0, 2, CONFIGS[0], 1, FIRST),
            seen.AttemptBegan(2, 0, 2),
            seen.ReportMade(2, 0, 2, 2, {"loss": 1.0}, SECOND),
            seen.ReportAcknowledged(2, 0, 2, 2, "continue"),
            seen.AttemptEnded(2, 0, 2, "returned", True),
            seen.Told(2, 0, "completed", (1.0,)),
            seen.EndAcknowledged(2, 0, 2),
            seen.Suggested(2, 1, CONFIGS[1]),
            seen.AttemptStarted(2, 1, 1, CONFIGS[1], 0, None),
            seen.AttemptBegan(2, 1, 1),
            seen.ReportMade(2, 1, 1, 1, {"loss": 3.0}, None),
            seen.ReportAcknowledged(2, 1, 1, 1, "continue"),
            seen.AttemptEnded(2, 1, 1, "returned", True),
            seen.Told(2, 1, "completed", (3.0,)),
            seen.EndAcknowledged(2, 1, 1),
            seen.SessionFinished(2, 9.0, "trials"),
        ]
        self.records: list[Record] = []
        self.keep("experiment", **header(EXPERIMENT))
        self.keep("session", session=1, trials=2, parallel=1)
        self.keep("trial", trial=0, config=CONFIGS[0], origin="search")
        self.keep("start", trial=0, attempt=1, checkpoint=None)
        self.keep("begin", trial=0, attempt=1)
        self.report(0, 1, 1, 2.0, FIRST)
        self.keep("session", session=2, trials=2, parallel=1)
        self.end(0, 1, "pending", 2.0)
        self.keep("start", trial=0, attempt=2, checkpoint=FIRST)
        self.keep("begin", trial=0, attempt=2)
        self.report(0, 2, 2, 1.0, SECOND)
        self.end(0, 2, "completed", 1.0)
        self.keep("trial", trial=1, config=CONFIGS[1], origin="search")
        self.keep("start", trial=1, attempt=1, checkpoint=None)
        self.keep("begin", trial=1, attempt=1)
        self.report(1, 1, 1, 3.0, None)
        self.end(1, 1, "completed", 3.0)
        self.keep("finish", reason="trials", message="")

    def keep(self, type: str, **fields: Any) -> None:
        record = {"n": len(self.records), "t": float(len(self.records)), "type": type, **fields}
        self.records.append(record)

    def report(
        self, trial: int, attempt: int, step: int, value: float, checkpoint: str | None
    ) -> None:
        self.keep(
            "report",
            trial=trial,
            attempt=attempt,
            step=step,
            advanced=True,
            metrics={"loss": value},
            values=[value],
            violations=[],
            checkpoint=checkpoint,
        )

    def end(self, trial: int, attempt: int, state: str, value: float) -> None:
        self.keep(
            "end",
            trial=trial,
            attempt=attempt,
            state=state,
            values=[value],
            violations=[],
            failure=None,
            charged=False,
        )

    def record(self, type: str, which: int = 0) -> Record:
        """Return a record of a type, to be changed."""
        return [record for record in self.records if record["type"] == type][which]

    def drop(self, record: Record) -> None:
        """Take a record out, and number the others anew."""
        self.records.remove(record)
        for number, other in enumerate(self.records):
            other["n"] = number

    def change(self, type: type[Observation], which: int = 0, **fields: Any) -> None:
        """Change what was observed."""
        places = [i for i, item in enumerate(self.observed) if isinstance(item, type)]
        place = places[which]
        self.observed[place] = replace(self.observed[place], **fields)

    def forget(self, type: type[Observation], which: int = 0) -> None:
        """Take out an observation."""
        found = [item for item in self.observed if isinstance(item, type)]
        self.observed.remove(found[which])

    def check(self) -> list[str]:
        return check(self.observed, self.records, EXPERIMENT)


@pytest.fixture
def story() -> Story:
    return Story()


def only(violations: Sequence[str], start: str) -> None:
    """Check that something is wrong with one promise, and with no other."""
    assert violations
    assert [text for text in violations if not text.startswith(start)] == []


def test_a_sound_run_is_sound(story: Story) -> None:
    assert story.check() == []


def test_an_empty_log_is_not_sound() -> None:
    assert check([], [], EXPERIMENT) != []


def test_numbers_of_records_have_no_gap(story: Story) -> None:
    story.records[-1]["n"] += 1
    only(story.check(), "journal")


def test_an_acknowledged_report_that_is_gone(story: Story) -> None:
    story.drop(story.record("report", 2))
    assert "G2: trial 1, attempt 1: 1 acknowledged reports are not in the journal" in story.check()


def test_a_report_kept_with_other_metrics(story: Story) -> None:
    story.record("report")["metrics"] = {"loss": 2.0, "more": 1}
    only(story.check(), "G2: trial 0, attempt 1: the report of step 1 was kept with other metrics")


def test_a_report_that_nobody_made(story: Story) -> None:
    story.forget(seen.ReportMade, 2)
    story.forget(seen.ReportAcknowledged, 2)
    only(story.check(), "G2: trial 1, attempt 1: the journal has 1 reports too many")


def test_a_step_counted_wrongly(story: Story) -> None:
    story.record("report", 1)["step"] = 1
    only(story.check(), "G2: trial 0, attempt 2: a report is counted as step 1, not 2")


def test_a_finished_trial_that_starts_again(story: Story) -> None:
    again = seen.AttemptStarted(2, 0, 3, CONFIGS[0], 2, SECOND)
    story.observed.insert(-1, again)
    story.observed.insert(-1, seen.ToldToStop(2, 0, 3))
    only(story.check(), "G1: trial 0 was finished, and attempt 3 of it started in session 2")


def test_a_start_of_a_finished_trial_in_the_journal(story: Story) -> None:
    finish = story.records.pop()
    story.keep("start", trial=0, attempt=3, checkpoint=None)
    story.end(0, 3, "pending", 1.0)
    story.keep("finish", reason=finish["reason"], message="")
    assert any(text.startswith("G1: record 17 starts trial 0") for text in story.check())


def test_a_trial_too_many(story: Story) -> None:
    story.change(seen.SessionStarted, 1, trials=1)
    assert "G3: 2 trials ran, and 1 were asked for" in story.check()


def test_a_trial_too_few(story: Story) -> None:
    story.change(seen.SessionStarted, 1, trials=3)
    only(story.check(), "G3: all trials are said to be done")


def test_another_config_in_a_later_attempt(story: Story) -> None:
    story.change(seen.AttemptStarted, 1, config={"x": 0.5})
    only(story.check(), "G3: trial 0, attempt 2 ran with another config")


@pytest.mark.parametrize(
    ("step", "finding"),
    [
        (0, "G4: trial 0, attempt 2 went on from step 0, though the checkpoint of step 1"),
        (2, "G4: trial 0, attempt 2 went on from step 2, which was never executed"),
    ],
)
def test_a_resume_at_the_wrong_step(story: Story, step: int, finding: str) -> None:
    story.change(seen.AttemptStarted, 1, step=step)
    only(story.check(), finding)


def test_two_steps_executed_again(story: Story) -> None:
    story.change(seen.ReportMade, 0, step=3)
    story.change(seen.ReportAcknowledged, 0, step=1)
    only(story.check(), "G4: trial 0, attempt 2 executes 2 steps again")


def test_a_searcher_that_is_not_told(story: Story) -> None:
    story.forget(seen.Told, 0)
    only(story.check(), "G5")


def test_a_searcher_that_is_told_otherwise(story: Story) -> None:
    story.change(seen.Told, 0, values=(2.0,))
    only(story.check(), "G5: the searcher was told")


def test_a_searcher_that_does_not_know_a_running_trial(story: Story) -> None:
    story.forget(seen.Adopted)
    only(story.check(), "G5")


def test_a_suggestion_that_a_run_without_a_kill_would_not_make(story: Story) -> None:
    story.change(seen.Suggested, 1, config={"x": 0.5})
    only(story.check(), "G5: session 2: trial 1 has an unexpected config")


def test_too_many_at_once(story: Story) -> None:
    story.change(seen.SessionStarted, 1, parallel=0)
    only(story.check(), "G8: session 2: 1 trials at once, and 0 were allowed")


def test_a_charge_without_a_cause(story: Story) -> None:
    story.record("end")["charged"] = True
    only(story.check(), "G8: the end of trial 0, attempt 1 is")


def test_more_charges_than_retries(story: Story) -> None:
    failure = {"kind": "exception", "message": "", "details": "", "exit_code": None}
    for which in range(2):
        story.record("end", which).update(state="pending", failure=failure, charged=True)
    experiment = EXPERIMENT.model_copy(update={"retries": 0})
    found = check(story.observed, story.records, experiment)
    assert any(text.endswith("is charged as number 2 of 1") for text in found)


def test_a_start_after_too_many_failed(story: Story) -> None:
    story.record("end", 1)["state"] = "failed"
    experiment = EXPERIMENT.model_copy(update={"max_failed": 1})
    found = check(story.observed, story.records, experiment)
    assert "G8: record 13 starts a trial after 1 had failed" in found


def test_a_bad_metric_and_another_attempt(story: Story) -> None:
    story.record("report")["metrics"] = {"loss": float("nan")}
    assert "G9: trial 0 had a bad metric, and record 8 starts it again" in story.check()


def test_a_late_report_that_is_taken(story: Story) -> None:
    story.observed.insert(-1, seen.StalePassedOn(2, 0, 1, "report", "continue"))
    only(story.check(), "stale")


def test_a_reason_that_nothing_calls_for(story: Story) -> None:
    story.change(seen.SessionFinished, 0, reason="max_failed")
    story.record("finish")["reason"] = "max_failed"
    only(story.check(), "end: nothing calls for the reason 'max_failed'")


def test_a_time_limit_that_comes_early(story: Story) -> None:
    early = seen.SessionFinished(1, 3.0, "time_limit")
    story.observed[7] = early
    story.change(seen.SessionStarted, 0, time_limit_s=100.0)
    only(story.check(), "G15: session 1 ended at its limit after 3 s")


def test_a_driver_that_fails_by_itself(story: Story) -> None:
    story.observed.insert(7, seen.DriverFailed(1, "KeyError: 3"))
    only(story.check(), "driver: session 1 failed by itself: KeyError: 3")


def test_times_alone_make_no_difference(story: Story) -> None:
    later = [{**record, "t": record["t"] + 3600.0} for record in story.records]
    assert compare_untimed(story.records, later) == []
    later[5] = {**later[5], "values": [7.0]}
    only(compare_untimed(story.records, later), "G15: record 5")
    only(compare_untimed(story.records, story.records[:-1]), "G15: 18 records")


def test_the_figures_of_a_run(story: Story) -> None:
    found = figures(story.observed, story.records)
    assert (found.sessions, found.kills, found.power_cuts) == (2, 1, 0)
    assert (found.acknowledged, found.finished) == (3, 2)
    assert found.executed_again == (0,)


# Shrinking


def test_shrinking_leaves_what_is_needed() -> None:
    def fails(choices: list[int]) -> bool:
        return 7 in choices and any(number > 20 for number in choices)

    assert shrink([0, 5, 7, 0, 9, 63, 0, 40, 7, 1], fails) in ([7, 21], [21, 7])


def test_shrinking_keeps_places_that_matter() -> None:
    def fails(choices: list[int]) -> bool:
        return len(choices) > 3 and choices[3] >= 2

    assert shrink([9, 9, 9, 9, 9, 9], fails) == [0, 0, 0, 2]


@given(st.lists(st.integers(0, 63), min_size=1, max_size=30), st.integers(1, 100))
def test_what_was_shrunk_still_fails(choices: list[int], bound: int) -> None:
    def fails(numbers: list[int]) -> bool:
        return sum(numbers) >= bound

    if fails(choices):
        smaller = shrink(choices, fails)
        assert fails(smaller)
        assert len(smaller) <= len(choices)
        for place in range(len(smaller)):
            assert not fails(smaller[:place] + smaller[place + 1 :])


def test_shrinking_ends() -> None:
    asked = itertools.count()

    def fails(choices: list[int]) -> bool:
        next(asked)
        return sum(choices) > 3_000

    assert sum(shrink([63] * 50, fails, tries=10)) > 3_000
    assert next(asked) == 10
