"""How each fault is made to happen to a real run on this machine."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import time
from dataclasses import dataclass, field
from pathlib import Path

from raytune_hpo.chaos import witness
from raytune_hpo.chaos.plan import FaultKind, Strike
from raytune_hpo.errors import SpecError
from raytune_hpo.journal import DISK_FULL_ORDER

_SQLITE = "sqlite:///"
_WORKER_TITLE = b"ray::"
"""How Ray names a worker process."""
_SLACK_S = 2.0
"""Clocks of a process's start and of the journal may differ by this."""


@dataclass(frozen=True)
class Worker:
    """The process that an attempt runs in.

    Attributes:
        trial: Number of the trial.
        attempt: Number of the attempt.
        node: Name of its machine.
        pid: Its process there.
        began_t: Unix time in seconds at which the attempt began.
    """

    trial: int
    attempt: int
    node: str | None
    pid: int | None
    began_t: float


@dataclass
class Faults:
    """Strikes, and takes back what lasts for a while only.

    Args:
        run_dir: Of the run.
        mlflow_uri: Its MLflow store, or None.
    """

    run_dir: Path
    mlflow_uri: str | None = None
    _stopped: dict[int, int] = field(default_factory=dict)
    _resume_s: dict[int, float] = field(default_factory=dict)
    _outage: tuple[sqlite3.Connection, float] | None = None
    _full_until_s: float | None = None

    def hit(self, strike: Strike, workers: dict[int, Worker], now_s: float) -> list[int]:
        """Make a fault happen; return the trials that it really hit.

        Args:
            strike: What is to happen.
            workers: Of the running attempts, by trial.
            now_s: Monotonic time.
        """
        hit = [t for t in strike.trials if self._hit_trial(strike, workers[t], now_s)]
        if strike.fault.kind is FaultKind.DISK_FULL:
            self._order(self.run_dir / DISK_FULL_ORDER)
            self._full_until_s = now_s + strike.fault.for_s
        elif strike.fault.kind is FaultKind.MLFLOW_OUTAGE:
            self._begin_outage(now_s + strike.fault.for_s)
        return hit

    def end_due(self, now_s: float) -> None:
        """Take back what has lasted long enough."""
        for pid in [pid for pid, until_s in self._resume_s.items() if now_s >= until_s]:
            del self._resume_s[pid]
            self._go_on(pid)
        if self._outage is not None and now_s >= self._outage[1]:
            self._end_outage()

    def free_disk(self) -> None:
        """Wait until the disk has been full long enough, and end that.

        To be called when the driver has met it: one that has nothing to write does not notice.
        """
        if self._full_until_s is not None:
            time.sleep(max(0.0, self._full_until_s - time.monotonic()))
            self._end_full()

    def end(self) -> None:
        """Take back everything."""
        self._resume_s.clear()
        for pid in list(self._stopped):
            self._go_on(pid)
        self._end_outage()
        self._end_full()

    def _hit_trial(self, strike: Strike, worker: Worker, now_s: float) -> bool:
        if strike.fault.kind is FaultKind.FAIL:
            folder = self.run_dir / witness.FOLDER
            self._order(witness.order_file(folder, worker.trial, worker.attempt))
            return True
        pid = worker.pid
        if pid is None or not is_worker(worker):
            return False
        number = signal.SIGKILL if strike.fault.kind is FaultKind.KILL else signal.SIGSTOP
        try:
            started = _start_ticks(pid)
            os.kill(pid, number)
        except OSError:  # it ended by itself just now
            return False
        if number == signal.SIGSTOP:
            self._stopped[pid] = started
        if strike.fault.kind is FaultKind.SLOW:
            self._resume_s[pid] = now_s + strike.fault.for_s
        return True

    def _go_on(self, pid: int) -> None:
        started = self._stopped.pop(pid)
        try:
            # The number may belong to another process by now.
            if _start_ticks(pid) == started:
                os.kill(pid, signal.SIGCONT)
        except OSError:  # it is gone
            return

    @staticmethod
    def _order(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def _begin_outage(self, until_s: float) -> None:
        self._end_outage()
        path = store_file(self.mlflow_uri)
        connection = sqlite3.connect(path, timeout=_SLACK_S, isolation_level=None)
        try:
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError:  # it is being written to for all that time
            connection.close()
            return
        self._outage = connection, until_s

    def _end_outage(self) -> None:
        if self._outage is not None:
            self._outage[0].close()
            self._outage = None

    def _end_full(self) -> None:
        if self._full_until_s is not None:
            (self.run_dir / DISK_FULL_ORDER).unlink(missing_ok=True)
            self._full_until_s = None


def store_file(mlflow_uri: str | None) -> str:
    """Return the file of an MLflow store that can be cut off.

    Raises:
        SpecError: It is no SQLite store, or there is none.
    """
    if mlflow_uri is None or not mlflow_uri.startswith(_SQLITE):
        raise SpecError("--mlflow-outage needs a run that is tracked in a SQLite store")
    return mlflow_uri.removeprefix(_SQLITE).partition("?")[0]


def is_worker(worker: Worker) -> bool:
    """Return whether a process still is the worker on this machine that an attempt began in."""
    if worker.pid is None or worker.node != socket.gethostname():
        return False
    try:
        title = Path(f"/proc/{worker.pid}/cmdline").read_bytes()
        started_t = _booted_t() + _start_ticks(worker.pid) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return False
    return title.startswith(_WORKER_TITLE) and started_t <= worker.began_t + _SLACK_S


def _start_ticks(pid: int) -> int:
    """Return when a process was started, in the kernel's ticks since the machine was.

    Raises:
        OSError: There is no such process.
    """
    # The name of the program is in parentheses and may hold anything.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    if fields[0] == "Z":
        raise ProcessLookupError(pid)
    return int(fields[19])


def _booted_t() -> float:
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
