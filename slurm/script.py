"""The batch scripts of an experiment: pure functions from settings to text."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raytune_hpo.experiment import Experiment
from raytune_hpo.targets import SlurmTarget

TRIALS_A_NODE = 4
"""Trials at once on a node when nothing else is said."""
_MIB = 2**20


@dataclass(frozen=True)
class Place:
    """Where an experiment lies and runs; all paths are those on the cluster's shared file system.

    Attributes:
        file: The experiment file.
        run_dir: Directory of the run.
        python: Interpreter of the environment that trials run in.
        folder: That relative paths of the experiment start from.
        arguments: Of ``raytune-hpo`` for the driver.
    """

    file: Path
    run_dir: Path
    python: Path
    folder: Path
    arguments: Sequence[str]


def render(experiment: Experiment, target: SlurmTarget, place: Place) -> str:
    """Return the script of the job that carries a run.

    Args:
        experiment: What is to run.
        target: Settings for Slurm.
        place: Where.
    """
    elastic = target.workers is not None
    nodes = _head_nodes() if elastic else _nodes(experiment, target)
    options: list[tuple[str, Any]] = [
        ("job-name", experiment.name),
        *_where(target, elastic),
        *nodes,
        *(_head_size(target) if elastic else _size(experiment, target)),
        ("time", _slurm_time(target.head.time_s or target.time_s if elastic else target.time_s)),
        ("requeue" if target.requeue else "no-requeue", True),
        ("no-kill", True),
        ("open-mode", "append"),
        ("signal", f"B:USR1@{math.ceil(target.margin_s)}"),
        ("chdir", place.folder),
        ("output", place.folder / "slurm-%j.out"),
    ]
    words = [str(_python(target, place)), "-m", "raytune_hpo.slurm.job"]
    words += ["--run-dir", str(place.run_dir), "--max-restarts", str(target.max_restarts)]
    words += [] if target.requeue else ["--no-requeue"]
    words += ["--elastic"] if elastic else []
    driver = shlex.join(["--", *place.arguments])
    last = f'exec {shlex.join(words)} --script "$0" {driver}'
    return _script(options, target, place, last)


def render_worker(
    experiment: Experiment, target: SlurmTarget, place: Place, cluster_file: Path
) -> str:
    """Return the script of the worker jobs of an elastic run.

    Args:
        experiment: What is to run.
        target: Settings for Slurm.
        place: Where.
        cluster_file: Says where the head is; written by it.
    """
    options: list[tuple[str, Any]] = [
        ("job-name", f"{experiment.name}-worker"),
        *_where(target, head=False),
        ("nodes", 1),
        ("ntasks-per-node", 1),
        *_size(experiment, target),
        ("time", _slurm_time(target.time_s)),
        ("no-requeue", True),
        ("signal", f"B:USR1@{math.ceil(target.margin_s)}"),
        ("chdir", place.run_dir),
        ("output", place.run_dir / "slurm" / "worker-%A_%a.out"),
    ]
    words = [str(_python(target, place)), "-m", "raytune_hpo.slurm.node"]
    words += ["--cluster", str(cluster_file), "--margin-s", f"{target.margin_s:g}"]
    return _script(options, target, place, f"exec {shlex.join(words)}")


def worker_resources(experiment: Experiment, target: SlurmTarget) -> dict[str, float]:
    """Return what the node of a worker job has for trials, by Ray's names."""
    found = {"CPU": float(_cpus(experiment, target)), "GPU": float(_gpus(experiment, target))}
    asked = experiment.resources
    if target.gres is not None:
        found["GPU"] = max(found["GPU"], float(asked.gpu) * _trials_a_node(experiment, target))
    if asked.memory:
        room = target.memory or asked.memory * _trials_a_node(experiment, target)
        found["memory"] = float(room)
    return found | {n: float(a) * TRIALS_A_NODE for n, a in asked.custom.items()}


def _script(
    options: Sequence[tuple[str, Any]], target: SlurmTarget, place: Place, last: str
) -> str:
    lines = ["#!/bin/bash"]
    lines += [_directive(name, value) for name, value in options if value is not None]
    lines += [f"#SBATCH {option}" for option in target.sbatch]
    before = [f"module load {shlex.quote(name)}" for name in target.modules] + list(target.setup)
    # So that `python` in a trial's command is the same one.
    before.append(f'export PATH={shlex.quote(str(_python(target, place).parent))}:"$PATH"')
    return "\n".join([*lines, "", *before, "", last]) + "\n"


def _directive(name: str, value: Any) -> str:
    """Return a line for sbatch, which takes quotes as a shell does."""
    if value is True:
        return f"#SBATCH --{name}"
    return f"#SBATCH --{name}={_quoted(str(value))}"


def _quoted(text: str) -> str:
    """Return a value for a line that sbatch reads: in double quotes where it has to be."""
    if not any(sign in text for sign in " \t'\"\\#"):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _where(target: SlurmTarget, head: bool) -> list[tuple[str, Any]]:
    names = ("partition", "account", "qos", "constraint", "reservation")
    own: Mapping[str, Any] = {name: getattr(target, name) for name in names}
    instead = {name: getattr(target.head, name) for name in names} if head else {}
    return [(name, instead.get(name) or own[name]) for name in names]


def _head_nodes() -> list[tuple[str, Any]]:
    return [("nodes", 1), ("ntasks-per-node", 1)]


def _nodes(experiment: Experiment, target: SlurmTarget) -> list[tuple[str, Any]]:
    wanted = target.nodes or 1
    least = target.min_nodes or wanted
    text = str(wanted) if least == wanted else f"{least}-{wanted}"
    return [("nodes", text), ("ntasks-per-node", 1)]


def _size(experiment: Experiment, target: SlurmTarget) -> list[tuple[str, Any]]:
    gpus = _gpus(experiment, target)
    kind = f"{target.gpu_type}:" if target.gpu_type else ""
    return [
        ("cpus-per-task", _cpus(experiment, target)),
        ("gpus-per-node", f"{kind}{gpus}" if gpus and target.gres is None else None),
        ("gres", target.gres),
        ("mem", _megabytes(target.memory)),
    ]


def _head_size(target: SlurmTarget) -> list[tuple[str, Any]]:
    return [("cpus-per-task", target.head.cpus), ("mem", _megabytes(target.head.memory))]


def _trials_a_node(experiment: Experiment, target: SlurmTarget) -> int:
    """Return how many trials are to run on each node at once."""
    machines = target.workers or target.nodes or 1
    if experiment.parallel is None:
        return TRIALS_A_NODE
    return math.ceil(experiment.parallel / machines)


def _cpus(experiment: Experiment, target: SlurmTarget) -> int:
    if target.cpus is not None:
        return target.cpus
    return max(1, math.ceil(experiment.resources.cpu * _trials_a_node(experiment, target)))


def _gpus(experiment: Experiment, target: SlurmTarget) -> int:
    if target.gpus is not None:
        return target.gpus
    if not experiment.resources.gpu or target.gres is not None:
        return 0
    at_once = _trials_a_node(experiment, target)
    if target.cpus is not None and experiment.resources.cpu > 0:
        at_once = min(at_once, max(1, int(target.cpus / experiment.resources.cpu)))
    return math.ceil(experiment.resources.gpu * at_once)


def _megabytes(size: int | None) -> str | None:
    return None if size is None else f"{math.ceil(size / _MIB)}M"


def _slurm_time(time_s: float | None) -> str | None:
    """Return a duration as sbatch takes it, in whole minutes upwards.

    >>> _slurm_time(5430.0), _slurm_time(129600.0)
    ('01:31:00', '1-12:00:00')
    """
    if time_s is None:
        return None
    days, minutes = divmod(math.ceil(time_s / 60), 1440)
    text = f"{minutes // 60:02d}:{minutes % 60:02d}:00"
    return f"{days}-{text}" if days else text


def _python(target: SlurmTarget, place: Place) -> Path:
    return place.python if target.activate is None else Path(target.activate) / "bin" / "python"
