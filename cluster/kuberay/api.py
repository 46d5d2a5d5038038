"""The Kubernetes API server: objects as dicts, watches, logs, rights and forwarded ports.

This module and ``forward`` are the only ones that know the official client; it is imported on first
use.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from raytune_hpo.cluster.kuberay import kinds
from raytune_hpo.cluster.kuberay.kinds import Kind
from raytune_hpo.cluster.kuberay.refused import KubernetesError
from raytune_hpo.cluster.kuberay.watch import Change, Watch
from raytune_hpo.cluster.kuberay.wire import (
    ANSWER_TIMEOUT_S,
    APPLY,
    FIELD_MANAGER,
    MERGE,
    METADATA,
    Object,
    Request,
    Wire,
)
from raytune_hpo.errors import InfrastructureError

LOG_SILENCE_S = 60.0
"""A log that is followed and says nothing so long is asked for anew: the connection may be dead."""
_PAGE = 500
_IN_CLUSTER = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_REVIEW = "authorization.k8s.io/v1"


@dataclass(frozen=True)
class Right:
    """Something that one may be allowed to do.

    Attributes:
        verb: Such as ``create``.
        kind: Kind of the objects.
        part: Part of an object, such as ``log``; empty for the whole.
    """

    verb: str
    kind: Kind
    part: str = ""

    @property
    def resource(self) -> str:
        """As a Role names it, such as ``pods/log``."""
        return f"{self.kind.plural}/{self.part}" if self.part else self.kind.plural


def connect(
    *, kubeconfig: Path | None = None, context: str | None = None, namespace: str | None = None
) -> Api:
    """Return the API server that this process is to talk to; nothing is sent yet.

    In order: the file that is given, the files that KUBECONFIG names or ``~/.kube/config``, the
    service account of the pod that this process runs in.

    Args:
        kubeconfig: File with addresses and credentials.
        context: Its entry to use; default: its current one.
        namespace: Default: the context's or the pod's own, else ``default``.

    Raises:
        InfrastructureError: The official client is not installed.
        KubernetesError: There is no such file or context, or it cannot be used.
    """
    client, config = _official()
    configuration = client.Configuration()
    files = str(kubeconfig) if kubeconfig is not None else _usual_files()
    if files is None and context is None and (_IN_CLUSTER / "token").exists():
        config.load_incluster_config(client_configuration=configuration)
        home = (_IN_CLUSTER / "namespace").read_text().strip()
        return Api(configuration, namespace or home, "the cluster of this pod")
    if files is None:
        raise KubernetesError(
            "there is no kubeconfig: set KUBECONFIG, or get ~/.kube/config from your cluster's "
            "administrators or its cloud command (kubectl config view shows what is used)"
        )
    found = _load(config, configuration, files, context)
    home = found["context"].get("namespace") or "default"
    return Api(configuration, namespace or home, f"context {found['name']}")


def _official() -> tuple[Any, Any]:
    try:
        from kubernetes import client, config
    except ImportError as error:
        raise InfrastructureError(
            "talking to Kubernetes needs its official client: pip install 'raytune-hpo[kubernetes]'"
        ) from error
    return client, config


def _usual_files() -> str | None:
    named = os.environ.get("KUBECONFIG")
    if named:
        return named
    usual = Path.home() / ".kube" / "config"
    return str(usual) if usual.exists() else None


def _load(config: Any, configuration: Any, files: str, context: str | None) -> Any:
    """Read kubeconfig files, and return the context that is used.

    Raises:
        KubernetesError: They cannot be read, have no such context, or its login command failed.
    """
    try:
        known, current = config.list_kube_config_contexts(config_file=files)
        named = {entry["name"]: entry for entry in known}
        if context is not None and context not in named:
            raise KubernetesError(
                f"{files}: there is no context {context}; there are: {', '.join(named)}"
            )
        with _complaints() as complaints:
            config.load_kube_config(
                config_file=files, context=context, client_configuration=configuration
            )
    except (config.ConfigException, OSError) as error:
        raise KubernetesError(f"{files}: {error}; look at: kubectl config view") from error
    if complaints and not configuration.auth_settings() and not configuration.cert_file:
        raise KubernetesError(
            f"{files}: logging in failed: {'; '.join(complaints)}. Run the command that stands "
            "there under users by hand, or log in again"
        )
    return current if context is None else named[context]


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """Give what the official client logs as errors while in the context: it raises none of them."""
    handler = _Complaints(logging.ERROR)
    logging.getLogger().addHandler(handler)
    try:
        yield handler.texts
    finally:
        logging.getLogger().removeHandler(handler)


class _Complaints(logging.Handler):
    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message."""
        self.texts.append(record.getMessage())


class Api:
    """An API server and a namespace in it.

    Attributes:
        namespace: Where objects are that do not say it themselves.
        where: What to call the server in messages.
    """

    def __init__(self, configuration: Any, namespace: str, where: str) -> None:
        client, _ = _official()
        self.namespace = namespace
        self.where = f"{where} ({configuration.host})"
        self._configuration = configuration
        pool = client.ApiClient(configuration).rest_client.pool_manager
        self._wire = Wire(configuration, pool, self.where)
        self._discovered: dict[tuple[str, str], Kind] = {}

    def get(self, kind: Kind, name: str) -> Object | None:
        """Return an object, or None when there is none of that name."""
        path = kind.path(self.namespace, name)
        return self._there(Request(path, f"get {self._named(kind, name)}"))

    def metadata(self, kind: Kind, name: str) -> Object | None:
        """Return an object without what is in it, such as a secret; None when there is none."""
        path, what = kind.path(self.namespace, name), f"look for {self._named(kind, name)}"
        return self._there(Request(path, what, accept=METADATA))

    def read(self, path: str) -> Object:
        """Return what the API server says at an address, such as ``/version``."""
        return self._wire.json(Request(path, f"read {path}"))

    def all(
        self, kind: Kind, *, labels: str = "", fields: str = "", everywhere: bool = False
    ) -> list[Object]:
        """Return all objects of a kind.

        Args:
            kind: The kind.
            labels: Label selector.
            fields: Field selector.
            everywhere: In all namespaces.
        """
        scope = Kind(kind.version, kind.name, kind.plural, False) if everywhere else kind
        return self._listed(scope, {"labelSelector": labels, "fieldSelector": fields})[0]

    def create(self, new: Object, *, dry_run: bool = False) -> Object:
        """Create an object and return it as the server has it.

        Args:
            new: The object.
            dry_run: Have it checked by the server, and not kept.
        """
        kind, home = self.kind_of(new), self._home(new)
        named = self._named(kind, new["metadata"]["name"], home)
        what = f"{'check' if dry_run else 'create'} {named}"
        query = _writing(dry_run)
        return self._wire.json(Request(kind.path(home), what, "POST", query, new))

    def apply(self, wanted: Object, *, dry_run: bool = False, force: bool = False) -> Object:
        """Create an object, or make what is ours in it as wanted; return it as the server has it.

        Args:
            wanted: What is ours in the object; what was ours before and is left out is removed.
            dry_run: Have it checked by the server, and not kept.
            force: Take over what others have set.
        """
        kind, home, name = self.kind_of(wanted), self._home(wanted), wanted["metadata"]["name"]
        what = f"{'check' if dry_run else 'apply'} {self._named(kind, name, home)}"
        query = {**_writing(dry_run), "force": str(force).lower()}
        return self._wire.json(
            Request(kind.path(home, name), what, "PATCH", query, wanted, sort=APPLY)
        )

    def patch(self, kind: Kind, name: str, change: Object, *, dry_run: bool = False) -> Object:
        """Merge a change into an object and return it; a value of None removes what is there."""
        path, what = kind.path(self.namespace, name), f"change {self._named(kind, name)}"
        return self._wire.json(Request(path, what, "PATCH", _writing(dry_run), change, sort=MERGE))

    def delete(
        self,
        kind: Kind,
        name: str,
        *,
        uid: str | None = None,
        propagation: Literal["Foreground", "Background", "Orphan"] = "Foreground",
    ) -> bool:
        """Delete an object; return whether it was there.

        Args:
            kind: Its kind.
            name: Its name.
            uid: Only the object with this one, and not another that took its name.
            propagation: With ``Foreground`` it stays until all that belongs to it is gone.
        """
        body: Object = {"kind": "DeleteOptions", "apiVersion": "v1"}
        body["propagationPolicy"] = propagation
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        path, what = kind.path(self.namespace, name), f"delete {self._named(kind, name)}"
        try:
            self._wire.json(Request(path, what, "DELETE", body=body))
        except KubernetesError as error:
            # With a condition on the uid, a conflict: another object has its name.
            if error.status == 404 or (uid is not None and error.status == 409):
                return False
            raise
        return True

    def allowed(self, right: Right) -> bool:
        """Return whether one may do something in the namespace."""
        attributes = {
            "namespace": self.namespace if right.kind.namespaced else "",
            "verb": right.verb,
            "group": right.kind.group,
            "resource": right.kind.plural,
            "subresource": right.part,
        }
        body = {
            "apiVersion": _REVIEW,
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        path = f"/apis/{_REVIEW}/selfsubjectaccessreviews"
        said = self._wire.json(Request(path, "ask for your rights", "POST", body=body))
        return bool(said.get("status", {}).get("allowed"))

    def events(self, uid: str) -> list[Object]:
        """Return what was said lately about one object, oldest first."""
        found = self.all(kinds.EVENT, fields=f"involvedObject.uid={uid}")
        return sorted(found, key=event_time)

    def kind_of(self, one: Object) -> Kind:
        """Return the kind of an object; the server is asked once for one that is not known.

        Raises:
            KubernetesError: The server does not know it either.
        """
        key = (one["apiVersion"], one["kind"])
        known = kinds.KNOWN.get(key) or self._discovered.get(key)
        return known if known is not None else self._discover(*key)

    def preferred(self, group: str, name: str) -> Kind | None:
        """Return a kind in the version that the server prefers; None when it has no such group."""
        said = self._there(Request(f"/apis/{group}", f"look for {group}"), of_group=True)
        return (
            None if said is None else self._discover(said["preferredVersion"]["groupVersion"], name)
        )

    def log_lines(
        self, pod: str, container: str, *, since: str | None = None, follow: bool = False
    ) -> Iterator[bytes]:
        """Yield the lines of a container's log, each with its time and a blank before it.

        Args:
            pod: Name of the pod.
            container: Name of the container.
            since: From this second on, as ``2026-01-31T12:00:00Z``.
            follow: Go on until the container has ended.

        Raises:
            KubernetesError: There is no such container or log, or the connection broke; only whole
                lines were yielded then.
        """
        query = {"container": container, "timestamps": "true", "follow": str(follow).lower()}
        request = Request(
            kinds.POD.path(self.namespace, pod, "log"),
            f"read the log of pod {pod}, container {container}",
            query={**query, "sinceTime": since or ""},
            silence_s=LOG_SILENCE_S if follow else ANSWER_TIMEOUT_S,
        )
        yield from self._wire.lines(self._wire.open(request), request.what)

    def watch(
        self,
        kind: Kind,
        *,
        fields: str = "",
        labels: str = "",
        quiet_s: float = 10.0,
        patience_s: float = 600.0,
    ) -> Iterator[Change]:
        """Yield what happens to objects, without end; what breaks is taken up again.

        Args:
            kind: Their kind.
            fields: Field selector.
            labels: Label selector.
            quiet_s: After so long without a change, ``quiet`` is yielded; whole seconds.
            patience_s: So long the server may be unreachable; ``lost`` is yielded at each try.

        Raises:
            KubernetesError: They may not be watched, or the server is gone for too long.
        """
        chosen = {"fieldSelector": fields, "labelSelector": labels}
        path = kind.path(self.namespace)
        return Watch(
            self._wire, path, chosen, lambda: self._listed(kind, chosen), quiet_s, patience_s
        ).changes()

    def forward(self, pod: str, port: int, local_port: int = 0) -> AbstractContextManager[int]:
        """Forward a port of this machine's loopback address to a pod while in the context.

        Args:
            pod: Name of the pod.
            port: Its port.
            local_port: Port here; 0 for one that is free.

        Returns:
            A context manager that gives the port here.
        """
        from raytune_hpo.cluster.kuberay.forward import forwarded

        return forwarded(self._configuration, self.namespace, pod, port, local_port)

    def _home(self, one: Object) -> str:
        return str(one["metadata"].get("namespace") or self.namespace)

    def _named(self, kind: Kind, name: str, namespace: str | None = None) -> str:
        where = f" in namespace {namespace or self.namespace}" if kind.namespaced else ""
        return f"{kind.name} {name}{where}"

    def _discover(self, version: str, name: str) -> Kind:
        path = f"/apis/{version}" if "/" in version else f"/api/{version}"
        what = f"look for the kind {name}"
        for one in self._wire.json(Request(path, what)).get("resources", ()):
            if one["kind"] == name and "/" not in one["name"]:
                found = Kind(version, name, one["name"], bool(one["namespaced"]))
                self._discovered[version, name] = found
                return found
        raise KubernetesError(f"{what}: {version} of {self.where} has no such kind", status=404)

    def _there(self, request: Request, *, of_group: bool = False) -> Object | None:
        """Return an object, or None when it is not there."""
        try:
            return self._wire.json(request)
        except KubernetesError as error:
            # That the whole kind is missing is a problem of its own.
            if error.status == 404 and (of_group or not error.of_kind):
                return None
            raise

    def _listed(self, kind: Kind, chosen: dict[str, str]) -> tuple[list[Object], str]:
        """Return all objects of a kind, and the version of the cluster that they are from."""
        path = kind.path(self.namespace)
        where = f" in namespace {self.namespace}" if kind.namespaced else ""
        query = {**chosen, "limit": str(_PAGE)}
        found: list[Object] = []
        while True:
            said = self._wire.json(Request(path, f"list {kind.plural}{where}", query=query))
            found += said.get("items") or []
            query = {**query, "continue": said["metadata"].get("continue", "")}
            if not query["continue"]:
                return found, str(said["metadata"].get("resourceVersion", ""))


def event_time(event: Object) -> str:
    """Return when an event happened last, as Kubernetes writes it."""
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    created = event.get("metadata", {}).get("creationTimestamp")
    return str(next((time for time in (*times, created) if time), ""))


def _writing(dry_run: bool) -> dict[str, str]:
    query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
    return {**query, "dryRun": "All"} if dry_run else query
