"""Show what MLflow holds of a run: its parent run, its trials by status, and the best of them.

Run with: python scripts/show_mlflow.py raytune-results/NAME
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from raytune_hpo import journal
from raytune_hpo.redact import redact
from raytune_hpo.tracking.settings import of_header
from raytune_hpo.tracking.store import PARENT_KEY, STATE_TAG

_PAGE = 500


def main() -> None:
    """Print a table of the run that the command line names."""
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} RUN_DIR")
    for name, value in rows(Path(sys.argv[1])):
        print(f"{name:<15}{value}".rstrip())


def rows(run_dir: Path) -> Iterator[tuple[str, str]]:
    """Yield the lines of the table.

    Raises:
        SystemExit: There is nothing to show; says why.
    """
    header = header_of(run_dir)
    settings = of_header(header)
    client: Any = MlflowClient(settings.uri)
    experiment = client.get_experiment_by_name(settings.experiment)
    if experiment is None:
        sys.exit(f"{settings.shown} has no experiment '{settings.experiment}'")
    runs = tagged(client, experiment.experiment_id, header["id"])
    if PARENT_KEY not in runs:
        sys.exit(f"{settings.shown} has no run of {run_dir}: raytune-hpo mlflow sync {run_dir}")
    parent = runs.pop(PARENT_KEY)
    statuses = Counter(run.info.status for run in runs.values())
    states = Counter(run.data.tags.get(STATE_TAG, "unknown") for run in runs.values())
    yield "MLflow store", redact(settings.uri)
    yield "parent run", f"{parent.info.run_name}: {parent.info.status}"
    yield "child runs", f"{len(runs)}: {counted(statuses)} (trials: {counted(states)})"
    for key, run in sorted(runs.items(), key=lambda item: int(item[0])):
        if run.data.tags.get("raytune.best") == "true":
            yield "best", f"trial {key}: {run.data.tags.get('raytune.values')}"
            for name, value in sorted(run.data.params.items()):
                yield "", f"{name} = {value}"
    yield "to look at it", f"mlflow ui --backend-store-uri {settings.shown}"


def header_of(run_dir: Path) -> journal.Record:
    """Return the first record of a run's journal.

    Raises:
        SystemExit: There is none, or tracking is off.
    """
    records = journal.read(run_dir) if journal.exists(run_dir) else []
    if not records:
        sys.exit(f"{run_dir} is no run directory: it has no journal")
    if records[0]["spec"].get("mlflow") is False:
        sys.exit(f"{run_dir}: tracking is off for this run")
    return records[0]


def tagged(client: Any, experiment_id: str, run_id: str) -> dict[str, Any]:
    """Return the MLflow runs of one of our runs by the last part of their key."""
    found: dict[str, Any] = {}
    token = None
    while True:
        mine = f"tags.`raytune.trial_key` LIKE '{run_id}/%'"
        page = client.search_runs([experiment_id], mine, max_results=_PAGE, page_token=token)
        for run in page:
            found[run.data.tags["raytune.trial_key"].rpartition("/")[2]] = run
        token = page.token
        if not token:
            return found


def counted(counts: Counter[str]) -> str:
    """Return counts as text, such as ``3 FINISHED, 1 FAILED``."""
    return ", ".join(f"{n} {name}" for name, n in sorted(counts.items())) or "none"


if __name__ == "__main__":
    main()
