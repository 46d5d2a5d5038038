"""Ray on one node of a Slurm job: run as a program, by ``srun`` or as the end of a worker job.

It starts ``ray start --block`` with what Slurm gave the job on this node, says on its standard
output when Ray is up, and ends it with all that it left behind when it is told to, when whoever
started it is gone, or when the head is. Uses the standard library only, so that it starts at once.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from raytune_hpo.cluster import guard
from raytune_hpo.errors import InfrastructureError
from raytune_hpo.lock import started
from raytune_hpo.slurm import ports
from raytune_hpo.slurm.address import own_address
from raytune_hpo.slurm.rescue import rescue
from raytune_hpo.slurm.share import Share

PREFIX = "rts-"
"""Beginning of the names of the folders that Ray works in on a node."""
TOKEN_FILE = "token"
TRIES = 5
"""Ray's start has two hard limits (30 s and 15 s) that a loaded machine misses now and then."""
START_S = 90.0
RETRY_WAIT_S = 3.0
HEAD_GONE_S = 30.0
"""A worker job whose head does not answer for so long ends."""
END_GRACE_S = 3.0
EMPTY_S = 8.0
"""A worker job that was told to leave ends when there was no trial on its node for so long."""
EMPTY_LOOK_S = 1.0
SHARED_S = 30.0
"""Network file systems may show a new file on other nodes so much later."""
DRAIN_SLACK_S = 10.0
"""So long before its limit a worker job that was told to leave counts as gone."""
_POLL_S = 0.2
_LOOK_S = 5.0
_STARTED = "Ray runtime started"
_RAY = [sys.executable, "-m", "raytune_hpo.slurm.ray_command"]


@dataclass(frozen=True)
class Spec:
    """What a node needs to know.

    Attributes:
        name: Of the folder that Ray works in, unique on the node.
        token: That all of the cluster know, 64 hex digits.
        seed: Number that the node's ports are chosen by.
        head: Address of the head, host:port; None: this is the head.
        cpus: That trials may use; None: what Slurm gave.
        temp: Node-local folder for Ray's files.
        alone: Whether there is no other node.
        interface: Network interface whose address is used, or None.
        resources: Further resources by Ray's names.
        job: Number of the job that ends with its head; None for a worker job.
        head_node: Slurm's name of the head's node.
        run_dir: Of the run that a supervisor on the head's node carries on, or None.
        probe: File that the head's node has written in the run's folder, or None.
        driver: Process number and start (clock ticks since the boot) of the driver on the head's
            node; None on other nodes.
    """

    name: str
    token: str = field(repr=False)
    seed: int
    head: str | None = None
    cpus: int | None = None
    temp: str = "/tmp"
    alone: bool = False
    interface: str | None = None
    resources: dict[str, float] = field(default_factory=dict)
    job: str | None = None
    head_node: str | None = None
    run_dir: str | None = None
    probe: str | None = None
    driver: tuple[int, int] | None = None

    @property
    def folder(self) -> Path:
        """Node-local folder that Ray works in."""
        return Path(self.temp) / self.name

    def to_line(self) -> str:
        """Return it as one line of text, for the standard input of this program."""
        return json.dumps(asdict(self)) + "\n"


class _Asked:
    """What signals have asked for."""

    def __init__(self) -> None:
        self.end = False
        self.leave = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._end)
        signal.signal(signal.SIGUSR1, self._leave)

    def _end(self, number: int, frame: FrameType | None) -> None:
        self.end = True

    def _leave(self, number: int, frame: FrameType | None) -> None:
        self.leave = True


class Node:
    """Ray on this node.

    Args:
        spec: What it needs to know.
    """

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        sweep(Path(spec.temp))
        head = None if spec.head is None else spec.head.rpartition(":")[0]
        self.address = own_address(spec.interface, head, alone=spec.alone)
        self.folder = spec.folder
        self.folder.mkdir(mode=0o700)
        self._lock = _hold(self.folder)
        self._token = self.folder / TOKEN_FILE
        self._token.touch(mode=0o600)
        self._token.write_text(spec.token)
        self._guard = guard.Guard(self.folder, marked=True)
        self._process: subprocess.Popen[str] | None = None
        self._output = self.folder / "start.log"
        self._looked_s = self._used_s = time.monotonic()

    def start(self, wanted: Callable[[], bool]) -> str:
        """Start Ray, several tries, and return the address of the cluster.

        Args:
            wanted: Whether it is still of use.

        Raises:
            InfrastructureError: It did not start.
        """
        for left in reversed(range(TRIES)):
            seed = self.spec.seed + TRIES - 1 - left
            block = ports.free_block(seed, self.address, self._cpus)
            if self._try(block, wanted):
                return self.spec.head or f"{self.address}:{block.gcs}"
            if not left or not wanted():
                break
            print(f"Ray did not start here, trying again: {self._last()}", file=sys.stderr)
            self._end_ray()
            time.sleep(RETRY_WAIT_S)
        raise InfrastructureError(f"Ray did not start on {socket.gethostname()}: {self._last()}")

    def _try(self, block: ports.Block, wanted: Callable[[], bool]) -> bool:
        """Start Ray once; return whether it is up."""
        with self._output.open("w") as output:
            self._process = subprocess.Popen(
                [*_RAY, "start", *self._arguments(block)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment(),
                text=True,
            )
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and wanted():
            if self._process.poll() is not None:
                return False
            if _STARTED in self._output.read_text(errors="replace"):
                return True
            time.sleep(_POLL_S)
        return False

    @property
    def _cpus(self) -> int:
        """CPUs for trials."""
        return Share.of(os.environ).cpus if self.spec.cpus is None else self.spec.cpus

    def _arguments(self, block: ports.Block) -> list[str]:
        share, cpus = Share.of(os.environ), self._cpus
        arguments = [
            "--block",
            "--disable-usage-stats",
            f"--node-ip-address={self.address}",
            f"--temp-dir={self.folder / 'r'}",
            f"--num-cpus={cpus}",
            f"--num-gpus={share.gpus if cpus else 0}",
            f"--object-store-memory={share.object_store}",
            "--include-log-monitor=false",
            *block.arguments(),
        ]
        if share.for_trials is not None:
            arguments.append(f"--memory={share.for_trials}")
        if self.spec.resources:
            arguments.append(f"--resources={json.dumps(self.spec.resources)}")
        if self.spec.head is None:
            # The monitor is the autoscaler's, and nothing grows here by itself.
            own = [f"--port={block.gcs}", "--include-dashboard=false", "--no-monitor"]
            return [*arguments, "--head", *own]
        return [*arguments, f"--address={self.spec.head}"]

    def _environment(self) -> dict[str, str]:
        """Return the variables of Ray here; the cluster's own token, whatever the user has set."""
        unwanted = ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")
        kept = {name: value for name, value in os.environ.items() if name not in unwanted}
        own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self._token)}
        return {**kept, **own, guard.MARK: str(self.folder)}

    def _last(self) -> str:
        """Return the end of what Ray said at its start, in one line."""
        with contextlib.suppress(OSError):
            lines = self._output.read_text(errors="replace").split("\n")
            return " | ".join([line.strip() for line in lines if line.strip()][-6:])
        return "it said nothing"

    @property
    def ended(self) -> bool:
        """Whether Ray is not running here any more."""
        return self._process is None or self._process.poll() is not None

    def leave(self, within_s: float) -> None:
        """Tell the cluster that this node takes no more trials."""
        self._used_s = time.monotonic()
        node_id = self._node_id()
        if node_id is None or self.spec.head is None:
            return
        words = [*_RAY, "drain-node", f"--address={self.spec.head}", f"--node-id={node_id}"]
        words += ["--reason=DRAIN_NODE_REASON_PREEMPTION"]
        words += ["--reason-message=the Slurm job of this node is near its end"]
        words += [f"--deadline-remaining-seconds={max(1, int(within_s - DRAIN_SLACK_S))}"]
        done = subprocess.run(
            words, env=self._environment(), capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode:
            print(f"this node could not be drained: {done.stderr.strip()}", file=sys.stderr)

    def is_empty(self) -> bool:
        """Whether no trial has been on this node for a while."""
        now = time.monotonic()
        if now - self._looked_s >= EMPTY_LOOK_S:
            self._looked_s = now
            if any(_is_actor(pid) for pid in guard.marked(self.folder)):
                self._used_s = now
        return now - self._used_s >= EMPTY_S

    def _node_id(self) -> str | None:
        """Return Ray's name of this node, from the command line of its daemon."""
        for pid in guard.marked(self.folder):
            with contextlib.suppress(OSError):
                for word in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                    if word.startswith(b"--node_id="):
                        return word.partition(b"=")[2].decode()
        return None

    def _end_ray(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(END_GRACE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        guard.end(self.folder, guard.marked)
        shutil.rmtree(self.folder / "r", ignore_errors=True)

    def close(self) -> None:
        """End Ray here, and remove what it left."""
        self._end_ray()
        os.close(self._lock)
        self._guard.close()


def _is_actor(pid: int) -> bool:
    """Whether a process is a worker of Ray's with something to do."""
    try:
        title = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return title.startswith(b"ray::") and not title.startswith(b"ray::IDLE")


def _hold(folder: Path) -> int:
    """Show by a lock that a folder is in use, for as long as this process lives."""
    descriptor = os.open(folder / "in-use", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def sweep(temp: Path) -> None:
    """End and remove what earlier jobs of this user left on this node when they were killed."""
    for folder in temp.glob(f"{PREFIX}*"):
        # Somebody else's, or gone meanwhile.
        with contextlib.suppress(OSError):
            if folder.stat().st_uid != os.getuid() or folder.is_symlink():
                continue
            descriptor = os.open(folder / "in-use", os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                guard.end(folder, guard.marked)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


def check_shared(probe: Path, within_s: float) -> None:
    """Make sure that this node sees a file that another one has written in the run's folder.

    Raises:
        InfrastructureError: It does not, in that time.
    """
    deadline = time.monotonic() + within_s
    while not probe.exists():
        if time.monotonic() > deadline:
            raise InfrastructureError(
                f"{socket.gethostname()} does not see {probe}, which another node of the job has "
                "written: the run has to lie on a file system that all nodes share, with "
                "--storage or the experiment file's `storage`"
            )
        time.sleep(_POLL_S)


class Lifeline(Protocol):
    """Says whether this program is still wanted."""

    def wanted(self) -> bool:
        """Return False once it is to end."""
        ...


class StandardInput:
    """It is wanted until its standard input is closed: whoever started it holds the other end."""

    def __init__(self) -> None:
        self._closed = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        # Not by sys.stdin: a thread that waits in it keeps the process from ending.
        while os.read(0, 4096):
            pass
        self._closed.set()

    def wanted(self) -> bool:
        """Return whether the standard input is still open."""
        return not self._closed.is_set()


class DriverLives:
    """It is wanted as long as the driver on this node lives: Slurm may have lost sight of both."""

    def __init__(self, pid: int, began: int) -> None:
        self._pid, self._began = pid, began
        # Processes may be hidden from each other.
        self._seen = started(pid) == began

    def wanted(self) -> bool:
        """Return whether the driver lives, or never was seen from here."""
        return not self._seen or started(self._pid) == self._began


class HeadAnswers:
    """It is wanted as long as the head answers; also where Slurm has lost sight of this node."""

    def __init__(self, head: str) -> None:
        host, _, port = head.rpartition(":")
        self._server = (host, int(port))
        self._heard_s = self._looked_s = time.monotonic()

    def wanted(self) -> bool:
        """Return whether the head was heard of lately; looks now and then."""
        now = time.monotonic()
        if now - self._looked_s >= _LOOK_S:
            self._looked_s = now
            with contextlib.suppress(OSError):
                socket.create_connection(self._server, timeout=2.0).close()
                self._heard_s = now
        return now - self._heard_s < HEAD_GONE_S


def run(spec: Spec, lifelines: list[Lifeline], margin_s: float) -> int:
    """Have Ray run here until the end; return the exit code."""
    head = None if spec.head is None else HeadAnswers(spec.head)
    if head is not None:
        lifelines = [*lifelines, head]
    if spec.driver is not None:
        lifelines = [*lifelines, DriverLives(*spec.driver)]
    asked = _Asked()

    def wanted() -> bool:
        return not asked.end and all(line.wanted() for line in lifelines)

    try:
        if spec.probe is not None:
            check_shared(Path(spec.probe), SHARED_S)
        node = Node(spec)
    except (InfrastructureError, OSError) as error:
        tell(failed=str(error))
        return 1
    try:
        address = node.start(wanted)
        tell(ready=address, node=socket.gethostname())
        leaving = False
        while wanted():
            if leaving and (node.ended or node.is_empty()):
                break
            if node.ended:
                raise InfrastructureError(f"Ray ended by itself on {socket.gethostname()}")
            if asked.leave and not leaving:
                leaving = True
                node.leave(margin_s)
            time.sleep(_POLL_S)
    except InfrastructureError as error:
        tell(failed=str(error))
        return 1
    finally:
        node.close()
    if spec.job is not None and spec.head_node is not None and head and not head.wanted():
        run_dir = None if spec.run_dir is None else Path(spec.run_dir)
        rescue(spec.job, spec.head_node, os.environ["SLURMD_NODENAME"], run_dir)
    return 0


def tell(**what: Any) -> None:
    """Say something to whoever started this program."""
    # It may be gone.
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(what), flush=True)


def main() -> int:
    """Read what to do from the standard input, or from a cluster's file."""
    parser = argparse.ArgumentParser(prog="python -m raytune_hpo.slurm.node")
    parser.add_argument("--cluster", type=Path, help="file of a cluster to join as a worker")
    parser.add_argument("--margin-s", type=float, default=120.0)
    arguments = parser.parse_args()
    if arguments.cluster is None:
        line = _line(60.0)
        return run(Spec(**json.loads(line)), [StandardInput()], arguments.margin_s)
    try:
        cluster = json.loads(arguments.cluster.read_text())
    except FileNotFoundError:
        print(f"{arguments.cluster} is gone: the run is over, or its head is", file=sys.stderr)
        return 0
    task = task_name(os.environ)
    spec = Spec(
        name=f"{PREFIX}{task}-{os.environ.get('SLURM_RESTART_COUNT', '0')}",
        token=cluster["token"],
        seed=int(os.environ["SLURM_JOB_ID"]),
        head=cluster["head"],
        temp=cluster["temp"],
        interface=cluster["interface"],
        resources={resource_of(task): 1.0},
    )
    return run(spec, [], arguments.margin_s)


def task_name(environ: Any) -> str:
    """Return how Slurm calls this job: 12, or 12_3 for a task of an array."""
    array = environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{environ['SLURM_ARRAY_TASK_ID']}" if array else str(environ["SLURM_JOB_ID"])


def resource_of(task: str) -> str:
    """Return the name of the Ray resource that marks the node of a worker job."""
    return f"slurm-job-{task}"


def _line(timeout_s: float) -> str:
    """Return the first line of the standard input, and read no further."""
    text = b""
    deadline = time.monotonic() + timeout_s
    while not text.endswith(b"\n"):
        ready, _, _ = select.select([0], [], [], max(0.0, deadline - time.monotonic()))
        piece = os.read(0, 1) if ready else b""
        if not piece:
            raise SystemExit("nothing came on the standard input; this program is started by srun")
        text += piece
    return text.decode()


if __name__ == "__main__":
    sys.exit(main())
