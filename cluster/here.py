"""Which Ray the driver of a run uses, by where it was started."""

from __future__ import annotations

import os
import shutil
import sys

from raytune_hpo.cluster.base import Connection
from raytune_hpo.cluster.kuberay import inside as kubernetes
from raytune_hpo.cluster.kuberay.connection import KubeRay
from raytune_hpo.cluster.local import LocalRay
from raytune_hpo.experiment import Experiment


def connection(experiment: Experiment) -> Connection:
    """Return the way to Ray from here.

    In order: a Ray that this process is connected to or that RAY_ADDRESS names, which may be that
    of a RayJob made for the run; the nodes of the Slurm job that this process is part of; this
    machine.

    Raises:
        InfrastructureError: This process is at a place of a Slurm job where no driver can be.
    """
    if os.environ.get("RAY_ADDRESS") or _connected() or not _in_slurm_job():
        inside = None if _connected() else kubernetes.current(os.environ)
        return LocalRay() if inside is None else KubeRay(inside)
    from raytune_hpo.slurm import allocation

    return allocation.connection(experiment, os.environ)


def _in_slurm_job() -> bool:
    """Return whether this process belongs to a Slurm job and can start steps of it."""
    names = {"SLURM_JOB_ID", "SLURM_JOB_NODELIST"}
    return names <= os.environ.keys() and shutil.which("srun") is not None


def _connected() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())
