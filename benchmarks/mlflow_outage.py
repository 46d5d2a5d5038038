"""What a bad MLflow server costs a run: its throughput against the same run with ``mlflow: false``.

A real MLflow server stands behind a proxy that fails. The systems run in turn, each run in a
process and folder of its own, several rounds; ratios are formed round by round against ``off``.
The throughput is that from the session record of the journal, when everything is up, to the finish
record; the wall time is that of the whole process, with the start of Ray and the wait for the
tracker at the end. Systems:

    off      mlflow: false
    fine     the server as it is
    slow     each answer is late, by --latency
    down     nothing listens on its port
    500      each answer is an error of the server
    hang     connections are taken, and there is no answer
    midway   as slow, from the fourth second after the tracker's first request

Examples:
    python benchmarks/mlflow_outage.py --trials 120 --rounds 5
    python benchmarks/mlflow_outage.py --trials 8 --rounds 1 --systems off,slow
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from raytune_hpo.testing.mlflow_proxy import HANG, Proxy, Request, Script, always, slow, status
from raytune_hpo.testing.mlflow_server import serve

PARALLEL = 4
CPU_PER_TRIAL = 0.5
MIDWAY_S = 4.0
SYSTEMS = ("off", "fine", "slow", "down", "500", "hang", "midway")


def one(uri: str, trials: int, reports: int, report_s: float) -> None:
    """Run once in this process and print the run's figures as a line of JSON."""
    import raytune_hpo as rh

    def train(config: dict[str, Any]) -> None:
        for _ in range(reports):
            time.sleep(report_s)
            rh.report(loss=(config["x"] - 0.3) ** 2)

    result = rh.run(
        train,
        parameters={"x": rh.Float(0.0, 1.0)},
        metric="loss",
        name="outage",
        trials=trials,
        parallel=PARALLEL,
        search={"algorithm": "random"},
        resources={"cpu": CPU_PER_TRIAL},
        mlflow={"uri": uri, "experiment": Path.cwd().name} if uri else False,
        quiet=True,
    )
    print("FIGURES " + json.dumps(figures(result.path)), flush=True)


def figures(run_dir: Path) -> dict[str, float]:
    """Return the figures of a finished run, from its journal."""
    from raytune_hpo import journal

    records = journal.read(run_dir)
    first_s = next(record["t"] for record in records if record["type"] == "session")
    last_s = next(record["t"] for record in records if record["type"] == "finish")
    ended = [record for record in records if record["type"] == "end"]
    completed = sum(record["state"] == "completed" for record in ended)
    return {"run_s": last_s - first_s, "completed": completed}


def script_of(system: str, latency_s: float) -> Script:
    """Return how the server fails."""
    scripts: dict[str, Script] = {
        "slow": [(always, slow(latency_s))],
        "500": [(always, status(500))],
        "hang": [(always, HANG)],
        "midway": _midway(latency_s),
    }
    return scripts.get(system, ())


def _midway(latency_s: float) -> Script:
    began_s = math.inf

    def late(request: Request) -> bool:
        nonlocal began_s
        began_s = min(began_s, request.at_s)
        return request.at_s > began_s + MIDWAY_S

    return [(late, slow(latency_s))]


def measure(system: str, port: int, args: argparse.Namespace) -> dict[str, float]:
    """Run one system in a new process and folder, then bring all to MLflow; return the figures.

    Raises:
        SystemExit: It failed.
    """
    with tempfile.TemporaryDirectory() as name, Proxy(port) as proxy:
        folder = Path(name)
        proxy.script = script_of(system, args.latency)
        if system == "down":
            proxy.close_port()
        arguments = ["--one", "" if system == "off" else proxy.uri, "--trials", str(args.trials)]
        arguments += ["--reports", str(args.reports), "--report-s", str(args.report_s)]
        began_s = time.monotonic()
        done = subprocess.run(
            [sys.executable, str(Path(__file__).resolve()), *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "HOME": name, "MLFLOW_DISABLE_TELEMETRY": "true"},
        )
        wall_s = time.monotonic() - began_s
        lines = [line for line in done.stdout.splitlines() if line.startswith("FIGURES ")]
        if done.returncode or not lines:
            raise SystemExit(f"{system} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        proxy.open_port()
        proxy.script = ()
        runs = 0 if system == "off" else _runs_after_sync(folder, port)
    return {"wall_s": wall_s, "runs": runs, **json.loads(lines[-1].removeprefix("FIGURES "))}


def _runs_after_sync(folder: Path, port: int) -> int:
    """Return how many trials MLflow has as finished after ``raytune-hpo mlflow sync``."""
    from mlflow import MlflowClient

    from raytune_hpo.tracking.sync import sync

    sync(folder / "raytune-results" / "outage")
    client = MlflowClient(f"http://127.0.0.1:{port}")
    experiment = client.get_experiment_by_name(folder.name)
    if experiment is None:
        return 0
    runs = client.search_runs([experiment.experiment_id], max_results=10_000)
    finished = [run for run in runs if run.info.status == "FINISHED"]
    return sum("mlflow.parentRunId" in run.data.tags for run in finished)


def spread(values: list[float]) -> str:
    """Return median and range of some figures."""
    return f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def table(rounds: list[dict[str, dict[str, float]]], args: argparse.Namespace) -> str:
    """Return the figures of all rounds as a Markdown table."""
    first = next(iter(rounds[0]))
    trial_s = args.reports * args.report_s
    rows = [
        f"{args.trials} trials of {args.reports} reports, {trial_s:g} s each, {PARALLEL} at once, "
        f"latency {args.latency:g} s, n = {len(rounds)}, {os.cpu_count()} CPUs, "
        f"Python {platform.python_version()}; median [min, max]",
        "",
        f"| MLflow | trials/s | throughput / {first}'s | wall s | completed | synced |",
        "|---|---|---|---|---|---|",
    ]
    for system in rounds[0]:
        mine = [one_round[system] for one_round in rounds]
        ratio = [one_round[first]["run_s"] / one_round[system]["run_s"] for one_round in rounds]
        cells = [
            system,
            spread([args.trials / run["run_s"] for run in mine]),
            spread(ratio),
            spread([run["wall_s"] for run in mine]),
            _least(mine, "completed", args.trials),
            "-" if system == "off" else _least(mine, "runs", args.trials),
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _least(runs: list[dict[str, float]], name: str, trials: int) -> str:
    return f"{min(run[name] for run in runs):.0f} of {trials}"


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--reports", type=int, default=4)
    parser.add_argument("--report-s", type=float, default=0.3, help="seconds before each report")
    parser.add_argument("--latency", type=float, default=2.0, help="seconds of a slow answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", metavar="URI", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        one(args.one, args.trials, args.reports, args.report_s)
        return
    systems = args.systems.split(",")
    if unknown := set(systems) - set(SYSTEMS):
        parser.error(f"unknown systems: {', '.join(sorted(unknown))}")
    rounds = []
    with tempfile.TemporaryDirectory() as folder, serve(Path(folder)) as port:
        for number in range(args.rounds):
            one_round = {}
            for system in systems:
                one_round[system] = measure(system, port, args)
                print(f"round {number + 1} {system}: {one_round[system]}", file=sys.stderr)
            rounds.append(one_round)
    print(table(rounds, args))


if __name__ == "__main__":
    main()
