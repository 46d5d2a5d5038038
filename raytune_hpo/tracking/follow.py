"""The tracker's process: follows a journal until its driver is done or gone."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raytune_hpo import journal
from raytune_hpo.tracking import memory, store
from raytune_hpo.tracking.base import Tracker
from raytune_hpo.tracking.feed import PIECE_BYTES, Feed

LOG_NAME = "mlflow.log"
_POLL_S = 0.2
CATCH_UP_S = 30.0
HARD_LIMIT_S = 20.0
"""How much longer a call that hangs may take before the process ends itself."""
_LATE_S = 8.0
"""After this time without any news of the store the driver is told."""
_CATCH_UP_SHARE = 0.9
_LAST_WORD_S = 1.0
"""Of the time that the driver gives at its end the share is used, and at least this is left."""
_EXIT_HANGS = 3

_log = logging.getLogger("raytune_hpo.tracking")

Say = Callable[[dict[str, Any]], None]


def main(
    run_dir: Path,
    *,
    ahead: int = 0,
    uri: str | None = None,
    mlflow: bool = True,
    tensorboard: bool = False,
    catch_up_s: float = CATCH_UP_S,
    hard_limit_s: float = HARD_LIMIT_S,
    request_timeout_s: float = store.REQUEST_TIMEOUT_S,
) -> int:
    """Follow a journal, and return the exit code.

    The end of the standard input means that the driver is done or dead; before it, the driver may
    write on a line for how many seconds it will wait. What is to be said to the driver goes to the
    standard output, one JSON object a line; everything else that is printed goes to
    ``mlflow.log``. Signals that end a driver are ignored, for the end of the run is still to come.

    Args:
        run_dir: The run's directory.
        ahead: MLflow runs to make for trials that are to come.
        uri: Another MLflow store than the journal says.
        mlflow: Whether to track in MLflow.
        tensorboard: Whether to write TensorBoard files.
        catch_up_s: How long to go on after the end of a driver that says nothing, at most.
        hard_limit_s: How much longer a call that hangs may take before the process ends itself.
        request_timeout_s: How long a server may be silent before a request counts as failed.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    driver = Driver(catch_up_s, hard_limit_s)
    redirect(run_dir / LOG_NAME)
    with memory.exclusive(run_dir, 2 * CATCH_UP_S), store.environment(request_timeout_s):
        feeds = _feeds(run_dir, ahead, uri, mlflow, tensorboard, driver.say)
        complete = Follower(feeds, driver).run()
        for feed in feeds:
            feed.tracker.close()
    behind = max((feed.behind for feed in feeds if not feed.ended), default=0)
    driver.say({"behind": behind, "refused": sum(feed.tracker.refused for feed in feeds)})
    return 0 if complete else 1


def _feeds(
    run_dir: Path, ahead: int, uri: str | None, mlflow: bool, tensorboard: bool, say: Say
) -> list[Feed]:
    trackers: list[Tracker] = []
    if mlflow:
        from raytune_hpo.tracking.mlflow import MlflowTracker

        trackers.append(MlflowTracker(run_dir, uri=uri, ahead=ahead, announce=say))
    if tensorboard:
        from raytune_hpo.tracking.tensorboard import TensorboardTracker

        trackers.append(TensorboardTracker(run_dir / "tensorboard"))
    return [Feed(journal.Follower(run_dir, PIECE_BYTES), tracker) for tracker in trackers]


def redirect(path: Path) -> None:
    """Send what this process prints and logs to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")


class Driver:
    """The driver at the other end of the pipes; keeps the standard output to itself.

    A thread watches it, so that this process ends even when a call to the store hangs.

    Args:
        catch_up_s: How long to go on after the end of a driver that says nothing, at most.
        hard_limit_s: How much later the process ends in any case.
    """

    def __init__(self, catch_up_s: float, hard_limit_s: float) -> None:
        self._catch_up_s = catch_up_s
        self._hard_limit_s = hard_limit_s
        self._parent = os.getppid()
        self._out = os.fdopen(os.dup(1), "w")
        self._lock = threading.Lock()
        self._gone = threading.Event()
        self._heard_of_store = False
        self._deadline_s = math.inf
        threading.Thread(target=self._watch, name="driver", daemon=True).start()

    def say(self, message: dict[str, Any]) -> None:
        """Tell the driver something, if it is still there."""
        with self._lock, contextlib.suppress(BrokenPipeError):
            self._heard_of_store = True
            self._out.write(json.dumps(message) + "\n")
            self._out.flush()

    def gone(self, wait_s: float) -> bool:
        """Return whether the driver is done or dead; wait that long for news of it."""
        return self._gone.wait(wait_s)

    @property
    def patience_over(self) -> bool:
        """Whether the driver is gone, and the time to catch up is over too."""
        return time.monotonic() > self._deadline_s

    def _watch(self) -> None:
        late_s = time.monotonic() + _LATE_S
        while not self._ended():
            if not self._heard_of_store and time.monotonic() > late_s:
                self.say({"late": _LATE_S})
        self._deadline_s = time.monotonic() + self._catch_up_s
        self._gone.set()
        time.sleep(self._catch_up_s + self._hard_limit_s)
        os._exit(_EXIT_HANGS)

    def _ended(self) -> bool:
        """Wait a little; return whether the driver has closed the pipe, or is dead."""
        ready, _, _ = select.select([0], [], [], _POLL_S)
        if not ready:
            return os.getppid() != self._parent
        said = os.read(0, 4096)
        with contextlib.suppress(ValueError):
            given_s = float(said)
            self._catch_up_s = max(0.0, min(given_s * _CATCH_UP_SHARE, given_s - _LAST_WORD_S))
        return not said


class Follower:
    """The loop.

    Args:
        feeds: One for each tracker; the first one's failures are told to the driver.
        driver: Who started this process.
    """

    def __init__(self, feeds: list[Feed], driver: Driver) -> None:
        self._feeds = feeds
        self._driver = driver
        self._failing_since_s: float | None = None

    def run(self) -> bool:
        """Go on until the driver is gone; return whether the stores have everything then."""
        while not self._driver.gone(0.0 if self._step() else _POLL_S):
            pass
        while not self._complete():
            if self._driver.patience_over or self._given_up:
                return False
            if not self._step(last=True) and not self._complete():
                time.sleep(_POLL_S)
        return True

    @property
    def _given_up(self) -> bool:
        """Whether the store has not been reached for so long that there is no use in waiting."""
        since_s = self._failing_since_s
        return since_s is not None and time.monotonic() - since_s > CATCH_UP_S

    def _complete(self) -> bool:
        return all(feed.ended for feed in self._feeds)

    def _step(self, *, last: bool = False) -> bool:
        more = [feed.step(time.monotonic(), last=last) for feed in self._feeds]
        self._tell()
        return any(more)

    def _tell(self) -> None:
        """Tell the driver when the store becomes unreachable, and when it is back."""
        error = self._feeds[0].error if self._feeds else None
        if (error is not None) != (self._failing_since_s is not None):
            self._failing_since_s = None if error is None else time.monotonic()
            self._driver.say({"recovered": True} if error is None else {"error": error})
