"""A cluster as a test uses it: whatever cluster a kubeconfig leads to."""

from __future__ import annotations

import contextlib
import functools
import json
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.kube.api import Api, ApiError, Json, read_kubeconfig
from tests.slurm.machine import wait_until

OURS = "raytune-hpo-tests"
"""Label of what `restore` removes: namespaces and priority classes."""
_EMPTY_S = 90.0


class Cluster:
    """A cluster to which a kubeconfig leads.

    Args:
        config: The kubeconfig.

    Attributes:
        config: The kubeconfig.
    """

    def __init__(self, config: Path) -> None:
        self.config = config

    @functools.cached_property
    def api(self) -> Api:
        """Return its API server, to ask as the user of the kubeconfig."""
        return Api(read_kubeconfig(self.config))

    def namespace(self, name: str | None = None) -> str:
        """Make a namespace in which pods can be made, and return its name."""
        name = name or f"test-{secrets.token_hex(4)}"
        about = {"name": name, "labels": {OURS: "true"}}
        self.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": about})
        wait_until(
            lambda: (
                self.api.find("serviceaccounts", "default", name)
                and self.api.find("configmaps", "kube-root-ca.crt", name)
            ),
            f"namespace {name} gets no service account",
        )
        return name

    def wait(
        self,
        resource: str,
        name: str,
        namespace: str | None,
        condition: Callable[[Json], object],
        timeout_s: float = 240.0,
    ) -> Json:
        """Wait until an object is there and fulfils a condition, and return it.

        Raises:
            TimeoutError: It does not in time; the message has its status.
        """
        found: Json | None = None

        def fulfilled() -> object:
            nonlocal found
            found = self.api.find(resource, name, namespace)
            return found is not None and condition(found)

        try:
            wait_until(fulfilled, f"{resource} {name} is not as wanted", timeout_s)
        except TimeoutError as error:
            status = json.dumps(found and found.get("status"), indent=1)
            raise TimeoutError(f"{error}: {status}") from None
        assert found is not None
        return found

    def wait_for_pod(
        self, name: str, namespace: str | None, phase: str, timeout_s: float = 240.0
    ) -> Json:
        """Wait until a pod has a phase such as Succeeded, and return it.

        Raises:
            TimeoutError: It has not in time.
        """
        return self.wait(
            "pods", name, namespace, lambda pod: pod["status"].get("phase") == phase, timeout_s
        )

    def wait_until_gone(
        self, resource: str, name: str, namespace: str | None, timeout_s: float = 240.0
    ) -> None:
        """Wait until there is no such object any more.

        Raises:
            TimeoutError: There still is.
        """
        wait_until(
            lambda: self.api.find(resource, name, namespace) is None,
            f"{resource} {name} does not go away",
            timeout_s,
        )

    def restore(self) -> None:
        """Remove what tests made for all to see: when this returns, their pods are gone."""
        for made in self.api.list("priorityclasses", labels=f"{OURS}=true"):
            self.api.delete("priorityclasses", made["metadata"]["name"])
        names = [
            space["metadata"]["name"]
            for space in self.api.list("namespaces", labels=f"{OURS}=true")
        ]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(self._empty, names))
        wait_until(
            lambda: not any(self._pods(name) for name in names), "pods do not go away", _EMPTY_S
        )

    def _empty(self, namespace: str) -> None:
        """Remove what makes pods, then the pods, then the rest with the namespace."""
        for resource in ("rayjobs", "rayservices", "rayclusters", "jobs", "deployments"):
            for thing in self.api.list(resource, namespace):
                name = thing["metadata"]["name"]
                with contextlib.suppress(ApiError):  # it may be gone by now
                    if thing["metadata"].get("finalizers"):
                        change = {"metadata": {"finalizers": None}}
                        self.api.patch(resource, name, change, namespace)
                    self.api.delete(resource, name, namespace)
        self.api.delete("namespaces", namespace)
        for name in self._pods(namespace):
            self.api.delete("pods", name, namespace, grace_s=0)

    def _pods(self, namespace: str) -> list[str]:
        return [pod["metadata"]["name"] for pod in self.api.list("pods", namespace)]
