"""A Ray that grows and shrinks with the queue: a head job, and worker jobs that come and go."""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from raytune_hpo.cluster.base import Room
from raytune_hpo.errors import InfrastructureError
from raytune_hpo.experiment import Experiment
from raytune_hpo.slurm import commands, follow, script
from raytune_hpo.slurm.allocation import Allocation, AllocationRay
from raytune_hpo.slurm.node import resource_of
from raytune_hpo.targets import SlurmTarget

CLUSTER_FILE = "cluster.json"
ROUND_S = 5.0
LOOK_S = 20.0
"""The controller is asked for the worker jobs so often, by one command for all."""
_MARK = resource_of("")
_WAITING = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "SUSPENDED"})
_THERE = frozenset({"RUNNING", "COMPLETING", *_WAITING})


@dataclass(frozen=True)
class Worker:
    """A worker job, as ``12_3``, and what is known of it.

    Attributes:
        task: Slurm's name of it.
        waiting: Whether it still waits in the queue.
        idle_s: How long no trial has been on its node; None while there is one, or no node yet.
    """

    task: str
    waiting: bool
    idle_s: float | None = None


@dataclass(frozen=True)
class Change:
    """What is to be done: so many jobs to submit, and these to cancel."""

    submit: int = 0
    cancel: tuple[str, ...] = ()


def change(workers: list[Worker], *, wanting: bool, most: int, idle_s: float) -> Change:
    """Return what is to be done about the worker jobs.

    While more trials would start if there were room, there are to be as many as allowed. When not,
    those in the queue are taken out of it, and those without a trial are given back.

    Args:
        workers: Those that wait or run.
        wanting: Whether more trials would start if there were room.
        most: So many may be there at once.
        idle_s: A worker without a trial for so long is given back.
    """
    if wanting:
        return Change(submit=max(0, most - len(workers)))
    unused = [w.task for w in workers if w.waiting or (w.idle_s is not None and w.idle_s >= idle_s)]
    return Change(cancel=tuple(unused))


@dataclass
class _Noted:
    """What the driver has last said, for another thread."""

    busy: frozenset[str] = frozenset()
    wanting: bool = True
    lock: threading.Lock = field(default_factory=threading.Lock)


class ElasticRay(AllocationRay):
    """Ray's head on this node, without CPUs for trials, and worker jobs as there is use for them.

    Args:
        experiment: Says what a trial needs, and how many run at once.
        target: The experiment's settings for Slurm.
        allocation: The head's job.
    """

    def __init__(self, experiment: Experiment, target: SlurmTarget, allocation: Allocation) -> None:
        here = {allocation.here: allocation.nodes[allocation.here]}
        alone = Allocation(allocation.job, allocation.restart, allocation.here, here)
        super().__init__(target, alone, head_cpus=0)
        self._experiment = experiment
        self._worker = script.worker_resources(experiment, target)
        self._most = most_workers(experiment, target, self._worker)
        self._noted = _Noted()
        self._closing = threading.Event()
        self._scaler: _Scaler | None = None

    def connect(self, log: Path) -> None:
        """Start Ray's head, connect to it and submit the first worker jobs.

        Raises:
            InfrastructureError: Ray did not start, or Slurm takes no jobs from here.
        """
        super().connect(log)
        file = self.log_dir / CLUSTER_FILE
        file.unlink(missing_ok=True)
        file.touch(mode=0o600)
        cluster = {
            "head": self.address,
            "token": self.token,
            "temp": self.target.temp,
            "interface": self.target.interface,
        }
        file.write_text(json.dumps(cluster))
        text = script.render_worker(self._experiment, self.target, self._place(log.parent), file)
        worker = self.log_dir / "worker.sh"
        worker.write_text(text)
        self._scaler = _Scaler(worker, self._most, self.target.idle_s, self._noted)

    def _place(self, run_dir: Path) -> script.Place:
        return script.Place(
            file=run_dir / "experiment.yaml",
            run_dir=run_dir,
            python=Path(sys.executable),
            folder=run_dir,
            arguments=(),
        )

    def room(self) -> Room | None:
        """Return what a worker job has, and how many there may be."""
        return Room(self._worker, self._most)

    def note(self, busy: frozenset[str], *, wanting: bool) -> None:
        """Take note of which nodes are in use, and whether more would be."""
        with self._noted.lock:
            self._noted.busy, self._noted.wanting = busy, wanting

    def close(self) -> None:
        """End Ray, and cancel all worker jobs."""
        (self.log_dir / CLUSTER_FILE).unlink(missing_ok=True)
        if self._scaler is not None:
            self._scaler.close()
            self._scaler = None
        super().close()


def most_workers(experiment: Experiment, target: SlurmTarget, machine: Mapping[str, float]) -> int:
    """Return how many worker jobs there is use for at once."""
    allowed = target.workers or 1
    if experiment.parallel is None:
        return allowed
    cpu = float(experiment.resources.cpu)
    each = max(1, int(machine["CPU"] / cpu + 1e-9)) if cpu > 0 else experiment.parallel
    return min(allowed, math.ceil(experiment.parallel / each))


class _Scaler(threading.Thread):
    """Submits and cancels worker jobs."""

    def __init__(self, worker: Path, most: int, idle_s: float, noted: _Noted) -> None:
        super().__init__(name="scaler", daemon=True)
        self._script = worker
        self._most = most
        self._idle_s = idle_s
        self._noted = noted
        self._arrays: list[str] = []
        self._idle_since: dict[str, float] = {}
        self._looked_s = 0.0
        self._closing = threading.Event()
        # The first by this thread: whoever waits for Ray hears of a refusal.
        self._submit(most)
        self.start()

    def run(self) -> None:
        """Look at the jobs now and then until the end."""
        while not self._closing.wait(ROUND_S):
            if time.monotonic() - self._looked_s < LOOK_S:
                self._idle_workers()
                continue
            try:
                self._round()
            except InfrastructureError as error:
                # The controller may be away; it is asked again later.
                print(f"worker jobs: {error}", file=sys.stderr)
            self._looked_s = time.monotonic()

    def _round(self) -> None:
        jobs = commands.lookup(*self._arrays) if self._arrays else {}
        idle = self._idle_workers()
        leaving = _leaving()
        now = time.monotonic()
        workers = [
            Worker(
                task,
                job.state in _WAITING,
                now - idle[task] if task in idle else None,
            )
            for task, job in jobs.items()
            if job.state in _THERE and task not in {*self._arrays, *leaving}
        ]
        with self._noted.lock:
            wanting = self._noted.wanting
        todo = change(workers, wanting=wanting, most=self._most, idle_s=self._idle_s)
        if todo.submit:
            self._submit(todo.submit)
        if todo.cancel:
            for task in todo.cancel:
                commands.scancel(task)

    def _submit(self, count: int) -> None:
        self._arrays.append(commands.sbatch(self._script, f"--array=0-{count - 1}"))
        follow.write_arrays(self._script.parent, self._arrays)

    def _idle_workers(self) -> dict[str, float]:
        """Return since when there is no trial on each worker's node, by the job's name."""
        import ray

        with self._noted.lock:
            busy = self._noted.busy
        now = time.monotonic()
        idle: dict[str, float] = {}
        for node in ray.nodes():
            task = task_of(node["Resources"])
            if task is not None and node["Alive"] and node["NodeID"] not in busy:
                idle[task] = self._idle_since.get(task, now)
        self._idle_since = idle
        return idle

    def close(self) -> None:
        """Cancel all jobs."""
        self._closing.set()
        self.join()
        for array in self._arrays:
            try:
                commands.scancel(array)
            except InfrastructureError as error:
                print(f"worker jobs: {error}", file=sys.stderr)


def _leaving() -> set[str]:
    """Return the worker jobs whose nodes take no more trials, since their time is nearly over."""
    import ray
    import ray._private.state

    going = ray._private.state.state.get_draining_nodes()
    tasks = (task_of(node["Resources"]) for node in ray.nodes() if node["NodeID"] in going)
    return {task for task in tasks if task is not None}


def task_of(resources: Mapping[str, float]) -> str | None:
    """Return the worker job that a node of Ray belongs to, or None."""
    marks = [name.removeprefix(_MARK) for name in resources if name.startswith(_MARK)]
    return marks[0] if marks else None
