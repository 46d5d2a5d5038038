"""The live table that ``LiveView`` draws on a terminal, with rich."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from raytune_hpo import escape
from raytune_hpo.state import RunState, TrialRecord
from raytune_hpo.trial import TrialState
from raytune_hpo.view import text

_MAX_ROWS = 20
_MAX_FAILURES = 2
_MAX_CELL = 24
_BAR_WIDTH = 30
_STYLES = {
    TrialState.RUNNING: "cyan",
    TrialState.COMPLETED: "green",
    TrialState.PRUNED: "yellow",
    TrialState.FAILED: "red",
    TrialState.STOPPED: "magenta",
}


class _Console(Console):
    """A console that reports a closed pipe to its caller; rich itself would end the process."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError("the screen is gone")


class LiveTable:
    """Draws the state of a run in place.

    Args:
        stream: A terminal.
        state: Looked at by ``render``; whoever changes it holds back meanwhile.
        run_dir: Directory of the run.
        tracking: Gives one line on the tracker, or None.

    Attributes:
        message: A note shown in the last line, in place of the hint on Ctrl-C.
    """

    def __init__(
        self,
        stream: TextIO,
        state: RunState,
        run_dir: Path,
        tracking: Callable[[], str | None],
        *,
        console: Console | None = None,
    ) -> None:
        self.message = ""
        self._state = state
        self._reference = escape.visible(text.reference(run_dir))
        self._tracking = tracking
        self._console = console or _Console(file=stream)
        self._began_t = state.sessions[-1].t
        self._hidden = 0
        self._frame: RenderableType = ""
        self._live: Live | None = None

    def render(self, now_t: float) -> RenderableType:
        """Compose the screen of this moment and keep it for ``show``."""
        failures = self._failures()
        height = max(3, min(_MAX_ROWS, self._console.height - len(failures) - 8))
        table = self._table(now_t, height)
        self._frame = Group(table, *failures, *self._footer(now_t))
        return self._frame

    def show(self) -> None:
        """Bring what was composed to the terminal."""
        if self._live is None:
            self._live = Live(
                self._frame,
                console=self._console,
                auto_refresh=False,
                vertical_overflow="crop",
                # A driver of its own sends what libraries print to its log.
                redirect_stdout=self._console.file is sys.stdout,
                redirect_stderr=False,
            )
            self._live.start()
        self._live.update(self._frame, refresh=True)

    def stop(self) -> None:
        """Give the terminal back; the last screen stays."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    # Rows

    def _rows(self, height: int) -> list[TrialRecord]:
        """Return the trials to show: the baseline and the best, the last finished, the running."""
        state = self._state
        running = [t for t in state.unfinished.values() if t.state is TrialState.RUNNING]
        running = running[: max(1, height - 2)]
        pinned = [*([] if state.baseline is None else [state.baseline]), *state.best()[:1]]
        room = height - len(running)
        kept = [number for number in dict.fromkeys(pinned) if state.trials[number].state.finished]
        recent = [number for number in state.finished if number not in kept]
        recent = recent[max(0, len(recent) - max(0, room - len(kept))) :]
        return [*(state.trials[number] for number in [*kept[:room], *recent]), *running]

    def _table(self, now_t: float, height: int) -> Table:
        rows = self._rows(height)
        head = self._head()
        cells = [self._cells(trial, now_t) for trial in rows]
        names = self._parameters(head, cells, rows)
        table = Table(box=None, padding=(0, 2, 0, 0), expand=False, header_style="bold")
        for index, name in enumerate([*head, *names]):
            right = 1 < index < len(head)
            table.add_column(Text(name), no_wrap=True, justify="right" if right else "left")
        best = set(self._state.best())
        for trial, row in zip(rows, cells, strict=True):
            values = [_cut(_parameter(trial, name)) for name in names]
            styles = "bold" if trial.number in best else ""
            status = Text(row[1], style=_STYLES.get(trial.state, ""))
            plain = [Text(cell) for cell in [*row[2:], *values]]
            table.add_row(Text(row[0]), status, *plain, style=styles)
        return table

    def _head(self) -> list[str]:
        objective = self._state.objective
        compared = self._state.baseline is not None and not objective.multi
        names = [_cut(name) for name in objective.names]
        return ["trial", "status", *names, *(["vs baseline"] if compared else []), "time"]

    def _cells(self, trial: TrialRecord, now_t: float) -> list[str]:
        """Return the cells under ``_head``."""
        state = self._state
        mark = "*" if trial.number in state.best() else " "
        values = trial.values or (None,) * len(state.objective.names)
        if trial.state is TrialState.FAILED:
            values = (None,) * len(state.objective.names)
        cells = [f"{trial.number:>4} {mark}", _status(trial), *map(text.number, values)]
        if state.baseline is not None and not state.objective.multi:
            same = trial.origin == "baseline" or values[0] is None
            part = None if same else text.gain(state, float(values[0] or 0.0))
            cells.append("baseline" if trial.origin == "baseline" else text.gain_text(part))
        spent = trial.duration_s
        if trial.state is TrialState.RUNNING:
            spent += now_t - trial.attempts[-1].started_t
        return [*cells, text.duration(spent)]

    def _parameters(
        self, head: list[str], cells: list[list[str]], rows: list[TrialRecord]
    ) -> list[str]:
        """Return the parameters whose columns fit the width, in the order of the file."""
        used = sum(
            2 + max(cell_len(line[index]) for line in [head, *cells]) for index in range(len(head))
        )
        names: list[str] = []
        searched = self._state.experiment.search_space.dimensions
        for name in searched:
            widest = max([cell_len(_cut(_parameter(trial, name))) for trial in rows], default=0)
            used += 2 + max(cell_len(name), widest)
            if used > self._console.width:
                break
            names.append(name)
        self._hidden = len(searched) - len(names)
        return names

    # Below the table

    def _failures(self) -> list[Text]:
        """Return a line on each of the last failed trials."""
        state = self._state
        failed = [n for n in state.finished if state.trials[n].state is TrialState.FAILED]
        lines = []
        for number in failed[-_MAX_FAILURES:]:
            failure = state.trials[number].failure
            hint = f"   raytune-hpo logs {self._reference} {number}"
            room = max(20, self._console.width - cell_len(hint) - 22)
            reason = text.first_line(failure.message if failure else "no reason given", room)
            line = Text(f"trial {number} failed: {reason}", style="red", no_wrap=True)
            lines.append(line.append(hint, style="default"))
        return lines

    def _footer(self, now_t: float) -> list[Text]:
        state = self._state
        lines = [
            self._progress(now_t),
            Text(escape.visible(self._best()), style="bold", no_wrap=True),
        ]
        tracking = self._tracking()
        if tracking:
            lines.append(
                Text(escape.visible(f"MLflow {tracking}"), no_wrap=True, overflow="ellipsis")
            )
        running = state.counts()[TrialState.RUNNING]
        hidden = f", {text.plural(self._hidden, 'parameter')} not shown" if self._hidden else ""
        hint = f"{running} running{hidden} | Ctrl-C: stop safely"
        hint += f" (go on: raytune-hpo resume {self._reference})"
        lines.append(
            Text(escape.visible(self.message or hint), style="yellow" if self.message else "dim")
        )
        for line in lines:
            line.no_wrap, line.overflow = True, "ellipsis"
        return lines

    def _best(self) -> str:
        state = self._state
        line = text.best_text(state)
        if state.best() and not state.objective.multi:
            line += f"  {text.config_text(state.trials[state.best()[0]].config)}"
        return line

    def _progress(self, now_t: float) -> Text:
        line = self._bar()
        line.append(f" {text.counts_text(self._state)}")
        done = sum(
            (self._state.trials[number].ended_t or 0.0) >= self._began_t
            for number in self._state.finished
        )
        spent = now_t - self._began_t
        if done > 0 and spent > 0:
            line.append(f" | {text.number(float(f'{done / spent * 60:.2g}'))} trials/min")
            left = self._left_s(done, spent)
            if left is not None:
                line.append(f" | about {text.duration(left)} left")
        return line

    def _bar(self) -> Text:
        expected = self._state.expected
        if not expected:
            return Text()
        full = min(_BAR_WIDTH, _BAR_WIDTH * len(self._state.finished) // expected)
        sign, rest = ("#", "-") if self._console.options.ascii_only else ("━", "━")
        return Text(sign * full, style="green").append(rest * (_BAR_WIDTH - full), style="dim")

    def _left_s(self, done: int, spent: float) -> float | None:
        """Return an estimate of the seconds until a limit is reached, or None."""
        limits = []
        expected, limit = self._state.expected, self._state.experiment.time_limit_s
        if expected is not None:
            limits.append(max(0, expected - len(self._state.finished)) * spent / done)
        if limit is not None:
            limits.append(max(0.0, limit - spent))
        return min(limits) if limits else None


def _status(trial: TrialRecord) -> str:
    if trial.state is TrialState.RUNNING and trial.step and len(trial.attempts) == 1:
        return f"running@{trial.step}"
    return text.status_text(trial)


def _parameter(trial: TrialRecord, name: str) -> str:
    return text.value_text(trial.config[name]) if name in trial.config else "-"


def _cut(cell: str) -> str:
    return escape.cut(escape.visible(cell), _MAX_CELL)
