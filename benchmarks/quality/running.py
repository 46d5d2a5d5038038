"""Runs what is not on file yet, some at a time."""

from __future__ import annotations

import multiprocessing
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

from .records import Key, Record, append, load
from .simulation import simulate
from .tasks import Task, make_task
from .tuners import Setting, make_tuner


def keys(
    searchers: Sequence[str], tasks: Sequence[str], seeds: Sequence[int], workers: int, budget: int
) -> list[Key]:
    """Return all runs, seeds outermost, so that what is cut short is balanced."""
    return [
        Key(searcher, task, seed, workers, budget)
        for seed in seeds
        for task in tasks
        for searcher in searchers
    ]


def run_all(wanted: Iterable[Key], out: Path, data: Path | None, processes: int) -> int:
    """Run what the file does not have yet; return how many runs failed."""
    done = load([out]) if out.exists() else {}
    todo = [(key, data) for key in wanted if key not in done]
    failures = 0
    for key, result, seconds in _results(todo, processes):
        if isinstance(result, str):
            failures += 1
            print(f"{_name(key)}: failed\n{result}", file=sys.stderr, flush=True)
            continue
        append(out, result)
        good = [v for v, ok in zip(result.run.values, result.run.feasible, strict=True) if ok]
        best = min((value for value in good if value is not None), default=float("nan"))
        print(f"{_name(key)}: best {best:.6g}, {seconds:.1f} s CPU", flush=True)
    return failures


def _results(
    todo: list[tuple[Key, Path | None]], processes: int
) -> Iterator[tuple[Key, Record | str, float]]:
    if processes == 1:
        yield from map(_one, todo)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(_one, todo)


def _one(job: tuple[Key, Path | None]) -> tuple[Key, Record | str, float]:
    """Return a run, or the traceback of the tuner that broke it."""
    key, data = job
    began = time.process_time()
    try:
        task = _task(key.task, data)
        setting = Setting(task.space, task.problem.constraints, key.seed, key.budget, key.workers)
        tuner = make_tuner(key.searcher, setting)
        run = simulate(tuner, task, seed=key.seed, budget=key.budget, workers=key.workers)
    except Exception:  # a peer may raise anything; the other runs go on
        return key, traceback.format_exc(limit=-4), time.process_time() - began
    return key, Record(key, run), time.process_time() - began


@cache
def _task(name: str, data: Path | None) -> Task:
    return make_task(name, data)


def _name(key: Key) -> str:
    return f"{key.searcher} {key.task} seed {key.seed} workers {key.workers}"
