"""Journals made by hand, and a look at what a store has of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raytune_hpo import journal
from raytune_hpo.experiment import Experiment
from raytune_hpo.journal import Journal, Record
from raytune_hpo.tracking.mlflow import MlflowTracker

UUID = "0123456789abcdef" * 2
T0 = 1_800_000_000.0
SPEC: dict[str, Any] = {
    "name": "tiny",
    "run": "python train.py --lr ${lr}",
    "objective": {"metric": "loss"},
    "parameters": {"lr": {"min": 0.0, "max": 1.0}, "layers": {"min": 1, "max": 8}},
    "trials": 10,
}


class MadeRun:
    """Writes a journal as an engine would; each record comes a second after the one before.

    Args:
        folder: Of the experiment; the run directory is made in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "raytune-results" / "tiny"
        self.path.mkdir(parents=True)
        self._now = T0
        self._journal = Journal(self.path, self._clock)

    def _clock(self) -> float:
        self._now += 1.0
        return self._now

    def append(self, type: str, **fields: Any) -> None:
        self._journal.append(type, **fields)

    def header(self, **changes: Any) -> None:
        experiment = Experiment.from_json({**SPEC, **changes})
        self.append(
            "experiment",
            version=1,
            id=UUID,
            name=experiment.name,
            spec=experiment.to_json(),
            seed=7,
            algorithm="tpe",
            scheduler="none",
            source="run: python train.py\n",
            folder=str(self.folder),
            cwd=str(self.folder),
            environment={"user": "ada", "host": "h", "git": {"commit": "c0ffee", "dirty": False}},
        )

    def session(self, number: int = 1, trials: int | None = 10) -> None:
        self.append(
            "session",
            session=number,
            host="h",
            pid=1,
            run_dir="/runs/tiny",
            trials=trials,
            parallel=2,
            resources={},
        )

    def trial(self, number: int, **config: Any) -> None:
        config = config or {"lr": number / 10, "layers": 2}
        self.append("trial", trial=number, config=config, origin="search")

    def start(self, number: int, attempt: int = 1, checkpoint: str | None = None) -> None:
        self.append("start", trial=number, attempt=attempt, node=None, checkpoint=checkpoint)

    def report(self, number: int, step: int, values: list[float] | None, **metrics: Any) -> None:
        self.append(
            "report",
            trial=number,
            attempt=1,
            step=step,
            metrics=metrics,
            values=values,
            violations=[],
            checkpoint=None,
            advanced=True,
        )

    def end(self, number: int, state: str, message: str | None = None, **more: Any) -> None:
        failure = message and {
            "kind": "exit_code",
            "message": message,
            "details": "Traceback: boom",
            "exit_code": 1,
        }
        fields = {"attempt": 1, "values": None, "violations": [], "charged": False, **more}
        self.append("end", trial=number, state=state, failure=failure, **fields)

    def whole_trial(self, number: int, loss: float, state: str = "completed") -> None:
        self.trial(number)
        self.start(number)
        self.report(number, 1, [loss], loss=loss)
        self.end(number, state, values=[loss])

    def finish(self, reason: str = "trials") -> None:
        self.append("finish", reason=reason, message=f"ended by {reason}")

    def records(self) -> list[Record]:
        return journal.read(self.path)

    def track(self, **options: Any) -> MlflowTracker:
        """Bring the journal to its store, as a process does that dies at once."""
        tracker = MlflowTracker(self.path, **options)
        tracker.apply(self.records())
        tracker.close()
        return tracker

    def close(self) -> None:
        self._journal.close()


class View:
    """What an MLflow store has of a run.

    Args:
        uri: Of the store.
        experiment: Name of the MLflow experiment.
    """

    def __init__(self, uri: str, experiment: str) -> None:
        from mlflow import MlflowClient

        self.uri = uri
        self.client: Any = MlflowClient(tracking_uri=uri)
        self.experiment = experiment

    @property
    def experiment_id(self) -> str:
        return str(self.client.get_experiment_by_name(self.experiment).experiment_id)

    def runs(self) -> dict[str, Any]:
        """Return the runs that are not deleted by the last part of their key, and check it."""
        found = self.client.search_runs([self.experiment_id], max_results=1000)
        keys = [run.data.tags["raytune.trial_key"] for run in found]
        if len(set(keys)) != len(keys):
            raise AssertionError(f"doubles: {sorted(keys)}")
        return {key.rpartition("/")[2]: run for key, run in zip(keys, found, strict=True)}

    def run(self, key: int | str) -> Any:
        """Return one run."""
        return self.runs()[str(key)]

    def statuses(self) -> dict[str, str]:
        """Return the status of each run."""
        return {key: run.info.status for key, run in self.runs().items()}

    def history(self, key: int | str, metric: str) -> list[tuple[int, float, int]]:
        """Return step, value and time in ms of each point of a metric."""
        found = self.client.get_metric_history(self.run(key).info.run_id, metric)
        return sorted((p.step, p.value, p.timestamp) for p in found)

    def artifacts(self, key: int | str) -> set[str]:
        """Return the names of a run's artifacts."""
        return {f.path for f in self.client.list_artifacts(self.run(key).info.run_id)}

    def everything(self) -> Any:
        """Return all that is stored, in a form that can be compared."""
        return {
            key: (
                run.info.run_id,
                run.info.status,
                run.info.end_time,
                run.data.tags,
                run.data.params,
                {name: self.history(key, name) for name in run.data.metrics},
            )
            for key, run in self.runs().items()
        }
