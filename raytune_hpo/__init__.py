"""Hyperparameter and performance tuning: one experiment file for a laptop, Slurm and Kubernetes.

Names are loaded on first use, so that importing the package is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raytune_hpo.api import load, run
    from raytune_hpo.experiment import Experiment
    from raytune_hpo.reporting import (
        TrialStopped,
        checkpoint_wanted,
        get_checkpoint,
        report,
        trial_number,
    )
    from raytune_hpo.results import RunResult
    from raytune_hpo.space import (
        Choice,
        Constant,
        Float,
        Int,
        LogNormal,
        Normal,
        Ordinal,
        SearchSpace,
    )

__all__ = [
    "Choice",
    "Constant",
    "Experiment",
    "Float",
    "Int",
    "LogNormal",
    "Normal",
    "Ordinal",
    "RunResult",
    "SearchSpace",
    "TrialStopped",
    "checkpoint_wanted",
    "get_checkpoint",
    "load",
    "report",
    "run",
    "trial_number",
]

_HOME = {
    "Choice": "space",
    "Constant": "space",
    "Experiment": "experiment",
    "Float": "space",
    "Int": "space",
    "LogNormal": "space",
    "Normal": "space",
    "Ordinal": "space",
    "RunResult": "results",
    "SearchSpace": "space",
    "TrialStopped": "reporting",
    "checkpoint_wanted": "reporting",
    "get_checkpoint": "reporting",
    "load": "api",
    "report": "reporting",
    "run": "api",
    "trial_number": "reporting",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata

        return metadata.version("raytune-hpo")
    if name not in _HOME:
        raise AttributeError(f"module 'raytune_hpo' has no attribute '{name}'")
    return getattr(importlib.import_module(f"raytune_hpo.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
