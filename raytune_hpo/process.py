"""A command in a process group of its own, ended whole, and never left behind."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

STOP_GRACE_S = 5.0
"""So long a process group may go on after SIGTERM."""

# The watcher is no child of the command, but in its process group: it waits for the end of a pipe
# that this process holds open, and kills the group when this process is gone.
_WATCHED = (
    'exec 3<&0; ( ( read _ <&3; kill -KILL 0 ) >/dev/null 2>&1 & ); exec "$@" </dev/null 3<&-'
)


class ProcessGroup:
    """Runs a command; its standard output is read here and kept in a file, its stderr is in one.

    Args:
        argv: Program and arguments.
        cwd: Working directory.
        env: The whole environment.
        stdout: File to append standard output to.
        stderr: File to append standard error to.

    Raises:
        OSError: It cannot be started at all.
    """

    def __init__(
        self, argv: Sequence[str], cwd: Path, env: Mapping[str, str], stdout: Path, stderr: Path
    ) -> None:
        watched, self._alive = os.pipe()
        self._output, output = os.pipe()
        self._file = stdout.open("ab")
        try:
            with stderr.open("ab") as errors:
                self._process = subprocess.Popen(
                    ["/bin/sh", "-c", _WATCHED, "sh", *argv],
                    cwd=cwd,
                    env=dict(env),
                    stdin=watched,
                    stdout=output,
                    stderr=errors,
                    start_new_session=True,
                )
        except BaseException:
            os.close(self._alive)
            os.close(self._output)
            self._file.close()
            raise
        finally:
            os.close(watched)
            os.close(output)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._output, selectors.EVENT_READ)

    @property
    def exit_code(self) -> int | None:
        """Its exit code, negative for a signal, or None while it runs."""
        return self._process.poll()

    def read(self, timeout_s: float) -> bytes | None:
        """Return some of its output; nothing after the timeout; None when there will be no more."""
        if not self._selector.get_map():
            return None
        if not self._selector.select(timeout_s):
            return b""
        data = os.read(self._output, 65536)
        if not data:
            self._selector.unregister(self._output)
            return None
        self._file.write(data)
        self._file.flush()
        return data

    def end(self) -> None:
        """End whatever is left of the group: SIGTERM, and SIGKILL after a grace."""
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_GRACE_S
        while self._is_there() and time.monotonic() < deadline:
            self._process.poll()
            time.sleep(0.02)
        self._signal(signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """End the group's last processes and free all files."""
        os.close(self._alive)
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._selector.close()
        os.close(self._output)
        self._file.close()

    def _is_there(self) -> bool:
        """Return whether the group has a process besides its watcher."""
        if self._process.poll() is None:
            return True
        return _members(self._process.pid) > 1

    def _signal(self, number: signal.Signals) -> None:
        # The group is gone when its last process is, the watcher included.
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return


def _members(group: int) -> int:
    """Return how many living processes a process group has."""
    count = 0
    for path in Path("/proc").iterdir():
        if not path.name.isdigit():
            continue
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            # It ended while we looked.
            continue
        count += int(fields[2]) == group and fields[0] != "Z"
    return count


def explain_exit(code: int) -> str:
    """Return what an exit code means, for a person.

    >>> explain_exit(127)
    'exit code 127: a command was not found'
    """
    if code < 0 or code > 128:
        number = -code if code < 0 else code - 128
        try:
            name = signal.Signals(number).name
        except ValueError:
            return f"exit code {code}"
        return f"ended by signal {name}{_SIGNAL_MEANING.get(name, '')}"
    meaning = _CODE_MEANING.get(code)
    return f"exit code {code}" + (f": {meaning}" if meaning else "")


_CODE_MEANING = {
    2: "often wrong arguments",
    124: "a time limit inside the command was reached",
    126: "a command could not be executed (is it executable?)",
    127: "a command was not found",
}
_SIGNAL_MEANING = {
    "SIGKILL": " (killed from outside: often out of memory)",
    "SIGSEGV": " (it crashed: invalid memory access)",
    "SIGABRT": " (it aborted itself)",
    "SIGTERM": " (asked to end)",
    "SIGBUS": " (it crashed: bus error, or a disk full under a memory map)",
}
