"""Finding a run, on disk or in a store, and reading what it wrote. Nothing heavy is imported."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from raytune_hpo import journal, lock
from raytune_hpo.errors import RunError, did_you_mean
from raytune_hpo.storage import place

RESULTS_DIR = Path("raytune-results")
"""Where runs are stored, relative to the working folder, when nothing else is said."""
STOP_FILE = "stop"
SUBMITTED_FILE = "submitted.json"
SLURM, KUBERAY = "slurm", "kuberay"
"""Folders, in that of a run, of the places that it was submitted to."""
_CHUNK = 64 * 1024
_POLL_S = 0.3


def find(run: str | None) -> Path:
    """Return the directory of a run.

    Args:
        run: A run directory, a name under ``raytune-results``, or the URL of a run in a store,
            whose journal is copied to a folder here; None means the newest under
            ``raytune-results``.

    Raises:
        RunError: There is no such run; names the nearest.
        StoreError: The store does not give it.
    """
    if run is not None and place.is_url(run):
        from raytune_hpo.storage import reading

        return reading.pull(run)
    known = _known()
    if run is None:
        if not known:
            raise RunError(
                f"there is no run in ./{RESULTS_DIR}. Start one with: raytune-hpo run FILE"
            )
        return max(known.values(), key=_changed_t)
    for path in (known.get(run), Path(run)):
        if path is not None and _is_run(path):
            return path
    names = ", ".join(sorted(known)) or "none"
    raise RunError(
        f"there is no run '{run}'{did_you_mean(run, known)}; runs in ./{RESULTS_DIR}: {names}"
    )


def is_known(run: str) -> bool:
    """Return whether ``run`` is a run directory, the name of one, or a URL."""
    return place.is_url(run) or run in _known() or _is_run(Path(run))


def _known() -> dict[str, Path]:
    if not RESULTS_DIR.is_dir():
        return {}
    return {path.name: path for path in RESULTS_DIR.iterdir() if _is_run(path)}


def _is_run(path: Path) -> bool:
    """Return whether a run has begun there, or is in a queue."""
    return journal.exists(path) or bool(_submitted(path))


def _submitted(path: Path) -> list[Path]:
    files = (path / folder / SUBMITTED_FILE for folder in (SLURM, KUBERAY))
    return [file for file in files if file.is_file()]


def _changed_t(path: Path) -> float:
    if journal.exists(path):
        return journal.changed_t(path)
    return max(file.stat().st_mtime for file in _submitted(path))


def log_file(run_dir: Path, trial: int | None, *, stderr: bool = False) -> Path:
    """Return the file with the output of a trial, or with Ray's own when ``trial`` is None.

    Raises:
        RunError: The trial has no output, since it has not started or does not exist.
    """
    if trial is None:
        path = run_dir / "driver.log"
        if not path.is_file():
            raise RunError(f"{run_dir}: there is no driver.log; Ray has not been started yet")
        return path
    folder = run_dir / "trials" / f"{trial:04d}"
    path = folder / ("stderr.log" if stderr else "stdout.log")
    if not path.is_file():
        raise RunError(f"trial {trial} has no {path.name}; {_with_output(run_dir)}")
    return path


def _with_output(run_dir: Path) -> str:
    trials = run_dir / "trials"
    numbers = sorted(int(path.name) for path in trials.glob("*") if path.name.isdigit())
    if not numbers:
        return "no trial has written anything yet"
    return f"trials with output: {numbers[0]} to {numbers[-1]}"


def chunks(path: Path, over: Callable[[], bool] | None = None) -> Iterator[bytes]:
    """Yield the content of a file piece by piece, and what is added to it until it is over.

    Args:
        path: The file.
        over: Says that nothing will be added any more; None to stop at the end of the file.
    """
    with path.open("rb") as file:
        while True:
            ending = over is None or over()
            while piece := file.read(_CHUNK):
                yield piece
            if ending:
                return
            time.sleep(_POLL_S)


def output(
    run_dir: Path,
    trial: int | None,
    *,
    stderr: bool = False,
    over: Callable[[], bool] | None = None,
) -> Iterator[bytes]:
    """Yield what a trial wrote, or Ray when ``trial`` is None; see ``log_file`` and ``chunks``."""
    url = place.url_of(run_dir)
    if url is None:
        return chunks(log_file(run_dir, trial, stderr=stderr), over)
    from raytune_hpo.storage import reading

    name = "driver.log" if trial is None else "stderr.log" if stderr else "stdout.log"
    return chunks(*reading.output(url, trial, name, over))


def holder(run_dir: Path) -> dict[str, Any] | None:
    """Return host, pid and start time (unix s) of the driver that holds a run, or None."""
    url = place.url_of(run_dir)
    if url is None:
        return lock.holder(run_dir)
    from raytune_hpo.storage import reading

    return reading.holder(url)


def request_stop(run_dir: Path) -> None:
    """Ask the driver of a run to stop safely; it looks every second, or every five at a store."""
    url = place.url_of(run_dir)
    if url is not None:
        from raytune_hpo.storage import reading

        reading.request_stop(url)
        return
    (run_dir / STOP_FILE).write_text(f"requested by process {os.getpid()} at {time.time():.0f}\n")
