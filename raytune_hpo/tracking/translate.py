"""The records of a journal in the words of MLflow: a fold without any store."""

from __future__ import annotations

import json
import math
from typing import Any

from raytune_hpo.journal import Record
from raytune_hpo.state import RunState, TrialRecord
from raytune_hpo.tracking import parent
from raytune_hpo.tracking.names import Names, clean, note, text
from raytune_hpo.tracking.store import FORKED_TAG, ORIGIN_TAG, PARENT_KEY, STATE_TAG
from raytune_hpo.tracking.writes import Key, Writes
from raytune_hpo.trial import TrialState

_STATUS = {
    TrialState.PENDING: "SCHEDULED",
    TrialState.PAUSED: "SCHEDULED",
    TrialState.RUNNING: "RUNNING",
    TrialState.COMPLETED: "FINISHED",
    TrialState.PRUNED: "FINISHED",
    TrialState.FAILED: "FAILED",
    TrialState.STOPPED: "KILLED",
}
_MAX_PARAM = 6000
_MAX_TEXT_METRIC = 1000


class Translator:
    """Turns records into writes.

    Attributes:
        state: The run as of the last record.
        waiting: Writes that have not been taken away yet, by run; the parent's come first.
    """

    def __init__(self) -> None:
        self.state = RunState()
        self.waiting: dict[Key, Writes] = {}
        self._last_ms = 0
        self._metrics = Names()
        self._params = Names()
        self._best: int | None = None
        self._goals: list[str | None] = []
        self._renamed: dict[Key, dict[str, str]] = {}

    def take(self, record: Record, *, send: bool = True) -> None:
        """Take in one record.

        Args:
            record: The one after the last.
            send: Whether the store needs it; those that it has come first.
        """
        self.state.apply(record)
        self._last_ms = milliseconds(record["t"])
        handler = _HANDLERS.get(record["type"])
        if handler is not None:
            handler(self, record)
        if not send:
            self.waiting.clear()

    def gone(self) -> None:
        """Take in that there is no driver any more; nothing if the run was finished."""
        if self.state.finish is not None:
            return
        self._of(PARENT_KEY).set_status("KILLED", self._last_ms)
        self._of(PARENT_KEY).tags[STATE_TAG] = "interrupted"
        self._end_unfinished("interrupted")

    def _of(self, key: Key | int) -> Writes:
        key = str(key)
        if PARENT_KEY not in self.waiting and key == PARENT_KEY:
            self.waiting = {PARENT_KEY: Writes(self._start_ms()), **self.waiting}
        return self.waiting.setdefault(key, Writes(self._last_ms))

    def _start_ms(self) -> int:
        return milliseconds(self.state.header["t"])

    def _experiment(self, record: Record) -> None:
        self._goals = self._goal_names()
        parent.describe(self._of(PARENT_KEY), self.state)

    def _goal_names(self) -> list[str | None]:
        """Return the metric in which each objective value is kept; None: it is one already."""
        goals = self.state.objective.goals
        for goal in goals:
            if goal.expression.is_name:
                self._metrics.legal(goal.name)
        wanted = [goal.name for goal in goals] if len(goals) > 1 else ["objective"]
        return [
            None if goal.expression.is_name else self._metrics.legal(f"goal {index}\0", text)
            for index, (goal, text) in enumerate(zip(goals, wanted, strict=True))
        ]

    @property
    def primary_metric(self) -> str:
        """The metric by which trials compare: of the first goal."""
        return self._goals[0] or self._metrics.legal(self.state.objective.names[0])

    def _session(self, record: Record) -> None:
        parent.reopen(self._of(PARENT_KEY), self.state)
        for trial in self.state.unfinished.values():
            self._show_state(trial)

    def _trial(self, record: Record) -> None:
        trial = self.state.trials[record["trial"]]
        writes = self._of(trial.number)
        writes.tags[ORIGIN_TAG] = trial.origin
        if trial.parent is not None:
            writes.tags[FORKED_TAG] = str(trial.parent)
        self._show_state(trial)
        for name, value in trial.config.items():
            legal = self._params.legal(name)
            writes.params[legal] = parameter(value)
            self._note_name(trial.number, legal, self._params)

    def _start(self, record: Record) -> None:
        trial = self.state.trials[record["trial"]]
        tags = self._of(trial.number).tags
        tags["raytune.attempts"] = str(record["attempt"])
        self._show_state(trial)

    def _begin(self, record: Record) -> None:
        if record["node"]:
            self._of(record["trial"]).tags["raytune.node"] = text(record["node"])

    def _report(self, record: Record) -> None:
        number, step, at_ms = record["trial"], int(record["step"]), self._last_ms
        writes = self._of(number)
        for name, value in record["metrics"].items():
            self._metric(writes, number, name, value, step)
        if record["values"] is not None:
            for legal, value in zip(self._goals, record["values"], strict=True):
                if legal is not None:
                    writes.points.append((legal, float(value), at_ms, step))
                    self._note_name(number, legal, self._metrics)

    def _metric(self, writes: Writes, number: int, name: str, value: Any, step: int) -> None:
        if isinstance(value, str):
            writes.tags[clean(f"raytune.text.{name}")] = text(value, _MAX_TEXT_METRIC)
            return
        point = _as_float(value)
        if point is None:
            return
        legal = self._metrics.legal(name)
        self._note_name(number, legal, self._metrics)
        writes.points.append((legal, point, self._last_ms, step))
        if not math.isfinite(point):
            writes.tags["raytune.nonfinite"] = "true"

    def _note_name(self, number: int, legal: str, names: Names) -> None:
        """Keep what a changed name stands for in a tag of the run."""
        if legal not in names.changed:
            return
        known = self._renamed.setdefault(str(number), {})
        if legal not in known:
            known[legal] = names.changed[legal]
            self._of(number).tags["raytune.names"] = note(known)

    def _end(self, record: Record) -> None:
        trial = self.state.trials[record["trial"]]
        self._show_state(trial)
        if trial.failure is not None:
            self._show_failure(trial)
        if trial.state.finished:
            self._renamed.pop(str(trial.number), None)
            self._show_result(trial)
            self._show_best()

    def _show_state(self, trial: TrialRecord) -> None:
        writes = self._of(trial.number)
        end_ms = self._last_ms if trial.state.finished else None
        writes.set_status(_STATUS[trial.state], end_ms)
        writes.tags[STATE_TAG] = trial.state.value

    def _show_failure(self, trial: TrialRecord) -> None:
        failure = trial.failure
        if failure is None:
            return
        writes = self._of(trial.number)
        line = text(f"{failure.kind}: {failure.message}".splitlines()[0])
        if trial.state is TrialState.FAILED:
            writes.tags["raytune.error"] = line
            whole = f"{failure.kind}: {failure.message}\n\n{failure.details}\n"
            writes.texts["error.txt"] = text(whole, len(whole))
        else:
            attempt = trial.attempts[-1].number if trial.attempts else 0
            writes.tags[f"raytune.error.{attempt}"] = line

    def _show_result(self, trial: TrialRecord) -> None:
        tags = self._of(trial.number).tags
        tags["raytune.duration_s"] = f"{trial.duration_s:.3f}"
        if trial.values is not None:
            tags["raytune.values"] = json.dumps(list(trial.values))
        self._show_best_report(trial)
        if self.state.objective.constraints and trial.values is not None:
            tags["raytune.feasible"] = "true" if trial.feasible else "false"

    def _show_best_report(self, trial: TrialRecord) -> None:
        """Log the value that counts where that is not a trial's last one but its best."""
        names = self.state.objective.names
        for name, goal, value in zip(
            names, self.state.objective.goals, trial.values or (), strict=False
        ):
            if goal.at == "best":
                point = (clean(f"best/{name}"), value, self._last_ms, trial.step)
                self._of(trial.number).points.append(point)

    def _show_best(self) -> None:
        if self.state.objective.multi:
            return
        best = next(iter(self.state.best()), None)
        if best is None or best == self._best:
            return
        if self._best is not None:
            self._of(self._best).tags["raytune.best"] = "false"
        self._best = best
        self._of(best).tags["raytune.best"] = "true"
        name = clean(f"best/{self.state.objective.names[0]}")
        value = (self.state.trials[best].values or (math.nan,))[0]
        writes = self._of(PARENT_KEY)
        # The step counts finished trials: with trial numbers, which do not finish in order, a
        # worse value with a higher number would be taken for the latest.
        writes.points.append((name, value, self._last_ms, len(self.state.finished)))
        writes.tags["raytune.best_trial"] = str(best)

    def _finish(self, record: Record) -> None:
        parent.conclude(self._of(PARENT_KEY), self.state, self._last_ms)
        interrupted = record["reason"] in parent.KILLED
        self._end_unfinished("interrupted" if interrupted else None)
        for number in self.state.best() if self.state.objective.multi else ():
            self._of(number).tags["raytune.best"] = "true"

    def _end_unfinished(self, shown: str | None) -> None:
        for trial in self.state.unfinished.values():
            writes = self._of(trial.number)
            writes.set_status("KILLED", self._last_ms)
            writes.tags[STATE_TAG] = shown or trial.state.value


_HANDLERS = {
    "experiment": Translator._experiment,
    "session": Translator._session,
    "trial": Translator._trial,
    "start": Translator._start,
    "begin": Translator._begin,
    "report": Translator._report,
    "end": Translator._end,
    "finish": Translator._finish,
}


def milliseconds(t: float) -> int:
    """Return a unix time in whole milliseconds."""
    return int(t * 1000)


def parameter(value: Any) -> str:
    """Return a parameter's value as MLflow keeps it."""
    listed = isinstance(value, list | tuple | dict)
    return text(json.dumps(value) if listed else value, _MAX_PARAM)


def _as_float(value: Any) -> float | None:
    """Return a metric's value, or None when it is no number."""
    if not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
