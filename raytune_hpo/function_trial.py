"""A trial that is a Python function."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from raytune_hpo import checkpoints, reporting
from raytune_hpo.attempt import Attempt, Event, Function
from raytune_hpo.errors import StoreError
from raytune_hpo.redirect import output_to
from raytune_hpo.reporting import TrialStopped, plain
from raytune_hpo.trial import Failure, FailureKind

_NOT_THE_USERS = (str(Path(__file__).parent), "<frozen importlib", importlib.__file__)


class FunctionAttempt(Attempt):
    """Calls the function; it is the ``Session`` that ``report`` and ``get_checkpoint`` find."""

    _output_bytes = 0

    @property
    def checkpoint(self) -> Path | None:
        """What the function reported as its checkpoint, or None to start afresh."""
        if self.assignment.checkpoint is None:
            return None
        path = self.job.run_dir / self.assignment.checkpoint
        return path if path.exists() else None

    def report(self, metrics: dict[str, Any], checkpoint: Path | None) -> None:
        """Hand a report over; see ``reporting.Session``."""
        if self.stopping.is_set():
            raise TrialStopped
        saved = None if checkpoint is None else self._saved(checkpoint)
        place = None if saved is None else str(saved.relative_to(self.job.run_dir))
        told_s = time.monotonic()
        self.tell(Event(metrics=metrics, checkpoint=place))
        self.acknowledged.acquire()
        # A wait for the run's storage is not the trial's.
        self.began_s += time.monotonic() - told_s
        if self.stopping.is_set():
            raise TrialStopped
        if self.witness is not None:
            self.witness.acknowledged(metrics)
        if saved is not None:
            self.prune(saved)

    def _saved(self, checkpoint: Path) -> Path:
        saved = checkpoints.save(checkpoint, self.folder, self.assignment.attempt)
        try:
            return self.keep(saved)
        except StoreError as error:
            # Not for the function to catch: it ends the run.
            self.store_trouble = str(error)
            raise TrialStopped from error

    def run(self) -> Event:
        """Call the function and return how it ended."""
        reporting.set_session(self)
        try:
            with _surroundings(self.environment(), self.workdir(), self.folder):
                self._call()
        except TrialStopped:
            return Event()
        except BaseException as error:
            return Event(failure=_explain(error))
        finally:
            reporting.set_session(None)
        return Event()

    def _call(self) -> None:
        if str(self.job.folder) not in sys.path:
            sys.path.insert(0, str(self.job.folder))
        function = self.job.function or load_function(str(self.job.run))
        result = function(dict(self.assignment.config))
        metrics = _returned(result, self.job.single_metric)
        if metrics:
            self.tell(Event(metrics=metrics))

    def overdue(self) -> list[Event]:
        """Return the end of an attempt that is past its time limit or silent for too long."""
        now = time.monotonic()
        limit = self.job.time_limit_s
        if limit is not None and now - self.began_s >= limit:
            message = f"it ran longer than its time limit of {limit:g} s"
            return [Event(failure=Failure(FailureKind.TIME_LIMIT, message), stuck=True)]
        limit = self.job.silent_limit_s
        if limit is None or now - self.active_s < limit or self._has_new_output():
            return []
        message = f"it neither reported nor printed anything for {limit:g} s"
        return [Event(failure=Failure(FailureKind.SILENT, message), stuck=True)]

    def _has_new_output(self) -> bool:
        size = sum(path.stat().st_size for path in self.folder.glob("*.log"))
        grown = size > self._output_bytes
        self._output_bytes = size
        if grown:
            self.active_s = time.monotonic()
        return grown


def load_function(name: str) -> Function:
    """Return the function that ``package.module:function`` names.

    Raises:
        ImportError: There is no such module.
        AttributeError: The module has no such function.
    """
    module, _, function = name.partition(":")
    found: Function = getattr(importlib.import_module(module), function)
    return found


def _returned(result: Any, single_metric: str | None) -> dict[str, Any]:
    """Return what a function returned as metrics.

    Raises:
        TypeError: It is neither a mapping, a number nor None.
    """
    if result is None:
        return {}
    if isinstance(result, Mapping):
        return {str(name): plain(value) for name, value in result.items()}
    value = plain(result)
    if isinstance(value, int | float) and not isinstance(value, bool) and single_metric:
        return {single_metric: value}
    wanted = "a number or a dict of metrics" if single_metric else "a dict of metrics"
    raise TypeError(f"the function returned {type(result).__name__}, not {wanted}")


def _explain(error: BaseException) -> Failure:
    """Return a failure that shows the user's own frames only."""
    text = "".join(traceback.format_exception_only(error)).strip()
    frames = traceback.extract_tb(_users_part(error.__traceback__))
    details = "".join(traceback.format_list(frames)) + text
    return Failure(FailureKind.EXCEPTION, text.splitlines()[0], details)


def _users_part(tb: TracebackType | None) -> TracebackType | None:
    """Skip the frames of this package, and of the import system, at the top of a traceback."""
    while tb is not None and tb.tb_frame.f_code.co_filename.startswith(_NOT_THE_USERS):
        tb = tb.tb_next
    return tb


@contextlib.contextmanager
def _surroundings(env: Mapping[str, str], workdir: Path, folder: Path) -> Iterator[None]:
    """Give the function its environment, working directory and output files."""
    before = {name: os.environ.get(name) for name in env}
    cwd = Path.cwd()
    os.environ.update(env)
    os.chdir(workdir)
    try:
        with output_to(folder / "stdout.log", 1), output_to(folder / "stderr.log", 2):
            yield
    finally:
        os.chdir(cwd)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
