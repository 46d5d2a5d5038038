"""The driver's side of the tracker's process. Imports no tracker."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raytune_hpo.redact import redact
from raytune_hpo.storage import place

END_WAIT_ENV = "RAYTUNE_HPO_MLFLOW_WAIT"
"""Variable with how many seconds MLflow gets to catch up at a run's end."""
END_WAIT_S = 30.0
READY_WAIT_S = 15.0
TRIAL_WAIT_S = 2.0
WAITS_S = 3 * TRIAL_WAIT_S
WAITS_SHARE = 0.02
"""All waits of trials together may take ``WAITS_S``, and this share of the time since the start."""
_KILL_WAIT_S = 5.0


class TrackerProcess:
    """Starts the tracker's process, hears what it says, and ends it.

    No method but ``close`` waits.

    Args:
        run_dir: The run's directory; its journal has a first record.
        ahead: MLflow runs to make for trials that are to come.
        tensorboard: Whether to write TensorBoard files.
        mlflow: Whether to track in MLflow.
        clock: Gives a monotonic time in seconds.
        command: What to start, for tests.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        ahead: int,
        tensorboard: bool = False,
        mlflow: bool = True,
        clock: Callable[[], float] = time.monotonic,
        command: list[str] | None = None,
    ) -> None:
        self._run_dir = run_dir
        self._mlflow = mlflow
        self._clock = clock
        self._started_s = clock()
        self._lock = threading.Lock()
        self._ready: dict[str, str] | None = None
        self._error: str | None = None
        self._behind: int | None = None
        self._refused = 0
        self._run_ids: dict[int, str] = {}
        self._asked_s: dict[int, float] = {}
        self._has_waited: set[int] = set()
        self._waited_s = 0.0
        self._slow = False
        self._late_s: float | None = None
        self._over = False
        words = command or _command(run_dir, ahead, tensorboard, mlflow)
        with (run_dir / "mlflow.log").open("ab") as log:
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        self._thread = threading.Thread(target=self._listen, name="tracker", daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        stream = self._process.stdout
        if stream is None:
            return
        with stream:
            for line in stream:
                with contextlib.suppress(ValueError):
                    self._hear(json.loads(line))
        with self._lock:
            self._over = True

    def _hear(self, message: dict[str, Any]) -> None:
        with self._lock:
            if "ready" in message:
                self._ready = message["ready"]
                self._error = None
            elif "trial" in message:
                self._run_ids[message["trial"]] = message["run_id"]
            elif "slow" in message:
                self._slow = message["slow"]
            elif "late" in message:
                self._late_s = message["late"]
            elif "error" in message:
                self._error = message["error"]
            elif "recovered" in message:
                self._error = None
            elif "behind" in message:
                self._behind = message["behind"]
                self._refused = message.get("refused", 0)

    def environment(self, trial: int) -> dict[str, str]:
        """Return what lets a trial log to its own MLflow run; empty when that is not known."""
        with self._lock:
            run_id = self._run_ids.get(trial)
            if self._ready is None or run_id is None:
                return {}
            return {
                "MLFLOW_TRACKING_URI": self._ready["uri"],
                "MLFLOW_RUN_ID": run_id,
                "MLFLOW_EXPERIMENT_ID": self._ready["experiment_id"],
            }

    def may_start(self, trial: int) -> bool:
        """Return whether a trial need not wait for its MLflow run any longer.

        The first one waits until the store has answered, at most ``READY_WAIT_S`` after the start;
        each one then waits at most ``TRIAL_WAIT_S``, as far as the time for all waits lasts. None
        waits for a store that is away, or so slow that its runs would come too late.
        """
        now_s = self._clock()
        with self._lock:
            if self._waits(trial, now_s):
                return False
            if trial in self._asked_s:
                self._waited_s += now_s - self._asked_s.pop(trial)
                self._has_waited.add(trial)
            return True

    def _waits(self, trial: int, now_s: float) -> bool:
        if trial in self._run_ids or trial in self._has_waited:
            return False
        if not self._mlflow or self._over or self._slow or self._error is not None:
            return False
        since_start_s = now_s - self._started_s
        if self._ready is None:
            return since_start_s < READY_WAIT_S
        if trial not in self._asked_s:
            allowed_s = WAITS_S + WAITS_SHARE * since_start_s
            if self._waited_s + TRIAL_WAIT_S > allowed_s:
                return False
            self._asked_s[trial] = now_s
        return now_s - self._asked_s[trial] < TRIAL_WAIT_S

    def line(self) -> str | None:
        """Return one line for the screen: where MLflow is, or why not; None while it starts."""
        trouble = self.trouble()
        with self._lock:
            if trouble is not None or self._ready is None:
                return trouble
            uri, number = redact(self._ready["uri"]), self._ready["experiment_id"]
            if uri.startswith(("http://", "https://")):
                return f"MLflow: {uri.rstrip('/')}/#/experiments/{number}"
            return f"MLflow: {uri} (mlflow ui --backend-store-uri {uri})"

    def trouble(self) -> str | None:
        """Return in one line why MLflow does not get what happens now, or None."""
        with self._lock:
            if self._error is not None:
                return f"MLflow unreachable, results are kept: {self._error}"
            if self._over and self._behind is None and self._mlflow:
                return f"MLflow tracking has ended early, see {self._run_dir / 'mlflow.log'}"
            if self._ready is None and self._late_s is not None and self._mlflow:
                return f"MLflow is not ready after {self._late_s:.0f} s, results are kept"
            return None

    def close(self, timeout_s: float = END_WAIT_S) -> str | None:
        """Let the process catch up, end it, and return a warning if not all got through."""
        with contextlib.suppress(BrokenPipeError):
            if self._process.stdin is not None and not self._process.stdin.closed:
                self._process.stdin.write(f"{timeout_s}\n".encode())
                self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        self._end()
        self._thread.join(_KILL_WAIT_S)
        return self._warning()

    def _end(self) -> None:
        """End what is left of the process group, which is this process' own."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(_KILL_WAIT_S)

    def _warning(self) -> str | None:
        later = f"later: raytune-hpo mlflow sync {place.shown(self._run_dir)}"
        with self._lock:
            if not self._mlflow:
                return None
            if self._behind is None:
                return f"MLflow may lack the last results, which are kept; {later}"
            if self._behind:
                return f"MLflow unreachable: {self._behind} records kept; {later}"
            if self._refused:
                log = self._run_dir / "mlflow.log"
                return f"MLflow did not take {self._refused} writes, see {log}; {later}"
            return None


def _command(run_dir: Path, ahead: int, tensorboard: bool, mlflow: bool) -> list[str]:
    words = [sys.executable, "-m", "raytune_hpo.tracking", "follow", str(run_dir)]
    words += ["--ahead", str(ahead)]
    words += ["--tensorboard"] if tensorboard else []
    return words if mlflow else [*words, "--no-mlflow"]
