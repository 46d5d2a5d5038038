"""The machine that a pod is: namespaces with an address and a host name, for its containers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.slurm.machine import children

SPACES = ("--net", "--uts", "--mount", "--pid", "--ipc")
_HERE = Path(__file__).parent
_INIT = _HERE / "sandbox_init.py"


@dataclass(frozen=True)
class Network:
    """Where a pod is to be found.

    Attributes:
        bridge: The host's network interface to which it is joined.
        link: Name of the host's end of the joint.
        address: Its own.
        bits: Of the network.
    """

    bridge: str
    link: str
    address: str
    bits: int


class Sandbox:
    """A pod's machine, without containers.

    Args:
        network: Where it is to be found.
        hostname: Its name.
        memory: Folders that are to be in memory, with their size in bytes; 0 for any.
    """

    def __init__(self, network: Network, hostname: str, memory: Mapping[Path, int]) -> None:
        self.network = network
        self._hostname = hostname
        self._memory = memory
        self._process: asyncio.subprocess.Process | None = None
        self._init = 0

    async def start(self) -> None:
        """Switch it on.

        Raises:
            RuntimeError: It does not come up.
        """
        spaces = ["unshare", *SPACES, "--fork", "--kill-child", "--mount-proc", "--"]
        self._process = process = await asyncio.create_subprocess_exec(
            *spaces,
            *(sys.executable, "-I", "-S", str(_INIT), self._hostname),
            cwd="/",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        await self._expect("here")
        self._init = next(children(process.pid)).pid
        link, bridge = self.network.link, self.network.bridge
        peer = ["peer", "name", "eth0", "netns", str(self._init)]
        await call("ip", "link", "add", link, "type", "veth", *peer)
        await call("ip", "link", "set", link, "master", bridge, "up")
        about = {
            "hostname": self._hostname,
            "address": f"{self.network.address}/{self.network.bits}",
            "memory": {str(path): size for path, size in self._memory.items()},
        }
        assert process.stdin is not None
        process.stdin.write(json.dumps(about).encode() + b"\n")
        await self._expect("ready")
        process.stdin.close()

    def enter(self) -> list[str]:
        """Return the words in front of a command that make it run here."""
        return ["nsenter", f"--target={self._init}", *SPACES, "--"]

    async def kill(self) -> None:
        """Switch it off: its processes and its address are gone when this returns."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._init or self._process.pid, signal.SIGKILL)
        await self._process.wait()
        # It would go by itself, but some time later.
        await call("ip", "link", "delete", self.network.link, check=False)
        self._process = None

    async def _expect(self, word: str) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        seen = (await self._process.stdout.readline()).decode().strip()
        if seen != word:
            raise RuntimeError(f"{self._hostname} did not start: it said {seen!r}, not {word!r}")


async def call(*words: str, check: bool = True) -> None:
    """Run a command on the host.

    Raises:
        RuntimeError: It failed, and `check` is true.
    """
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*words, stdout=pipe, stderr=pipe)
    out, err = await process.communicate()
    if check and process.returncode:
        raise RuntimeError(f"{' '.join(words)} failed: {(out + err).decode().strip()}")


def inner(container: Sequence[str], pid: int) -> list[str]:
    """Return the words that run a command in a container that runs, by its process 1."""
    return ["nsenter", f"--target={pid}", *SPACES, "--", *container]
