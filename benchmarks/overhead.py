"""What a tuner costs when the trials themselves cost nothing.

Each system runs in a process of its own, in turn, several rounds; the figures are medians over the
rounds with the smallest and largest, and ratios are formed round by round against the first system
named. Systems:

    raytune-hpo            journal and MLflow on a local SQLite store
    raytune-hpo-no-mlflow  journal only
    tune                   Ray Tune at its defaults (CSV, JSON and TensorBoard loggers)
    tune-reuse             Ray Tune with reused actors and no loggers
    tune-mlflow            Ray Tune at its defaults and with its own MLflowLoggerCallback
    optuna                 Optuna on SQLite, one process, no cluster: the yardstick

Examples:
    python benchmarks/overhead.py --trials 60
    python benchmarks/overhead.py --trials 4 --reports 100 --systems raytune-hpo,tune
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PARALLEL = 4
CPU_PER_TRIAL = 0.5


def objective(config: dict[str, Any]) -> float:
    """Return something that takes no time."""
    return float((config["x"] - 0.3) ** 2)


def run_ours(trials: int, reports: int, *, mlflow: bool) -> None:
    """Run on raytune-hpo."""
    import raytune_hpo as rh

    def train(config: dict[str, Any]) -> None:
        for _ in range(reports):
            rh.report(loss=objective(config))

    rh.run(
        train,
        parameters={"x": rh.Float(0.0, 1.0)},
        metric="loss",
        name="overhead",
        trials=trials,
        parallel=PARALLEL,
        search={"algorithm": "random"},
        resources={"cpu": CPU_PER_TRIAL},
        mlflow={"uri": "sqlite:///mlflow.db"} if mlflow else False,
        quiet=True,
    )


def run_tune(trials: int, reports: int, *, reuse: bool = False, mlflow: bool = False) -> None:
    """Run on Ray Tune."""
    if reuse:
        os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    from ray import tune

    def train(config: dict[str, Any]) -> None:
        for _ in range(reports):
            tune.report({"loss": objective(config)})

    callbacks: list[Any] = []
    if mlflow:
        from ray.tune.logger.mlflow import MLflowLoggerCallback

        callbacks.append(
            MLflowLoggerCallback(tracking_uri="sqlite:///mlflow.db", experiment_name="overhead")
        )
    results = tune.Tuner(
        tune.with_resources(train, {"cpu": CPU_PER_TRIAL}),
        param_space={"x": tune.uniform(0.0, 1.0)},
        tune_config=tune.TuneConfig(
            num_samples=trials, max_concurrent_trials=PARALLEL, reuse_actors=reuse
        ),
        run_config=tune.RunConfig(
            name="overhead", storage_path=str(Path.cwd() / "ray"), verbose=0, callbacks=callbacks
        ),
    ).fit()
    if results.num_errors or len(results) != trials:
        raise SystemExit(f"{len(results)} of {trials} trials, {results.num_errors} errors")


def run_optuna(trials: int, reports: int) -> None:
    """Run on Optuna with a SQLite store."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def train(trial: optuna.Trial) -> float:
        value = objective({"x": trial.suggest_float("x", 0.0, 1.0)})
        for step in range(reports):
            trial.report(value, step)
        return value

    study = optuna.create_study(
        storage="sqlite:///optuna.db", sampler=optuna.samplers.RandomSampler(seed=0)
    )
    study.optimize(train, n_trials=trials)


SYSTEMS: dict[str, Callable[[int, int], None]] = {
    "raytune-hpo": lambda trials, reports: run_ours(trials, reports, mlflow=True),
    "raytune-hpo-no-mlflow": lambda trials, reports: run_ours(trials, reports, mlflow=False),
    "tune": run_tune,
    "tune-reuse": lambda trials, reports: run_tune(trials, reports, reuse=True),
    "tune-mlflow": lambda trials, reports: run_tune(trials, reports, mlflow=True),
    "optuna": run_optuna,
}


def one(system: str, trials: int, reports: int) -> None:
    """Run one system in this process and print its figures as a line of JSON."""
    SYSTEMS[system](trials, reports)
    figures = {
        "driver_cpu_s": time.process_time(),
        "driver_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print("FIGURES " + json.dumps(figures), flush=True)


def measure(system: str, trials: int, reports: int) -> dict[str, float]:
    """Run one system in a new process and folder; return its figures.

    Raises:
        SystemExit: It failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--one", system, "--trials", str(trials), "--reports", str(reports)]
        began_s = time.monotonic()
        done = subprocess.run(
            [sys.executable, str(Path(__file__).resolve()), *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "HOME": folder, "MLFLOW_DISABLE_TELEMETRY": "true"},
        )
        wall_s = time.monotonic() - began_s
    lines = [line for line in done.stdout.splitlines() if line.startswith("FIGURES ")]
    if done.returncode or not lines:
        raise SystemExit(f"{system} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return {"wall_s": wall_s, **json.loads(lines[-1].removeprefix("FIGURES "))}


def spread(values: list[float], digits: int = 2) -> str:
    """Return median and range of some figures."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def table(rounds: list[dict[str, dict[str, float]]], trials: int, reports: int) -> str:
    """Return the figures of all rounds as a Markdown table."""
    systems = list(rounds[0])
    first = systems[0]
    rows = [
        f"{trials} trials, {reports} reports each, {PARALLEL} at once, n = {len(rounds)}, "
        f"{os.cpu_count()} CPUs, Python {platform.python_version()}; median [min, max]",
        "",
        f"| system | wall s | trials/s | reports/s | time of it / {first}'s | driver CPU ms/trial "
        "| driver memory MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for system in systems:
        wall = [one_round[system]["wall_s"] for one_round in rounds]
        ratio = [one_round[system]["wall_s"] / one_round[first]["wall_s"] for one_round in rounds]
        cpu = [1000 * one_round[system]["driver_cpu_s"] / trials for one_round in rounds]
        memory = [one_round[system]["driver_memory_mib"] for one_round in rounds]
        cells = [
            system,
            spread(wall, 1),
            spread([trials / s for s in wall]),
            spread([trials * reports / s for s in wall], 1),
            spread(ratio),
            spread(cpu, 1),
            spread(memory, 0),
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--reports", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", choices=SYSTEMS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(args.one, args.trials, args.reports)
        return
    systems = args.systems.split(",")
    rounds = []
    for number in range(args.rounds):
        figures = {}
        for system in systems:
            figures[system] = measure(system, args.trials, args.reports)
            print(f"round {number + 1} {system}: {figures[system]}", file=sys.stderr, flush=True)
        rounds.append(figures)
    print(table(rounds, args.trials, args.reports))


if __name__ == "__main__":
    main()
