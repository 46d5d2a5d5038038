"""The agent of one node: what a kubelet is to a real one. The cluster starts it.

    python -m tests.kube.agent FILE    FILE is a node's JSON, which cluster.py writes

Each pod is a machine of its own: namespaces of this host with an address on a bridge, a host name,
and a process 1. Its containers have this host's files, and what they write ends with them; images
are not looked at, but one whose name holds `does-not-exist` cannot be fetched. There are no limits
of CPU and memory, no users, and no network policies. A service's name leads to its address or, when
it is headless, to its pods, by /etc/hosts.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import secrets
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

from tests.kube.api import ApiError, Json
from tests.kube.node import hosts
from tests.kube.node.api import FAULTS, STRATEGIC, Api, Mirror, now, now_exactly
from tests.kube.node.pod import Pod
from tests.kube.node.sandbox import Network
from tests.kube.node.server import PORT, Server

_BEAT_S = 1.5
_LEASE_S = 8
_STATUS_BEATS = 4
_EVENTS = 500


class Node:
    """A node and its pods.

    Args:
        about: What cluster.py wrote.
        api: The API server.
        session: For probes.
    """

    def __init__(self, about: Json, api: Api, session: aiohttp.ClientSession) -> None:
        self.api = api
        self.session = session
        self.name: str = about["name"]
        self.image: Mapping[str, str] = about["environment"]
        self.folders: tuple[str, ...] = tuple(about["folders"])
        self.capacity: Mapping[str, str] = about["capacity"]
        self._about = about
        self._network = ipaddress.IPv4Network(about["pods"])
        self.address = str(self._network[1])
        self._free = [str(address) for address in list(self._network)[2:-1]]
        self._folder = Path(about["folder"])
        self._pods: dict[str, Pod] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._events: asyncio.Queue[Json] = asyncio.Queue(_EVENTS)
        self._begun = False
        chosen = {"fieldSelector": f"spec.nodeName={self.name}"}
        self._bound = Mirror(api, "/api/v1/pods", self._see_pod, chosen)
        self._services = Mirror(api, "/api/v1/services", self._see_name)
        slices = "/apis/discovery.k8s.io/v1/endpointslices"
        self._slices = Mirror(api, slices, self._see_name)

    async def run(self) -> None:
        """Be a node for ever."""
        shutil.rmtree(self._folder, ignore_errors=True)
        server = Server(self._find)
        await server.start(self.address, Path(self._about["pki"]))
        async with asyncio.TaskGroup() as group:
            group.create_task(self._beat())
            group.create_task(self._tell_events())
            for mirror in (self._services, self._slices, self._bound):
                group.create_task(mirror.run())

    # What pods need

    def take_address(self) -> Network:
        """Return a free address."""
        address = self._free.pop(0)
        # Not by number: those of the pods before the node was away may not be gone yet.
        link = f"{self._about['bridge']}{self.name}{secrets.token_hex(3)}"
        return Network(self._about["bridge"], link, address, self._about["bits"])

    def give_back(self, network: Network) -> None:
        """Free an address; it is used again as late as possible."""
        self._free.append(network.address)

    def hosts(self, pod: Json, address: str) -> str:
        """Return the /etc/hosts of a pod."""
        services = self._services.objects.values()
        return hosts.of_pod(pod, address, services, self._slices.objects.values())

    def say(self, about: Json, reason: str, message: str, *, warning: bool) -> None:
        """Make an event of a pod, if there are not too many."""
        meta = about["metadata"]
        kept = ("name", "namespace", "uid", "resourceVersion")
        found = {key: meta[key] for key in kept if key in meta}
        time = now()
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{meta['name']}.", "namespace": meta["namespace"]},
            "involvedObject": {"apiVersion": "v1", "kind": "Pod", **found},
            "reason": reason,
            "message": message,
            "type": "Warning" if warning else "Normal",
            "source": {"component": "kubelet", "host": self.name},
            "firstTimestamp": time,
            "lastTimestamp": time,
            "count": 1,
        }
        with contextlib.suppress(asyncio.QueueFull):
            self._events.put_nowait(event)

    # What the API server tells

    def _see_pod(self, uid: str, thing: Json | None) -> None:
        pod = self._pods.get(uid)
        if thing is None:
            if pod is not None:
                pod.end(0)
            return
        if pod is None:
            pod = self._take(uid, thing)
        pod.thing = thing
        if thing["metadata"].get("deletionTimestamp"):
            pod.end(thing["metadata"].get("deletionGracePeriodSeconds", 0))

    def _take(self, uid: str, thing: Json) -> Pod:
        """Begin with a pod."""
        pod = self._pods[uid] = Pod(thing, self, self._folder / uid)
        if thing["status"].get("containerStatuses"):
            pod.lose()  # it is not new, so this node was away
        self._spawn(self._host(uid, pod))
        return pod

    async def _host(self, uid: str, pod: Pod) -> None:
        try:
            await pod.run()
        finally:
            del self._pods[uid]

    def _see_name(self, _uid: str, _thing: Json | None) -> None:
        for pod in self._pods.values():
            pod.tell_hosts()

    def _find(self, namespace: str, name: str) -> Pod | None:
        found = (
            pod for pod in self._pods.values() if (pod.namespace, pod.name) == (namespace, name)
        )
        return next(found, None)

    # What it tells the API server

    async def _beat(self) -> None:
        """Keep the node's object and lease."""
        beats = 0
        while True:
            with contextlib.suppress(*FAULTS):
                if beats % _STATUS_BEATS == 0:
                    await self._register()
                await self._renew()
                beats += 1
            await asyncio.sleep(_BEAT_S)

    async def _register(self) -> None:
        try:
            await self.api.ask("POST", "/api/v1/nodes", self._object())
        except ApiError as error:
            if error.code != 409:
                raise
        path = f"/api/v1/nodes/{self.name}/status"
        await self.api.ask("PATCH", path, {"status": self._status()}, kind=STRATEGIC)

    def _object(self) -> Json:
        labels = {"kubernetes.io/hostname": self.name, "kubernetes.io/os": "linux"}
        about = {"name": self.name, "labels": labels}
        return {"apiVersion": "v1", "kind": "Node", "metadata": about, "status": self._status()}

    def _status(self) -> Json:
        time = now()
        good = {"lastHeartbeatTime": time, "lastTransitionTime": time}
        pressures = [
            {"type": f"{kind}Pressure", "status": "False", "reason": "None", **good}
            for kind in ("Memory", "Disk", "PID")
        ]
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", **good}
        return {
            "capacity": self.capacity,
            "allocatable": self.capacity,
            "addresses": [
                {"type": "InternalIP", "address": self.address},
                {"type": "Hostname", "address": self.name},
            ],
            "conditions": [*pressures, ready],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": PORT}},
            # So that the API server passes web sockets on as they are.
            "declaredFeatures": ["ExtendWebSocketsToKubelet"],
            "nodeInfo": self._about["info"],
        }

    async def _renew(self) -> None:
        path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
        spec = {
            "holderIdentity": self.name,
            "leaseDurationSeconds": _LEASE_S,
            "renewTime": now_exactly(),
        }
        change = {"spec": spec}
        try:
            await self.api.ask("PATCH", f"{path}/{self.name}", change, kind=STRATEGIC)
        except ApiError as error:
            if error.code != 404:
                raise
            made = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", **change}
            await self.api.ask("POST", path, {**made, "metadata": {"name": self.name}})

    async def _tell_events(self) -> None:
        while True:
            event = await self._events.get()
            path = f"/api/v1/namespaces/{event['metadata']['namespace']}/events"
            with contextlib.suppress(*FAULTS):
                await self.api.ask("POST", path, event)

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_report)


def _report(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        print(f"a pod's task failed: {error!r}", file=sys.stderr, flush=True)


async def _main(about: Json) -> None:
    api = Api(about["server"], Path(about["pki"]) / "ca.crt", about["token"])
    async with api, aiohttp.ClientSession() as session:
        await Node(about, api, session).run()


if __name__ == "__main__":
    asyncio.run(_main(json.loads(Path(sys.argv[1]).read_text())))
