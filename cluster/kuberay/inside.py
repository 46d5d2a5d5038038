"""What the pods of a run are told of it, and how the driver reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from raytune_hpo.cluster.base import Room

RAYJOB_ENV = "RAYTUNE_HPO_RAYJOB"
NAMESPACE_ENV = "RAYTUNE_HPO_NAMESPACE"
POD_ENV = "RAYTUNE_HPO_POD"
ROOM_ENV = "RAYTUNE_HPO_ROOM"
CLUSTER_ENV = "RAY_CLUSTER_NAME"
"""Set by KubeRay: each attempt of a RayJob has a Ray cluster of its own, with a name of its own."""


@dataclass(frozen=True)
class Inside:
    """Where on Kubernetes this process is.

    Attributes:
        rayjob: Name of the RayJob.
        namespace: Of all its objects.
        cluster: Name of the RayCluster, another one for each attempt of the RayJob.
        pod: Name of this pod.
        room: The machines that may come.
    """

    rayjob: str
    namespace: str
    cluster: str
    pod: str
    room: Room


def current(environ: Mapping[str, str]) -> Inside | None:
    """Return where this process is, or None when it is in no head that was made for a run."""
    rayjob = environ.get(RAYJOB_ENV)
    if rayjob is None or ROOM_ENV not in environ:
        return None
    return Inside(
        rayjob,
        environ.get(NAMESPACE_ENV, ""),
        environ.get(CLUSTER_ENV, ""),
        environ.get(POD_ENV, ""),
        read_room(environ[ROOM_ENV]),
    )


def write_room(room: Room) -> str:
    """Return the machines that may come as the value of an environment variable."""
    return json.dumps({"machine": dict(room.machine), "machines": room.machines})


def read_room(text: str) -> Room:
    """Return what ``write_room`` has written."""
    found = json.loads(text)
    return Room({name: float(a) for name, a in found["machine"].items()}, int(found["machines"]))
