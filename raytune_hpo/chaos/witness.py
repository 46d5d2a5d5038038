"""What each worker notes by itself under ``raytune-hpo chaos``, and the orders that it takes.

All of it lies in the folder ``chaos`` of the run directory: one file of observations a process, and
one file an order. Whether something was lost is decided by these notes, not by the journal's.
"""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

FOLDER = "chaos"
BEGAN = "began"
ACKNOWLEDGED = "acknowledged"
ENDED = "ended"
ORDERED = "failed on purpose by raytune-hpo chaos"
"""Message of a failure that was ordered."""

Line = dict[str, Any]


class Witness:
    """Notes what happens to one attempt, past the journal.

    Args:
        folder: ``RUN_DIR/chaos``.
        trial: Number of the trial.
        attempt: Number of the attempt, from 1.
        checkpoint: What it goes on from, or None.
    """

    def __init__(self, folder: Path, trial: int, attempt: int, checkpoint: str | None) -> None:
        host = socket.gethostname()
        self._who = {"trial": trial, "attempt": attempt, "host": host, "pid": os.getpid()}
        self._order = order_file(folder, trial, attempt)
        observed = folder / "observed"
        observed.mkdir(parents=True, exist_ok=True)
        self._path = observed / f"{host}-{os.getpid()}.jsonl"
        self._note(BEGAN, checkpoint=checkpoint)

    @property
    def ordered(self) -> bool:
        """Whether this attempt is to fail now."""
        return self._order.exists()

    def acknowledged(self, metrics: Line) -> None:
        """Note that the trial was told that a report is safe."""
        self._note(ACKNOWLEDGED, metrics=metrics)

    def ended(self, failure: str | None) -> None:
        """Note that the attempt came to its own end; None for a good one."""
        self._note(ENDED, failure=failure)

    def _note(self, what: str, **fields: Any) -> None:
        line = json.dumps({"t": time.time(), "what": what, **self._who, **fields}) + "\n"
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)


def order_file(folder: Path, trial: int, attempt: int) -> Path:
    """Return the file whose existence tells an attempt to fail."""
    return folder / "orders" / f"{trial}-{attempt}"


def observed(folder: Path) -> list[Line]:
    """Return what all workers noted, in the order of time; a line cut by a kill is left out."""
    lines: list[Line] = []
    for path in sorted((folder / "observed").glob("*.jsonl")):
        whole = path.read_text().split("\n")[:-1]
        lines += [json.loads(line) for line in whole]
    return sorted(lines, key=lambda line: float(line["t"]))
