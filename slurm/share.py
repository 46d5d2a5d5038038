"""What Slurm gave a job on this node."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

_MIB = 2**20
RAYS_OWN = 500 * _MIB
"""Memory that Ray's daemons take on a node."""
_STORE_LEAST = 80 * _MIB
_STORE_MOST = 1024 * _MIB
_STORE_USUAL = 200 * _MIB
_DEVICES = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")


@dataclass(frozen=True)
class Share:
    """CPUs, GPUs and memory of a job on one node.

    Attributes:
        cpus: Logical CPUs.
        gpus: Devices.
        memory: Bytes, or None where Slurm does not count memory.
    """

    cpus: int
    gpus: int
    memory: int | None

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Share:
        """Return what Slurm's variables say, from within a step or a batch script."""
        cpus = int(environ.get("SLURM_CPUS_ON_NODE", 0)) or len(os.sched_getaffinity(0))
        per_node, per_cpu = environ.get("SLURM_MEM_PER_NODE"), environ.get("SLURM_MEM_PER_CPU")
        memory = None
        if per_node and int(per_node):
            memory = int(per_node) * _MIB
        elif per_cpu and int(per_cpu):
            memory = int(per_cpu) * cpus * _MIB
        return cls(cpus, _gpus(environ), memory)

    @property
    def object_store(self) -> int:
        """Bytes for Ray's object store, which Tune needs little of and which counts as memory."""
        if self.memory is None:
            return _STORE_USUAL
        return max(_STORE_LEAST, min(_STORE_MOST, self.memory // 10))

    @property
    def for_trials(self) -> int | None:
        """Bytes that trials can ask for, or None where Slurm does not count memory."""
        if self.memory is None:
            return None
        return max(self.memory - self.object_store - RAYS_OWN, self.memory // 4)


def _gpus(environ: Mapping[str, str]) -> int:
    """Return the number of devices; Ray refuses more than can be seen."""
    given = environ.get("SLURM_GPUS_ON_NODE")
    seen = next((environ[name] for name in _DEVICES if environ.get(name)), None)
    visible = None if seen is None else len([word for word in seen.split(",") if word])
    if given is None:
        return visible or 0
    return int(given) if visible is None else min(int(given), visible)
