"""Addresses, files and secrets of one cluster of the tests."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

USERS = {
    "admin": ("admin", "system:masters"),
    "alice": ("alice", "team-a"),
    "bob": ("bob", "team-b"),
    "carol": ("carol", "team-a", "team-b"),
}
"""Who may ask the API server, each by a token: name, then groups."""
CLOUD = "cloud"
"""The program that does what a cloud does for a cluster."""
STORAGE_CLASS = "shared"
"""Each claim of this class, which is the default one, gets a folder that all nodes see."""
PROVISIONER = "raytune-hpo.tests/shared"
_PREFIX = 20


@dataclass(frozen=True)
class Size:
    """What a node offers to pods; nothing holds them to it.

    Attributes:
        cpus: Processors; more than the host has is fine.
        memory: As Kubernetes writes it, such as 8Gi.
        gpus: Of the resource nvidia.com/gpu; they do not exist.
        pods: How many pods at most.
    """

    cpus: int = 4
    memory: str = "8Gi"
    gpus: int = 0
    pods: int = 60


@dataclass(frozen=True)
class Layout:
    """Where a cluster lies and which addresses it has; all follow from its number, 0 to 7."""

    number: int
    folder: Path

    @property
    def network(self) -> ipaddress.IPv4Network:
        """Return the network of the host, all services, nodes and pods."""
        return ipaddress.IPv4Network(f"10.78.{16 * self.number}.0/{_PREFIX}")

    @property
    def services(self) -> ipaddress.IPv4Network:
        """Return the network of services; its first address is the API server's, also in fact."""
        return next(self.network.subnets(new_prefix=24))

    @property
    def host(self) -> str:
        """Return the address of this host, at which the control plane listens."""
        return str(self.services[1])

    @property
    def server(self) -> str:
        """Return the URL of the API server."""
        return f"https://{self.host}"

    @property
    def bridge(self) -> str:
        """Return the network interface of the host that joins all pods."""
        return f"kube{self.number}"

    def pods(self, node: int) -> ipaddress.IPv4Network:
        """Return the network of the pods of a node, 1 to 14; its first address is the node's."""
        return list(self.network.subnets(new_prefix=24))[node]

    @property
    def pki(self) -> Path:
        """Return the folder of certificates and keys."""
        return self.folder / "pki"

    @property
    def kubeconfig(self) -> Path:
        """Return the administrator's kubeconfig."""
        return self.folder / "kubeconfig"

    def kubeconfig_of(self, user: str) -> Path:
        """Return the kubeconfig of one of the users."""
        return self.kubeconfig if user == "admin" else self.folder / f"kubeconfig-{user}"

    @property
    def volumes(self) -> Path:
        """Return the folder in which each persistent volume is a folder."""
        return self.folder / "volumes"

    def log(self, name: str) -> Path:
        """Return the log of a daemon."""
        return self.folder / "log" / f"{name}.log"

    def node_file(self, name: str) -> Path:
        """Return the file from which the agent of a node learns what it is."""
        return self.folder / "nodes" / f"{name}.json"

    def node_folder(self, name: str) -> Path:
        """Return where a node keeps the files of its pods."""
        return self.folder / "nodes" / name
