"""Schedules: whole runs on a virtual clock, with every fault that a list of small numbers asks for.

A schedule is one run of an experiment to its end, over any number of driver sessions. Whatever
may happen in it is decided by *choices*, taken one after another; 0, also when there are no more of
them, always means that nothing bad happens. So the list is the schedule: it can be kept, run again
and made shorter.

What a schedule can hold: reports in any order, late, twice, or of attempts that are over, also of
earlier sessions; workers and machines that die before or after they began; exceptions; metrics that
are no numbers; graceful stops and time limits; a wall clock that jumps; acknowledgements of several
reports at once; kills of the driver between any two events and before and after any record, with
or without the loss of what no disk had yet.
"""

from __future__ import annotations

import multiprocessing
import random
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from raytune_hpo.chaos import observed as seen
from raytune_hpo.chaos.checker import Figures, check, compare_untimed, figures
from raytune_hpo.chaos.schedule import Run, Schedule
from raytune_hpo.chaos.simulated import SETUP_CHOICES

LARGEST_CHOICE = 63
"""Choices made from a seed lie between 0 and this."""

_DENSITIES = (0.03, 0.1, 0.2, 0.3, 0.5)
_CHUNK = 50


def choices_of(seed: int) -> list[int]:
    """Return the choices of a seed: some schedules are calm, others stormy."""
    rng = random.Random(seed)
    density = rng.choice(_DENSITIES)
    setup = [rng.randint(0, LARGEST_CHOICE) for _ in range(SETUP_CHOICES)]
    events = [
        rng.randint(1, LARGEST_CHOICE) if rng.random() < density else 0
        for _ in range(rng.randrange(20, 400))
    ]
    return setup + events


def examine(choices: Sequence[int]) -> tuple[Run, list[str]]:
    """Run a schedule and return what came of it, with what was not as promised.

    A schedule in which the wall clock jumps is run again without the jumps, and has to be the same.
    """
    run = Schedule(choices).run()
    violations = check(run.observed, run.records, run.experiment)
    if any(isinstance(item, seen.ClockJumped) for item in run.observed):
        calm = Schedule(choices, clock_jumps=False).run()
        violations += compare_untimed(run.records, calm.records)
    return run, violations


@dataclass(frozen=True)
class Failing:
    """A schedule in which something was not as promised: its seed, and what."""

    seed: int
    violations: tuple[str, ...]


@dataclass(frozen=True)
class Summary:
    """What came of many schedules.

    Attributes:
        first_seed: The seeds are this and those that follow.
        schedules: How many.
        sessions: Starts of a driver.
        kills: Of the driver.
        power_cuts: Kills that took along what no disk had yet.
        acknowledged: Reports acknowledged to their trials.
        finished: Trials finished.
        lost: Violations of the promise that no acknowledged report is lost.
        ran_again: Violations of the promise that no finished trial runs again.
        cut_short: Trials that a kill cut short and that went on, with a checkpoint at each report.
        executed_again: Steps of those that were executed again, together.
        most_executed_again: At most by one of them after one kill.
        failing: The schedules with violations of any promise.
        seconds: Wall time of all.
        median_s: Median wall time of one schedule, its checks included.
    """

    first_seed: int
    schedules: int
    sessions: int
    kills: int
    power_cuts: int
    acknowledged: int
    finished: int
    lost: int
    ran_again: int
    cut_short: int
    executed_again: int
    most_executed_again: int
    failing: tuple[Failing, ...]
    seconds: float
    median_s: float


@dataclass(frozen=True)
class _Examined:
    """What came of one schedule."""

    seed: int
    figures: Figures
    violations: tuple[str, ...]
    seconds: float


def run_schedules(first_seed: int, count: int, processes: int = 1) -> Summary:
    """Examine the schedules of consecutive seeds.

    Args:
        first_seed: The first.
        count: How many.
        processes: Processes to use; 1 for this one.
    """
    began_s = time.monotonic()
    examined = list(_examined(range(first_seed, first_seed + count), processes))
    return _summary(first_seed, examined, time.monotonic() - began_s)


def _examined(seeds: range, processes: int) -> Iterator[_Examined]:
    if processes == 1:
        yield from map(_examine_seed, seeds)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        yield from pool.map(_examine_seed, seeds, chunksize=_CHUNK)


def _examine_seed(seed: int) -> _Examined:
    began_s = time.perf_counter()
    run, violations = examine(choices_of(seed))
    took_s = time.perf_counter() - began_s
    return _Examined(seed, figures(run.observed, run.records), tuple(violations), took_s)


def _summary(first_seed: int, examined: Sequence[_Examined], seconds: float) -> Summary:
    found = [item.figures for item in examined]
    broken = Counter(text.partition(":")[0] for item in examined for text in item.violations)
    again = [steps for one in found for steps in one.executed_again]
    return Summary(
        first_seed=first_seed,
        schedules=len(examined),
        sessions=sum(one.sessions for one in found),
        kills=sum(one.kills for one in found),
        power_cuts=sum(one.power_cuts for one in found),
        acknowledged=sum(one.acknowledged for one in found),
        finished=sum(one.finished for one in found),
        lost=broken["G2"],
        ran_again=broken["G1"],
        cut_short=len(again),
        executed_again=sum(again),
        most_executed_again=max(again, default=0),
        failing=tuple(Failing(one.seed, one.violations) for one in examined if one.violations),
        seconds=seconds,
        median_s=statistics.median([one.seconds for one in examined] or [0.0]),
    )
