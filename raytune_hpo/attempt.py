"""One attempt of a trial on the machine where it runs.

No Ray in here: whoever holds an ``Attempt`` asks it for events and passes them on.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raytune_hpo import checkpoints, reporting
from raytune_hpo.chaos.witness import ORDERED, Witness
from raytune_hpo.collect import MetricOptions
from raytune_hpo.errors import StoreError
from raytune_hpo.trial import Config, Failure, FailureKind

if TYPE_CHECKING:
    from raytune_hpo.storage.keeper import Keeper

Function = Callable[[dict[str, Any]], Any]

STOP_GRACE_S = 10.0
"""So long an attempt may go on after it was told to stop, before its process is ended."""
WANTED_FILE = "checkpoint-wanted"
"""In a trial's folder: there while the trial is asked to save a checkpoint."""
_PROBE_BYTES = 64 * 1024
_MOST_EVENTS = 256
"""Events handed over at once at the most."""


@dataclass(frozen=True)
class Job:
    """What all attempts of a run have in common.

    Attributes:
        run_dir: Folder of the run; every node sees it under this path, unless there is a ``url``.
        run: A command (text for a shell, or an argv list), or ``module:function``.
        function: The function itself when the user handed over an object.
        single_metric: Name for a number that a function returns; None when there is no one name.
        folder: Where the experiment lives; modules of functions are found there.
        workdir: Folder that trials start in; None gives each trial a folder of its own.
        env: More environment variables.
        setup: Shell line to run before a command, or None.
        time_limit_s: For one attempt, or None.
        silent_limit_s: Without any report or output, or None.
        keep_checkpoints: How many of each trial to keep.
        parameters: Names of all parameters of the space.
        metrics: Where a command's metrics come from.
        chaos: Folder for what workers note and are ordered under ``raytune-hpo chaos``, or None.
        url: Of the run in an object store, of which each machine has a copy of its own; or None.
        run_id: Of the run, for one with a ``url``.
    """

    run_dir: Path
    run: str | tuple[str, ...]
    function: Function | None
    single_metric: str | None
    folder: Path
    workdir: Path | None
    env: Mapping[str, str]
    setup: str | None
    time_limit_s: float | None
    silent_limit_s: float | None
    keep_checkpoints: int
    parameters: tuple[str, ...] = ()
    metrics: MetricOptions = field(default_factory=MetricOptions)
    chaos: Path | None = None
    url: str | None = None
    run_id: str | None = None

    @property
    def is_function(self) -> bool:
        """Whether a trial is a Python function and not a command."""
        return self.function is not None or (
            isinstance(self.run, str) and is_function_name(self.run)
        )


def is_function_name(run: str) -> bool:
    """Return whether ``run`` names a function, as ``package.module:function``."""
    module, colon, name = run.partition(":")
    return bool(colon) and name.isidentifier() and all(p.isidentifier() for p in module.split("."))


@dataclass(frozen=True)
class Assignment:
    """What one attempt is to run; ``config`` is nested for functions and flat for commands."""

    trial: int
    attempt: int
    config: Config
    checkpoint: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Event:
    """Something an attempt has to tell: a report, or its end.

    Attributes:
        metrics: Of a report, else None.
        checkpoint: Path relative to the run directory, or None.
        failure: Of an end; None for a good end.
        stuck: The attempt could not be ended: its process has to be.
    """

    metrics: dict[str, Any] | None = None
    checkpoint: str | None = None
    failure: Failure | None = None
    stuck: bool = False

    @property
    def is_end(self) -> bool:
        """Whether this is the last event of the attempt."""
        return self.metrics is None


def trial_dir(run_dir: Path, trial: int) -> Path:
    """Return the folder of a trial in its run directory."""
    return run_dir / "trials" / f"{trial:04d}"


class Attempt(ABC):
    """Runs one attempt in a thread of this process.

    Args:
        job: What all attempts share.
        assignment: What this one is to run.
    """

    def __init__(self, job: Job, assignment: Assignment) -> None:
        self.job = job
        self.assignment = assignment
        self.trial = assignment.trial
        self.folder = trial_dir(job.run_dir, assignment.trial)
        self.stopping = threading.Event()
        self.wanted_file = self.folder / WANTED_FILE
        self.wanted_file.unlink(missing_ok=True)
        self.acknowledged = threading.Semaphore(0)
        self.began_s = self.active_s = time.monotonic()
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._unacknowledged = 0
        self._keeper: Keeper | None = None
        self._busy_with_store = False
        self.store_trouble: str | None = None
        self.witness = None if job.chaos is None else _witness(job.chaos, assignment)
        self._thread = threading.Thread(target=self._guarded, name="trial", daemon=True)
        self._thread.start()

    @abstractmethod
    def run(self) -> Event:
        """Run to the end, telling of reports by ``tell``, and return the end."""

    def overdue(self) -> list[Event]:
        """Return the end of an attempt that is past a limit it does not see to itself."""
        return []

    def tell(self, event: Event) -> None:
        """Have an event passed on."""
        self._events.put(event)

    def events(self, timeout_s: float) -> list[Event]:
        """Return what has happened since the last call; waits for something to happen.

        Calling it acknowledges all events returned before.

        Args:
            timeout_s: Longest wait; after it the list is empty.
        """
        if self._unacknowledged or self._busy_with_store:
            # What waits for the run's storage is not silent.
            self.active_s = time.monotonic()
        for _ in range(self._unacknowledged):
            self.acknowledged.release()
        if self.witness is not None and self.witness.ordered:
            return [Event(failure=Failure(FailureKind.NOT_STARTED, ORDERED), stuck=True)]
        events = self._drain(timeout_s) or self.overdue()
        self._unacknowledged = len(events)
        return events

    def keep(self, saved: Path) -> Path:
        """Bring a saved checkpoint to where the run is kept; return its folder here.

        Raises:
            StoreError: The store does not take it.
        """
        if self._keeper is None:
            return saved
        with self._at_the_store():
            return self._keeper.keep(saved)

    def prune(self, newest: Path) -> None:
        """Delete the checkpoints that are not kept, of those up to the newest in the journal."""
        if self._keeper is None:
            checkpoints.prune(self.folder, self.job.keep_checkpoints, newest)
            return
        with self._at_the_store():
            self._keeper.prune(self.job.keep_checkpoints, newest)

    def want_checkpoint(self) -> None:
        """Tell the trial to save a checkpoint soon, since its machine will be taken away."""
        self.wanted_file.touch()

    def stop(self) -> bool:
        """End the attempt; return whether nothing of it is left in this process."""
        self.stopping.set()
        self.acknowledged.release()
        self._thread.join(STOP_GRACE_S)
        return not self._thread.is_alive()

    def _guarded(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._fetch()
            end = self.run()
        except StoreError as error:
            self.store_trouble = str(error)
            end = Event(failure=Failure(FailureKind.STORAGE, self.store_trouble))
        except BaseException as error:
            end = Event(
                failure=Failure(FailureKind.NOT_STARTED, f"{type(error).__name__}: {error}")
            )
        if self._keeper is not None:
            self._keeper.close(finished=end.failure is None and not self.stopping.is_set())
        trouble = self.store_trouble
        if trouble is None and end.failure is not None:
            trouble = storage_trouble(self.folder)
        if trouble is not None:
            end = Event(failure=Failure(FailureKind.STORAGE, trouble))
        if self.witness is not None:
            self.witness.ended(None if end.failure is None else end.failure.message)
        self.tell(end)

    def _fetch(self) -> None:
        """Bring the checkpoint to go on from here, for a run in an object store."""
        if self.job.url is None:
            return
        from raytune_hpo.storage.keeper import Keeper

        with self._at_the_store():
            self._keeper = Keeper(
                self.job.url,
                self.job.run_dir,
                self.trial,
                self.assignment.attempt,
                self.stopping.is_set,
            )
            if self.assignment.checkpoint is not None:
                self._keeper.fetch(self.assignment.checkpoint)

    @contextlib.contextmanager
    def _at_the_store(self) -> Iterator[None]:
        self._busy_with_store = True
        try:
            yield
        finally:
            self._busy_with_store = False
            self.active_s = time.monotonic()

    def _drain(self, timeout_s: float) -> list[Event]:
        try:
            events = [self._events.get(timeout=timeout_s)]
        except queue.Empty:
            return []
        self.active_s = time.monotonic()
        with contextlib.suppress(queue.Empty):
            while len(events) < _MOST_EVENTS:
                events.append(self._events.get_nowait())
        return events

    def environment(self) -> dict[str, str]:
        """Return the variables that every trial gets on top of its process's own."""
        return {
            reporting.TRIAL_ENV: str(self.trial),
            reporting.ATTEMPT_ENV: str(self.assignment.attempt),
            reporting.TRIAL_DIR_ENV: str(self.folder),
            reporting.WANTED_FILE_ENV: str(self.wanted_file),
            "RAYTUNE_HPO_FOLDER": str(self.job.folder),
            **self.job.env,
            **self.assignment.env,
        }

    def workdir(self) -> Path:
        """Return the folder that the attempt starts in."""
        if self.job.workdir is not None:
            return self.job.workdir
        own = self.folder / "work"
        own.mkdir(exist_ok=True)
        return own


def _witness(folder: Path, assignment: Assignment) -> Witness:
    return Witness(folder, assignment.trial, assignment.attempt, assignment.checkpoint)


def storage_trouble(folder: Path) -> str | None:
    """Return why nothing can be written to a folder of the run, in one sentence, or None."""
    probe = folder / f".probe-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with probe.open("wb") as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
        probe.unlink()
    except OSError as error:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
        return f"{folder} cannot be written: {error.strerror}"
    return None


def begin(job: Job, assignment: Assignment) -> Attempt:
    """Start an attempt of the kind that the job asks for."""
    if job.url is not None:
        from raytune_hpo.storage.keeper import at_home

        job = at_home(job)
    # Imported here, so that a node that runs commands does not load what functions need.
    if job.is_function:
        from raytune_hpo.function_trial import FunctionAttempt

        return FunctionAttempt(job, assignment)
    from raytune_hpo.command_trial import CommandAttempt

    return CommandAttempt(job, assignment)
