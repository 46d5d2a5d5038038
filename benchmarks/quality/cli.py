"""The command line of the benchmark."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import reference
from .records import load
from .running import keys, run_all
from .tables import report
from .tasks import SUITES


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="search_quality.py")
    commands = parser.add_subparsers(required=True)
    _add_run(commands.add_parser("run", help="run what the results do not have yet"))
    _add_report(commands.add_parser("report", help="print tables of results"))
    _add_reference(commands.add_parser("reference", help="search for the best values again"))
    options = parser.parse_args()
    sys.exit(options.command(options))


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--searchers", required=True, help="such as bo?acquisition=ucb,optuna-tpe")
    _add_tasks(parser)
    parser.add_argument("--seeds", default="0-9", help="such as 3 or 0-9")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--budget", type=int, default=100, help="trials a run")
    parser.add_argument("--out", type=Path, required=True, help="results, a JSON line a run")
    parser.add_argument("--processes", type=int, default=1)
    parser.set_defaults(command=_run)


def _add_tasks(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--suite", choices=SUITES)
    which.add_argument("--tasks", help="such as bbob:f8:d5:i1,constrained:g4")
    parser.add_argument("--data", type=Path, help="folder with surrogates and tables")


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--against", help="tuner that the ratios are of")
    parser.add_argument("--at", default="25,50,100", help="after how many trials")
    parser.add_argument("--searchers", help="only these, in this order")
    parser.add_argument("--suite", choices=SUITES, help="only its tasks")
    parser.add_argument("--tasks", help="only these")
    parser.add_argument("--markdown", action="store_true")
    parser.set_defaults(command=_report)


def _add_reference(parser: argparse.ArgumentParser) -> None:
    _add_tasks(parser)
    parser.set_defaults(command=_reference)


def _task_names(options: argparse.Namespace) -> list[str]:
    return list(SUITES[options.suite]) if options.suite else options.tasks.split(",")


def seeds(text: str) -> list[int]:
    """Return the seeds of a text such as ``3`` or ``0-9``.

    Example:
        >>> seeds("2-4")
        [2, 3, 4]
    """
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


def _run(options: argparse.Namespace) -> int:
    searchers = options.searchers.split(",")
    tasks = _task_names(options)
    wanted = keys(searchers, tasks, seeds(options.seeds), options.workers, options.budget)
    failures = run_all(wanted, options.out, options.data, options.processes)
    if failures:
        print(f"{failures} runs failed", file=sys.stderr)
    return 1 if failures else 0


def _report(options: argparse.Namespace) -> int:
    records = load(options.results)
    if options.suite or options.tasks:
        tasks = _task_names(options)
        records = {key: record for key, record in records.items() if key.task in tasks}
    references = reference.read()
    unknown = sorted({reference.base_name(key.task) for key in records} - set(references))
    if unknown:
        sys.exit(f"first search for the best values: reference --tasks {','.join(unknown)}")
    searchers = options.searchers.split(",") if options.searchers else None
    at = [int(text) for text in options.at.split(",")]
    print(
        report(
            records,
            references,
            at=at,
            against=options.against,
            searchers=searchers,
            markdown=options.markdown,
        )
    )
    return 0


def _reference(options: argparse.Namespace) -> int:
    known = reference.read()
    for name in dict.fromkeys(reference.base_name(task) for task in _task_names(options)):
        known[name] = reference.compute(name, options.data)
        print(name, known[name], flush=True)
        reference.write(known)
    return 0
