"""One run of a container: processes in a pod's sandbox, with files of their own."""

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
from typing import Any

from tests.kube.node.logs import Log
from tests.kube.node.sandbox import Sandbox, inner
from tests.slurm.machine import children

_INIT = Path(__file__).with_name("container_init.py")


class StartError(Exception):
    """A container cannot be started."""


@dataclass(frozen=True)
class Recipe:
    """What a container is to be.

    Attributes:
        layer: An empty folder on which its own files are mounted.
        command: What runs in it.
        environment: All of it.
        folder: In which the command begins.
        mounts: Folders and files of the host in it: source, target, read_only.
        image: Folders of the host that it needs besides those that it sees anyway.
    """

    layer: Path
    command: tuple[str, ...]
    environment: Mapping[str, str]
    folder: str
    mounts: tuple[Mapping[str, Any], ...]
    image: tuple[str, ...]

    def line(self) -> bytes:
        """Return it for container_init.py."""
        return json.dumps({**vars(self), "layer": str(self.layer)}).encode() + b"\n"


class Instance:
    """A container that runs, or did; `start` makes one."""

    def __init__(self, process: asyncio.subprocess.Process, recipe: Recipe, log: Log) -> None:
        self.log = log
        self._recipe = recipe
        self._process = process
        assert process.stdout is not None
        self._reader = asyncio.create_task(log.take(process.stdout))

    @classmethod
    async def start(cls, sandbox: Sandbox, recipe: Recipe, log: Log) -> Instance:
        """Start a container.

        Raises:
            StartError: There is no such program, or a folder cannot be mounted.
        """
        recipe.layer.mkdir(parents=True)
        process = await asyncio.create_subprocess_exec(
            *sandbox.enter(),
            *(sys.executable, "-I", "-S", str(_INIT)),
            cwd="/",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(ConnectionError):
            process.stdin.write(recipe.line())
            await process.stdin.drain()
        said = (await process.stdout.readline()).decode().strip()
        if said != "ready":
            rest = (await process.stdout.read()).decode().strip()
            await process.wait()
            log.ended.set()
            raise StartError(f"{said} {rest}".removeprefix("error: ").strip())
        process.stdin.close()
        return cls(process, recipe, log)

    @property
    def alive(self) -> bool:
        """Say whether its process 1 runs."""
        return self._process.returncode is None

    async def wait(self) -> int:
        """Wait for its end, and return its exit code; 128 + n for signal n."""
        code = await self._process.wait()
        await asyncio.shield(self._reader)
        return code if code >= 0 else 128 - code

    def signal(self, number: int) -> None:
        """Send its process 1 a signal, which that may ignore unless it is SIGKILL."""
        pid = self._first()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """Kill all its processes."""
        if self._first() is not None:
            self.signal(signal.SIGKILL)
        elif self.alive:
            self._process.kill()

    async def execute(
        self, words: Sequence[str], timeout_s: float | None = None
    ) -> tuple[int, bytes]:
        """Run a command in it, and return its exit code and output.

        Args:
            words: The command.
            timeout_s: It is killed after so long.
        """
        # From here only nsenter could be killed, not the command.
        limit = [] if timeout_s is None else ["timeout", "--signal=KILL", str(timeout_s)]
        process = await self.open([*limit, *words], stderr=asyncio.subprocess.STDOUT)
        out, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out

    async def open(
        self, words: Sequence[str], *, stderr: int = asyncio.subprocess.PIPE
    ) -> asyncio.subprocess.Process:
        """Start a command in it.

        Raises:
            StartError: The container does not run.
        """
        pid = self._first()
        if pid is None:
            raise StartError("the container does not run")
        about = [f"{name}={value}" for name, value in self._recipe.environment.items()]
        command = ["env", "-i", "-C", self._recipe.folder, *about, *words]
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            *inner(command, pid), stdin=pipe, stdout=pipe, stderr=stderr
        )

    def _first(self) -> int | None:
        """Return the id of its process 1: nsenter made who waits for it."""
        with contextlib.suppress(StopIteration):
            return next(children(next(children(self._process.pid)).pid)).pid
        return None
