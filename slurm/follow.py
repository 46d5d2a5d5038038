"""A run's jobs as seen from the login node: where they stand, what they said, taking them back."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raytune_hpo.errors import InfrastructureError
from raytune_hpo.slurm import commands, queue
from raytune_hpo.slurm.commands import Job
from raytune_hpo.slurm.launcher import SUBMITTED_FILE
from raytune_hpo.slurm.state import State, read_state

WORKERS_FILE = "workers.json"
"""In the run's folder for Slurm: the numbers of the arrays of worker jobs."""
_OVER = frozenset({"finished", "stopped", "superseded"})
_WAITING = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED"})
_THERE = frozenset({"RUNNING", "COMPLETING", *_WAITING})


@dataclass(frozen=True)
class Known:
    """The job that carries a run, by what lies beside its journal.

    Attributes:
        job: Its number; the latest that was submitted.
        state: What a job of the run has written down last, or None.
        arrays: Numbers of the arrays of worker jobs.
    """

    job: str
    state: State | None
    arrays: tuple[str, ...] = ()

    @property
    def wrote(self) -> State | None:
        """What this very job has written down, or None."""
        mine = self.state is not None and self.state.job == self.job
        return self.state if mine else None


def known(run_dir: Path) -> Known | None:
    """Return the job that carries a run, or None when it never was on Slurm."""
    state = read_state(run_dir)
    submitted = _json(run_dir / "slurm" / SUBMITTED_FILE)
    if state is None and submitted is None:
        return None
    arrays = tuple((_json(run_dir / "slurm" / WORKERS_FILE) or {}).get("arrays", ()))
    if submitted is not None and (state is None or submitted["t"] > state.t):
        return Known(submitted["job"], state)
    assert state is not None
    return Known(state.next_job or state.job, state, arrays)


def status(run_dir: Path, *, finished: bool) -> Iterator[str]:
    """Yield where a run's jobs stand, in sentences; asks Slurm once.

    Args:
        run_dir: Directory of the run.
        finished: Whether the run has ended by itself.
    """
    jobs = known(run_dir)
    if jobs is None:
        return
    try:
        found = commands.lookup(jobs.job, *jobs.arrays)
    except InfrastructureError as error:
        wrote = "" if jobs.wrote is None else f"; it last wrote: {jobs.wrote.state}"
        yield f"Slurm job {jobs.job}: not known ({error}){wrote}"
        return
    job = found.get(jobs.job)
    yield f"Slurm job {jobs.job} {_stands(jobs, job)}"
    workers = Counter(
        "waiting" if one.state in _WAITING else "running"
        for name, one in found.items()
        if name.partition("_")[0] in jobs.arrays and one.state in _THERE
    )
    if jobs.arrays:
        yield f"worker jobs: {workers['running']} running, {workers['waiting']} in the queue"
    there = job is not None and job.state in _THERE
    over = jobs.wrote is not None and jobs.wrote.state in _OVER
    if not there and not finished and not over:
        yield f"the run is not over; go on with: raytune-hpo resume {run_dir.name}"


def _stands(jobs: Known, job: Job | None) -> str:
    wrote = jobs.wrote
    said = f"; it said: {wrote.message}" if wrote is not None and wrote.message else ""
    if job is None:
        return f"has left Slurm's memory{said}"
    if job.state in _THERE:
        return queue.explain(job)
    return queue.explain(job) + said


def outputs(run_dir: Path) -> list[Path]:
    """Return the output files of a run's jobs, oldest first, without those of worker jobs."""
    files = set((run_dir.absolute() / "slurm").glob("[0-9]*.out"))
    state = read_state(run_dir)
    if state is not None and state.output is not None:
        files.add(Path(state.output))
    return sorted((f for f in files if f.is_file()), key=lambda file: file.stat().st_mtime)


def take_back(run_dir: Path) -> str | None:
    """Cancel the job of a run that still waits in the queue; return its number, or None.

    Raises:
        SlurmError: Slurm does not answer.
    """
    jobs = known(run_dir)
    if jobs is None:
        return None
    job = commands.lookup(jobs.job).get(jobs.job)
    if job is None or job.state not in _WAITING:
        return None
    commands.scancel(jobs.job)
    return jobs.job


def write_arrays(folder: Path, arrays: Sequence[str]) -> None:
    """Write down the arrays of worker jobs, for ``status``."""
    (folder / WORKERS_FILE).write_text(json.dumps({"arrays": list(arrays)}) + "\n")


def is_there(run_dir: Path) -> bool:
    """Return whether the job of a run waits or runs; asks Slurm once."""
    jobs = known(run_dir)
    if jobs is None:
        return False
    try:
        job = commands.lookup(jobs.job).get(jobs.job)
    except InfrastructureError:
        # It will be asked again.
        return True
    return job is not None and job.state in _THERE


def _json(path: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return content
