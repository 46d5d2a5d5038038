"""What a tracker remembers between sessions, in the run directory: a shortcut, not the truth.

The truth is in the store itself. A lost or stale file costs time, and makes nothing double.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from raytune_hpo import lock
from raytune_hpo.errors import RunLockedError
from raytune_hpo.tracking.settings import Settings

FILE_NAME = "mlflow.json"
LOCK_NAME = "mlflow.lock"
_LOCK_POLL_S = 0.2


@dataclass
class Memory:
    """What is known of one store.

    Attributes:
        experiment: Name of the MLflow experiment.
        experiment_id: Its id.
        runs: Run id by trial number as text, and of the ``parent``.
        applied: Records of the journal that the store has.
        refused: Writes that the store did not take; they are tried again by ``sync``.
    """

    experiment: str
    experiment_id: str = ""
    runs: dict[str, str] = field(default_factory=dict)
    applied: int = 0
    refused: int = 0


def load(run_dir: Path, settings: Settings) -> Memory:
    """Return what is remembered of a store; an empty memory if there is none."""
    entry = _read(run_dir / FILE_NAME).get(settings.shown, {})
    if entry.get("experiment") != settings.experiment:
        return Memory(settings.experiment)
    return Memory(**entry)


def save(run_dir: Path, settings: Settings, memory: Memory) -> None:
    """Remember; a crash leaves the file as it was."""
    path = run_dir / FILE_NAME
    content = {**_read(path), settings.shown: asdict(memory)}
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    draft.write_text(json.dumps(content, indent=1))
    draft.replace(path)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        content = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


@contextlib.contextmanager
def exclusive(run_dir: Path, patience_s: float) -> Iterator[None]:
    """Hold the run's tracker off from any other process: two would make runs twice.

    Args:
        run_dir: The run's directory.
        patience_s: How long to wait for the other one.

    Raises:
        RunLockedError: Another tracker is at work on the run.
    """
    file = os.open(run_dir / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        deadline_s = time.monotonic() + patience_s
        while not _taken(file):
            if time.monotonic() > deadline_s:
                raise RunLockedError(
                    f"{run_dir}: the run is being tracked by another process right now, which "
                    "brings everything to its store; try again when the run has ended"
                )
            time.sleep(_LOCK_POLL_S)
        yield
    finally:
        os.close(file)


def _taken(file: int) -> bool:
    # Where there are no locks, the driver's own lock keeps a second tracker away.
    return lock.try_lock(file, fcntl.LOCK_EX) is not False
