"""Ray on the nodes of the Slurm job that this process is part of."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TypeVar

from raytune_hpo.cluster.base import Room
from raytune_hpo.errors import InfrastructureError
from raytune_hpo.experiment import Experiment
from raytune_hpo.lock import started
from raytune_hpo.slurm import commands, site
from raytune_hpo.slurm.node import PREFIX, RETRY_WAIT_S, START_S, TOKEN_FILE, TRIES, Spec
from raytune_hpo.targets import SlurmTarget

HEAD_WAIT_S = TRIES * (START_S + RETRY_WAIT_S)
OTHERS_WAIT_S = 90.0
"""After the head is up, the other nodes are waited for so long; later ones join a running run."""
CLOSE_S = 20.0
STEP_TRIES = 3
STEP_WAIT_S = 15.0
"""Before the step of a node is started again; it doubles."""
PATIENCE_S = 30.0
ASK_WITHIN_S = 60.0
_POLL_S = 0.2
T = TypeVar("T")
_COUNTS = re.compile(r"(\d+)(?:\(x(\d+)\))?")


@dataclass(frozen=True)
class Allocation:
    """The Slurm job that this process is part of.

    Attributes:
        job: Number of the job.
        restart: How many times Slurm has started it again.
        here: Slurm's name of this node.
        nodes: Slurm's names of all nodes, this one first, with the CPUs of the job on each.
    """

    job: str
    restart: int
    here: str
    nodes: Mapping[str, int]


def current(environ: Mapping[str, str]) -> Allocation:
    """Return the Slurm job that this process is part of.

    Raises:
        InfrastructureError: This is not a node of the job, or not the only task of a step.
    """
    job, here = environ["SLURM_JOB_ID"], environ.get("SLURMD_NODENAME")
    if here is None:
        raise InfrastructureError(
            f"this shell belongs to the Slurm job {job}, but is not on one of its nodes; "
            "go there first: srun --pty bash, or use sbatch"
        )
    if environ.get("SLURM_PROCID", "0") != "0":
        raise InfrastructureError(
            f"this is task {environ['SLURM_PROCID']} of a Slurm step, and one driver is enough for "
            f"all nodes: start it once, by srun --ntasks=1 or without srun in the batch script"
        )
    names = commands.hostnames(environ["SLURM_JOB_NODELIST"])
    counts = cpus_per_node(environ.get("SLURM_JOB_CPUS_PER_NODE", ""), len(names))
    nodes = dict(sorted(zip(names, counts, strict=True), key=lambda item: item[0] != here))
    return Allocation(job, int(environ.get("SLURM_RESTART_COUNT", 0)), here, nodes)


def cpus_per_node(text: str, nodes: int) -> list[int]:
    """Return the CPUs of each node from Slurm's short form.

    >>> cpus_per_node("4(x2),8", 3)
    [4, 4, 8]
    """
    counts: list[int] = []
    for count, times in _COUNTS.findall(text):
        counts += [int(count)] * int(times or 1)
    return counts if len(counts) == nodes else [0] * nodes


class Step(threading.Thread):
    """Keeps Ray up on one node: a step of the job with the program ``node`` in it.

    Args:
        name: Slurm's name of the node.
        cpus: Of the job on the node; 0 when not known.
        spec: For the program.
        log: File for what the step has to say.

    Attributes:
        address: Of the cluster, once Ray is up on the node.
        folder: Of Ray on the node.
        failure: Why Ray is not up on the node and will not be, or None.
    """

    def __init__(self, name: str, cpus: int, spec: Spec, log: Path, tries: int) -> None:
        super().__init__(name=f"step-{name}", daemon=True)
        self.node = name
        self.address: str | None = None
        self.failure: str | None = None
        self.folder = Path()
        self._words = _srun(name, cpus)
        self._spec = spec
        self._log = log
        self._tries = tries
        self._process: subprocess.Popen[str] | None = None
        self._closing = threading.Event()
        self._starting = threading.Lock()
        self.start()

    def run(self) -> None:
        """Start the step, and again when it ends by itself."""
        for number in range(self._tries):
            try:
                why = self._once(number)
            except OSError as error:
                why = f"its step could not be started: {error}"
            if self._closing.is_set():
                return
            self.address = None
            if number + 1 < self._tries and self._closing.wait(STEP_WAIT_S * 2**number):
                return
        self.failure = why

    def _once(self, number: int) -> str:
        """Run the step to its end and return why it ended."""
        spec = replace(self._spec, name=f"{self._spec.name}{'abc'[number]}")
        self.folder = spec.folder
        why = ""
        process = self._launch(spec)
        if process is None:
            return why
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None
        with stdout:
            for line in stdout:
                said = _said(line)
                self.address = said.get("ready", self.address)
                why = said.get("failed", why)
        code = process.wait()
        _close(stdin)
        return why or f"its step ended with exit code {code}: {_last_line(self._log)}"

    def _launch(self, spec: Spec) -> subprocess.Popen[str] | None:
        """Start the step and tell it what to do; None when it is not wanted any more."""
        with self._starting, self._log.open("a") as log:
            if self._closing.is_set():
                return None
            self._process = process = subprocess.Popen(
                self._words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                # Ctrl-C is for the driver, which ends the steps itself.
                start_new_session=True,
            )
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(spec.to_line())
                process.stdin.flush()
            return process

    def close(self) -> None:
        """Have the step end; ``wait`` waits for it."""
        with self._starting:
            self._closing.set()
            if self._process is not None and self._process.stdin is not None:
                _close(self._process.stdin)

    def wait(self, deadline_s: float) -> None:
        """Wait for the step's end until a moment of the monotonic clock, then kill ``srun``."""
        process = self._process
        if process is None:
            return
        try:
            process.wait(max(0.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            # Slurm ends what a killed srun had started.
            process.kill()
            process.wait()


class AllocationRay:
    """Starts Ray on all nodes of the job, and connects to it.

    Args:
        target: The experiment's settings for Slurm.
        allocation: The job.
        head_cpus: CPUs for trials on this node; None: all that the job has here.
    """

    deadline_t: float | None = None
    margin_s: float

    def __init__(
        self, target: SlurmTarget, allocation: Allocation, head_cpus: int | None = None
    ) -> None:
        self.patience_s = PATIENCE_S
        self.margin_s = target.margin_s
        self.allocation = allocation
        self.target = target
        self.address = ""
        self.token = secrets.token_hex(32)
        self._head_cpus = head_cpus
        self._steps: list[Step] = []
        self._machine: dict[str, float] = {}
        self._before: dict[str, str | None] = {}
        self.log_dir = Path()

    def connect(self, log: Path) -> None:
        """Start Ray on the nodes and connect this process to it.

        Raises:
            InfrastructureError: Ray did not start on this node, or on too few others.
        """
        self.log_dir = log.parent / "slurm"
        self.log_dir.mkdir(exist_ok=True)
        self._probe.touch()
        self.deadline_t = _end_t(self.allocation.job)
        here = self.allocation.here
        head = self._step(here, self._spec(None), 1)
        self.address = _wait_for(lambda: head.address, [head], HEAD_WAIT_S) or ""
        if not self.address:
            raise InfrastructureError(
                f"Ray did not start on {here}: {head.failure or 'no answer'}. "
                f"What was said: {self._log_of(here)}"
            )
        self._set_variables(head)
        others = [name for name in self.allocation.nodes if name != here]
        for name in others:
            self._step(name, self._spec(self.address), STEP_TRIES)
        self._wait_for_others()
        self._join(log)

    def _join(self, log: Path) -> None:
        import logging

        import ray

        from raytune_hpo.cluster.local import log_to

        log_to(log)
        ray.init(address=self.address, log_to_driver=False, logging_level=logging.ERROR)
        log_to(log)
        here = ray.get_runtime_context().get_node_id()
        self._machine = next(n["Resources"] for n in ray.nodes() if n["NodeID"] == here)

    def _spec(self, head: str | None) -> Spec:
        number = f"{self.allocation.job}-{self.allocation.restart}-{os.getpid()}"
        return Spec(
            name=f"{PREFIX}{number}",
            token=self.token,
            seed=int(self.allocation.job) + self.allocation.restart,
            head=head,
            cpus=self._head_cpus if head is None else None,
            temp=self.target.temp,
            alone=len(self.allocation.nodes) == 1 and self._head_cpus is None,
            interface=self.target.interface,
            job=self.allocation.job,
            head_node=self.allocation.here,
            run_dir=os.environ.get(RUN_ENV),
            probe=None if head is None else str(self._probe),
            driver=(os.getpid(), started(os.getpid())) if head is None else None,
        )

    def _step(self, name: str, spec: Spec, tries: int) -> Step:
        cpus = self.allocation.nodes[name]
        step = Step(name, cpus, spec, self._log_of(name), tries)
        self._steps.append(step)
        return step

    @property
    def _probe(self) -> Path:
        """File that all nodes have to see."""
        return self.log_dir / f".seen-{self.allocation.job}"

    def _log_of(self, node: str) -> Path:
        return self.log_dir / f"{self.allocation.job}-{node}.log"

    def _wait_for_others(self) -> None:
        """Wait until Ray is up on all nodes, or on enough of them when the wait is over.

        Raises:
            InfrastructureError: It is up on too few.
        """
        _wait_for(lambda: all(s.address for s in self._steps) or None, self._steps, OTHERS_WAIT_S)
        up = [step.node for step in self._steps if step.address]
        missing = [step for step in self._steps if not step.address]
        if not missing:
            return
        names = ", ".join(f"{s.node} ({s.failure or 'no answer yet'})" for s in missing)
        if len(up) < (self.target.min_nodes or 1):
            raise InfrastructureError(
                f"Ray is up on {len(up)} nodes ({', '.join(up)}), fewer than min_nodes: "
                f"{self.target.min_nodes}. Missing: {names}. What was said: {self.log_dir}"
            )
        print(f"beginning without {names}; they join when they are up", file=sys.stderr)

    def _set_variables(self, head: Step) -> None:
        """Give this process the cluster's token; what the user has set comes back at the end."""
        values = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": None,
            "RAY_AUTH_TOKEN_PATH": str(head.folder / TOKEN_FILE),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        for name, value in values.items():
            self._before[name] = os.environ.get(name)
            _set(name, value)

    def room(self) -> Room | None:
        """Return what all nodes of the job have, since some may join later."""
        return Room(self._machine, len(self.allocation.nodes))

    def note(self, busy: frozenset[str], *, wanting: bool) -> None:
        """Take note of what the nodes do; nothing follows from it here."""

    def close(self) -> None:
        """End Ray on all nodes."""
        import ray

        ray.shutdown()
        for step in reversed(self._steps):
            step.close()
        deadline = time.monotonic() + CLOSE_S
        for step in self._steps:
            step.wait(deadline)
        self._steps.clear()
        self._probe.unlink(missing_ok=True)
        for name, value in self._before.items():
            _set(name, value)
        self._before.clear()


def connection(experiment: Experiment, environ: Mapping[str, str]) -> AllocationRay:
    """Return the way to a Ray on the job that this process is part of.

    Raises:
        InfrastructureError: This is not a node of the job, or not the only task of a step.
    """
    target = site.target_of(experiment)
    if environ.get(ELASTIC_ENV):
        from raytune_hpo.slurm.elastic import ElasticRay

        return ElasticRay(experiment, target, current(environ))
    return AllocationRay(target, current(environ))


ELASTIC_ENV = "RAYTUNE_HPO_ELASTIC"
"""Set by the supervisor in the head job of an elastic run."""
RUN_ENV = "RAYTUNE_HPO_RUN_DIR"
"""Set by the supervisor to the directory of the run that it carries on."""


def _srun(node: str, cpus: int) -> list[str]:
    """Return the command that starts the program ``node`` on a node.

    The step overlaps with others of the job, such as the one that this process may be in, and its
    end leaves the job alone.
    """
    words = ["srun", "--nodes=1", "--ntasks=1", f"--nodelist={node}", "--overlap", "--no-kill"]
    words += ["--kill-on-bad-exit=0", "--unbuffered", "--mpi=none", "--export=ALL", "--quiet"]
    words += ["--chdir=/"]
    if cpus:
        words.append(f"--cpus-per-task={cpus}")
    return [*words, sys.executable, "-m", "raytune_hpo.slurm.node"]


def _said(line: str) -> dict[str, str]:
    """Return what the program on a node said in one line; nothing when it is another's."""
    try:
        said = json.loads(line)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _wait_for(found: Callable[[], T | None], steps: list[Step], timeout_s: float) -> T | None:
    """Return what is looked for, or None when the time or all hope is over."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = found()
        if value is not None or all(step.failure is not None for step in steps):
            return value
        time.sleep(_POLL_S)
    return found()


def _end_t(job: str) -> float | None:
    """Return when the job's time is over, in unix seconds, or None when there is no limit."""
    try:
        found = commands.patiently(lambda: commands.lookup(job), ASK_WITHIN_S).get(job)
    except commands.ControllerAwayError as error:
        # Its signal before the limit says the same.
        print(f"the job's time limit is not known: {error}", file=sys.stderr)
        return None
    return None if found is None else found.end_t


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").split("\n") if line.strip()]
    return lines[-1] if lines else "it said nothing"


def _close(stream: IO[str]) -> None:
    # What was not sent has no reader any more.
    with contextlib.suppress(OSError):
        stream.close()


def _set(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
