"""What a cloud and kube-proxy give a cluster: volumes for claims, and addresses of services.

    python -m tests.kube.cloud FILE    FILE is a JSON that cluster.py writes; the cluster starts it

Each claim of the class `shared` gets a folder of this host, which all nodes see. A service with an
address of its own is reached there as long as it has pods that are ready, by TCP only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import shutil
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from tests.kube.api import ApiError, Json
from tests.kube.layout import PROVISIONER, STORAGE_CLASS
from tests.kube.node.api import FAULTS, Api, Mirror
from tests.kube.node.sandbox import call

_MARK = "pv.kubernetes.io/provisioned-by"
_PIECE = 64 * 1024
Door = tuple[str, int]
"""Address and port of a service."""


class Storage:
    """Makes a volume for each claim, and removes it when the claim is gone.

    Args:
        api: The API server.
        folder: In which each volume is a folder.
    """

    def __init__(self, api: Api, folder: Path) -> None:
        self._api = api
        self._folder = folder
        claims, volumes = "/api/v1/persistentvolumeclaims", "/api/v1/persistentvolumes"
        self._claims = Mirror(api, claims, lambda *_: self._work.set())
        self._volumes = Mirror(api, volumes, lambda *_: self._work.set())
        self._work = asyncio.Event()

    async def run(self) -> None:
        """Do so for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._claims.run())
            group.create_task(self._volumes.run())
            while True:
                await self._work.wait()
                self._work.clear()
                with contextlib.suppress(*FAULTS):
                    await self._look()

    async def _look(self) -> None:
        for claim in list(self._claims.objects.values()):
            spec = claim["spec"]
            if spec.get("storageClassName") == STORAGE_CLASS and not spec.get("volumeName"):
                with contextlib.suppress(ApiError):  # it has been made already
                    await self._api.ask("POST", "/api/v1/persistentvolumes", self._volume(claim))
        for volume in list(self._volumes.objects.values()):
            ours = volume["metadata"].get("annotations", {}).get(_MARK) == PROVISIONER
            if ours and volume["status"].get("phase") == "Released":
                name = volume["metadata"]["name"]
                shutil.rmtree(volume["spec"]["hostPath"]["path"], ignore_errors=True)
                await self._api.ask("DELETE", f"/api/v1/persistentvolumes/{name}")

    def _volume(self, claim: Json) -> Json:
        meta, spec = claim["metadata"], claim["spec"]
        name = f"pvc-{meta['uid']}"
        path = self._folder / name
        path.mkdir(exist_ok=True)
        path.chmod(0o777)
        owner = {key: meta[key] for key in ("name", "namespace", "uid")}
        return {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name, "annotations": {_MARK: PROVISIONER}},
            "spec": {
                "accessModes": spec["accessModes"],
                "capacity": {"storage": spec["resources"]["requests"]["storage"]},
                "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", **owner},
                "hostPath": {"path": str(path)},
                "persistentVolumeReclaimPolicy": "Delete",
                "storageClassName": STORAGE_CLASS,
            },
        }


class Services:
    """Listens at the addresses of services, and passes connections on to their pods.

    Args:
        api: The API server.
        bridge: The network interface that gets the addresses.
        host: The address that is not to be touched: the API server's.
    """

    def __init__(self, api: Api, bridge: str, host: str) -> None:
        self._bridge = bridge
        self._host = host
        self._change = asyncio.Event()
        self._services = Mirror(api, "/api/v1/services", lambda *_: self._change.set())
        slices = "/apis/discovery.k8s.io/v1/endpointslices"
        self._slices = Mirror(api, slices, lambda *_: self._change.set())
        self._targets: dict[Door, list[tuple[str, int]]] = {}
        self._open: dict[Door, asyncio.Server] = {}

    async def run(self) -> None:
        """Do so for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._services.run())
            group.create_task(self._slices.run())
            while True:
                await self._change.wait()
                self._change.clear()
                await self._adapt()

    async def _adapt(self) -> None:
        """Open the doors that have targets, and close the others."""
        found = {door: targets for door, targets in self._wanted() if targets}
        self._targets = found
        for door in self._open.keys() - found.keys():
            self._open.pop(door).close()
        for door in found.keys() - self._open.keys():
            await call("ip", "address", "add", f"{door[0]}/32", "dev", self._bridge, check=False)
            self._open[door] = await asyncio.start_server(self._passer(door), *door)

    def _wanted(self) -> Iterator[tuple[Door, list[tuple[str, int]]]]:
        for service in self._services.objects.values():
            address = service["spec"].get("clusterIP")
            if address in (None, "", "None", self._host):
                continue
            for port in service["spec"].get("ports", []):
                if port.get("protocol", "TCP") == "TCP":
                    yield (address, port["port"]), list(self._endpoints(service, port.get("name")))

    def _endpoints(self, service: Json, name: str | None) -> Iterator[tuple[str, int]]:
        for part in self._slices.objects.values():
            owner = part["metadata"].get("labels", {}).get("kubernetes.io/service-name")
            same = part["metadata"]["namespace"] == service["metadata"]["namespace"]
            if not same or owner != service["metadata"]["name"]:
                continue
            named = [one for one in part.get("ports") or [] if one.get("name") == (name or "")]
            ports = [one["port"] for one in named]
            for endpoint in part.get("endpoints") or []:
                if endpoint.get("conditions", {}).get("ready", True):
                    yield from ((endpoint["addresses"][0], port) for port in ports)

    def _passer(
        self, door: Door
    ) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        async def passed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                there, back = await asyncio.open_connection(*random.choice(self._targets[door]))
            except (OSError, KeyError):
                writer.close()
                return
            await asyncio.gather(_copy(reader, back), _copy(there, writer))

        return passed


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while piece := await reader.read(_PIECE):
            writer.write(piece)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.close()


async def _main(about: Json) -> None:
    api = Api(about["server"], Path(about["pki"]) / "ca.crt", about["token"])
    async with api, asyncio.TaskGroup() as group:
        group.create_task(Storage(api, Path(about["volumes"])).run())
        group.create_task(Services(api, about["bridge"], about["host"]).run())


if __name__ == "__main__":
    asyncio.run(_main(json.loads(Path(sys.argv[1]).read_text())))
