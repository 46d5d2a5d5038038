"""One machine of the lab: namespaces with an address, host name, processes, /tmp and /dev/shm."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_INIT = Path(__file__).with_name("machine_init.py")
_SPACES = ("--net", "--uts", "--mount", "--pid", "--ipc")
_PATIENCE_S = 120.0


@dataclass(frozen=True)
class Process:
    """A process, by its id outside of the machine, and the clock ticks at which it began."""

    pid: int
    began: int
    words: tuple[str, ...]

    @property
    def program(self) -> str:
        """Return the name of its program, such as slurmd."""
        return Path(self.words[0].partition(":")[0]).name


class Machine:
    """A machine, running or not; it is found again by the file that `start` writes.

    Args:
        folder: Of the lab, where the machine keeps its files.
        name: Its host name.
        address: Its IPv4 address; the network has 24 bits.
        bridge: The network interface of the host that joins the machines.
        shared: Folders below /tmp that are the host's on every machine.
    """

    def __init__(
        self, folder: Path, name: str, address: str, bridge: str, shared: Sequence[Path] = ()
    ) -> None:
        self.name = name
        self.address = address
        self.temporary = folder / "tmp" / name
        self._folder = folder
        self._bridge = bridge
        self._shared = shared
        self._file = folder / "machines" / f"{name}.json"
        self._unshare: subprocess.Popen[str] | None = None

    @property
    def alive(self) -> bool:
        """Say whether the machine runs."""
        return self.init is not None

    @property
    def init(self) -> int | None:
        """Return the id of its process 1, as the host sees it."""
        try:
            pid, began = json.loads(self._file.read_text())
        except FileNotFoundError:
            return None
        found = look_at(pid)
        return pid if found is not None and found.began == began else None

    def start(self) -> None:
        """Switch the machine on; nothing runs there yet."""
        if self.alive:
            return
        self.temporary.mkdir(parents=True, exist_ok=True)
        self.temporary.chmod(0o1777)
        self._file.parent.mkdir(exist_ok=True)
        # The last two words are for people who look at the processes.
        words = [sys.executable, "-I", "-S", str(_INIT), self.name, str(self._folder)]
        with (self._folder / "log" / f"{self.name}.log").open("w") as log:
            self._unshare = subprocess.Popen(
                ["unshare", *_SPACES, "--fork", "--kill-child", "--mount-proc", "--", *words],
                cwd="/",
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                text=True,
            )
        self._expect("here")
        pid = next(child.pid for child in children(self._unshare.pid))
        init = look_at(pid)
        assert init is not None
        self._file.write_text(json.dumps([pid, init.began]))
        self._plug_in(pid)
        self._tell()
        self._expect("ready")
        for pipe in (self._unshare.stdin, self._unshare.stdout):
            assert pipe is not None
            pipe.close()

    def kill(self) -> None:
        """Switch the machine off: its processes and its address are gone when this returns."""
        pid = self.init
        if pid is not None:
            space = _space(pid)
            _kill(pid)  # the kernel kills the others with it
            wait_until(lambda: not any(inhabitants(space)), f"{self.name} still has processes")
        if self._unshare is not None:
            self._unshare.wait(_PATIENCE_S)
            self._unshare = None
        self._file.unlink(missing_ok=True)
        if Path("/sys/class/net", self._link).exists():
            # It goes by itself, but some time later.
            subprocess.run(["ip", "link", "delete", self._link], stderr=subprocess.DEVNULL)

    def processes(self) -> list[Process]:
        """Return what runs there, without process 1."""
        pid = self.init
        if pid is None:
            return []
        return [process for process in inhabitants(_space(pid)) if process.pid != pid]

    def end(self, program: str) -> bool:
        """Kill (SIGKILL) the processes of one program, and say whether there were any."""
        found = [process for process in self.processes() if process.program == program]
        for process in found:
            _kill(process.pid)
        wait_until(
            lambda: all(look_at(process.pid) != process for process in found),
            f"{program} on {self.name} does not end",
        )
        return bool(found)

    def command(self, words: Sequence[str], folder: Path) -> list[str]:
        """Return the words that run a command there; it ends with the calling process's wait."""
        pid = self.init
        if pid is None:
            raise RuntimeError(f"{self.name} is switched off; revive it first")
        return ["nsenter", f"--target={pid}", *_SPACES, "--", "env", "-C", str(folder), *words]

    def run(
        self,
        words: Sequence[str],
        environment: Mapping[str, str],
        folder: Path = Path("/"),
        timeout_s: float = 240.0,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command there and wait for its end; its output is captured."""
        return run(self.command(words, folder), environment, timeout_s, check)

    def files(self) -> list[str]:
        """Return what lies directly in its /tmp and /dev/shm; /tmp also when it is off."""
        pid = self.init
        places = {"/tmp": self.temporary}
        if pid is not None:
            places["/dev/shm"] = Path(f"/proc/{pid}/root/dev/shm")
        return sorted(
            f"{place}/{path.name}"
            for place, folder in places.items()
            for path in folder.iterdir()
            if place != "/tmp" or path.name not in self._mounted()
        )

    def clean(self) -> None:
        """Remove what lies in its /tmp and /dev/shm."""
        pid = self.init
        for name in self.files():
            path = Path(name)
            outside = (
                self.temporary / path.name
                if path.parent == Path("/tmp")
                else Path(f"/proc/{pid}/root{name}")
            )
            if outside.is_dir() and not outside.is_symlink():
                shutil.rmtree(outside, ignore_errors=True)
            else:
                outside.unlink(missing_ok=True)

    @property
    def _link(self) -> str:
        return f"{self._bridge}{self.name}"

    def _mounted(self) -> set[str]:
        return {path.relative_to("/tmp").parts[0] for path in self._shared}

    def _plug_in(self, pid: int) -> None:
        link = self._link
        run(["ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(pid)])
        run(["ip", "link", "set", link, "master", self._bridge, "up"])

    def _tell(self) -> None:
        assert self._unshare is not None
        assert self._unshare.stdin is not None
        about = {
            "name": self.name,
            "address": self.address,
            "hosts": str(self._folder / "hosts"),
            "tmp": str(self.temporary),
            "shared": [str(path) for path in self._shared],
        }
        self._unshare.stdin.write(json.dumps(about) + "\n")
        self._unshare.stdin.flush()

    def _expect(self, word: str) -> None:
        assert self._unshare is not None
        assert self._unshare.stdout is not None
        seen = self._unshare.stdout.readline().strip()
        if seen != word:
            raise RuntimeError(f"{self.name} did not start: it said {seen!r}, not {word!r}")


def run(
    words: Sequence[str],
    environment: Mapping[str, str] | None = None,
    timeout_s: float = 240.0,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run a command on the host and wait for its end; the error of a failure has its output.

    Raises:
        RuntimeError: The command failed, and `check` is true.
    """
    done = subprocess.run(
        words,
        env=None if environment is None else dict(environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    if check and done.returncode:
        output = (done.stdout + done.stderr).strip()
        raise RuntimeError(f"{' '.join(words)} failed ({done.returncode}): {output}")
    return done


def wait_until(
    condition: Callable[[], object], problem: str, timeout_s: float = _PATIENCE_S
) -> None:
    """Wait until a condition returns something true.

    Raises:
        TimeoutError: It did not within that time; the message is `problem`.
    """
    deadline = time.monotonic() + timeout_s
    pause_s = 0.01
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{problem}, after {timeout_s:g} s")
        time.sleep(pause_s)
        pause_s = min(0.5, 1.5 * pause_s)


def look_at(pid: int) -> Process | None:
    """Return a process of this host; None when it is gone, or waits for its parent only."""
    folder = Path("/proc", str(pid))
    try:
        after_name = (folder / "stat").read_text().rpartition(")")[2].split()
        words = (folder / "cmdline").read_text(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return None
    if after_name[0] in "ZX":
        return None
    return Process(pid, int(after_name[19]), tuple(words))


def children(pid: int) -> Iterator[Process]:
    """Yield the processes whose parent a process is."""
    for child in _pids():
        with contextlib.suppress(OSError):
            after_name = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            if int(after_name[1]) == pid and (process := look_at(child)):
                yield process


def inhabitants(space: str) -> Iterator[Process]:
    """Yield the processes of a PID namespace."""
    for pid in _pids():
        with contextlib.suppress(OSError):
            if _space(pid) == space and (process := look_at(pid)):
                yield process


def _pids() -> Iterator[int]:
    return (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())


def _space(pid: int) -> str:
    return str(Path(f"/proc/{pid}/ns/pid").readlink())


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
