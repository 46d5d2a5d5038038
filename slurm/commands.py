"""Slurm's commands: argument lists, time limits, and answers as data."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from raytune_hpo.errors import InfrastructureError

TIMEOUT_S = 30.0
SACCT_TIMEOUT_S = 5.0
_QUEUE = ("%i", "%T", "%r", "%N", "%S", "%e")
_SEPARATOR = "\x1f"
_UNKNOWN = frozenset({"", "N/A", "NONE", "Unknown", "(null)", "None"})
_JOB = re.compile(r"\d+(_\d+)?")
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")
_AWAY = re.compile(
    r"unable to contact slurm controller|socket timed out|connection refused|connect failure"
    r"|communication connection|zero bytes were transmitted|transport endpoint|standby mode",
    re.IGNORECASE,
)
"""What Slurm's commands say when the controller is restarted, overloaded or not reached."""
_FIRST_PAUSE_S = 2.0
_LONGEST_PAUSE_S = 30.0
T = TypeVar("T")


class SlurmError(InfrastructureError):
    """A command of Slurm failed."""


class ControllerAwayError(SlurmError):
    """Slurm's controller does not answer now; it may later."""


def patiently(call: Callable[[], T], within_s: float) -> T:
    """Return what a call returns, again and again for a while as long as the controller is away.

    Args:
        call: Asks Slurm something that may be asked twice.
        within_s: No new try begins later.

    Raises:
        ControllerAwayError: It did not come back in time.
        SlurmError: Slurm does not do it.
    """
    deadline = time.monotonic() + within_s
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            return call()
        except ControllerAwayError:
            if time.monotonic() + pause_s > deadline:
                raise
        time.sleep(pause_s)
        pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s)


@dataclass(frozen=True)
class Job:
    """What Slurm knows of a job, or of one task of an array.

    Attributes:
        id: As 12, or 12_3 for a task of an array.
        array_task: Its number in the array, or None.
        state: In Slurm's words, such as PENDING or RUNNING.
        reason: Why it waits or ended, in Slurm's word; empty when there is none.
        nodes: Slurm's short form of its nodes.
        start_t: Unix time in seconds of its start, of the expected one while it waits, or None.
        end_t: Unix time in seconds of its end, of the limit while it runs, or None.
        restarts: How many times it was started again, or None when not known.
        exit_code: As 1:0 (exit code and signal), or None.
        stdout: Its output file, or None when not known.
    """

    id: str
    array_task: int | None
    state: str
    reason: str = ""
    nodes: str = ""
    start_t: float | None = None
    end_t: float | None = None
    restarts: int | None = None
    exit_code: str | None = None
    stdout: Path | None = None


def available() -> bool:
    """Return whether Slurm's commands are there."""
    return shutil.which("sbatch") is not None


def sbatch(script: Path, *options: str) -> str:
    """Submit a script and return the number of its job, or of its array.

    Raises:
        SlurmError: Slurm does not take it.
    """
    words = ["sbatch", "--parsable", *options, str(script)]
    answer = _run(words, environ=_for_another_job(os.environ))
    # With several clusters: number;cluster.
    return answer.strip().partition(";")[0]


def scancel(job: str, *options: str) -> None:
    """Cancel a job, a task of an array (12_3) or a step (12.0); one that is over is no mistake.

    Raises:
        SlurmError: Slurm does not do it.
    """
    _run(["scancel", *options, job])


def requeue(job: str) -> None:
    """Put a job back into the queue.

    Raises:
        SlurmError: The job, or the cluster, does not allow it.
    """
    _run(["scontrol", "requeue", job])


def hostnames(nodelist: str) -> list[str]:
    """Return the names of Slurm's short form of nodes.

    Raises:
        SlurmError: It is no such form.
    """
    return _run(["scontrol", "show", "hostnames", nodelist]).split()


def lookup(*jobs: str) -> dict[str, Job]:
    """Return what Slurm knows of some jobs; those it has forgotten are missing.

    The queue is asked once for all, then the controller for each that has left the queue, and then
    the accounting, where there is one.

    Args:
        jobs: Numbers of jobs, of arrays (which give all their tasks), or of tasks (12_3).

    Raises:
        SlurmError: The controller does not answer.
    """
    found = _from_queue(jobs)
    for job in jobs:
        if not any(_belongs(known, job) for known in found):
            found |= _from_controller(job)
    left = [job for job in jobs if not any(_belongs(known, job) for known in found)]
    return found | (_from_accounting(left) if left else {})


def detail(job: str) -> Job | None:
    """Return all that the controller knows of a job, or None when it has forgotten it.

    Raises:
        SlurmError: The controller does not answer.
    """
    return _from_controller(job).get(job)


def _belongs(known: str, job: str) -> bool:
    return known == job or known.startswith(f"{job}_")


def _from_queue(jobs: Sequence[str]) -> dict[str, Job]:
    words = ["squeue", "--noheader", "--array", "--states=all", f"--jobs={','.join(jobs)}"]
    try:
        answer = _run([*words, f"--format={_SEPARATOR.join(_QUEUE)}"])
    except SlurmError as error:
        # What it says when all of them have left the queue long ago.
        if "Invalid job id" in str(error):
            return {}
        raise
    found = {}
    for line in answer.splitlines():
        name, state, reason, nodes, start, end = line.split(_SEPARATOR)
        found[name] = Job(
            name, _task(name), state, _word(reason), _word(nodes), _seconds(start), _seconds(end)
        )
    return found


def _from_controller(job: str) -> dict[str, Job]:
    try:
        answer = _run(["scontrol", "--oneliner", "show", "job", job])
    except SlurmError as error:
        if "Invalid job id" in str(error):
            return {}
        raise
    return {one.id: one for one in map(_of_record, answer.splitlines()) if one is not None}


def _of_record(line: str) -> Job | None:
    """Return the job that a line of ``scontrol show job`` is about."""
    pairs = dict(re.findall(r"(\S+?)=(.*?)(?= \S+?=|$)", line))
    if "JobId" not in pairs:
        return None
    array, task = pairs.get("ArrayJobId"), pairs.get("ArrayTaskId", "")
    name = f"{array}_{task}" if array and task.isdecimal() else pairs["JobId"]
    restarts, stdout = pairs.get("Restarts"), _word(pairs.get("StdOut", ""))
    return Job(
        name,
        _task(name),
        pairs.get("JobState", ""),
        _word(pairs.get("Reason", "")),
        _word(pairs.get("NodeList", "")),
        _seconds(pairs.get("StartTime", "")),
        _seconds(pairs.get("EndTime", "")),
        None if restarts is None else int(restarts),
        _word(pairs.get("ExitCode", "")) or None,
        Path(stdout) if stdout else None,
    )


def _from_accounting(jobs: Sequence[str]) -> dict[str, Job]:
    """Ask the accounting, which many sites do not have."""
    names = "JobID,State,NodeList,Start,End,ExitCode"
    words = ["sacct", "--noheader", "--parsable2", "--allocations", f"--format={names}"]
    try:
        answer = _run([*words, f"--jobs={','.join(jobs)}"], SACCT_TIMEOUT_S)
    except SlurmError:
        return {}
    found = {}
    for line in answer.splitlines():
        name, state, nodes, start, end, code = line.split("|")
        word = state.split()[0] if state else ""
        times = _seconds(start), _seconds(end)
        found[name] = Job(name, _task(name), word, "", _word(nodes), *times, exit_code=code)
    return found


def _task(name: str) -> int | None:
    task = name.partition("_")[2]
    return int(task) if task.isdecimal() else None


def _word(text: str) -> str:
    return "" if text.strip() in _UNKNOWN else text.strip()


def _seconds(text: str) -> float | None:
    return float(text) if text.strip().isdecimal() else None


def _run(
    words: Sequence[str],
    timeout_s: float = TIMEOUT_S,
    environ: Mapping[str, str] | None = None,
) -> str:
    """Run a command and return what it says.

    Raises:
        SlurmError: It failed, with what it said.
    """
    try:
        done = subprocess.run(
            words,
            env=_environment(os.environ if environ is None else environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError as error:
        raise SlurmError(
            f"there is no command {words[0]} here; go to a login node of the cluster"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ControllerAwayError(
            f"{words[0]} did not answer in {timeout_s:g} s; try again later"
        ) from error
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        kind = ControllerAwayError if _AWAY.search(said) else SlurmError
        raise kind(f"{words[0]}: {said}")
    return done.stdout


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a command: its times are unix seconds, its words English."""
    # They would change what the answers look like, or what is cancelled.
    kept = {n: v for n, v in environ.items() if not n.startswith(("SQUEUE_", "SCANCEL_"))}
    return {**kept, "LC_ALL": "C", "SLURM_TIME_FORMAT": "%s"}


def _for_another_job(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for a job that is submitted from within one: not those of this job."""
    own = ("SLURM_", "SLURMD_", "RAY_", "RAYTUNE_HPO_")
    return {n: v for n, v in environ.items() if n == "SLURM_CONF" or not n.startswith(own)}
