"""Whether the MLflow store says of a run what its journal says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from raytune_hpo.journal import Record
from raytune_hpo.redirect import output_to
from raytune_hpo.state import RunState
from raytune_hpo.tracking import store
from raytune_hpo.tracking.follow import LOG_NAME
from raytune_hpo.tracking.settings import of_header
from raytune_hpo.tracking.store import PARENT_KEY, Known, Store
from raytune_hpo.tracking.sync import sync
from raytune_hpo.trial import TrialState

_STATUS = {
    TrialState.COMPLETED: "FINISHED",
    TrialState.PRUNED: "FINISHED",
    TrialState.FAILED: "FAILED",
    TrialState.STOPPED: "KILLED",
}
"""Of a trial that has finished; others end with the run."""


def differences(run_dir: Path, records: Sequence[Record]) -> dict[str, list[str]]:
    """Return what MLflow has otherwise than the journal, by kind, after it has caught up.

    Args:
        run_dir: Of a run that is tracked and that no driver holds.
        records: Its journal.

    Raises:
        InfrastructureError: The store cannot be reached.
    """
    sync(run_dir)
    state = RunState.replay(records)
    target = Store(of_header(state.header))
    log = run_dir / LOG_NAME
    with store.environment(), output_to(log, 1), output_to(log, 2):
        target.open()
        known = list(target.runs(state.id))
    return compare(state, known)


def compare(state: RunState, known: Sequence[Known]) -> dict[str, list[str]]:
    """Return where a journal and a store differ: runs a trial, and how each ended."""
    used = [run for run in known if not run.deleted and not run.spare]
    counts = Counter(run.key for run in used)
    wanted = {str(number): _STATUS.get(trial.state) for number, trial in state.trials.items()}
    number_off = [f"trial {key}: {counts[key]} runs" for key in wanted if counts[key] != 1]
    number_off += [f"run of {key}: no such trial" for key in counts.keys() - wanted - {PARENT_KEY}]
    status_off = [
        f"trial {run.key}: {run.status} where the journal says {wanted[run.key]}"
        for run in used
        if run.key in wanted and run.status != wanted[run.key]
    ]
    return {"MLflow runs beside one a trial": number_off, "MLflow runs of other status": status_off}
