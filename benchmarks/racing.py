"""How good a configuration racing finds, compared with other ways to spend the same run time.

Real run times: a SAT solver, 1,000 configurations on 302 instances. Every method gets the same
random configurations in the same order and the same random half of the instances, in the same
order; the configuration that it chooses is judged by its mean run time on the other half, as a
multiple of the best of all there. A run that was cut off costs the cutoff times a penalty. The
engine runs on a virtual clock, on which each run takes the time that it took.

Examples:
    python benchmarks/racing.py --data DIR --seeds 20 --first-seed 100 --penalty 10
    python benchmarks/racing.py --data DIR --methods irace-t,asha --workers 1 --seeds 2
"""

from __future__ import annotations

import argparse
import heapq
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import numpy.typing as npt

from raytune_hpo.experiment import Experiment
from raytune_hpo.schedulers import races
from raytune_hpo.schedulers.asha import Asha
from raytune_hpo.schedulers.base import Scheduler
from raytune_hpo.schedulers.irace import Irace
from raytune_hpo.schedulers.none import NoScheduler
from raytune_hpo.simulate import Simulation
from raytune_hpo.space import Int
from raytune_hpo.state import RunState
from raytune_hpo.trial import Config

Array = npt.NDArray[np.float64]

CUTOFF_S = 300.0
FEW = 10
"""Instances of the method that runs all configurations on a fixed small number."""
PARAMETERS = 26
FIRST_TEST = 5
GUESSED = 100
"""Runs that the first guess of a run time counts for, in the races in step."""
SAMPLES = 10_000


@dataclass(frozen=True)
class Task:
    """One comparison: what all methods get.

    Attributes:
        seconds: Shape (instances, configurations); run times on the half that is raced on.
        costs: The same with the penalty.
        scores: Shape (configurations,); mean cost on the other half.
        order: Of the configurations.
        budget_s: Of run time, over all workers.
        workers: Runs at once.
    """

    seconds: Array
    costs: Array
    scores: Array
    order: Sequence[int]
    budget_s: float
    workers: int

    @classmethod
    def of(cls, seconds: Array, seed: int, budget_s: float, workers: int, penalty: float) -> Task:
        """Return the task of a seed; the split and the orders depend on the seed alone."""
        rng = np.random.default_rng(seed)
        instances = rng.permutation(len(seconds))
        half = len(instances) // 2
        order = rng.permutation(seconds.shape[1]).tolist()
        costs = np.where(seconds >= CUTOFF_S, penalty * CUTOFF_S, seconds)
        raced, scored = instances[:half], instances[half:]
        means = costs[scored].mean(axis=0)
        return cls(seconds[raced], costs[raced], means, order, budget_s, workers)

    def ratio(self, configuration: int) -> float:
        """Return the score of a configuration as a multiple of the best one."""
        return float(self.scores[configuration] / self.scores.min())


Method = Callable[[Task], tuple[int, int]]
"""Returns the chosen configuration and how many were begun."""


# Methods that run on the engine


def simulated(
    task: Task, scheduler: Callable[..., Scheduler], instances: int | None, **settings: Any
) -> tuple[int, int]:
    """Return what a scheduler leads to."""
    experiment = Experiment.from_python(
        run="noop",
        parameters={"place": Int(0, len(task.order) - 1)},
        objective={"metric": "mean" if scheduler is Asha else "cost", "at": _at(scheduler)},
        trials=len(task.order),
        parallel=task.workers,
        search={
            "algorithm": "grid",
            "seed": 1,
            "settings": {"shuffle": False, "resolution": len(task.order)},
        },
    )
    made = scheduler(experiment.search_space, experiment.objectives, 1, **settings)
    steps = partial(_steps, task, instances or len(task.costs))
    limit_s = task.budget_s / task.workers
    simulation = Simulation(experiment, steps, scheduler=made, time_limit_s=limit_s)
    state = simulation.run()
    return task.order[_chosen(state)], len(state.trials)


def _at(scheduler: Callable[..., Scheduler]) -> str:
    return "last" if scheduler is Asha else "mean"


def _steps(task: Task, instances: int, config: Config) -> Iterator[tuple[float, dict[str, Any]]]:
    configuration = task.order[config["place"]]
    costs = task.costs[:, configuration]
    for i in range(instances):
        metrics = {"cost": float(costs[i]), "mean": float(costs[: i + 1].mean())}
        yield float(task.seconds[i, configuration]), metrics


def _chosen(state: RunState) -> int:
    """Return the place of the trial with the most instances; of several the best one.

    A trial that still runs counts if there is no complete one.
    """
    trials = [t for t in state.trials.values() if t.values is not None]
    if not trials:
        return 0
    best = min(trials, key=lambda t: (-t.step, t.values, t.number))
    return int(best.config["place"])


# The reference: races in step, each after the other


def in_step(task: Task, test: races.Test, confidence: float = 0.95) -> tuple[int, int]:
    """Return what iterated races lead to in which all wait for the last at each instance.

    Source: Lopez-Ibanez et al. 2016, doi:10.1016/j.orp.2016.09.002, section 2.2: number of races,
    budget and size of each, survivors; elites go on, and are not dropped on fewer instances than
    they have been run on.
    """
    race = _Race(task, test, confidence)
    rounds = keep = math.floor(2 + math.log2(PARAMETERS))
    number = 1
    while race.used_s < task.budget_s and race.begun < len(task.order):
        share_s = (task.budget_s - race.used_s) / max(rounds - number + 1, 1)
        size = math.floor(share_s / race.mean_s / (FIRST_TEST + min(5, number)))
        race.run(max(size, keep + 1), share_s, keep)
        number += 1
    # Only when no configuration is left: what remains is for the elites.
    race.run(0, task.budget_s - race.used_s, 1)
    return race.best(), race.begun


class _Race:
    def __init__(self, task: Task, test: races.Test, confidence: float) -> None:
        self.task, self.test, self.confidence = task, test, confidence
        self.known: dict[int, int] = {}  # instances run by configuration
        self.elites: list[int] = []
        self.used_s = 0.0
        self.runs = 0
        self.begun = 0

    @property
    def mean_s(self) -> float:
        """Return how long a run takes: a guess at first, which counts like a number of runs."""
        return (self.used_s + GUESSED * CUTOFF_S / 4) / (self.runs + GUESSED)

    def run(self, size: int, share_s: float, keep: int) -> None:
        """Race the elites and new configurations until the share is used or few are left."""
        count = max(size - len(self.elites), 1)
        new = self.task.order[self.begun : self.begun + count]
        self.begun += len(new)
        alive = [*self.elites, *new]
        proven = max((self.known[elite] for elite in self.elites), default=0)
        until_s = min(self.task.budget_s, self.used_s + share_s)
        for instance in range(len(self.task.costs)):
            todo = [c for c in alive if self.known.get(c, 0) <= instance]
            enough = instance > proven and len(alive) <= keep
            if (todo and enough) or self.used_s >= until_s:
                break
            if todo and not self._run(todo, instance):
                break
            if todo and instance + 1 >= FIRST_TEST and len(alive) > 1:
                alive = self._tested(alive, instance + 1)
        self.elites = self._ranked(alive)[:keep]

    def _run(self, configurations: Sequence[int], instance: int) -> bool:
        """Run configurations on an instance; return whether the budget sufficed for all.

        All workers wait for the last one.
        """
        free = [0.0] * self.task.workers
        for configuration in configurations:
            end = heapq.heappop(free) + float(self.task.seconds[instance, configuration])
            heapq.heappush(free, end)
        self.used_s += max(free) * self.task.workers
        if self.used_s > self.task.budget_s:
            return False
        self.known.update(dict.fromkeys(configurations, instance + 1))
        self.runs += len(configurations)
        return True

    def _tested(self, alive: list[int], instances: int) -> list[int]:
        worse = races.worse(self.task.costs[:instances, alive], self.test, self.confidence)
        pairs = zip(alive, worse, strict=True)
        return [c for c, bad in pairs if not bad or self.known[c] > instances]

    def _ranked(self, alive: Sequence[int]) -> list[int]:
        """Return those with the most instances first; of several the better one."""
        run = [c for c in alive if c in self.known]
        if not run:
            return []
        shared = min(self.known[c] for c in run)
        merits = races.merits(self.task.costs[:shared, run], self.test)
        pairs = [(-self.known[c], float(m), c) for c, m in zip(run, merits, strict=True)]
        return [c for _, _, c in sorted(pairs)]

    def best(self) -> int:
        """Return the elite with the most instances; of several the best one."""
        return self.elites[0] if self.elites else self.task.order[0]


METHODS: dict[str, Method] = {
    "irace-friedman": partial(simulated, scheduler=Irace, instances=None),
    "irace-t": partial(simulated, scheduler=Irace, instances=None, test="t"),
    "in-step-friedman": partial(in_step, test="friedman"),
    "in-step-t": partial(in_step, test="t"),
    "asha": partial(simulated, scheduler=Asha, instances=None, min_resource=FIRST_TEST),
    "few-instances": partial(simulated, scheduler=NoScheduler, instances=FEW),
    "all-instances": partial(simulated, scheduler=NoScheduler, instances=None),
}


# Runs and the table


@cache
def _seconds(data: Path) -> Array:
    return np.asarray(np.load(data / "spear_swv.npz")["runtime"], dtype=float)


def one(
    seed: int, *, data: Path, method: str, budget_s: float, workers: int, penalty: float
) -> tuple[float, int]:
    """Return the ratio of a run, and how many configurations were begun."""
    task = Task.of(_seconds(data), seed, budget_s, workers, penalty)
    configuration, begun = METHODS[method](task)
    return task.ratio(configuration), begun


def interval(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Return the geometric mean with its 95 % bootstrap interval."""
    logs = np.log(ratios)
    rng = np.random.default_rng(0)
    means = rng.choice(logs, (SAMPLES, len(logs))).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return math.exp(logs.mean()), math.exp(low), math.exp(high)


def main() -> None:
    """Print a table of all methods."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with spear_swv.npz")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--budgets", default="50000,200000", help="seconds over all workers")
    parser.add_argument("--workers", default="1,4,16")
    parser.add_argument("--penalty", type=float, default=10)
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args()
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    print("| budget, s | workers | method | configurations | mean cost, multiple of the best |")
    print("|---|---|---|---|---|")
    budgets, workers = map(float, given.budgets.split(",")), map(int, given.workers.split(","))
    with ProcessPoolExecutor(given.processes) as pool:
        for budget_s, count, method in product(budgets, workers, given.methods.split(",")):
            run = partial(
                one,
                data=given.data,
                method=method,
                budget_s=budget_s,
                workers=count,
                penalty=given.penalty,
            )
            found = list(pool.map(run, seeds))
            mean, low, high = interval([ratio for ratio, _ in found])
            begun = sum(begun for _, begun in found) / len(found)
            ratio = f"{mean:.2f} [{low:.2f}, {high:.2f}]"
            print(f"| {budget_s:,.0f} | {count} | {method} | {begun:.0f} | {ratio} |", flush=True)


if __name__ == "__main__":
    main()
