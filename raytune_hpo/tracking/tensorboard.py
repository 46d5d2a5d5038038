"""A journal's records as TensorBoard files, one folder a trial."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raytune_hpo.journal import Record
from raytune_hpo.state import RunState, TrialRecord

_MAX_OPEN = 64
"""Files held open; the one that was used longest ago is closed."""


class TensorboardTracker:
    """Writes event files; the folder is made anew from the journal each time.

    Args:
        folder: Where the files go. What is in it is deleted.

    Attributes:
        refused: Always 0.
    """

    def __init__(self, folder: Path) -> None:
        self.refused = 0
        self._folder = folder
        self._state = RunState()
        self._writers: dict[int, Any] = {}
        shutil.rmtree(folder, ignore_errors=True)

    @property
    def applied(self) -> int:
        """Records that are written."""
        return self._state.records

    def apply(self, records: Sequence[Record]) -> None:
        """Take in records and write them."""
        for record in records:
            self._state.apply(record)
            if record["type"] == "report":
                self._report(record)
            elif record["type"] == "end":
                self._end(record)
        for writer in self._writers.values():
            writer.flush()

    def _writer(self, number: int) -> Any:
        from tensorboardX import SummaryWriter

        writer = self._writers.pop(number, None)
        if writer is None:
            if len(self._writers) >= _MAX_OPEN:
                self._writers.pop(next(iter(self._writers))).close()
            writer = SummaryWriter(str(self._folder / f"{number:04}"))
        self._writers[number] = writer
        return writer

    def _report(self, record: Record) -> None:
        writer = self._writer(record["trial"])
        scalars = {k: v for k, v in record["metrics"].items() if isinstance(v, int | float)}
        if record["values"] is not None:
            names = self._state.objective.names
            scalars |= dict(zip(names, record["values"], strict=True))
        for name, value in scalars.items():
            writer.add_scalar(name, float(value), record["step"], walltime=record["t"])

    def _end(self, record: Record) -> None:
        trial = self._state.trials[record["trial"]]
        if not trial.state.finished:
            return
        self._write_hparams(trial)
        self._writers.pop(trial.number).close()

    def _write_hparams(self, trial: TrialRecord) -> None:
        from tensorboardX.summary import hparams

        names = self._state.objective.names
        values = dict(zip(names, trial.values or (), strict=False))
        config = {
            name: value if isinstance(value, bool | int | float | str) else str(value)
            for name, value in trial.config.items()
        }
        file = self._writer(trial.number).file_writer
        for part in hparams(config, values):
            file.add_summary(part)
        for name, value in values.items():
            self._writer(trial.number).add_scalar(name, value, trial.step)

    def end(self) -> None:
        """Close the files of the trials that did not finish."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def close(self) -> None:
        """Close all files."""
        self.end()
