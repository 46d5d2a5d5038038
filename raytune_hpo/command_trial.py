"""A trial that is a command in any language."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from pathlib import Path
from typing import Any

from raytune_hpo import checkpoints, command, reporting
from raytune_hpo.attempt import Attempt, Event
from raytune_hpo.collect.base import make_collector
from raytune_hpo.collect.file import FileSource, Tail
from raytune_hpo.collect.lines import Lines
from raytune_hpo.errors import StoreError
from raytune_hpo.process import ProcessGroup, explain_exit
from raytune_hpo.trial import Failure, FailureKind

_POLL_S = 0.1
_AFTER_END_S = 1.0
"""Output of background processes is waited for no longer than this."""
_TAIL_LINES = 20
_TAIL_BYTES = 16 * 1024
_MOST_REPORT = 16 * 1024 * 1024
_OWN = "RAYTUNE_HPO_"
LOGS = ("stderr.log", "stdout.log")
PARAMS_FILE = "params.json"
REPORT_FILE = "reports-{}.jsonl"


class BadReport(Exception):
    """A line of the report file that is no report."""


class CommandAttempt(Attempt):
    """Runs the command and passes on the metrics that it prints or writes."""

    def run(self) -> Event:
        """Run the command to its end and return how it ended."""
        self._prepare()
        try:
            self._process = ProcessGroup(
                command.build_argv(
                    self.job.run, self.assignment.config, self.job.parameters, self.job.setup
                ),
                self.workdir(),
                {**_outside(), **self._variables()},
                self.folder / "stdout.log",
                self.folder / "stderr.log",
            )
        except (OSError, ValueError) as error:
            return Event(failure=Failure(FailureKind.NOT_STARTED, f"cannot be started: {error}"))
        try:
            failure = self._follow()
            self._poll_files(last=True)
        except BadReport as error:
            self._process.end()
            failure = Failure(FailureKind.EXCEPTION, str(error))
        except StoreError:
            self._process.end()
            raise
        finally:
            self._process.close()
        return Event(failure=failure)

    def _prepare(self) -> None:
        """Make what the command finds in its folder."""
        (self.folder / "checkpoint").mkdir(exist_ok=True)
        params = json.dumps(self.assignment.config, indent=1)
        (self.folder / PARAMS_FILE).write_text(params + "\n")
        self._collector = make_collector(self.job.metrics)
        self._starts = {name: self._begin_log(name) for name in LOGS}
        # Each attempt has its own: one that was given up may go on for a while.
        for path in self.folder.glob(REPORT_FILE.format("*")):
            path.unlink(missing_ok=True)
        self._report_file = self.folder / REPORT_FILE.format(f"{self.assignment.attempt:03d}")
        self._reports = Tail(self._report_file, most=_MOST_REPORT)
        self._source: FileSource | None = None
        if self.job.metrics.source == "file" and self.job.metrics.path is not None:
            path = self.workdir() / self.job.metrics.path
            self._source = FileSource(path, self._collector)
        # Of stdout and of stderr: many programs log there what a person wants to know.
        self._lines = (Lines(), Lines())
        # What was told and not yet acknowledged: the checkpoint of each event, or None.
        self._told: deque[Path | None] = deque()

    def _begin_log(self, name: str) -> int:
        """Tell an attempt's output from that of the one before; return where it begins."""
        with (self.folder / name).open("ab") as file:
            if self.assignment.attempt > 1:
                file.write(f"--- attempt {self.assignment.attempt} ---\n".encode())
            return file.tell()

    def _variables(self) -> dict[str, str]:
        variables = {
            **self.environment(),
            **command.environment(self.assignment.config, self.job.parameters),
            "RAYTUNE_HPO_PARAMS_FILE": str(self.folder / PARAMS_FILE),
            "RAYTUNE_HPO_CHECKPOINT_DIR": str(self.folder / "checkpoint"),
            reporting.REPORT_FILE_ENV: str(self._report_file),
        }
        if self.assignment.checkpoint is not None:
            variables[reporting.CHECKPOINT_ENV] = str(self.job.run_dir / self.assignment.checkpoint)
        return variables

    def _follow(self) -> Failure | None:
        """Read until the command ends by itself, is told to stop, or is past a limit."""
        ended_s: float | None = None
        while True:
            data = self._process.read(_POLL_S)
            if data is not None:
                self._take(data)
            self._poll_files()
            self._prune()
            code = self._process.exit_code
            if code is not None:
                ended_s = ended_s or time.monotonic()
                if data is None or time.monotonic() - ended_s > _AFTER_END_S:
                    self._process.end()
                    for lines in self._lines:
                        self._read(lines.finish())
                    return self._verdict(code)
            elif data is None:
                time.sleep(_POLL_S)
            if self.stopping.is_set():
                self._process.end()
                return None
            late = self._late() if code is None else None
            if late is not None:
                self._process.end()
                return late

    def _take(self, output: tuple[bytes, bytes]) -> None:
        """Have the lines of what came from stdout and stderr read."""
        for data, lines in zip(output, self._lines, strict=True):
            if data:
                self.active_s = time.monotonic()
                self._read(lines.feed(data))

    def _read(self, lines: list[str]) -> None:
        """Have lines searched for metrics, unless those come from a file."""
        if self._source is not None:
            return
        for line in lines:
            for metrics in self._collector.feed(line):
                self._tell_metrics(metrics)

    def _poll_files(self, *, last: bool = False) -> None:
        for line in self._reports.lines(last=last):
            self._tell_report(line)
        if self._source is not None:
            for metrics in self._source.poll(last=last):
                self._tell_metrics(metrics)

    def _tell_report(self, line: str) -> None:
        """Pass on a line of the report file."""
        metrics, reported = _report(line)
        saved = place = None
        if reported is not None:
            saved = self._saved(self.workdir() / reported)
            place = str(saved.relative_to(self.job.run_dir))
        self._told.append(saved)
        self.tell(Event(metrics=metrics, checkpoint=place))

    def _tell_metrics(self, metrics: dict[str, Any]) -> None:
        self._told.append(None)
        self.tell(Event(metrics=metrics))

    def _prune(self) -> None:
        """Delete checkpoints that the journal has newer ones than."""
        while not self.stopping.is_set() and self.acknowledged.acquire(blocking=False):
            saved = self._told.popleft()
            if saved is not None:
                self.prune(saved)

    def _saved(self, reported: Path) -> Path:
        """Return a checkpoint in the trial's folder; ``report`` has copied it there already."""
        if reported.parent == self.folder / checkpoints.FOLDER:
            return self.keep(reported)
        if not reported.exists():
            raise BadReport(f"the report file names a checkpoint that is not there: {reported}")
        return self.keep(checkpoints.save(reported, self.folder, self.assignment.attempt))

    def _late(self) -> Failure | None:
        now = time.monotonic()
        limit = self.job.time_limit_s
        if limit is not None and now - self.began_s >= limit:
            message = f"it ran longer than its time limit of {limit:g} s"
            return Failure(FailureKind.TIME_LIMIT, message, self._last_lines())
        limit = self.job.silent_limit_s
        if limit is None or now - self.active_s < limit:
            return None
        message = f"it neither reported nor printed anything for {limit:g} s"
        return Failure(FailureKind.SILENT, message, self._last_lines())

    def _verdict(self, code: int) -> Failure | None:
        if code == 0:
            return None
        kind = FailureKind.SIGNAL if code < 0 else FailureKind.EXIT_CODE
        return Failure(kind, explain_exit(code), self._last_lines(), exit_code=code)

    def _last_lines(self) -> str:
        """Return the end of what it wrote to stderr, or to stdout when that is empty."""
        for name, start in self._starts.items():
            with (self.folder / name).open("rb") as file:
                size = file.seek(0, 2)
                file.seek(max(start, size - _TAIL_BYTES))
                text = file.read().decode(errors="replace").strip()
            if text:
                return "\n".join(text.splitlines()[-_TAIL_LINES:])
        return ""


def _outside() -> dict[str, str]:
    """Return this process's variables; those of a trial that it is part of itself stay there."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_OWN)}


def _report(line: str) -> tuple[dict[str, Any], str | None]:
    """Return metrics and checkpoint of a line of the report file."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        content = {}
    metrics = content.get("metrics")
    if not isinstance(metrics, dict):
        wanted = '{"metrics": {"loss": 0.1}, "checkpoint": "path or null"}'
        raise BadReport(f"a line of the report file must be like {wanted}, not {line[:100]!r}")
    return metrics, content.get("checkpoint")
