"""A real Slurm for tests: machines as namespaces of this host, with one shared file system.

    python -m tests.slurm.lab up [N]     switch it on, with N nodes (3), unless it is
    python -m tests.slurm.lab run CMD    run a command on its login node
    python -m tests.slurm.lab down       end all its processes and remove all its files

Needs Linux, root, and Debian's packages slurmctld, slurmd, slurm-client, munge and iproute2.
It touches nothing but its own folder below /var/lib, a network bridge, and processes it started.
Machines share the host's files, but not /tmp and /dev/shm. There is no way out to other networks.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.claims import Claims
from tests.slurm import accounting, configuration
from tests.slurm.configuration import Layout
from tests.slurm.machine import Machine, Process, run, wait_until

BASE = Path("/var/lib/raytune-hpo-slurm-lab")
PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge", "iproute2")
_PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "ip", "unshare", "nsenter")
_CLAIMS = Claims(BASE)
_DAEMONS = ("slurmctld", "slurmd", "slurmdbd", "munged", "mariadbd")
_UP_S = 240.0
_RESTART_S = 2.0  # a node refuses a job whose credential is not younger than the last one's end
_REGISTER_S = 15.0  # asked by a new controller what it runs, a node removes scripts of other jobs


class Lab:
    """A Slurm cluster: `up` makes it, `down` removes it.

    The machines are the compute nodes (n1, n2, ...), `login`, where a user works, and `control`.

    Args:
        nodes: How many compute nodes.
        number: Of the lab, 0 to 7; `claim` finds one that is free.
        cpus: Of a node; more than the host has is fine.
        memory_mb: Of a node.
        gpus: Of a node; they do not exist, but Slurm hands them out.
        accounting: With slurmdbd, accounts (lab) and QOS (normal, high, debug); needs MariaDB.
        settings: More lines of slurm.conf, also instead of the lab's, such as {"JobRequeue": "0"}.
    """

    def __init__(
        self,
        nodes: int = 3,
        number: int = 0,
        *,
        cpus: int = 4,
        memory_mb: int = 4000,
        gpus: int = 2,
        accounting: bool = False,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = BASE / str(number)
        self.layout = Layout(number, nodes, self.folder, cpus, memory_mb, gpus, accounting)
        self.shared = self.folder / "shared"
        self.machines = _machines(self.layout)
        self._settings = dict(settings or {})
        self._control_began_s = -math.inf

    def __enter__(self) -> Lab:
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    @property
    def nodes(self) -> tuple[str, ...]:
        """Return the names of the compute nodes."""
        return self.layout.names

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment of a user of this cluster, also on the host."""
        return {
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": str(self.folder / "home"),
            "LANG": "C.UTF-8",
            "SLURM_CONF": str(self.folder / "slurm.conf"),
        }

    # The cluster

    @property
    def is_up(self) -> bool:
        """Say whether all its machines run, and as many nodes as wanted are there."""
        if not all(machine.alive for machine in self.machines.values()):
            return False
        about = run(["sinfo", "-h", "-o", "%D", "-p", "main"], self.environment, check=False)
        return about.stdout.split() == [str(self.layout.nodes)]

    def up(self) -> None:
        """Switch all on, and wait until every node is idle.

        Raises:
            RuntimeError: It did not come up; the message has the ends of the log files.
        """
        if self.is_up:
            return
        remove(self.layout.number)
        try:
            self._write_files()
            self._build_bridge()
            self._start_all()
            self._wait_for_nodes()
        except BaseException as error:
            logs = self._ends_of_logs()
            self.down()
            if not isinstance(error, Exception):
                raise
            raise RuntimeError(f"The lab did not come up: {error}\n{logs}") from error

    def down(self) -> None:
        """End all its processes and remove all its files. Harmless when there is nothing."""
        for machine in self.machines.values():
            machine.kill()
        remove(self.layout.number)
        release(self.layout.number)

    def restore(self) -> None:
        """Make the cluster as new after a test: no jobs, all nodes idle, nothing left there."""
        self._start_all()
        self.cancel_all()
        for node in self.nodes:
            self._end_leftovers(node)
        self._resume_nodes()
        self._wait_for_nodes()
        for machine in self.machines.values():
            machine.clean()

    # Machines and daemons

    def kill_node(self, name: str) -> None:
        """Switch a machine off, as by a power failure; /tmp keeps its files."""
        self.machines[name].kill()

    def revive_node(self, name: str) -> None:
        """Switch a machine on again, with its slurmd; Slurm takes some seconds to see it."""
        self.machines[name].start()
        if name in self.nodes:
            self.start_slurmd(name)
        elif name == "control":
            self.start_control()

    def kill_slurmd(self, node: str) -> None:
        """Kill slurmd of a node; the steps of jobs go on there."""
        self.machines[node].end("slurmd")

    def start_slurmd(self, node: str) -> None:
        """Start slurmd of a node, unless it runs."""
        self._start_daemon(node, "slurmd", "-N", node)

    def start_control(self) -> None:
        """Start munge, slurmctld and what else runs on `control`, unless they run."""
        munge = self.folder / "munge"
        words = [
            f"--key-file={munge / 'key'}",
            f"--socket={self.layout.socket}",
            f"--pid-file={munge / 'pid'}",
            f"--log-file={munge / 'log'}",
            f"--seed-file={munge / 'seed'}",
            "--num-threads=2",
            "--force",  # the socket of a munged that was killed is in the way
        ]
        self._start_daemon("control", "munged", *words)
        if self.layout.accounting:
            accounting.start(self.layout, self.machines["control"], self.environment)
        if self._start_daemon("control", "slurmctld"):
            self._control_began_s = time.monotonic()
        wait_until(self._answers, "slurmctld does not answer", _UP_S)

    def kill_control(self) -> None:
        """Kill slurmctld; `start_control` starts it again, with its jobs."""
        self.machines["control"].end("slurmctld")

    def signal(self, name: str, word: str, number: int) -> None:
        """Send a signal to the processes of a machine that have a word in their command line.

        Raises:
            RuntimeError: There are none.
        """
        found = [process for process in self.processes(name) if word in process.words]
        if not found:
            raise RuntimeError(f"nothing with {word} runs on {name}")
        for process in found:
            os.kill(process.pid, number)

    def set_node(self, node: str, state: str, reason: str = "test") -> None:
        """Give a node a state as an administrator does: down, drain, resume, ..."""
        self.command("scontrol", "update", f"NodeName={node}", f"State={state}", f"Reason={reason}")

    def node_state(self, node: str) -> str:
        """Return the state of a node, such as idle, allocated*, down*, draining."""
        states = self.command("sinfo", "-h", "-N", "-n", node, "-p", "main", "-o", "%T")
        return states.splitlines()[0]

    # Looking at machines

    def processes(self, name: str) -> list[Process]:
        """Return what runs on a machine, without Slurm's daemons; slurmstepd is no daemon."""
        running = self.machines[name].processes()
        return [process for process in running if process.program not in _DAEMONS]

    def files(self, name: str) -> list[str]:
        """Return what lies in /tmp and /dev/shm of a machine."""
        return self.machines[name].files()

    def run_on(
        self,
        name: str,
        *words: str,
        check: bool = True,
        timeout_s: float = 240.0,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a machine and wait for it.

        Args:
            name: Of the machine.
            words: The command.
            check: Raise RuntimeError when it fails.
            timeout_s: Raise TimeoutExpired after so long.
            folder: Where it runs; None: the shared folder of the lab.
            environment: More variables.
        """
        variables = {**self.environment, **(environment or {})}
        folder = folder or self.shared
        return self.machines[name].run(words, variables, folder, timeout_s, check)

    # Jobs

    def command(self, *words: str) -> str:
        """Run a command of Slurm on the host and return its output."""
        return run(words, self.environment).stdout

    def submit(self, script: Path | str, *options: str, folder: Path | None = None) -> str:
        """Submit a script (a file, or its text) from the login node and return the job's id."""
        if isinstance(script, str):
            path = self.shared / f"script-{time.monotonic_ns()}.sh"
            path.write_text(script)
        else:
            path = script
        words = ["sbatch", "--parsable", *options, str(path)]
        return self.run_on("login", *words, folder=folder).stdout.strip().partition(";")[0]

    def show(self, job: str) -> dict[str, str]:
        """Return what `scontrol show job` knows; nothing when the job is forgotten."""
        words = ["scontrol", "-o", "show", "job", job]
        deadline_s = time.monotonic() + _UP_S
        done = run(words, self.environment, check=False)
        # A controller that was just started may not answer yet.
        while done.returncode and "Invalid job id" not in done.stderr:
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"{' '.join(words)}: {done.stderr.strip()}")
            time.sleep(0.5)
            done = run(words, self.environment, check=False)
        pairs = (word.partition("=") for word in done.stdout.partition("\n")[0].split())
        return {name: value for name, _, value in pairs}

    def state(self, job: str) -> str:
        """Return the state of a job, such as RUNNING."""
        return self.show(job).get("JobState", "FORGOTTEN")

    def wait(self, job: str, states: str | Sequence[str], timeout_s: float = 240.0) -> str:
        """Wait until a job has one of these states, and return that.

        Raises:
            TimeoutError: It has not in time; the message has what Slurm knows of the job.
        """
        wanted = [states] if isinstance(states, str) else states
        with self._told(job):
            wait_until(lambda: self.state(job) in wanted, f"job {job} is not {wanted}", timeout_s)
        return self.state(job)

    def wait_for_restart(self, job: str, restarts: int = 1, timeout_s: float = 240.0) -> None:
        """Wait until a requeued job runs for the nth time again, without Slurm's two minutes.

        Raises:
            TimeoutError: It does not in time, or has ended.
        """
        waits_since_s = math.inf

        def running() -> bool:
            nonlocal waits_since_s
            about = self.show(job)
            if int(about["Restarts"]) < restarts:
                return False
            if about["JobState"] in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"):
                raise TimeoutError(f"job {job} has ended")
            if about["JobState"] == "PENDING" and about["Reason"] == "BeginTime":
                now_s = time.monotonic()
                waits_since_s = min(waits_since_s, now_s)
                settled_s = max(waits_since_s + _RESTART_S, self._control_began_s + _REGISTER_S)
                if now_s > settled_s:
                    self._hurry(job)
            return about["JobState"] == "RUNNING"

        with self._told(job):
            wait_until(running, f"job {job} does not run again", timeout_s)

    def requeue_now(self, job: str) -> None:
        """Requeue a job as an administrator, and wait until it runs again."""
        restarts = int(self.show(job)["Restarts"])
        self.command("scontrol", "requeue", job)
        self.wait_for_restart(job, restarts + 1)

    def cancel(self, job: str, *options: str) -> None:
        """Cancel a job or a step, or send it a signal, as scancel does."""
        self.command("scancel", *options, job)

    def cancel_all(self, timeout_s: float = 240.0) -> None:
        """Cancel every job, and wait until none is left."""
        jobs = self.command("squeue", "-h", "-o", "%A").split()
        if jobs:
            self.command("scancel", *jobs)
        wait_until(lambda: not self.command("squeue", "-h"), "jobs do not end", timeout_s)

    # Details

    def _write_files(self) -> None:
        layout = self.layout
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("state", "log", "run", "munge", "machines", "dev", "home", "shared"):
            (self.folder / name).mkdir(exist_ok=True)
        for node in layout.names:
            (self.folder / "spool" / node).mkdir(parents=True, exist_ok=True)
        for index in range(layout.gpus):
            # Slurm wants a device; this is /dev/null by another name.
            device = self.folder / "dev" / f"nvidia{index}"
            os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        key = self.folder / "munge" / "key"
        if not key.exists():
            key.touch(0o600)
            key.write_bytes(os.urandom(64))
        (self.folder / "hosts").write_text(configuration.hosts(layout))
        (self.folder / "gres.conf").write_text(configuration.gres(layout))
        (self.folder / "slurm.conf").write_text(configuration.slurm(layout, self._settings))

    def _start_all(self) -> None:
        """Start what does not run."""
        for machine in self.machines.values():
            machine.start()
        self.start_control()
        for node in self.nodes:
            self.start_slurmd(node)

    def _build_bridge(self) -> None:
        bridge = self.layout.bridge
        if not Path("/sys/class/net", bridge).exists():
            run(["ip", "link", "add", bridge, "type", "bridge"])
        run(["ip", "address", "replace", f"{self.layout.addresses['host']}/24", "dev", bridge])
        run(["ip", "link", "set", bridge, "up"])

    def _start_daemon(self, name: str, program: str, *options: str) -> bool:
        """Start a daemon of a machine, unless it runs; return whether it did not."""
        machine = self.machines[name]
        if any(process.program == program for process in machine.processes()):
            return False
        machine.run([program, *options], self.environment)
        return True

    def _answers(self) -> bool:
        return "is UP" in run(["scontrol", "ping"], self.environment, check=False).stdout

    def _wait_for_nodes(self) -> None:
        wanted = {(node, "idle") for node in self.nodes}

        def idle() -> bool:
            words = ["sinfo", "-h", "-N", "-p", "main", "-o", "%N %T"]
            lines = run(words, self.environment, check=False).stdout.splitlines()
            return {(line.split()[0], line.split()[1]) for line in lines} == wanted

        wait_until(idle, "not all nodes are idle", _UP_S)

    def _resume_nodes(self) -> None:
        for node in self.nodes:
            if any(word in self.node_state(node) for word in ("down", "drain", "fail")):
                with contextlib.suppress(RuntimeError):  # it may be back by now
                    self.set_node(node, "resume")

    def _end_leftovers(self, node: str) -> None:
        """End what a job left behind."""
        machine = self.machines[node]
        for process in self.processes(node):
            machine.end(process.program)

    def _ends_of_logs(self) -> str:
        parts = []
        for path in sorted(self.folder.glob("log/*")):
            lines = path.read_text(errors="replace").splitlines()
            parts.append("\n".join([f"{path.name}:", *lines[-8:]]))
        return "\n".join(parts)

    @contextlib.contextmanager
    def _told(self, job: str) -> Iterator[None]:
        """Add what is known of a job to the error of a wait that was too long."""
        try:
            yield
        except TimeoutError as error:
            about = self.show(job)
            raise TimeoutError(f"{error}; {about}{_end(about.get('StdOut'))}") from None

    def _hurry(self, job: str) -> None:
        with contextlib.suppress(RuntimeError):  # it may run by now
            self.command("scontrol", "update", f"JobId={job}", "StartTime=now")


def missing() -> str | None:
    """Return why there can be no lab on this host; None when there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux, for namespaces"
    absent = [program for program in _PROGRAMS if shutil.which(program) is None]
    if absent:
        return f"no {', '.join(absent)}: apt-get install {' '.join(PACKAGES)}"
    trial = ["unshare", "--net", "--uts", "--mount", "--pid", "--ipc", "--fork"]
    done = run([*trial, "ip", "link", "add", "trial", "type", "bridge"], check=False)
    return f"namespaces are not allowed here: {done.stderr.strip()}" if done.returncode else None


def claim() -> int:
    """Return the number of a free lab, which is this process's until it ends or `down` is called.

    A lab whose process has ended without `down` is removed.

    Raises:
        RuntimeError: There are seven labs already.
    """
    return _CLAIMS.claim(remove)


def remove(number: int) -> None:
    """End all processes of a lab and remove all its files, whoever made it."""
    layout = Layout(number, 0, BASE / str(number))
    for path in layout.folder.glob("machines/*.json"):
        Machine(layout.folder, path.stem, "", layout.bridge).kill()
    if Path("/sys/class/net", layout.bridge).exists():
        run(["ip", "link", "delete", layout.bridge])
    shutil.rmtree(layout.folder, ignore_errors=True)


def release(number: int) -> None:
    """Give a claimed number back."""
    _CLAIMS.release(number)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.slurm.lab", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--number", type=int, default=0, help="of the lab; above 0 for tests")
    verbs = parser.add_subparsers(dest="verb", required=True)
    up = verbs.add_parser("up", help="switch it on")
    up.add_argument("nodes", type=int, nargs="?", default=3)
    up.add_argument("--accounting", action="store_true", help="with slurmdbd")
    verbs.add_parser("down", help="remove it")
    execute = verbs.add_parser("run", help="run a command on a machine")
    execute.add_argument("--on", default="login", help="the machine; login unless named")
    execute.add_argument("words", nargs=argparse.REMAINDER, metavar="CMD")
    chosen = parser.parse_args(arguments)
    if chosen.verb == "up":
        return _up(Lab(chosen.nodes, chosen.number, accounting=chosen.accounting))
    lab = Lab(0, chosen.number)
    if chosen.verb == "down":
        lab.down()
        return 0
    return _run(lab, chosen.on, chosen.words)


def _up(lab: Lab) -> int:
    if reason := missing():
        print(f"No Slurm can be started here: {reason}", file=sys.stderr)
        return 1
    lab.up()
    print(f"{len(lab.nodes)} nodes: {', '.join(lab.nodes)}. On this host:")
    print(f"export SLURM_CONF={lab.folder}/slurm.conf")
    return 0


def _run(lab: Lab, name: str, words: Sequence[str]) -> int:
    machine = Machine(lab.folder, name, "", lab.layout.bridge)
    if not machine.alive:
        print(f"There is no machine {name}: python -m tests.slurm.lab up", file=sys.stderr)
        return 1
    command = machine.command(words, Path.cwd())
    return subprocess.run(command, env={**os.environ, **lab.environment}).returncode


def _machines(layout: Layout) -> dict[str, Machine]:
    names = ("control", "login", *layout.names)
    shared = _shared_folders()
    return {
        name: Machine(layout.folder, name, layout.addresses[name], layout.bridge, shared)
        for name in names
    }


def _shared_folders() -> list[Path]:
    """Return the folders below /tmp that every machine needs: this project's, and Python's."""
    needed = {Path(__file__).resolve().parents[2], Path(sys.prefix), Path(sys.base_prefix)}
    below = sorted(path for path in needed if Path("/tmp") in path.parents)
    return [path for path in below if not any(other in path.parents for other in below)]


def _end(path: str | None) -> str:
    """Return the end of a job's output."""
    if path is None or not Path(path).is_file():
        return ""
    lines = Path(path).read_text(errors="replace").splitlines()
    return "\n".join(["\nThe end of its output:", *lines[-15:]])


if __name__ == "__main__":
    sys.exit(main())
