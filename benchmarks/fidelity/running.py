"""Runs what is not on file yet, one after the other."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from .records import Key, append, load
from .runs import Run, simulate, value_at
from .tasks import Task, make_task
from .tuners import Setting, make_tuner

BUDGETS = {4: 100.0, 16: 160.0, 64: 640.0}
"""Full-job equivalents by the number of workers, so that each worker has time for ten jobs."""


def keys(
    tuners: Sequence[str], tasks: Sequence[str], seeds: Sequence[int], workers: Sequence[int]
) -> list[Key]:
    """Return all runs, seeds outermost, so that what is cut short is balanced."""
    return [
        Key(tuner, task, count, seed, BUDGETS.get(count, 10.0 * count))
        for seed in seeds
        for count in workers
        for task in tasks
        for tuner in tuners
    ]


def run_all(wanted: Iterable[Key], out: Path, data: Path) -> int:
    """Run what the file does not have yet; return how many runs failed."""
    done = load([out]) if out.exists() else {}
    failures = 0
    for key in wanted:
        if key in done:
            continue
        began = time.process_time()
        try:
            run = _run(key, data)
        except Exception:  # a peer may raise anything; the other runs go on
            failures += 1
            print(f"{_name(key)}: failed\n{traceback.format_exc(limit=-4)}", file=sys.stderr)
            continue
        append(out, key, run)
        best, seconds = value_at(run.incumbents, key.budget), time.process_time() - began
        print(f"{_name(key)}: {run.trials} trials, {best:.5g}, {seconds:.1f} s CPU", flush=True)
    return failures


def _run(key: Key, data: Path) -> Run:
    task = _task(key.task, data)
    setting = Setting(task, key.workers, key.seed)
    return simulate(make_tuner(key.tuner, setting), task, setting, key.budget)


@cache
def _task(name: str, data: Path) -> Task:
    return make_task(name, data)


def _name(key: Key) -> str:
    return f"{key.tuner} {key.task} workers {key.workers} seed {key.seed}"
