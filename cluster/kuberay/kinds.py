"""The kinds of objects that are used here, as the API server calls them."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote


@dataclass(frozen=True)
class Kind:
    """A kind of object.

    Attributes:
        version: Group and version, such as ``ray.io/v1``; ``v1`` for the core group.
        name: As in an object's ``kind``.
        plural: As in addresses and in Roles.
        namespaced: Whether its objects belong to a namespace.

    >>> RAYJOB.path("team-a", "digits"), RAYJOB.group
    ('/apis/ray.io/v1/namespaces/team-a/rayjobs/digits', 'ray.io')
    >>> POD.path("team-a", "head", "log"), NAMESPACE.path("ignored", "team-a")
    ('/api/v1/namespaces/team-a/pods/head/log', '/api/v1/namespaces/team-a')
    """

    version: str
    name: str
    plural: str
    namespaced: bool = True

    @property
    def group(self) -> str:
        """Its API group; empty for the core group."""
        return self.version.rpartition("/")[0]

    def path(self, namespace: str, name: str = "", part: str = "") -> str:
        """Return the address of all objects of it, of one, or of a part of one such as its log."""
        root = "/apis" if self.group else "/api"
        words = [root, self.version]
        words += ["namespaces", quote(namespace, safe="")] if self.namespaced else []
        words += [self.plural, *([quote(name, safe="")] if name else []), *([part] if part else [])]
        return "/".join(words)


CONFIG_MAP = Kind("v1", "ConfigMap", "configmaps")
CRD = Kind(
    "apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions", False
)
DEPLOYMENT = Kind("apps/v1", "Deployment", "deployments")
EVENT = Kind("v1", "Event", "events")
LIMIT_RANGE = Kind("v1", "LimitRange", "limitranges")
NAMESPACE = Kind("v1", "Namespace", "namespaces", False)
POD = Kind("v1", "Pod", "pods")
PRIORITY_CLASS = Kind("scheduling.k8s.io/v1", "PriorityClass", "priorityclasses", False)
QUOTA = Kind("v1", "ResourceQuota", "resourcequotas")
RAYCLUSTER = Kind("ray.io/v1", "RayCluster", "rayclusters")
RAYJOB = Kind("ray.io/v1", "RayJob", "rayjobs")
SECRET = Kind("v1", "Secret", "secrets")
SERVICE_ACCOUNT = Kind("v1", "ServiceAccount", "serviceaccounts")
VOLUME_CLAIM = Kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims")

KNOWN = {
    (kind.version, kind.name): kind
    for kind in (
        CONFIG_MAP,
        CRD,
        DEPLOYMENT,
        EVENT,
        LIMIT_RANGE,
        NAMESPACE,
        POD,
        PRIORITY_CLASS,
        QUOTA,
        RAYCLUSTER,
        RAYJOB,
        SECRET,
        SERVICE_ACCOUNT,
        VOLUME_CLAIM,
    )
}
