"""The files of a cluster: certificates, tokens, kubeconfigs, and what its programs need to know."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path

import yaml

from tests.kube import build, certificates
from tests.kube.api import Json, kubeconfig
from tests.kube.layout import CLOUD, PROVISIONER, STORAGE_CLASS, USERS, Layout, Size

ROOT = Path(__file__).parents[2]
_IMAGE = Path(__file__).with_name("image")
"""Programs that the image brings."""


def write(layout: Layout, nodes: Mapping[str, Size]) -> None:
    """Write all files of a new cluster.

    Args:
        layout: Where it lies.
        nodes: Its nodes, in the order of their networks.
    """
    for name in ("log", "run", "nodes", "volumes", "etcd"):
        (layout.folder / name).mkdir(parents=True, exist_ok=True)
    (layout.folder / "etcd").chmod(0o700)
    names = [f"kubernetes{end}" for end in ("", ".default", ".default.svc")]
    addresses = [layout.host, *(str(layout.pods(index)[1]) for index in range(1, 15))]
    domain = "kubernetes.default.svc.cluster.local"
    certificates.write(layout.pki, addresses, ["localhost", *names, domain])
    access = {
        "server": layout.server,
        "pki": str(layout.pki),
        "bridge": layout.bridge,
        "token": _write_users(layout)["admin"],
    }
    cloud = {**access, "volumes": str(layout.volumes), "host": layout.host}
    _write_secret(layout.node_file(CLOUD), json.dumps(cloud))
    for index, (name, size) in enumerate(nodes.items(), 1):
        about = {**access, **_node(layout, index, name, size)}
        _write_secret(layout.node_file(name), json.dumps(about))


def storage_class() -> Json:
    """Return the storage class, which is the default one."""
    default = {"storageclass.kubernetes.io/is-default-class": "true"}
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": STORAGE_CLASS, "annotations": default},
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "Immediate",
    }


def _write_users(layout: Layout) -> dict[str, str]:
    """Write the users' tokens for the API server, and a kubeconfig for each; return the tokens."""
    authority = (layout.pki / "ca.crt").read_text()
    tokens = {user: secrets.token_hex(16) for user in USERS}
    lines = []
    for user, (name, *groups) in USERS.items():
        lines.append(f'{tokens[user]},{name},{name},"{",".join(groups)}"')
        config = kubeconfig(layout.server, authority, user, tokens[user], "default")
        _write_secret(layout.kubeconfig_of(user), yaml.safe_dump(config))
    _write_secret(layout.folder / "tokens.csv", "\n".join(lines) + "\n")
    return tokens


def _node(layout: Layout, index: int, name: str, size: Size) -> Json:
    """Return what the agent of a node needs to know besides the access to the API server."""
    return {
        "name": name,
        "folder": str(layout.node_folder(name)),
        "bits": layout.network.prefixlen,
        "pods": str(layout.pods(index)),
        "capacity": _capacity(size),
        "environment": _environment(layout.host),
        "folders": [str(path) for path in _folders()],
        "info": {
            "architecture": os.uname().machine,
            "bootID": name,
            "containerRuntimeVersion": "tests://1",
            "kernelVersion": os.uname().release,
            "kubeProxyVersion": "",
            "kubeletVersion": build.KUBERNETES,
            "machineID": name,
            "operatingSystem": "linux",
            "osImage": "tests",
            "systemUUID": name,
        },
    }


def _capacity(size: Size) -> dict[str, str]:
    found = {"cpu": str(size.cpus), "memory": size.memory, "pods": str(size.pods)}
    if size.gpus:
        found["nvidia.com/gpu"] = str(size.gpus)
    return {**found, "ephemeral-storage": "100Gi"}


def _environment(host: str) -> dict[str, str]:
    """Return the environment that every container begins with: an image's, and a kubelet's."""
    programs = f"{_IMAGE}:{Path(sys.executable).parent}"
    found = {
        "PATH": f"{programs}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": "/home/ray",
        "LANG": "C.UTF-8",
        # A real node limits the memory that Ray sees; here it sees all that the host has.
        "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": str(100 * 2**20),
        "RAY_USAGE_STATS_ENABLED": "0",
        "KUBERNETES_SERVICE_HOST": host,
        "KUBERNETES_SERVICE_PORT": "443",
        "KUBERNETES_SERVICE_PORT_HTTPS": "443",
    }
    if paths := os.environ.get("PYTHONPATH"):
        found["PYTHONPATH"] = paths
    return found


def _folders() -> list[Path]:
    """Return the folders that Python and this project need."""
    needed = {ROOT, Path(sys.prefix), Path(sys.base_prefix)}
    return sorted(path for path in needed if not any(other in path.parents for other in needed))


def _write_secret(path: Path, text: str) -> None:
    path.touch(0o600)
    path.write_text(text)
