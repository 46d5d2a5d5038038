"""What one attempt of a trial needs of a store, on the machine where it runs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from raytune_hpo import checkpoints as local
from raytune_hpo.attempt import Job
from raytune_hpo.errors import StoreError
from raytune_hpo.storage import checkpoints, objects, outputs, place

_PRUNE_PATIENCE_S = 5.0
_FILES = ("stdout.log", "stderr.log")


def at_home(job: Job) -> Job:
    """Return a job with the folder that its run has on this machine, which is made."""
    if job.url is None:
        return job
    run_dir = place.working_copy(job.url)
    settle(run_dir, job.url, job.run_id)
    return replace(job, run_dir=run_dir)


def settle(run_dir: Path, url: str, run_id: str | None) -> None:
    """Make a folder the working copy of a run; what is there of another run is deleted.

    Args:
        run_dir: The folder, of this user's cache.
        url: Of the run.
        run_id: Of the run; None for one that has not begun.
    """
    run_dir.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(run_dir.with_name(f"{run_dir.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        marked = place.marked(run_dir)
        if run_dir.exists() and (not marked or marked.get("id") != run_id):
            shutil.rmtree(run_dir)
        if place.marked(run_dir) != {"url": place.tidy(url), "id": run_id}:
            place.mark(run_dir, url, run_id)
    finally:
        os.close(lock)


class Keeper:
    """Keeps the checkpoints and the output of an attempt in the store.

    Args:
        url: Of the run.
        run_dir: The run's folder on this machine.
        trial: Number of the trial.
        attempt: Number of the attempt.
        given_up: Whether the attempt is to end.
    """

    def __init__(
        self, url: str, run_dir: Path, trial: int, attempt: int, given_up: Callable[[], bool]
    ) -> None:
        self._run_dir = run_dir
        self._key = f"trials/{trial:04d}"
        self._folder = run_dir / self._key
        self._objects = objects.open_at(url, given_up=given_up)
        owner = outputs.owner_of(trial)
        self._output = outputs.Uploader(self._objects, owner, attempt, self._folder, _FILES)

    def fetch(self, checkpoint: str) -> None:
        """Bring the checkpoint to go on from here; nothing is there when it was deleted.

        Raises:
            StoreError: The store does not give it.
        """
        checkpoints.download(self._objects, checkpoint, self._run_dir / checkpoint)

    def keep(self, saved: Path) -> Path:
        """Bring a saved checkpoint to the store, and return its folder, which may be another one.

        Raises:
            StoreError: The store does not take it.
        """
        while not checkpoints.upload(self._objects, saved, f"{self._key}/checkpoints/{saved.name}"):
            # An attempt of the same number was lost before it was written down.
            saved = saved.rename(_following(saved))
        return saved

    def prune(self, keep: int, newest: Path) -> None:
        """Delete all but the newest checkpoints, here and in the store."""
        # What is not deleted now is deleted with the next one.
        with contextlib.suppress(StoreError):
            quick = self._objects.with_patience(_PRUNE_PATIENCE_S)
            checkpoints.prune(quick, self._key, keep, newest.name)
        local.prune(self._folder, keep, newest)
        checkpoints.forget(newest.parent)

    def close(self, *, finished: bool) -> None:
        """Bring the rest of the output to the store.

        Args:
            finished: Whether the trial came to its own end; what is here of its checkpoints is of
                no use any more then. One that was paused may go on here.
        """
        self._output.close()
        if finished:
            shutil.rmtree(self._folder / local.FOLDER, ignore_errors=True)


def _following(saved: Path) -> Path:
    """Return the next name for a checkpoint that is not taken here."""
    attempt, number = local.order(saved.name)
    while saved.exists():
        number += 1
        saved = saved.with_name(f"{attempt:03d}-{number:06d}")
    return saved
