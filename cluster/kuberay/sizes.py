"""How large workers are and how many there can be: whole trials fit, and nothing is left over."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from raytune_hpo.cluster.base import Room
from raytune_hpo.errors import Problem, SpecError
from raytune_hpo.experiment import Experiment
from raytune_hpo.kuberay_target import KubeRayTarget

AT_ONCE = 4
"""Trials at once when nothing else is said."""
MIB = 2**20
GIB = 2**30
RAYS_OWN = 500 * MIB
"""Memory that Ray's daemons take in a pod."""
STORE_HEAD = 200 * MIB
HEAD = 4 * GIB
"""Memory of the head when nothing else is said: Ray's daemons, the driver and its searcher."""
_STORE_LEAST = 80 * MIB
_STORE_MOST = GIB
_PER_CPU = 2 * GIB
_LEAST = 4 * GIB
_SLACK = 1e-9


@dataclass(frozen=True)
class Worker:
    """One worker.

    Attributes:
        trials: That run on it at once, exactly.
        cpus: Of its container.
        ray_cpus: That Ray counts with.
        gpus: Of its container, whole ones.
        memory: Bytes of its container.
        for_trials: Bytes of memory that Ray counts with, or None where trials ask for none.
        custom: Further resources by Ray's names.
    """

    trials: int
    cpus: float
    ray_cpus: int
    gpus: int
    memory: int
    for_trials: int | None
    custom: Mapping[str, int]

    @property
    def object_store(self) -> int:
        """Bytes for Ray's object store, which Tune needs little of and which counts as memory."""
        return _store(self.memory)


def _store(memory: int) -> int:
    return max(_STORE_LEAST, min(_STORE_MOST, memory // 10))


def worker(experiment: Experiment, target: KubeRayTarget) -> Worker:
    """Return the worker that an experiment needs.

    Raises:
        SpecError: No trial fits on what the settings say.
    """
    asked, given = experiment.resources, target.worker
    trials = given.trials or _trials(experiment, target)
    needed = max(1, math.ceil(asked.cpu * trials - _SLACK))
    for_trials = None if asked.memory is None else asked.memory * trials
    made = Worker(
        trials=trials,
        cpus=needed if given.cpus is None else given.cpus,
        ray_cpus=needed,
        gpus=math.ceil(asked.gpu * trials - _SLACK) if given.gpus is None else given.gpus,
        memory=given.memory or _memory(for_trials, needed),
        for_trials=for_trials,
        custom={name: math.ceil(amount * trials) for name, amount in asked.custom.items()},
    )
    problems = list(_too_small(made, experiment, target))
    if problems:
        raise SpecError(problems)
    return made


def _trials(experiment: Experiment, target: KubeRayTarget) -> int:
    """Return how many trials run on a worker, when the settings do not say it."""
    asked, given = experiment.resources, target.worker
    sizes = ((given.cpus, asked.cpu), (given.gpus, asked.gpu))
    fits = [math.floor(size / amount + _SLACK) for size, amount in sizes if size and amount]
    if given.memory and asked.memory:
        fits.append((given.memory - RAYS_OWN - _store(given.memory)) // asked.memory)
    if fits:
        return max(1, min(fits))
    # As many as share one GPU, or else one CPU.
    part = asked.gpu or asked.cpu
    return math.floor(1 / part + _SLACK) if 0 < part < 1 else 1


def _memory(for_trials: int | None, cpus: int) -> int:
    """Return the memory of a container when the settings do not say it, in whole MiB."""
    if for_trials is None:
        return max(_LEAST, _PER_CPU * cpus)
    # A tenth of the container's memory is for the object store.
    whole = for_trials + RAYS_OWN
    store = max(_STORE_LEAST, min(_STORE_MOST, math.ceil(whole / 9)))
    return math.ceil((whole + store) / MIB) * MIB


def _too_small(made: Worker, experiment: Experiment, target: KubeRayTarget) -> Iterator[Problem]:
    """Yield a problem for each resource that the trials of a worker need more of."""
    asked, where = experiment.resources, "targets.kuberay.worker"
    told = "1 trial needs" if made.trials == 1 else f"{made.trials} trials need"
    if made.cpus + _SLACK < asked.cpu * made.trials:
        yield Problem(f"{where}.cpus", f"{told} {asked.cpu * made.trials:g}, not {made.cpus:g}")
    if made.gpus + _SLACK < asked.gpu * made.trials:
        yield Problem(f"{where}.gpus", f"{told} {asked.gpu * made.trials:g}, not {made.gpus}")
    if (fits := _fits(made, experiment)) > made.trials:
        message = f"there is room for {fits} trials on what {made.trials} need, since Ray's CPUs "
        yield Problem(f"{where}.trials", f"{message}are whole ones; write {fits}")
    needed = made.object_store + RAYS_OWN + (made.for_trials or 0)
    if made.memory < needed:
        message = f"{told} {math.ceil(needed / MIB)}Mi with Ray's own, not {made.memory // MIB}Mi"
        yield Problem(f"{where}.memory", message)


def _fits(made: Worker, experiment: Experiment) -> int:
    """Return how many trials Ray would run on a worker at once."""
    asked = experiment.resources
    memory = (made.for_trials or 0, asked.memory or 0)
    custom = [(made.custom[name], amount) for name, amount in asked.custom.items()]
    pairs = [(made.ray_cpus, asked.cpu), (made.gpus, asked.gpu), memory, *custom]
    return min([math.floor(a / b + _SLACK) for a, b in pairs if b] or [made.ray_cpus])


@dataclass(frozen=True)
class Workers:
    """How many workers there can be.

    Attributes:
        least: That stay also when there is nothing to do.
        most: At once.
    """

    least: int
    most: int


def workers(experiment: Experiment, target: KubeRayTarget, size: Worker) -> Workers:
    """Return how many workers an experiment can use."""
    limits = [limit for limit in (experiment.parallel, experiment.trials) if limit is not None]
    if experiment.parallel is None and target.max_workers is None:
        limits.append(AT_ONCE)
    counts = [math.ceil(limit / size.trials) for limit in limits]
    if target.max_workers is not None:
        counts.append(target.max_workers)
    most = min(counts)
    return Workers(min(target.min_workers, most) if target.autoscaling else most, most)


def room(size: Worker, count: Workers) -> Room:
    """Return the machines that may come, for the driver."""
    machine = {"CPU": float(size.ray_cpus), "GPU": float(size.gpus)}
    if size.for_trials is not None:
        machine["memory"] = float(size.for_trials)
    return Room(machine | {n: float(a) for n, a in size.custom.items()}, count.most)
