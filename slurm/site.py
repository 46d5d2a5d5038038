"""Settings for Slurm that hold for all experiments of a user: written once, in one file."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from raytune_hpo import site
from raytune_hpo.experiment import Experiment
from raytune_hpo.targets import SlurmTarget

_STARTER = """\
# Settings for Slurm of all your experiments; an experiment file's own targets.slurm wins.
# All fields: docs/experiment-file.md, targets.slurm

# partition: {partition}
# account: my-project
# time: 4h
# cpus: 8
# memory: 16Gi
# modules: [python/3.12]
# setup: ["source /etc/profile.d/site.sh"]
# activate: /home/me/venvs/tuning   # what trials run in; default: the environment you submit from
# interface: ib0                    # where the nodes have several networks
# sbatch: ["--mail-type=END,FAIL"]
"""


def path_of(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where the file is, or would be."""
    return site.path_of("slurm", environ)


def target_of(experiment: Experiment, file: Path | None = None) -> SlurmTarget:
    """Return an experiment's settings for Slurm, over those of the user's file.

    Args:
        experiment: Its own settings win, field by field.
        file: The user's file; default: where it usually is. It need not be there.

    Raises:
        SpecError: The file is wrong, with the places; or both together are.
    """
    file = path_of() if file is None else file
    usual = site.read(SlurmTarget, file)
    own = {} if experiment.targets.slurm is None else experiment.targets.slurm.to_json()
    # Two ways to say the same: the experiment's wins.
    for one, other in (("nodes", "workers"), ("workers", "nodes"), ("gres", "gpus")):
        if one in own:
            usual.pop(other, None)
    if "gpus" in own or "gpu_type" in own:
        usual.pop("gres", None)
    if "workers" not in own | usual:
        usual.pop("head", None)
    target: SlurmTarget = site.together(SlurmTarget, {**usual, **own}, "targets.slurm", file)
    return target


def write_starter(file: Path) -> str:
    """Write a commented file to start with, and return what the cluster's partitions are.

    Raises:
        FileExistsError: It is there already.
    """
    partitions = _partitions()
    default = next((name for name, *_ in partitions if name.endswith("*")), "main")
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("x") as target:
        target.write(_STARTER.format(partition=default.removesuffix("*")))
        for name, limit, nodes, cpus, memory, gres in partitions:
            target.write(
                f"# partition {name}: limit {limit}, {nodes} nodes of {cpus} CPUs, {memory} MB"
                f"{'' if gres == '(null)' else f', {gres}'}\n"
            )
    return ", ".join(name for name, *_ in partitions)


def _partitions() -> list[list[str]]:
    """Return name, time limit, nodes, CPUs, memory (MB) and GPUs of each partition, if any."""
    words = ["sinfo", "--noheader", "--format=%P|%l|%D|%c|%m|%G"]
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=10, check=True, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError):
        # No Slurm here: the file is of use all the same.
        return []
    return [line.split("|") for line in done.stdout.splitlines() if line.count("|") == 5]
