"""Which run is meant: the RayJob that carries it."""

from __future__ import annotations

from dataclasses import dataclass

from raytune_hpo.cluster.kuberay.api import Api
from raytune_hpo.cluster.kuberay.kinds import RAYJOB


@dataclass(frozen=True)
class Handle:
    """A RayJob.

    Attributes:
        namespace: Its namespace.
        name: Its name.
        uid: Of this very RayJob; another of the same name has another one.
    """

    namespace: str
    name: str
    uid: str


def find(api: Api, name: str) -> Handle | None:
    """Return the RayJob of a name in the namespace, or None when there is none.

    Raises:
        KubernetesError: The API server does not say it.
    """
    job = api.get(RAYJOB, name)
    return None if job is None else Handle(api.namespace, name, job["metadata"]["uid"])
