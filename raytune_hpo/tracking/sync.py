"""Bringing a whole run to an MLflow store at once, also later and elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from raytune_hpo import journal, runs
from raytune_hpo.errors import InfrastructureError, RunError
from raytune_hpo.journal import Follower
from raytune_hpo.redirect import output_to
from raytune_hpo.storage import place
from raytune_hpo.tracking import memory, store
from raytune_hpo.tracking.base import Unreachable
from raytune_hpo.tracking.feed import PIECE_BYTES
from raytune_hpo.tracking.follow import LOG_NAME

if TYPE_CHECKING:
    from raytune_hpo.tracking.mlflow import MlflowTracker

_PATIENCE_S = 1.0


def sync(run_dir: Path, uri: str | None = None, experiment: str | None = None) -> str:
    """Bring a run to its MLflow store, and return what was done, on one line.

    What is there already stays as it is, so it is safe to repeat.

    Args:
        run_dir: The run's directory.
        uri: Another store than the run's own.
        experiment: Another MLflow experiment than the run's own.

    Raises:
        JournalError: There is no journal, or it is damaged.
        RunLockedError: Another process is tracking the run.
        InfrastructureError: The store cannot be reached; the next time it goes on from here.
    """
    if not journal.exists(run_dir):
        raise RunError(f"{run_dir}: there is no run here (no journal)")
    log = run_dir / LOG_NAME
    with (
        memory.exclusive(run_dir, _PATIENCE_S),
        output_to(log, 1),
        output_to(log, 2),
        store.environment(),
    ):
        return _sync(run_dir, Follower(run_dir, PIECE_BYTES), uri, experiment)


def _sync(run_dir: Path, reader: Follower, uri: str | None, experiment: str | None) -> str:
    from raytune_hpo.tracking.mlflow import MlflowTracker

    tracker = MlflowTracker(run_dir, uri=uri, experiment=experiment)
    try:
        while records := reader.poll():
            tracker.apply(records)
        if runs.holder(run_dir) is None:
            tracker.end()
    except Unreachable as error:
        raise InfrastructureError(
            f"{error}. Nothing is lost; go on with: raytune-hpo mlflow sync {place.shown(run_dir)}"
        ) from error
    finally:
        tracker.close()
    return _report(run_dir, tracker, reader.records)


def _report(run_dir: Path, tracker: MlflowTracker, records: int) -> str:
    where = tracker.settings
    if where is None:
        raise RunError(f"{run_dir}: the run was given up before it began")
    text = (
        f"{where.shown} (experiment {where.experiment}) has all {records} records of "
        f"{run_dir.name}; {tracker.created} runs made"
    )
    if not tracker.refused:
        return text
    return f"{text}; {tracker.refused} writes refused, such as: {tracker.last_refusal}"
