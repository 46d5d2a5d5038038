"""A cluster for tests: one that is there, or one of this host's own with faults to order."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import shutil
import sys
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

from tests.kube import build, certificates, claims, daemons
from tests.kube.api import Api, ApiError, Json, kubeconfig, read_kubeconfig
from tests.kube.daemons import CONTROL_PLANE, OPERATOR, Daemons
from tests.kube.layout import PROVISIONER, STORAGE_CLASS, USERS, Layout, Size
from tests.slurm.machine import run, wait_until

OURS = "raytune-hpo-tests"
"""Label of the namespaces that `restore` removes."""
_PROGRAMS = ("ip", "unshare", "nsenter", "mount")
CLOUD = "cloud"
_ROOT = Path(__file__).parents[2]
_UP_S = 90.0


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
        timeout_s: float = 60.0,
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
        self, name: str, namespace: str | None, phase: str, timeout_s: float = 60.0
    ) -> Json:
        """Wait until a pod has a phase such as Succeeded, and return it.

        Raises:
            TimeoutError: It has not in time.
        """
        return self.wait(
            "pods", name, namespace, lambda pod: pod["status"].get("phase") == phase, timeout_s
        )

    def wait_until_gone(
        self, resource: str, name: str, namespace: str | None, timeout_s: float = 60.0
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
        """Remove the namespaces of tests: when this returns, their pods are gone."""
        names = [
            space["metadata"]["name"]
            for space in self.api.list("namespaces", labels=f"{OURS}=true")
        ]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(self._empty, names))
        wait_until(
            lambda: not any(self._pods(name) for name in names), "pods do not go away", _UP_S
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


class KubeLab(Cluster):
    """A cluster on this host: `up` makes it, `down` removes it.

    Its control plane and the KubeRay operator are the real ones, its nodes are agents that run
    each pod in namespaces of this host: see agent.py.

    Args:
        nodes: How many nodes (n1, n2, ...), at most 14.
        number: Of the cluster, 0 to 7; `claim` finds one that is free.
        size: Of each node; or of single ones, by name, with "" for the others.
    """

    def __init__(
        self, nodes: int = 3, number: int = 0, size: Size | Mapping[str, Size] | None = None
    ) -> None:
        self.layout = Layout(number, claims.folder(number))
        super().__init__(self.layout.kubeconfig)
        self.nodes = tuple(f"n{index}" for index in range(1, nodes + 1))
        self._sizes = size if isinstance(size, Mapping) else {"": size or Size()}
        self._daemons = Daemons(self.layout)

    def __enter__(self) -> KubeLab:
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    # The cluster

    @property
    def is_up(self) -> bool:
        """Say whether all its daemons run."""
        wanted = (*CONTROL_PLANE, OPERATOR, CLOUD, *self.nodes)
        return all(self._daemons.pid(name) is not None for name in wanted)

    def up(self) -> None:
        """Start all, and wait until every node is ready.

        Raises:
            RuntimeError: It did not come up; the message has the ends of the log files.
        """
        if self.is_up:
            return
        remove(self.layout.number)
        self.__dict__.pop("api", None)  # it would be that of the cluster before
        programs = build.build() / "bin"
        try:
            self._write_files()
            self._build_bridge()
            self._start_all(programs)
        except BaseException as error:
            logs = self._ends_of_logs()
            self.down()
            if not isinstance(error, Exception):
                raise
            raise RuntimeError(f"The cluster did not come up: {error}\n{logs}") from error

    def down(self) -> None:
        """End all its processes and remove all its files. Harmless when there is nothing."""
        self._daemons.kill(*self._daemons.names())
        remove(self.layout.number)
        claims.release(self.layout.number)

    def restore(self) -> None:
        """Make the cluster as new after a test: everything runs, nodes are as made, and no pods."""
        self._start_all(build.folder() / "bin")
        for node in self.nodes:
            self._restore_node(node)
        super().restore()

    def kubeconfig_of(self, user: str) -> Path:
        """Return the kubeconfig of a user of layout.USERS."""
        return self.layout.kubeconfig_of(user)

    # Faults

    def stop(self, name: str) -> None:
        """Kill a daemon: kube-apiserver, ray-operator, ..., or a node with all its pods."""
        self._daemons.kill(name)
        # They would go by themselves, but some time later, and answer a ping until then.
        for link in Path("/sys/class/net").glob(f"{self.layout.bridge}{name}*"):
            run(["ip", "link", "delete", link.name], check=False)

    def start(self, name: str) -> None:
        """Start a daemon or a node again, unless it runs; the API server is waited for."""
        self._start(build.folder() / "bin", name)
        if name == "kube-apiserver":
            self._wait_for_server()

    def kill_pod(self, name: str, namespace: str) -> None:
        """Kill all processes of a pod; what then happens is up to its restart policy."""
        node = self.api.get("pods", name, namespace)["spec"]["nodeName"]
        self.api.ask("POST", f"/api/v1/nodes/{node}/proxy/kill/{namespace}/{name}")

    def wait_for_node(self, name: str, ready: str, timeout_s: float = 60.0) -> None:
        """Wait until a node is ready: "True", "False" or "Unknown", which is of one that is dead.

        Raises:
            TimeoutError: It is not in time.
        """
        self.wait("nodes", name, None, lambda node: _ready(node) == ready, timeout_s)

    # Details

    def _write_files(self) -> None:
        layout = self.layout
        for name in ("log", "run", "nodes", "volumes", "etcd"):
            (layout.folder / name).mkdir(parents=True, exist_ok=True)
        (layout.folder / "etcd").chmod(0o700)
        names = ["localhost"]
        for end in ("", ".default", ".default.svc", ".default.svc.cluster.local"):
            names.append(f"kubernetes{end}")
        addresses = [layout.host, *(str(layout.pods(index)[1]) for index in range(1, 15))]
        certificates.write(layout.pki, addresses, names)
        authority = (layout.pki / "ca.crt").read_text()
        tokens = {user: secrets.token_hex(16) for user in USERS}
        lines = []
        for user, (name, *groups) in USERS.items():
            lines.append(f'{tokens[user]},{name},{name},"{",".join(groups)}"')
            config = kubeconfig(layout.server, authority, user, tokens[user], "default")
            _write_secret(layout.kubeconfig_of(user), yaml.safe_dump(config))
        _write_secret(layout.folder / "tokens.csv", "\n".join(lines) + "\n")
        cloud = {**self._access(tokens["admin"]), "volumes": str(layout.volumes)}
        _write_secret(layout.node_file(CLOUD), json.dumps({**cloud, "host": layout.host}))
        for index, node in enumerate(self.nodes, 1):
            _write_secret(layout.node_file(node), json.dumps(self._about(index, tokens["admin"])))

    def _access(self, token: str) -> Json:
        """Return what all programs of the tests need to know."""
        layout = self.layout
        where = {"server": layout.server, "pki": str(layout.pki), "bridge": layout.bridge}
        return {**where, "token": token}

    def _about(self, index: int, token: str) -> Json:
        """Return what an agent needs to know."""
        layout, name = self.layout, f"n{index}"
        size = self._sizes.get(name) or self._sizes.get("", Size())
        pods = layout.pods(index)
        return {
            **self._access(token),
            "name": name,
            "folder": str(layout.node_folder(name)),
            "bits": layout.network.prefixlen,
            "pods": str(pods),
            "capacity": _capacity(size),
            "environment": {**_image(), **_server_variables(layout.host)},
            "folders": [str(path) for path in _image_folders()],
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

    def _build_bridge(self) -> None:
        layout = self.layout
        bits = layout.network.prefixlen
        run(["ip", "link", "add", layout.bridge, "type", "bridge"])
        nodes = [str(layout.pods(index)[1]) for index in range(1, len(self.nodes) + 1)]
        for address in (layout.host, *nodes):
            run(["ip", "address", "add", f"{address}/{bits}", "dev", layout.bridge])
        run(["ip", "link", "set", layout.bridge, "up"])

    def _start_all(self, programs: Path) -> None:
        """Start what does not run, and wait until it does."""
        for name in ("etcd", "kube-apiserver", *self.nodes, CLOUD):
            self._start(programs, name)
        self._wait_for_server()
        if self.api.find("customresourcedefinitions", "rayjobs.ray.io") is None:
            # Before the controllers, which would not look for new resources for half a minute.
            self._define(programs)
        for name in (*CONTROL_PLANE, OPERATOR):
            self._start(programs, name)
        for node in self.nodes:
            self.wait_for_node(node, "True")
        wait_until(
            lambda: self.api.find("serviceaccounts", "default", "default"), "no service accounts"
        )
        wait_until(self._operator_ready, "the operator is not ready", _UP_S)

    def _restore_node(self, name: str) -> None:
        """Take away the labels and taints that a test gave to a node."""
        node = self.api.get("nodes", name)
        own = {label: None for label in node["metadata"]["labels"] if "kubernetes.io/" not in label}
        taints = node["spec"].get("taints")
        if own or taints or node["spec"].get("unschedulable"):
            bare = {"taints": None, "unschedulable": None}
            self.api.patch("nodes", name, {"metadata": {"labels": own}, "spec": bare})

    def _start(self, programs: Path, name: str) -> None:
        file = self.layout.node_file(name)
        if name in self.nodes or name == CLOUD:
            command = _agent(file) if name in self.nodes else _python("cloud", file)
            self._daemons.start(name, command, dict(os.environ))
            return
        command = daemons.words(self.layout, programs, _etcd())[name]
        self._daemons.start(name, command, daemons.QUICK if name == "kube-apiserver" else None)

    def _define(self, programs: Path) -> None:
        """Make the operator's resources known."""
        definitions = json.loads((programs.parent / "crds.json").read_text())
        with ThreadPoolExecutor(len(definitions)) as pool:
            list(pool.map(self.api.create, [_storage_class(), *definitions]))
        names = {definition["spec"]["names"]["plural"] for definition in definitions}

        def served() -> bool:
            # The definitions themselves say so too, but they are large.
            try:
                listed = json.loads(self.api.ask("GET", "/apis/ray.io/v1"))["resources"]
            except ApiError:
                return False
            return names <= {resource["name"] for resource in listed}

        wait_until(served, "the operator's resources are not served")

    def _wait_for_server(self) -> None:
        def ready() -> bool:
            if self._daemons.pid("kube-apiserver") is None:
                raise RuntimeError("kube-apiserver has ended")
            try:
                return self.api.ask("GET", "/readyz", timeout_s=5) == b"ok"
            except (OSError, ApiError):
                return False

        wait_until(ready, "the API server is not ready", _UP_S)

    def _operator_ready(self) -> bool:
        if self._daemons.pid(OPERATOR) is None:
            raise RuntimeError("the operator has ended")
        url = f"http://{self.layout.host}:{daemons.HEALTH_PORT}/readyz"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _ends_of_logs(self) -> str:
        parts = []
        for path in sorted(self.layout.folder.glob("log/*")):
            lines = path.read_text(errors="replace").splitlines()
            parts.append("\n".join([f"{path.name}:", *lines[-8:]]))
        return "\n".join(parts)


def missing() -> str | None:
    """Return why there can be no cluster on this host; None when there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux, for namespaces"
    absent = [program for program in _PROGRAMS if shutil.which(program) is None]
    if absent:
        return f"no {', '.join(absent)}: apt-get install iproute2 util-linux"
    if not _etcd().exists():
        return "no etcd: apt-get install etcd-server, or .ci/kube"
    return build.missing() or _forbidden()


def claim() -> int:
    """Return the number of a free cluster, which is this process's until it ends or `down`.

    A cluster whose process has ended without `down` is removed.

    Raises:
        RuntimeError: There are seven clusters already.
    """
    return claims.claim(remove)


def remove(number: int) -> None:
    """End all processes of a cluster and remove all its files, whoever made it."""
    layout = Layout(number, claims.folder(number))
    left = Daemons(layout)
    left.kill(*left.names())
    if Path("/sys/class/net", layout.bridge).exists():
        run(["ip", "link", "delete", layout.bridge])
    shutil.rmtree(layout.folder, ignore_errors=True)


def _forbidden() -> str | None:
    """Return why this host does not let containers be made."""
    script = "mount -t tmpfs t /mnt && mkdir /mnt/u /mnt/w /mnt/r && mount -t overlay o /mnt/r -o "
    layers = "lowerdir=/,upperdir=/mnt/u,workdir=/mnt/w && ip link add trial type bridge"
    spaces = ["--net", "--uts", "--mount", "--pid", "--ipc", "--fork"]
    done = run(["unshare", *spaces, "sh", "-c", script + layers], check=False)
    return f"namespaces are not allowed here: {done.stderr.strip()}" if done.returncode else None


def _agent(file: Path) -> list[str]:
    """Return the command of a node: with it, all that it has started ends."""
    spaces = ["unshare", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc", "--"]
    return [*spaces, *_python("agent", file)]


def _python(module: str, file: Path) -> list[str]:
    """Return the command of a program of the tests."""
    return ["env", "-C", str(_ROOT), sys.executable, "-m", f"tests.kube.{module}", str(file)]


def _storage_class() -> Json:
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


def _etcd() -> Path:
    """Return the program, installed or in the cache."""
    return Path(shutil.which("etcd") or build.folder().with_name("etcd"))


def _capacity(size: Size) -> dict[str, str]:
    found = {"cpu": str(size.cpus), "memory": size.memory, "pods": str(size.pods)}
    if size.gpus:
        found["nvidia.com/gpu"] = str(size.gpus)
    return {**found, "ephemeral-storage": "100Gi"}


def _image() -> dict[str, str]:
    """Return the environment that every container begins with."""
    found = {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": "/home/ray",
        "LANG": "C.UTF-8",
        # A real node limits the memory that Ray sees; here it sees all that the host has.
        "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": str(100 * 2**20),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    if paths := os.environ.get("PYTHONPATH"):
        found["PYTHONPATH"] = paths
    return found


def _server_variables(host: str) -> dict[str, str]:
    """Return the variables by which programs in pods find the API server."""
    ports = {f"KUBERNETES_SERVICE_PORT{end}": "443" for end in ("", "_HTTPS")}
    return {"KUBERNETES_SERVICE_HOST": host, **ports}


def _image_folders() -> list[Path]:
    """Return the folders that Python and this project need."""
    needed = {_ROOT, Path(sys.prefix), Path(sys.base_prefix)}
    return sorted(path for path in needed if not any(other in path.parents for other in needed))


def _write_secret(path: Path, text: str) -> None:
    path.touch(0o600)
    path.write_text(text)


def _ready(node: Json) -> str:
    conditions = node.get("status", {}).get("conditions") or []
    return next((str(one["status"]) for one in conditions if one["type"] == "Ready"), "")


def _established(definition: Json) -> bool:
    conditions = definition.get("status", {}).get("conditions") or []
    return any(one["type"] == "Established" and one["status"] == "True" for one in conditions)
