"""The built-in experiment on Ray Tune alone, as a program: what Ray Tune makes of the same faults.

It uses Ray Tune as its users do: a function, ``Tuner.fit``, and the defaults. What happens is
noted by the same witness as under raytune-hpo.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.search.basic_variant import BasicVariantGenerator

from raytune_hpo.chaos import digits, witness
from raytune_hpo.chaos.katib import ENDS_FILE
from raytune_hpo.cluster.local import LocalRay

FOLDER_ENV = "RAYTUNE_HPO_CHAOS_FOLDER"


class Ends(tune.Callback):  # type: ignore[misc]
    """Notes how trials end.

    Args:
        path: File to append to.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Take note of a good end."""
        self._note(trial, failed=False)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Take note of an end that Ray Tune does not try to mend."""
        self._note(trial, failed=True)

    def _note(self, trial: Any, *, failed: bool) -> None:
        value = (trial.last_result or {}).get("entropy")
        line = {"t": time.time(), "trial": number(trial.trial_id), "failed": failed, "value": value}
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def number(trial_id: str) -> int:
    """Return the number of a trial of Ray Tune's, from 0."""
    return int(trial_id.rpartition("_")[2])


def train(config: dict[str, Any]) -> None:
    """Train one network; the body is that of ``digits.train``."""
    folder = Path(os.environ[FOLDER_ENV]) / witness.FOLDER
    trial = number(tune.get_context().get_trial_id())
    checkpoint = tune.get_checkpoint()
    start = None if checkpoint is None else Path(checkpoint.path)
    seen = witness.Witness(folder, trial, _attempt(folder, trial), checkpoint and checkpoint.path)
    own = Path("checkpoint")
    own.mkdir(exist_ok=True)
    for metrics in digits.epochs(config, start, own / digits.FILE):
        if seen.ordered:
            seen.ended(witness.ORDERED)
            raise RuntimeError(witness.ORDERED)
        tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(own))
        seen.acknowledged(metrics)
    seen.ended(None)


def _attempt(folder: Path, trial: int) -> int:
    """Return which attempt of a trial this is, from 1; Ray Tune does not tell."""
    attempt = 1
    while True:
        try:
            (folder / "attempts" / f"{trial}-{attempt}").mkdir(parents=True)
        except FileExistsError:
            attempt += 1
        else:
            return attempt


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--trials", type=int, required=True)
    parser.add_argument("--parallel", type=int, required=True)
    parser.add_argument("--cpu", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--max-failures", type=int, default=0)
    args = parser.parse_args()
    os.environ.update({**digits.ONE_THREAD, FOLDER_ENV: str(args.folder)})
    connection = LocalRay()
    connection.connect(args.folder / "ray.log")
    try:
        _fit(args)
    finally:
        connection.close()


def _fit(args: argparse.Namespace) -> None:
    tune.Tuner(
        tune.with_resources(train, {"cpu": args.cpu}),
        param_space={
            "units": tune.randint(2, 129),
            "dropout": tune.uniform(0.0, 0.9),
            "lr": tune.loguniform(1e-4, 0.1),
            "optimizer": tune.choice(["adam", "sgd"]),
        },
        tune_config=tune.TuneConfig(
            metric="entropy",
            mode="min",
            num_samples=args.trials,
            search_alg=BasicVariantGenerator(max_concurrent=args.parallel, random_state=args.seed),
        ),
        run_config=tune.RunConfig(
            name="run",
            storage_path=str(args.folder / "ray"),
            verbose=0,
            callbacks=[Ends(args.folder / ENDS_FILE)],
            failure_config=tune.FailureConfig(max_failures=args.max_failures),
        ),
    ).fit()


if __name__ == "__main__":
    main()
