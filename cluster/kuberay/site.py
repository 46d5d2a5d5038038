"""Settings for KubeRay that hold for all experiments of a user: written once, in one file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from raytune_hpo import site
from raytune_hpo.cluster.kuberay.patching import merge
from raytune_hpo.experiment import Experiment
from raytune_hpo.kuberay_target import KubeRayTarget

_STARTER = """\
# Settings for KubeRay of all your experiments; an experiment file's own targets.kuberay wins.
# All fields: docs/experiment-file.md, targets.kuberay

# namespace: my-team
# image: registry.example.com/my-team/tuning:1.0   # with raytune-hpo and all that trials need
# image_pull_secrets: [registry]
# service_account: tuning
# pvc: {claim: runs}                               # or in an experiment: storage: s3://...
# max_workers: 20
# head: {cpus: 1, memory: 4Gi}
# worker: {gpu_resource: nvidia.com/gpu}
# env: {MLFLOW_TRACKING_URI: "https://mlflow.example.com"}
# env_from: [{secret: object-store}]
"""


def path_of(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where the file is, or would be."""
    return site.path_of("kuberay", environ)


def target_of(experiment: Experiment, file: Path | None = None) -> KubeRayTarget:
    """Return an experiment's settings for KubeRay, over those of the user's file.

    Args:
        experiment: Its own settings win, field by field, also within mappings.
        file: The user's file; default: where it usually is. It need not be there.

    Raises:
        SpecError: The file is wrong, with the places; or both together are.
    """
    file = path_of() if file is None else file
    usual = site.read(KubeRayTarget, file)
    own = {} if experiment.targets.kuberay is None else experiment.targets.kuberay.to_json()
    if own.get("autoscaling") is False:
        for name in {"idle", "min_workers"} - own.keys():
            usual.pop(name, None)
    made: KubeRayTarget = site.together(KubeRayTarget, merge(usual, own), "targets.kuberay", file)
    return made


def write_starter(file: Path) -> None:
    """Write a commented file to start with.

    Raises:
        FileExistsError: It is there already.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("x") as target:
        target.write(_STARTER)
