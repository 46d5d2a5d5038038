"""Names and labels of the objects of a run, also those that KubeRay and Kueue give."""

from __future__ import annotations

import hashlib
import re

MOST_RAYJOB = 47
"""KubeRay appends 6 characters for the cluster, and up to 10 for its services, of 63."""
PREFIX = "raytune-hpo/"
EXPERIMENT = f"{PREFIX}experiment"
"""Label and annotation: name of the experiment."""
SUBMISSION = f"{PREFIX}submission"
"""Annotation that tells one's own RayJob from one that somebody else made at the same moment."""
MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "raytune-hpo"
MODES = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
"""Ways in which KubeRay submits a job."""
NODE_TYPE = "ray.io/node-type"
"""KubeRay's label of the pods of a cluster: ``head`` or ``worker``."""
SUBMITTER = "ray-job-submitter"
"""KubeRay's name of the container that submits the job."""
AUTOSCALER = "autoscaler"
"""And of the one with Ray's autoscaler."""
WAITER = "wait-gcs-ready"
"""And of the one in which a worker waits until its head answers."""
OPERATOR = "app.kubernetes.io/name=kuberay-operator"
"""Selects KubeRay's operator by its label."""
KUEUE = "kueue.x-k8s.io"
QUEUE = f"{KUEUE}/queue-name"
"""Kueue's label: in which queue a run waits."""
ELASTIC = f"{KUEUE}/elastic-job"
"""Kueue's annotation: the number of workers changes."""
SECURITY_LEVEL = "pod-security.kubernetes.io/enforce"
"""Label of a namespace: what its pods may do."""
RAYJOB_NAME = re.compile(rf"[a-z]([-a-z0-9]{{0,{MOST_RAYJOB - 2}}}[a-z0-9])?")
_HASH = 8


def rayjob(experiment: str) -> str:
    """Return the name of an experiment's RayJob: the same name where Kubernetes takes it.

    A name that had to be changed ends in a hash of the original, so that no two get the same.

    >>> rayjob("digits"), rayjob("my_digits"), rayjob("7" * 50)
    ('digits', 'my-digits-661e953e', 'run-7777777777777777777777777777777777-1e5cbf97')
    """
    if RAYJOB_NAME.fullmatch(experiment):
        return experiment
    plain = re.sub(r"[^a-z0-9]+", "-", experiment).strip("-")
    plain = plain if plain[:1].isalpha() else f"run-{plain}"
    code = hashlib.sha256(experiment.encode()).hexdigest()[:_HASH]
    return f"{plain[: MOST_RAYJOB - _HASH - 1].rstrip('-')}-{code}"


def label(experiment: str) -> str:
    """Return the value of the label that says which experiment an object belongs to.

    >>> label("digits_2"), label("-")
    ('digits_2', 'x')
    """
    return experiment.strip("-_.") or "x"
