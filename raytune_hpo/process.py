"""A command in a session of its own, ended whole, and never left behind."""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

STOP_GRACE_S = 5.0
"""So long a process group may go on after SIGTERM."""

_LOOK_S = 0.05
_LAST_OUTPUT_S = 1.0
_KILL_S = 2.0
"""A process that waits for a dead disk cannot even be killed."""

# The watcher is no child of the command, but in its process group: it waits for the end of a pipe
# that this process holds open, and kills all when this process is gone. Programs such as timeout
# make groups of their own, but stay in the session. Fields: state, parent, group, session.
_WATCHED = """exec 3<&0
( (
  trap '' HUP INT TERM
  read _ <&3
  for stat in /proc/[0-9]*/stat; do
    read -r line <"$stat" || continue
    set -- ${line##*) }
    [ "$4" = $$ ] && [ "$3" != $$ ] && stat=${stat%/stat} && kill -KILL "${stat##*/}"
  done
  kill -KILL 0
) >/dev/null 2>&1 & )
exec "$@" </dev/null 3<&-"""


class ProcessGroup:
    """Runs a command; what it writes to stdout and stderr is read here, and kept in files.

    What is read is of this command only: another one, of an attempt that was given up, may still
    add to the files. All that the command starts belongs to it, but for what makes itself a session
    of its own.

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
        _check_program(argv[0], cwd, env)
        watched, self._alive = os.pipe()
        self._selector = selectors.DefaultSelector()
        self._kept = (stdout.open("ab"), stderr.open("ab"))
        ends = [self._pipe(number) for number in range(len(self._kept))]
        try:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _WATCHED, "sh", *argv],
                cwd=cwd,
                env=dict(env),
                stdin=watched,
                stdout=ends[0],
                stderr=ends[1],
                start_new_session=True,
            )
        except BaseException:
            self._free()
            raise
        finally:
            for end in (watched, *ends):
                os.close(end)
        self._killed = False

    @property
    def exit_code(self) -> int | None:
        """Its exit code, negative for a signal, or None while it runs."""
        return self._process.poll()

    def _pipe(self, number: int) -> int:
        """Return the end of a pipe that is written to; the other one is read from here."""
        ours, theirs = os.pipe()
        self._selector.register(ours, selectors.EVENT_READ, number)
        return theirs

    def read(self, timeout_s: float) -> tuple[bytes, bytes] | None:
        """Return some of its output, nothing after the timeout, None when there will be no more.

        Returns:
            What came from stdout, and what came from stderr.
        """
        if not self._selector.get_map():
            return None
        found = [b"", b""]
        for key, _ in self._selector.select(timeout_s):
            data = os.read(key.fd, 65536)
            if data:
                self._kept[key.data].write(data)
                self._kept[key.data].flush()
                found[key.data] = data
            else:
                self._selector.unregister(key.fd)
                os.close(key.fd)
        return found[0], found[1]

    def end(self) -> None:
        """End whatever is left of it: SIGTERM, and SIGKILL after a grace; keep its last output."""
        deadline = time.monotonic() + STOP_GRACE_S
        members = self._left()
        _signal(members, signal.SIGTERM)
        while members and time.monotonic() < deadline:
            self._drain(_LOOK_S)
            members = self._left()
        self._kill()
        self._drain(_LAST_OUTPUT_S)

    def close(self) -> None:
        """Kill what is left of it and free all files."""
        self._kill()
        self._free()

    def _free(self) -> None:
        os.close(self._alive)
        for fd in [key.fd for key in self._selector.get_map().values()]:
            os.close(fd)
        self._selector.close()
        for file in self._kept:
            file.close()

    def _drain(self, time_s: float) -> None:
        """Keep the output of some time, or until there will be no more."""
        deadline = time.monotonic() + time_s
        while (left_s := deadline - time.monotonic()) > 0:
            if self.read(left_s) is None:
                if not self._killed:
                    time.sleep(left_s)
                return

    def _left(self) -> dict[int, int]:
        """Return its living processes; the watcher, which outlives SIGTERM, is none alone."""
        ended = self._process.poll() is not None
        members = _members(self._process.pid)
        return {} if ended and len(members) == 1 else members

    def _kill(self) -> None:
        if self._killed:
            return
        self._killed = True
        deadline = time.monotonic() + _KILL_S
        # A process may start another one while the list is gone through.
        while (members := _members(self._process.pid)) and time.monotonic() < deadline:
            _signal(members, signal.SIGKILL)
            time.sleep(0.001)
        self._process.wait()


def _signal(members: Mapping[int, int], number: signal.Signals) -> None:
    """Send a signal to the process groups of some processes."""
    for group in set(members.values()):
        # It may have ended since.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, number)


def _check_program(name: str, cwd: Path, env: Mapping[str, str]) -> None:
    """Raise OSError if a program cannot be executed."""
    place = str(cwd / name) if "/" in name else name
    folders = env.get("PATH", os.defpath).split(os.pathsep)
    if shutil.which(place, path=os.pathsep.join(str(cwd / folder) for folder in folders)):
        return
    if "/" in name and Path(place).exists():
        raise PermissionError(f"{name} is not executable")
    raise FileNotFoundError(f"there is no program {name}")


def _members(session: int) -> dict[int, int]:
    """Return the process group of each living process of a session."""
    found = {}
    for path in Path("/proc").iterdir():
        if not path.name.isdigit():
            continue
        try:
            fields = (path / "stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            # It ended while we looked.
            continue
        if int(fields[3]) == session and fields[0] not in (b"Z", b"X"):
            found[int(path.name)] = int(fields[2])
    return found


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
        ended = f"ended by signal {name}{_SIGNAL_MEANING.get(name, '')}"
        return ended if code < 0 else f"exit code {code}: {ended}"
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
