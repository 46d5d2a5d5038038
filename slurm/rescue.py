"""When the node with the head, and with the batch script, is lost: what the others do.

Slurm leaves a job with ``--no-kill`` running on the other nodes, where nothing can go on without
the head, until its time is over. So once Slurm has given the head's node up, the first of the
others puts the job back into the queue, or a new one in its place.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from raytune_hpo.errors import InfrastructureError
from raytune_hpo.slurm import commands, state

LOOK_S = 15.0
GIVE_UP_S = 1800.0
"""Slurm gives a node up after SlurmdTimeout, which is 300 s unless the site says otherwise."""


def rescue(
    job: str, head: str, here: str, run_dir: Path | None, wanted_s: float = GIVE_UP_S
) -> None:
    """Wait until Slurm has given the head's node up, then have the job go on without it.

    Args:
        job: Number of the job.
        head: Slurm's name of the head's node.
        here: Slurm's name of this node.
        run_dir: Of the run that the job's supervisor carries on, or None: there is no supervisor,
            so the job is cancelled.
        wanted_s: So long Slurm is asked.
    """
    deadline = time.monotonic() + wanted_s
    while time.monotonic() < deadline:
        left = _nodes(job)
        if left is not None and head not in left:
            if left and left[0] == here:
                _replace(job, head, run_dir)
            return
        time.sleep(LOOK_S)
    _say(f"the head on {head} does not answer, and Slurm has not given it up")


def _nodes(job: str) -> list[str] | None:
    """Return the nodes that the job still has, or None when Slurm does not say."""
    try:
        found = commands.detail(job)
        if found is None or found.state != "RUNNING":
            return []
        return commands.hostnames(found.nodes)
    except InfrastructureError as error:
        _say(str(error))
        return None


def _replace(job: str, head: str, run_dir: Path | None) -> None:
    why = f"node {head}, with the head of the run, was lost"
    if run_dir is None:
        _say(f"{why}: the job is cancelled")
        commands.scancel(job)
        return
    known = state.read_state(run_dir)
    if known is None or known.job != job:
        return
    known.state, known.message = "requeued", why
    state.write_state(run_dir, known)
    try:
        commands.patiently(lambda: commands.requeue(job), GIVE_UP_S)
    except InfrastructureError as error:
        _say(f"{why}, and the job may not be requeued ({error}); a new one takes over")
        state.chain(run_dir, known)
        commands.scancel(job)


def _say(text: str) -> None:
    print(f"raytune-hpo: {text}", file=sys.stderr, flush=True)
