"""The command line of the benchmark."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.quality import reference
from benchmarks.quality.cli import seeds

from .records import load
from .running import keys, run_all
from .tables import report
from .tasks import TASKS


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="multi_fidelity.py")
    commands = parser.add_subparsers(required=True)
    _add_run(commands.add_parser("run", help="run what the results do not have yet"))
    _add_report(commands.add_parser("report", help="print tables of results"))
    options = parser.parse_args()
    sys.exit(options.command(options))


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tuners", required=True, help="such as none+random,asha+bohb,ray-asha")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--workers", default="4,16,64")
    parser.add_argument("--seeds", default="0-9", help="such as 3 or 0-9")
    parser.add_argument("--data", type=Path, required=True, help="folder with the surrogates")
    parser.add_argument("--out", type=Path, required=True, help="results, a JSON line a run")
    parser.set_defaults(command=_run)


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--tuners", help="only these, in this order")
    parser.add_argument("--tasks", help="only these")
    parser.add_argument("--workers", help="only these numbers of workers")
    parser.add_argument("--at", type=float, default=0.6, help="share of the budget")
    parser.add_argument("--markdown", action="store_true")
    parser.set_defaults(command=_report)


def _run(options: argparse.Namespace) -> int:
    wanted = keys(
        options.tuners.split(","),
        options.tasks.split(","),
        seeds(options.seeds),
        [int(text) for text in options.workers.split(",")],
    )
    failures = run_all(wanted, options.out, options.data)
    if failures:
        print(f"{failures} runs failed", file=sys.stderr)
    return 1 if failures else 0


def _report(options: argparse.Namespace) -> int:
    runs = load(options.results)
    if options.tasks:
        runs = {key: run for key, run in runs.items() if key.task in options.tasks.split(",")}
    if options.workers:
        counts = [int(text) for text in options.workers.split(",")]
        runs = {key: run for key, run in runs.items() if key.workers in counts}
    tuners = options.tuners.split(",") if options.tuners else None
    print(report(runs, reference.read(), at=options.at, tuners=tuners, markdown=options.markdown))
    return 0
