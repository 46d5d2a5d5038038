"""The daemons of a cluster: their command lines, and starting and ending them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.kube.layout import Layout
from tests.slurm.machine import Process, children, look_at, wait_until

CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
OPERATOR = "ray-operator"
NOTICE_S = 8
"""A node that says nothing for so long is NotReady."""
QUICK = {"GOGC": "off", "GOMEMLIMIT": "1200MiB"}
"""Environment in which a Go program collects garbage late, which starts the API server sooner."""
EVICT_S = 4
"""Its pods are deleted so much later, unless they tolerate it for longer."""
HEALTH_PORT = 8081
_CONTROLLERS = (
    "clusterrole-aggregation",
    "deployment",
    "disruption",
    "endpoints",
    "endpointslice",
    "garbage-collector",
    "job",
    "namespace",
    "node-lifecycle",
    "persistentvolume-binder",
    "persistentvolume-protection",
    "persistentvolumeclaim-protection",
    "pod-garbage-collector",
    "replicaset",
    "resourcequota",
    "root-ca-certificate-publisher",
    "serviceaccount",
    "serviceaccount-token",
    "statefulset",
    "taint-eviction",
    "ttl-after-finished",
)
"""Of all those of the controller manager, as each takes time."""


def words(layout: Layout, programs: Path, etcd: Path) -> dict[str, list[str]]:
    """Return the command line of each daemon.

    Args:
        layout: Of the cluster.
        programs: Folder of the programs that were built.
        etcd: The program.
    """
    store = f"http://{layout.host}:2379"
    peer = f"http://{layout.host}:2380"
    config = f"--kubeconfig={layout.kubeconfig}"
    return {
        "etcd": [
            str(etcd),
            f"--data-dir={layout.folder / 'etcd'}",
            f"--listen-client-urls={store}",
            f"--advertise-client-urls={store}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--log-level=warn",
        ],
        "kube-apiserver": [str(programs / "kube-apiserver"), *_server(layout, store)],
        "kube-controller-manager": [
            str(programs / "kube-controller-manager"),
            config,
            "--leader-elect=false",
            f"--controllers={','.join(f'{name}-controller' for name in _CONTROLLERS)}",
            f"--root-ca-file={layout.pki / 'ca.crt'}",
            f"--service-account-private-key-file={layout.pki / 'accounts.key'}",
            "--resource-quota-sync-period=15s",
            "--node-monitor-period=1s",
            f"--node-monitor-grace-period={NOTICE_S}s",
            "--kube-api-qps=200",
            "--kube-api-burst=400",
            "--secure-port=0",
        ],
        "kube-scheduler": [
            str(programs / "kube-scheduler"),
            config,
            "--leader-elect=false",
            "--secure-port=0",
        ],
        OPERATOR: [
            str(programs / OPERATOR),
            config,
            "--use-kubernetes-proxy",
            "--enable-leader-election=false",
            "--metrics-addr=0",
            f"--health-probe-bind-address={layout.host}:{HEALTH_PORT}",
        ],
    }


def _server(layout: Layout, store: str) -> list[str]:
    pki = layout.pki
    return [
        f"--etcd-servers={store}",
        f"--bind-address={layout.host}",
        f"--advertise-address={layout.host}",
        "--secure-port=443",
        f"--service-cluster-ip-range={layout.services}",
        "--authorization-mode=RBAC",
        f"--token-auth-file={layout.folder / 'tokens.csv'}",
        f"--client-ca-file={pki / 'ca.crt'}",
        f"--tls-cert-file={pki / 'server.crt'}",
        f"--tls-private-key-file={pki / 'server.key'}",
        f"--kubelet-certificate-authority={pki / 'ca.crt'}",
        f"--kubelet-client-certificate={pki / 'client.crt'}",
        f"--kubelet-client-key={pki / 'client.key'}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--service-account-issuer={layout.server}",
        f"--service-account-key-file={pki / 'accounts.pub'}",
        f"--service-account-signing-key-file={pki / 'accounts.key'}",
        f"--default-not-ready-toleration-seconds={EVICT_S}",
        f"--default-unreachable-toleration-seconds={EVICT_S}",
        "--enable-priority-and-fairness=false",
        "--profiling=false",
    ]


class Daemons:
    """Starts and ends daemons; they are found again by the files in `run`.

    Args:
        layout: Of the cluster.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._folder = layout.folder / "run"
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        """Start a daemon, unless it runs."""
        if self.pid(name) is not None:
            return
        if name in self._started:
            self._started.pop(name).wait()  # it ended by itself
        with self._layout.log(name).open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd="/",
                env={"PATH": os.defpath, "HOME": "/", **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._started[name] = process
        found = look_at(process.pid)
        if found is not None:
            (self._folder / f"{name}.json").write_text(json.dumps([process.pid, found.began]))

    def pid(self, name: str) -> int | None:
        """Return the id of a daemon; None when it does not run."""
        try:
            pid, began = json.loads((self._folder / f"{name}.json").read_text())
        except (FileNotFoundError, ValueError):
            return None
        found = look_at(pid)
        return pid if found is not None and found.began == began else None

    def ended(self, name: str) -> bool:
        """Say whether a daemon was started and has ended without having been killed here."""
        return (self._folder / f"{name}.json").exists() and self.pid(name) is None

    def names(self) -> list[str]:
        """Return which daemons were started, whether or not they run."""
        return sorted(path.stem for path in self._folder.glob("*.json"))

    def kill(self, *names: str) -> None:
        """Kill (SIGKILL) daemons, and wait until they and what they had started are gone."""
        ending: list[Process] = []
        for name in names:
            if (pid := self.pid(name)) is not None:
                # A node's agent is the child of what made its namespaces.
                ending += [found for found in (look_at(pid), *children(pid)) if found is not None]
        for process in ending:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        for name in names:
            if name in self._started:
                self._started.pop(name).wait()
        for process in ending:
            _wait_for_end(process)
        for name in names:
            (self._folder / f"{name}.json").unlink(missing_ok=True)


def _wait_for_end(process: Process) -> None:
    wait_until(lambda: look_at(process.pid) != process, f"{process.program} does not end")
