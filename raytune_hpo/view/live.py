"""The screen of a running experiment: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from raytune_hpo import escape
from raytune_hpo.journal import Record
from raytune_hpo.state import RunState, TrialRecord
from raytune_hpo.storage import place
from raytune_hpo.trial import TrialState
from raytune_hpo.view import text

if TYPE_CHECKING:
    from raytune_hpo.view.table import LiveTable

_REFRESH_S = 0.25


class LiveView:
    """Shows a run while it goes on; call it with the journal's records as they come.

    The first call has to begin with the first record of the journal. What happened before its
    last ``session`` record, in an earlier session, is taken in but not shown as news.

    A screen that goes away (a closed pipe, a lost terminal) never ends the run: the view falls
    silent.

    Example:
        >>> import io, pathlib
        >>> view = LiveView(pathlib.Path("raytune-results/demo"), stream=io.StringIO())
        >>> view([])
        >>> view.close()

    Args:
        run_dir: Directory of the run, for what to type next.
        stream: Where to write; standard output when None.
        tracking: Gives one line on where MLflow has the run, or None; from the journal by default.
        terminal: Whether to draw the table; as the stream is when None.
        clock: Gives the unix time in seconds.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        stream: TextIO | None = None,
        tracking: Callable[[], str | None] | None = None,
        terminal: bool | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.state = RunState()
        self._run_dir = run_dir
        self._stream = stream if stream is not None else sys.stdout
        self._terminal = self._stream.isatty() if terminal is None else terminal
        self._tracking = tracking or (lambda: text.mlflow_text(self.state))
        self._clock = clock
        self._lock = threading.RLock()
        self._gone = False
        self._table: LiveTable | None = None
        self._changed = threading.Event()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> LiveView:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __call__(self, records: Sequence[Record]) -> None:
        """Take in records and show what is new."""
        with self._lock:
            last_session = max(
                (i for i, record in enumerate(records) if record["type"] == "session"), default=-1
            )
            for index, record in enumerate(records):
                self.state.apply(record)
                if index == last_session:
                    self._begin()
                elif index > last_session:
                    self._news(record)
        self._changed.set()

    def note(self, message: str) -> None:
        """Show a message for the person at the screen, such as what a Ctrl-C has set off."""
        with self._lock:
            if self._table is not None:
                self._table.message = message
            else:
                self._line(message)
        self._changed.set()

    def close(self) -> None:
        """Show the last state and give the terminal back."""
        self._closed.set()
        self._changed.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    # Both screens

    def _begin(self) -> None:
        """Say what this session is about, and start the table on a terminal."""
        for line in header(self.state, self._run_dir, self._tracking()):
            self._line(line)
        if self._terminal and self._table is None:
            from raytune_hpo.view.table import LiveTable

            self._table = LiveTable(self._stream, self.state, self._run_dir, self._tracking)
            self._thread = threading.Thread(target=self._draw_loop, name="live-view", daemon=True)
            self._thread.start()

    def _news(self, record: Record) -> None:
        if self._table is not None:
            if record["type"] == "finish":
                self._table.message = record["message"]
        elif record["type"] == "end":
            line = end_line(self.state, record, self._run_dir)
            if line:
                self._line(line)

    def _line(self, line: str) -> None:
        if self._gone:
            return
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        try:
            shown = escape.lines([line]).encode(encoding, "replace")
            self._stream.write(shown.decode(encoding))
            self._stream.flush()
        except OSError:
            self._gone = True

    # The table

    def _draw_loop(self) -> None:
        """Draw at most four times a second when something changed, else once a second."""
        while not self._closed.is_set():
            self._changed.wait(timeout=1.0)
            self._changed.clear()
            self._draw()
            self._closed.wait(_REFRESH_S)
        self._draw(last=True)

    def _draw(self, *, last: bool = False) -> None:
        table = self._table
        if self._gone or table is None:
            return
        try:
            with self._lock:
                table.render(self._clock())
            table.show()
            if last:
                table.stop()
        except OSError:
            self._gone = True


def header(state: RunState, run_dir: Path, tracking: str | None) -> list[str]:
    """Return the lines that say what will happen."""
    again = f", session {len(state.sessions)}" if len(state.sessions) > 1 else ""
    done = f" ({len(state.finished)} done before)" if state.finished else ""
    lines = [
        f"{state.name}: {text.budget_text(state)}{done}, seed {state.seed}{again}",
        f"  searcher   {text.searcher_text(state)}",
        f"  scheduler  {text.scheduler_text(state)}",
        f"  run        {place.shown(run_dir)}",
    ]
    return [*lines, f"  MLflow     {tracking}"] if tracking else lines


def end_line(state: RunState, record: Record, run_dir: Path) -> str | None:
    """Return the line about the end of an attempt, or None when there is nothing to say."""
    trial = state.trials[record["trial"]]
    if not trial.state.finished:
        return _retry_line(trial)
    total = f"/{state.expected}" if state.expected is not None else ""
    line = (
        f"{len(state.finished)}{total}  trial {trial.number} {text.status_text(trial)} "
        f"in {text.duration(trial.duration_s)}: {_result_part(state, trial)}; "
        f"{text.config_text(trial.config)} | {text.best_text(state)}"
    )
    if trial.state is TrialState.FAILED:
        line += f" | raytune-hpo logs {text.reference(run_dir)} {trial.number}"
    return line


def _retry_line(trial: TrialRecord) -> str | None:
    if trial.failure is None:
        return None
    reason = text.first_line(trial.failure.message)
    return f"trial {trial.number} attempt {len(trial.attempts)} failed, will be retried: {reason}"


def _result_part(state: RunState, trial: TrialRecord) -> str:
    if trial.state is TrialState.FAILED:
        return text.first_line(trial.failure.message if trial.failure else "no reason given")
    if trial.values is None:
        return "no value"
    part = text.values_text(state, trial.values)
    if trial.origin == "baseline":
        part += " (baseline)"
    elif not state.objective.multi and text.gain(state, trial.values[0]) is not None:
        part += f" ({text.gain_text(text.gain(state, trial.values[0]))})"
    broken = text.broken_text(state, trial)
    return f"{part}, violates {broken}" if broken else part
