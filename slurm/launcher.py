"""Submits an experiment to Slurm from a login node."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from raytune_hpo.errors import InfrastructureError
from raytune_hpo.experiment import Experiment
from raytune_hpo.slurm import commands, script
from raytune_hpo.slurm.script import Place
from raytune_hpo.slurm.state import SCRIPT_FILE
from raytune_hpo.targets import SlurmTarget

SUBMITTED_FILE = "submitted.json"
_LOCAL = ("/tmp", "/var/tmp", "/dev/shm", "/run")
_SINFO_S = 10.0


def submit(experiment: Experiment, place: Place, target: SlurmTarget) -> str:
    """Submit an experiment and return the number of its job.

    Args:
        experiment: What is to run.
        place: Where; its run directory is made.
        target: Settings for Slurm.

    Raises:
        InfrastructureError: There is no Slurm here, or it does not take the job; says why.
    """
    if not commands.available():
        raise InfrastructureError(
            "there is no sbatch here. On a login node of the cluster this command submits; "
            "elsewhere add --dry-run, and give what it prints to sbatch there"
        )
    _check_time(target)
    folder = place.run_dir / "slurm"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SCRIPT_FILE).write_text(script.render(experiment, target, place))
    return submit_script(folder)


def submit_script(folder: Path) -> str:
    """Submit the script that lies in a run's folder for Slurm, and return the job's number.

    Raises:
        SlurmError: Slurm does not take it.
    """
    job = commands.sbatch(folder / SCRIPT_FILE, f"--output={folder / '%j.out'}")
    (folder / SUBMITTED_FILE).write_text(json.dumps({"job": job, "t": time.time()}) + "\n")
    return job


def warnings(place: Place, target: SlurmTarget) -> Iterator[str]:
    """Yield what will probably not work, in sentences."""
    paths = {"the run": place.run_dir, "the experiment file": place.file}
    if target.activate is None:
        paths["the Python environment"] = place.python
    for what, path in paths.items():
        local = next((root for root in _LOCAL if path.is_relative_to(root)), None)
        if local is not None:
            yield f"{what} lies in {local}, which each node usually has for itself: {path}"


def _check_time(target: SlurmTarget) -> None:
    """Refuse a time limit that the partition does not allow: the job would wait for ever.

    Raises:
        InfrastructureError: It is above the limit; names both.
    """
    head = target.head.time_s or target.time_s
    asked = {"time": target.time_s, "head.time": head if target.workers else None}
    partitions = {
        "time": target.partition,
        "head.time": target.head.partition or target.partition,
    }
    for name, time_s in asked.items():
        limit = None if time_s is None else _partition_limit_s(partitions[name])
        if time_s is not None and limit is not None and time_s > limit:
            where = f"partition {partitions[name]}" if partitions[name] else "the default partition"
            raise InfrastructureError(
                f"targets.slurm.{name} is {time_s:g} s, and {where} allows {limit:g} s at most. "
                "Ask for less: the job is requeued at its limit and goes on"
            )


def _partition_limit_s(partition: str | None) -> float | None:
    """Return the longest time of a job in a partition, or None when it has none or is not known."""
    words = ["sinfo", "--noheader", "--format=%P|%l"]
    words += [] if partition is None else [f"--partition={partition}"]
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            timeout=_SINFO_S,
            check=True,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        # sbatch will say what is wrong.
        return None
    for line in done.stdout.splitlines():
        name, _, limit = line.partition("|")
        if partition is not None or name.endswith("*"):
            return seconds_of(limit)
    return None


def seconds_of(limit: str) -> float | None:
    """Return a time as sinfo writes it in seconds; None for no limit.

    >>> seconds_of("1-02:03:04"), seconds_of("30:00"), seconds_of("infinite")
    (93784.0, 1800.0, None)
    """
    days, _, clock = limit.strip().rpartition("-")
    parts = clock.split(":")
    if not all(part.isdecimal() for part in parts):
        return None
    seconds = 0.0
    for part in parts:
        seconds = seconds * 60 + int(part)
    return seconds + (int(days) * 86400 if days else 0)
