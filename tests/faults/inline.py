"""Drivers without Ray in processes of their own, forked from one that has imported everything."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from raytune_hpo import failpoints, lock, spec
from raytune_hpo.errors import RaytuneHpoError
from raytune_hpo.session import Surroundings, run_experiment
from raytune_hpo.storage import presence, segments
from raytune_hpo.testing.threads import Threads

NAME = "experiment"
EXPERIMENT = """
run: |
  echo "$RAYTUNE_HPO_TRIAL ${x}" >> "$RAYTUNE_HPO_FOLDER/began"
  for step in 1 2 3; do
    mkdir -p "own-$RAYTUNE_HPO_TRIAL" && echo $step > "own-$RAYTUNE_HPO_TRIAL/step"
    printf '{"metrics": {"loss": %s}, "checkpoint": "own-%s"}\\n' \\
      ${x} $RAYTUNE_HPO_TRIAL >> "$RAYTUNE_HPO_REPORT_FILE"
  done
  echo "$RAYTUNE_HPO_TRIAL" >> "$RAYTUNE_HPO_FOLDER/ended"
objective: {metric: loss}
parameters: {x: {min: 0.0, max: 1.0}}
search: {algorithm: random, seed: 3}
trials: 5
parallel: 2
mlflow: false
"""
EXIT_REFUSED = 33
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([__name__, "s3fs"])


def start(folder: Path, failpoint: str | None = None, **world: Any) -> BaseProcess:
    """Start a driver on ``folder``/experiment.yaml; it goes on where the last one was.

    Args:
        folder: Of the experiment.
        failpoint: As in the variable RAYTUNE_HPO_FAILPOINT, or None.
        **world: See ``_pretend``.
    """
    process = _CONTEXT.Process(target=_drive, args=(folder, failpoint, world))
    process.start()
    return process


def finish(process: BaseProcess, timeout_s: float = 300.0) -> int:
    """Wait for a driver and return its exit code; negative for a signal."""
    process.join(timeout_s)
    assert process.exitcode is not None, "the driver does not end"
    return process.exitcode


def wait_until_stopped(pid: int) -> None:
    """Wait until a process stands still, as SIGSTOP makes it."""
    deadline_s = time.monotonic() + 30
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def _drive(folder: Path, failpoint: str | None, world: dict[str, Any]) -> None:
    os.chdir(folder)
    with (folder / "output").open("a") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    _pretend(**world)
    if failpoint is not None:
        failpoints.arm(failpoint)
    around = Surroundings(executor=Threads(), exits_process=True)
    try:
        run_experiment(
            spec.load(folder / "experiment.yaml", ()),
            folder=folder,
            resume=True,
            surroundings=around,
        )
    except RaytuneHpoError:
        traceback.print_exc()
        sys.exit(EXIT_REFUSED)


def _pretend(
    *,
    env: Mapping[str, str] | None = None,
    host: str | None = None,
    locks: bool = True,
    lease_s: float | None = None,
    roll: int | None = None,
) -> None:
    """Put this process into another world.

    Args:
        env: More variables of the environment.
        host: Name of its machine.
        locks: Whether the file system has locks.
        lease_s: How long a silent holder keeps a run.
        roll: Batches of a session in a store.
    """
    if roll is not None:
        segments.ROLL = roll
    os.environ.update(env or {})
    if host is not None:
        socket.gethostname = lambda: host
    if lease_s is not None:
        lock.LEASE_S = lease_s
        lock.BEAT_S = lease_s / 5
        presence.LEASE_S, presence.BEAT_S = lease_s, lease_s / 5
    if not locks:

        def no_locks(fd: int, operation: int) -> None:
            raise OSError(37, "No locks available")

        fcntl.flock = no_locks  # type: ignore[assignment]
