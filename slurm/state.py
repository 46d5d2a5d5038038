"""What the Slurm jobs of a run write down beside its journal."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from raytune_hpo.slurm import commands

STATE_FILE = "state.json"
SCRIPT_FILE = "job.sh"
CHAIN_WITHIN_S = 600.0
"""So long a controller that does not answer is asked to take a following job."""


@dataclass
class State:
    """What is written down beside the journal, for ``status`` and for the next start of the job.

    Attributes:
        job: Number of the Slurm job.
        restart: Slurm's count of its restarts.
        state: running, finished, stopped, requeued, chained, failed or terminated.
        message: Why, in one sentence.
        nodes: Slurm's names of the nodes.
        next_job: Of a chained job, its successor's number.
        output: The job's output file, or None.
        starts: How many times a job of this run was started again.
        failures: Starts in a row without progress.
        owner: A word for this start of the supervisor.
        t: Unix time in seconds.
    """

    job: str
    restart: int
    state: str = "running"
    message: str = ""
    nodes: list[str] = field(default_factory=list)
    next_job: str | None = None
    output: str | None = None
    starts: int = 0
    failures: int = 0
    owner: str = ""
    t: float = 0.0


def read_state(run_dir: Path) -> State | None:
    """Return what the last job of a run has written down, or None."""
    try:
        content = json.loads(run_dir.joinpath("slurm", STATE_FILE).read_text())
    except FileNotFoundError:
        return None
    return State(**content)


def write_state(run_dir: Path, state: State) -> None:
    """Write it down, so that a reader sees the old or the new one."""
    path = run_dir / "slurm" / STATE_FILE
    draft = path.with_name(f"{STATE_FILE}.{os.getpid()}")
    draft.write_text(json.dumps({**asdict(state), "t": time.time()}, indent=1) + "\n")
    draft.replace(path)


def chain(run_dir: Path, state: State) -> None:
    """Submit a job that goes on when this one has ended, and write down which.

    Raises:
        SlurmError: Slurm does not take it.
    """
    options = [f"--dependency=afterany:{state.job}"]
    if state.output is not None:
        output = Path(state.output)
        options.append(f"--output={output.with_name(output.name.replace(state.job, '%j'))}")
    script = run_dir / "slurm" / SCRIPT_FILE
    state.next_job = commands.patiently(lambda: commands.sbatch(script, *options), CHAIN_WITHIN_S)
    state.state = "chained"
    state.message = f"job {state.next_job} goes on when this one has ended"
    write_state(run_dir, state)
