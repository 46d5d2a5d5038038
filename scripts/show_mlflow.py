"""Show what MLflow holds of a run: its parent run, and its trials by status."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from mlflow import MlflowClient

from raytune_hpo import journal
from raytune_hpo.tracking.settings import of_header


def main() -> None:
    """Look the run up by its tag and print a few lines."""
    run_dir = Path(sys.argv[1])
    header = journal.read(run_dir / journal.FILE_NAME)[0]
    settings = of_header(header)
    if settings is None:
        sys.exit(f"{run_dir}: tracking is off for this run")
    client = MlflowClient(settings.uri)
    experiment = client.get_experiment_by_name(settings.experiment)
    if experiment is None:
        sys.exit(f"{settings.uri} has no experiment '{settings.experiment}'")
    key = f"tags.`raytune.trial_key` = '{header['id']}/parent'"
    parent = client.search_runs([experiment.experiment_id], key)[0]
    mine = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    children = client.search_runs([experiment.experiment_id], mine, max_results=1000)
    states = Counter(child.data.tags["raytune.state"] for child in children)
    print(f"MLflow store   {settings.uri}")
    print(f"parent run     {parent.info.run_name}: {parent.info.status}, {len(children)} trials")
    print(f"trials         {', '.join(f'{n} {state}' for state, n in sorted(states.items()))}")
    print(f"to look at it  mlflow ui --backend-store-uri {settings.uri}")


if __name__ == "__main__":
    main()
