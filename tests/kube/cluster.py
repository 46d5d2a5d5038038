"""A cluster of this host, made for tests: with a real control plane, and faults to order."""

from __future__ import annotations

import json
import os
import shutil
import sys
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.claims import Claims
from tests.kube import build, daemons, settings
from tests.kube.api import ApiError, Json
from tests.kube.client import Cluster
from tests.kube.daemons import CONTROL_PLANE, OPERATOR, Daemons
from tests.kube.layout import CLOUD, Layout, Size
from tests.slurm.machine import run, wait_until

__all__ = ["Cluster", "KubeLab", "claim", "missing", "remove"]

_PROGRAMS = ("ip", "unshare", "nsenter", "mount")
_UP_S = 90.0


CLAIMS = Claims(Path("/var/lib/raytune-hpo-kube-lab"))


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
        self.layout = Layout(number, CLAIMS.folder(number))
        super().__init__(self.layout.kubeconfig)
        self.nodes = tuple(f"n{index}" for index in range(1, nodes + 1))
        sizes = size if isinstance(size, Mapping) else {"": size or Size()}
        self._sizes = {node: sizes.get(node) or sizes.get("", Size()) for node in self.nodes}
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
            settings.write(self.layout, self._sizes)
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
        CLAIMS.release(self.layout.number)

    def restore(self) -> None:
        """Make the cluster as new after a test: everything runs, nodes are as made, and no pods.

        Raises:
            RuntimeError: A node ended though nobody killed it; the message has its last words.
        """
        for name in (*self.nodes, CLOUD):
            if self._daemons.ended(name):
                raise RuntimeError(f"{name} ended by itself:\n{self._end_of_log(name)}")
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

    def wait_for_node(self, name: str, ready: str, timeout_s: float = 240.0) -> None:
        """Wait until a node is ready: "True", "False" or "Unknown", which is of one that is dead.

        Raises:
            TimeoutError: It is not in time.
        """
        self.wait("nodes", name, None, lambda node: _ready(node) == ready, timeout_s)

    # Details

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
            list(pool.map(self.api.create, [settings.storage_class(), *definitions]))
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
        names = sorted(path.stem for path in self.layout.folder.glob("log/*"))
        return "\n".join(f"{name}:\n{self._end_of_log(name, 8)}" for name in names)

    def _end_of_log(self, name: str, lines: int = 40) -> str:
        text = self.layout.log(name).read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])


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
    return CLAIMS.claim(remove)


def remove(number: int) -> None:
    """End all processes of a cluster and remove all its files, whoever made it."""
    layout = Layout(number, CLAIMS.folder(number))
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
    return [
        "env",
        "-C",
        str(settings.ROOT),
        sys.executable,
        "-m",
        f"tests.kube.{module}",
        str(file),
    ]


def _etcd() -> Path:
    """Return the program, installed or in the cache."""
    return Path(shutil.which("etcd") or build.folder().with_name("etcd"))


def _ready(node: Json) -> str:
    conditions = node.get("status", {}).get("conditions") or []
    return next((str(one["status"]) for one in conditions if one["type"] == "Ready"), "")
