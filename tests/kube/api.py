"""A small client of an API server, for tests: plain HTTP, plain dictionaries."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import yaml

Json = dict[str, Any]
MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"
_OTHER_GROUPS = {
    "clusterrolebindings": "rbac.authorization.k8s.io/v1",
    "clusterroles": "rbac.authorization.k8s.io/v1",
    "customresourcedefinitions": "apiextensions.k8s.io/v1",
    "deployments": "apps/v1",
    "endpointslices": "discovery.k8s.io/v1",
    "jobs": "batch/v1",
    "leases": "coordination.k8s.io/v1",
    "networkpolicies": "networking.k8s.io/v1",
    "priorityclasses": "scheduling.k8s.io/v1",
    "rayclusters": "ray.io/v1",
    "rayjobs": "ray.io/v1",
    "rayservices": "ray.io/v1",
    "rolebindings": "rbac.authorization.k8s.io/v1",
    "roles": "rbac.authorization.k8s.io/v1",
    "selfsubjectaccessreviews": "authorization.k8s.io/v1",
    "storageclasses": "storage.k8s.io/v1",
}


class ApiError(Exception):
    """The API server refused.

    Attributes:
        code: Of HTTP.
        reason: A word such as Forbidden.
    """

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(f"{code} {reason}: {message}")
        self.code = code
        self.reason = reason


@dataclass(frozen=True)
class Access:
    """How to reach an API server, and as whom.

    Attributes:
        server: Its URL.
        context: With its certificate authority, and the client's certificate if that is the proof.
        headers: The proof otherwise.
        namespace: Of what is asked without one.
    """

    server: str
    context: ssl.SSLContext
    headers: Mapping[str, str] = field(default_factory=dict)
    namespace: str = "default"


class Api:
    """Asks an API server."""

    def __init__(self, access: Access) -> None:
        self.access = access

    def like(self, user: str, *groups: str) -> Api:
        """Return the same for another user, which an administrator may be."""
        headers = {**self.access.headers, "Impersonate-User": user}
        if groups:
            headers["Impersonate-Group"] = "\n".join(("system:authenticated", *groups))
        return Api(replace(self.access, headers=headers))

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        kind: str = "application/json",
        query: Mapping[str, str] | None = None,
        timeout_s: float = 30.0,
    ) -> bytes:
        """Ask anything and return the answer as it came.

        Raises:
            ApiError: The answer is an error.
            OSError: The server cannot be reached.
        """
        url = urlsplit(self.access.server)
        connection = http.client.HTTPSConnection(
            url.netloc, context=self.access.context, timeout=timeout_s
        )
        try:
            target = f"{url.path.rstrip('/')}{path}" + (f"?{urlencode(query)}" if query else "")
            connection.putrequest(method, target)
            content = b"" if body is None else json.dumps(body).encode()
            for name, value in self.access.headers.items():
                for line in value.split("\n"):
                    connection.putheader(name, line)
            connection.putheader("Accept", "application/json, */*")
            connection.putheader("Content-Type", kind)
            connection.putheader("Content-Length", str(len(content)))
            connection.endheaders(content)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if answer.status >= 400:
            raise error_of(answer.status, text)
        return text

    def get(self, resource: str, name: str, namespace: str | None = None) -> Json:
        """Return an object.

        Args:
            resource: Such as pods.
            name: Of the object.
            namespace: Of the object; the default one when None and the resource has namespaces.

        Raises:
            ApiError: There is none, or another error.
        """
        return self._json("GET", f"{self._path(resource, namespace)}/{name}")

    def find(self, resource: str, name: str, namespace: str | None = None) -> Json | None:
        """Return an object, or None when there is none."""
        try:
            return self.get(resource, name, namespace)
        except ApiError as error:
            if error.code != 404:
                raise
            return None

    def list(self, resource: str, namespace: str | None = "", labels: str = "") -> list[Json]:
        """Return the objects of a namespace ("" for all of them) that have such labels."""
        query = {"labelSelector": labels} if labels else None
        found = json.loads(self.ask("GET", self._path(resource, namespace), query=query))
        return list(found["items"])

    def create(
        self, thing: Mapping[str, Any], namespace: str | None = None, *, dry_run: bool = False
    ) -> Json:
        """Create an object, or only have the server look at it, and return it as it is then."""
        namespace = thing["metadata"].get("namespace", namespace)
        path = self._path(resource_of(thing), namespace, thing["apiVersion"])
        query = {"fieldValidation": "Strict"} | ({"dryRun": "All"} if dry_run else {})
        return self._json("POST", path, thing, query=query)

    def patch(
        self, resource: str, name: str, change: object, namespace: str | None = None, part: str = ""
    ) -> Json:
        """Merge a change into an object, or into a part of it such as /status."""
        path = f"{self._path(resource, namespace)}/{name}{part}"
        return self._json("PATCH", path, change, kind=MERGE)

    def apply(
        self, thing: Mapping[str, Any], namespace: str | None = None, *, dry_run: bool = False
    ) -> Json:
        """Create an object or change it to this (server-side apply, by force), or only ask."""
        namespace = thing["metadata"].get("namespace", namespace)
        path = self._path(resource_of(thing), namespace, thing["apiVersion"])
        query = {"fieldManager": "tests", "force": "true", "fieldValidation": "Strict"}
        query |= {"dryRun": "All"} if dry_run else {}
        full = f"{path}/{thing['metadata']['name']}"
        return self._json("PATCH", full, thing, kind=APPLY, query=query)

    def delete(
        self,
        resource: str,
        name: str,
        namespace: str | None = None,
        grace_s: int | None = None,
    ) -> None:
        """Delete an object, if it is there; with a grace of 0 s it is gone at once."""
        options = {} if grace_s is None else {"gracePeriodSeconds": grace_s}
        try:
            self.ask("DELETE", f"{self._path(resource, namespace)}/{name}", options)
        except ApiError as error:
            if error.code != 404:
                raise

    def may(self, verb: str, resource: str, namespace: str | None = None, part: str = "") -> bool:
        """Say whether this user may do something with a resource."""
        group = _OTHER_GROUPS.get(resource, "v1").rpartition("/")[0]
        wanted = {"verb": verb, "resource": resource, "group": group, "subresource": part}
        wanted["namespace"] = namespace or self.access.namespace
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "metadata": {},
            "spec": {"resourceAttributes": wanted},
        }
        return bool(self.create(review)["status"]["allowed"])

    def log(
        self, pod: str, namespace: str | None = None, container: str | None = None, **query: str
    ) -> str:
        """Return what a container of a pod wrote."""
        if container is not None:
            query["container"] = container
        path = f"{self._path('pods', namespace)}/{pod}/log"
        return self.ask("GET", path, query=query).decode(errors="replace")

    def _json(self, method: str, path: str, body: object = None, **more: Any) -> Json:
        answer: Json = json.loads(self.ask(method, path, body, **more))
        return answer

    def _path(self, resource: str, namespace: str | None, version: str | None = None) -> str:
        version = version or _OTHER_GROUPS.get(resource, "v1")
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        if resource in _WITHOUT_NAMESPACE or namespace == "":
            return f"{root}/{resource}"
        return f"{root}/namespaces/{namespace or self.access.namespace}/{resource}"


_WITHOUT_NAMESPACE = {
    "clusterqueues",
    "clusterrolebindings",
    "clusterroles",
    "customresourcedefinitions",
    "namespaces",
    "nodes",
    "persistentvolumes",
    "priorityclasses",
    "resourceflavors",
    "selfsubjectaccessreviews",
    "storageclasses",
}


def resource_of(thing: Mapping[str, Any]) -> str:
    """Return the resource of an object, such as networkpolicies for a NetworkPolicy."""
    kind = str(thing["kind"]).lower()
    if kind.endswith("y"):
        return f"{kind[:-1]}ies"
    if kind == "endpoints":
        return kind
    return f"{kind}es" if kind.endswith("s") else f"{kind}s"


def read_kubeconfig(path: Path) -> Access:
    """Return what the current context of a kubeconfig says.

    Raises:
        ValueError: Its user proves itself by a program, which these tests do not run.
    """
    config = yaml.safe_load(path.read_text())
    context = _named(config["contexts"], config["current-context"])["context"]
    cluster = _named(config["clusters"], context["cluster"])["cluster"]
    user = _named(config["users"], context["user"])["user"]
    tls = ssl.create_default_context(cadata=_read(cluster, "certificate-authority", path))
    if cluster.get("insecure-skip-tls-verify"):
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    headers = {}
    if "token" in user:
        headers["Authorization"] = f"Bearer {user['token']}"
    elif certificate := _read(user, "client-certificate", path):
        _load(tls, certificate, _read(user, "client-key", path) or "")
    else:
        raise ValueError(f"{path}: user {context['user']} has neither a token nor a certificate")
    return Access(cluster["server"], tls, headers, context.get("namespace", "default"))


def kubeconfig(server: str, authority: str, user: str, token: str, namespace: str) -> Json:
    """Return a kubeconfig for a user with a token."""
    data = base64.b64encode(authority.encode()).decode()
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "tests", "cluster": {"server": server, "certificate-authority-data": data}}
        ],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [
            {"name": "tests", "context": {"cluster": "tests", "user": user, "namespace": namespace}}
        ],
        "current-context": "tests",
    }


def _named(entries: Sequence[Json], name: str) -> Json:
    return next(entry for entry in entries if entry["name"] == name)


def _read(part: Json, name: str, path: Path) -> str | None:
    """Return what a kubeconfig holds itself or names a file for."""
    if f"{name}-data" in part:
        return base64.b64decode(part[f"{name}-data"]).decode()
    return (path.parent / part[name]).read_text() if name in part else None


def _load(context: ssl.SSLContext, certificate: str, key: str) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:  # ssl reads files only
        file.write(f"{certificate}\n{key}")
        file.flush()
        context.load_cert_chain(file.name)


def error_of(code: int, text: bytes) -> ApiError:
    """Return the error that a body of an answer describes."""
    try:
        status = json.loads(text)
        return ApiError(code, status.get("reason", ""), status.get("message", ""))
    except (ValueError, AttributeError):
        return ApiError(code, "", text.decode(errors="replace"))
