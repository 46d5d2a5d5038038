"""What a trial calls: ``report``, ``get_checkpoint``, ``checkpoint_wanted``, ``trial_number``.

The same code runs in three places: inside a function trial, in a script that is run as a command
trial, and on its own without any experiment, where a report is just printed.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from raytune_hpo import checkpoints

REPORT_FILE_ENV = "RAYTUNE_HPO_REPORT_FILE"
CHECKPOINT_ENV = "RAYTUNE_HPO_CHECKPOINT"
TRIAL_DIR_ENV = "RAYTUNE_HPO_TRIAL_DIR"
TRIAL_ENV = "RAYTUNE_HPO_TRIAL"
WANTED_FILE_ENV = "RAYTUNE_HPO_CHECKPOINT_WANTED_FILE"
ATTEMPT_ENV = "RAYTUNE_HPO_ATTEMPT"


class TrialStopped(BaseException):
    """Raised by ``report`` when the trial is to end now; let it pass, or clean up and re-raise.

    It is no ``Exception``, so ``except Exception`` does not swallow it.
    """


class Session(Protocol):
    """The running function trial, as ``report`` sees it."""

    trial: int

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint to go on from, or None."""

    def report(self, metrics: dict[str, Any], checkpoint: Path | None) -> None:
        """Hand a report over and return when it is safe; raise TrialStopped to end the trial."""


_session: Session | None = None


def set_session(session: Session | None) -> None:
    """Make a function trial the current one of this process, or none."""
    global _session
    _session = session


def report(
    metrics: Mapping[str, Any] | None = None,
    /,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    **more: Any,
) -> None:
    """Report metrics of the running trial, and a checkpoint to go on from.

    In a function trial it returns when the report is in the journal: what was reported survives
    any kill.

    Args:
        metrics: Names and numbers; ``report({"p99(ms)": 3.2})`` for names that are no keywords.
        checkpoint: Directory or file to keep; a later attempt gets it from ``get_checkpoint``.
        **more: More metrics: ``report(loss=0.1, epoch=3)``.

    Raises:
        TrialStopped: The trial is to end now, because the scheduler cut it short or the run ends.
    """
    values = {str(name): plain(value) for name, value in {**(metrics or {}), **more}.items()}
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None and not path.exists():
        raise FileNotFoundError(f"report(checkpoint=...): there is no {path}")
    if _session is not None:
        _session.report(values, path)
    elif report_file := os.environ.get(REPORT_FILE_ENV):
        _append(Path(report_file), values, path)
    else:
        print(*(f"{name}={value}" for name, value in values.items()), file=sys.stdout, flush=True)


def get_checkpoint() -> Path | None:
    """Return the checkpoint to go on from, as it was reported, or None to start afresh."""
    if _session is not None:
        return _session.checkpoint
    folder = os.environ.get(CHECKPOINT_ENV)
    return Path(folder) if folder else None


def checkpoint_wanted() -> bool:
    """Return whether the machine will be taken away soon, so that a checkpoint is wanted now.

    A trial that saves a checkpoint with each report need not ask. One that saves them rarely asks
    at its own steps, and when it is true reports with a checkpoint: it is ended there, and goes on
    from it elsewhere or later.
    """
    path = os.environ.get(WANTED_FILE_ENV)
    return path is not None and os.path.exists(path)  # noqa: PTH110, called at every step


def trial_number() -> int | None:
    """Return the number of the running trial, or None outside of an experiment."""
    if _session is not None:
        return _session.trial
    number = os.environ.get(TRIAL_ENV)
    return None if number is None else int(number)


def plain(value: Any) -> Any:
    """Return a metric as a plain Python value: numpy and tensor scalars become numbers."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    item = getattr(value, "item", None)
    if callable(item):
        try:
            return plain(item())
        except (TypeError, ValueError, RuntimeError):
            return repr(value)[:200]
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    try:
        return float(value)
    except (TypeError, ValueError):
        return repr(value)[:200]


def _append(path: Path, values: dict[str, Any], checkpoint: Path | None) -> None:
    """Report from a script that is run as a command; its checkpoint is copied right away."""
    saved = None
    if checkpoint is not None:
        folder, attempt = Path(os.environ[TRIAL_DIR_ENV]), int(os.environ[ATTEMPT_ENV])
        saved = str(checkpoints.save(checkpoint, folder, attempt))
    line = {"metrics": values, "checkpoint": saved}
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")
