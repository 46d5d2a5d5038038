"""A run under faults: the driver as a process of its own, and who strikes it.

The chaos process sees the run as anybody does who follows its journal. It keeps a copy of every
record that it has seen, and starts the driver again after each of its deaths.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from raytune_hpo import exits, journal
from raytune_hpo.chaos import witness
from raytune_hpo.chaos.plan import Fault, FaultKind, Strike, Strikes
from raytune_hpo.chaos.strike import Faults, Worker, store_file
from raytune_hpo.errors import InfrastructureError, JournalError
from raytune_hpo.journal import CHAOS_ENV, Follower, Record
from raytune_hpo.trial import TrialState

_POLL_S = 0.1
_PAUSE_S = 1.0
"""Between a driver's death and the next start."""
_STOP_GRACE_S = 20.0
_MOST_SURPRISES = 3
"""So often the driver may end when nothing told it to."""
_RESUMABLE = frozenset({"interrupted", "stopped", "infrastructure"})

Say = Callable[[str], None]


@dataclass(frozen=True)
class Struck:
    """A strike that happened.

    Attributes:
        at_s: Seconds since the first start of the driver.
        finished: Trials that had finished.
        running: Trials that ran.
        kind: What went wrong.
        trials: Those that it hit.
    """

    at_s: float
    finished: int
    running: int
    kind: FaultKind
    trials: tuple[int, ...]


@dataclass(frozen=True)
class Outcome:
    """What the chaos process has seen.

    Attributes:
        seen: Every record of the journal.
        struck: Every strike.
        wall_s: From the first start of the driver to its last end, in seconds.
        codes: Exit codes of the driver, one a start.
        surprises: Ends of the driver that nothing had asked for.
    """

    seen: tuple[Record, ...]
    struck: tuple[Struck, ...]
    wall_s: float
    codes: tuple[int, ...]
    surprises: int


@dataclass
class _Watched:
    """The run as its journal tells."""

    run_dir: Path
    seen: list[Record] = field(default_factory=list)
    finished: int = 0
    completed: int = 0
    finish: str | None = None
    running: dict[int, Worker] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._follower = Follower(self.run_dir)

    def look(self) -> None:
        """Take in what is new."""
        try:
            records = self._follower.poll()
        except JournalError:
            # Records that were there are not any more: the verdict will say which.
            self._follower = Follower(self.run_dir)
            records = self._follower.poll()
            self.finished = self.completed = 0
        self.seen += records
        for record in records:
            self._take(record)

    def _take(self, record: Record) -> None:
        kind = record["type"]
        if kind == "session":
            self.running.clear()
            self.finish = None
        elif kind == "begin":
            fields = (record[name] for name in ("trial", "attempt", "node", "pid", "t"))
            worker = Worker(*fields)
            self.running[worker.trial] = worker
        elif kind == "end":
            state = TrialState(record["state"])
            self.running.pop(record["trial"], None)
            self.finished += state.finished
            self.completed += state in (TrialState.COMPLETED, TrialState.PRUNED)
        elif kind == "finish":
            self.finish = record["reason"]


class Campaign:
    """Runs an experiment to its end under a plan.

    Args:
        run_dir: Where the run will be.
        start: Words after ``raytune-hpo`` for the driver's first start.
        plan: What is to go wrong.
        seed: Of the strikes.
        mlflow_uri: The run's MLflow store, or None.
        say: Gets a line for each strike and each start.

    Raises:
        SpecError: The plan cuts off an MLflow store that cannot be.
    """

    def __init__(
        self,
        run_dir: Path,
        start: Sequence[str],
        plan: Sequence[Fault],
        seed: int,
        *,
        mlflow_uri: str | None,
        say: Say,
    ) -> None:
        if any(fault.kind is FaultKind.MLFLOW_OUTAGE for fault in plan):
            store_file(mlflow_uri)
        self._run_dir = run_dir
        self._words = list(start)
        self._strikes = Strikes(plan, seed)
        self._faults = Faults(run_dir, mlflow_uri)
        self._say = say
        self._environment = {**os.environ, CHAOS_ENV: "1"}
        self._watched = _Watched(run_dir)
        self._struck: list[Struck] = []
        self._codes: list[int] = []
        self._surprises = 0
        self._expected = False
        self._first_s: float | None = None

    def run(self) -> Outcome:
        """Run to the end.

        Raises:
            InfrastructureError: The driver ends again and again without being told to.
        """
        (self._run_dir / witness.FOLDER).mkdir(parents=True, exist_ok=True)
        self._began_s = time.monotonic()
        driver = self._start()
        try:
            while True:
                code = driver.poll()
                self._watched.look()
                if code is not None:
                    if self._is_over(code):
                        break
                    driver = self._again()
                self._strike(driver)
                time.sleep(_POLL_S)
        finally:
            self._faults.end()
            _end(driver)
        wall_s = time.monotonic() - self._began_s
        return Outcome(
            tuple(self._watched.seen),
            tuple(self._struck),
            wall_s,
            tuple(self._codes),
            self._surprises,
        )

    def _is_over(self, code: int) -> bool:
        """Return whether a driver that has ended is not to be started again."""
        self._codes.append(code)
        finish = self._watched.finish
        if finish is not None and finish not in _RESUMABLE:
            return True
        if not self._expected:
            self._surprises += 1
            if code == exits.SPEC or self._surprises >= _MOST_SURPRISES:
                raise InfrastructureError(
                    f"the driver ended by itself with exit code {code}; what it said is in "
                    f"{self._log(len(self._codes))}"
                )
        return False

    def _again(self) -> subprocess.Popen[bytes]:
        """Start the driver once more, as soon as it can work."""
        self._faults.free_disk()
        time.sleep(_PAUSE_S)
        return self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        if journal.exists(self._run_dir):
            self._words = ["resume", str(self._run_dir)]
        self._expected = False
        self._watched.running.clear()
        number = len(self._codes) + 1
        self._say(f"driver started{'' if number == 1 else ' again'}")
        with self._log(number).open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "raytune_hpo", *self._words, "--quiet"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
            )

    def _log(self, number: int) -> Path:
        return self._run_dir / witness.FOLDER / f"driver-{number}.log"

    def _strike(self, driver: subprocess.Popen[bytes]) -> None:
        now_s = time.monotonic()
        self._faults.end_due(now_s)
        watched = self._watched
        if self._first_s is None and watched.completed:
            # Nothing strikes before one trial has shown that the experiment works at all.
            self._first_s = now_s
        if self._first_s is None or self._expected or watched.finish or driver.poll() is not None:
            return
        running = sorted(watched.running)
        for strike in self._strikes.due(now_s - self._first_s, watched.finished, running):
            self._hit(strike, driver, now_s)

    def _hit(self, strike: Strike, driver: subprocess.Popen[bytes], now_s: float) -> None:
        kind, watched = strike.fault.kind, self._watched
        hit = self._faults.hit(strike, watched.running, now_s)
        if kind is FaultKind.KILL_DRIVER:
            driver.kill()
        elif kind is FaultKind.STOP_DRIVER:
            driver.send_signal(signal.SIGTERM)
        self._expected = self._expected or kind.ends_driver
        if kind.hits_trials and not hit:
            return
        at_s = now_s - self._began_s
        self._struck.append(Struck(at_s, watched.finished, len(watched.running), kind, tuple(hit)))
        whom = f" trial {', '.join(map(str, hit))}" if hit else ""
        self._say(f"{kind}{whom}; {watched.finished} trials have finished")


def _end(driver: subprocess.Popen[bytes]) -> None:
    """End a driver that still runs, when the chaos process itself is ended."""
    if driver.poll() is None:
        driver.terminate()
        try:
            driver.wait(_STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            driver.kill()
            driver.wait()
