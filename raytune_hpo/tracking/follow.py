"""The tracker's process: follows a journal until its driver is done or gone."""

from __future__ import annotations

import contextlib
import json
import logging
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
_CATCH_UP_S = 30.0
_HARD_LIMIT_S = 20.0
"""How much longer a call that hangs may take before the process ends itself."""
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
    catch_up_s: float = _CATCH_UP_S,
) -> int:
    """Follow a journal, and return the exit code.

    The driver writes nothing to the standard input: its end means that the driver is done or
    dead. What is to be said to the driver goes to the standard output, one JSON object a line;
    everything else that is printed goes to ``mlflow.log``. Signals that end a driver are ignored,
    for the end of the run is still to come.

    Args:
        run_dir: The run's directory.
        ahead: MLflow runs to make for trials that are to come.
        uri: Another MLflow store than the journal says.
        mlflow: Whether to track in MLflow.
        tensorboard: Whether to write TensorBoard files.
        catch_up_s: How long to go on after the driver's end.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    driver = Driver()
    redirect(run_dir / LOG_NAME)
    with memory.exclusive(run_dir, 2 * _CATCH_UP_S), store.environment():
        feeds = _feeds(run_dir, ahead, uri, mlflow, tensorboard, driver.say)
        complete = Follower(feeds, driver, catch_up_s).run()
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
    """The driver at the other end of the pipes; keeps the standard output to itself."""

    def __init__(self) -> None:
        self._parent = os.getppid()
        self._out = os.fdopen(os.dup(1), "w")
        self._gone = False

    def say(self, message: dict[str, Any]) -> None:
        """Tell the driver something, if it is still there."""
        with contextlib.suppress(BrokenPipeError):
            self._out.write(json.dumps(message) + "\n")
            self._out.flush()

    def gone(self, wait_s: float) -> bool:
        """Return whether the driver is done or dead; wait that long for news of it."""
        if self._gone:
            time.sleep(wait_s)
            return True
        ready, _, _ = select.select([0], [], [], wait_s)
        if ready:
            self._gone = not os.read(0, 4096)
        self._gone = self._gone or os.getppid() != self._parent
        return self._gone


class Follower:
    """The loop.

    Args:
        feeds: One for each tracker; the first one's failures are told to the driver.
        driver: Who started this process.
        catch_up_s: How long to go on after the driver's end.
    """

    def __init__(self, feeds: list[Feed], driver: Driver, catch_up_s: float) -> None:
        self._feeds = feeds
        self._driver = driver
        self._catch_up_s = catch_up_s
        self._told = False

    def run(self) -> bool:
        """Go on until the driver is gone; return whether the stores have everything then."""
        while not self._driver.gone(0.0 if self._step() else _POLL_S):
            pass
        deadline_s = time.monotonic() + self._catch_up_s
        self._limit()
        while not self._complete():
            if time.monotonic() > deadline_s:
                return False
            if not self._step(last=True) and not self._complete():
                time.sleep(_POLL_S)
        return True

    def _complete(self) -> bool:
        return all(feed.ended for feed in self._feeds)

    def _step(self, *, last: bool = False) -> bool:
        more = [feed.step(time.monotonic(), last=last) for feed in self._feeds]
        self._tell()
        return any(more)

    def _tell(self) -> None:
        """Tell the driver when the store becomes unreachable, and when it is back."""
        error = self._feeds[0].error if self._feeds else None
        if (error is not None) != self._told:
            self._told = error is not None
            self._driver.say({"error": error} if self._told else {"recovered": True})

    def _limit(self) -> None:
        """End this process for sure, even when a call to the store hangs."""
        timer = threading.Timer(self._catch_up_s + _HARD_LIMIT_S, os._exit, [_EXIT_HANGS])
        timer.daemon = True
        timer.start()
