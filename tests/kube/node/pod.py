"""A pod on this node, from the moment it is bound until its object is gone."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

import aiohttp

from tests.kube.api import ApiError, Json
from tests.kube.node import environment, volumes
from tests.kube.node.api import STRATEGIC, Api, now
from tests.kube.node.container import Container, command_of
from tests.kube.node.environment import ConfigError
from tests.kube.node.instance import Recipe
from tests.kube.node.logs import Log
from tests.kube.node.sandbox import Network, Sandbox
from tests.kube.node.volumes import Volume, Volumes

_RETRY_S = 0.5
_SHM = "shm"


class Surroundings(Protocol):
    """What a pod needs from its node."""

    api: Api
    address: str
    image: Mapping[str, str]
    folders: tuple[str, ...]
    capacity: Mapping[str, str]

    @property
    def session(self) -> aiohttp.ClientSession:
        """Return the session for probes."""

    def take_address(self) -> Network:
        """Return a free address."""

    def give_back(self, network: Network) -> None:
        """Free an address."""

    def hosts(self, pod: Json, address: str) -> str:
        """Return the /etc/hosts of a pod."""

    def say(self, about: Json, reason: str, message: str, *, warning: bool) -> None:
        """Make an event."""


class Pod:
    """A pod.

    Args:
        thing: Its object.
        node: Where it runs.
        folder: For its files.

    Attributes:
        thing: Its object, as last seen.
        containers: By name, init containers first.
    """

    def __init__(self, thing: Json, node: Surroundings, folder: Path) -> None:
        self.thing = thing
        self.name: str = thing["metadata"]["name"]
        self.namespace: str = thing["metadata"]["namespace"]
        self._sandbox: Sandbox | None = None
        self._node = node
        self._folder = folder
        self._network: Network | None = None
        self._volumes: dict[str, Volume] = {}
        self._change = asyncio.Event()
        self._ending = asyncio.Event()
        self._grace_s = 0.0
        self._began = now()
        self._failure: Json = {}
        self._since: dict[str, tuple[str, str]] = {}
        spec = thing["spec"]
        counts = _restarts(thing)
        policy = spec.get("restartPolicy", "Always")
        first = "Never" if policy == "Never" else "OnFailure"
        self._first = [
            Container(one, first, self, counts.get(one["name"], 0))
            for one in spec.get("initContainers", [])
        ]
        self._main = [
            Container(one, policy, self, counts.get(one["name"], 0)) for one in spec["containers"]
        ]
        self.containers = {one.name: one for one in (*self._first, *self._main)}
        self._policy = policy
        self._over = False
        self._keeping: list[asyncio.Task[int]] = []
        self._ready_to_start = False

    # What its containers need

    @property
    def sandbox(self) -> Sandbox:
        """Return its machine."""
        if self._sandbox is None:
            raise RuntimeError(f"the pod {self.name} has no sandbox yet")
        return self._sandbox

    @property
    def session(self) -> aiohttp.ClientSession:
        """Return the session for probes."""
        return self._node.session

    async def recipe(self, container: Json, run: int) -> Recipe:
        """Return what a run of a container is to be.

        Raises:
            ConfigError: It refers to something that is not there.
        """
        variables = await environment.resolve(
            container,
            self.thing,
            self._node.image,
            self._read,
            self._addresses,
            self._node.capacity,
        )
        return Recipe(
            layer=self._folder / "layers" / f"{container['name']}-{run}",
            command=command_of(container, variables),
            environment=variables,
            folder=container.get("workingDir") or variables["HOME"],
            mounts=self._mounts(container, variables),
            image=self._node.folders,
        )

    def log_of(self, container: str, run: int) -> Log:
        """Return an empty log for a run of a container."""
        return Log(self._folder / "logs" / container / f"{run}.log")

    def changed(self) -> None:
        """Have the state of the containers told to the API server."""
        self._change.set()

    def say(self, reason: str, message: str, *, warning: bool = True) -> None:
        """Make an event of the pod."""
        self._node.say(self.thing, reason, message, warning=warning)

    # What the node does with it

    async def run(self) -> None:
        """Let it live until its object is to go or is gone."""
        telling = asyncio.create_task(self._tell_for_ever())
        living = asyncio.create_task(self._live())
        ending = asyncio.create_task(self._ending.wait())
        try:
            await asyncio.wait((living, ending), return_when=asyncio.FIRST_COMPLETED)
            if not living.done():
                await self._end(living)
            elif (error := living.exception()) is not None:
                self._failure = {"reason": "NodeError", "message": repr(error)}
            await self._tear_down()
            self.changed()
            await ending
        finally:
            for task in (living, ending, telling):
                task.cancel()
            await asyncio.gather(living, ending, telling, return_exceptions=True)
        await self._delete()
        shutil.rmtree(self._folder, ignore_errors=True)

    def end(self, grace_s: float) -> None:
        """Have it end; with a grace of 0 s at once."""
        self._grace_s = grace_s
        self._ending.set()

    def kill(self) -> None:
        """Kill all its processes, as by a fault; its restart policy says what then happens."""
        for container in self.containers.values():
            container.kill()

    def lose(self) -> None:
        """Say that it ran when the node went away, and what follows from that."""
        if self._policy == "Never":
            for container in self.containers.values():
                container.forget()

    def tell_hosts(self) -> None:
        """Write its /etc/hosts anew."""
        if self._network is None:
            return
        path = self._folder / "hosts"
        content = self._node.hosts(self.thing, self._network.address).encode()
        # In place and never shorter: it is mounted, and a reader must not see half of it.
        before = path.stat().st_size if path.exists() else 0
        if not path.exists() or path.read_bytes().rstrip(b"\n") != content.rstrip(b"\n"):
            with path.open("r+b" if before else "wb", buffering=0) as file:
                file.write(content.ljust(before, b"\n"))

    # Its life

    async def _live(self) -> None:
        if self._main[0].exit_code is None:  # it was not lost with the node
            await self._set_up()
            if await self._run_first():
                await self._run_main()
        self._over = True

    async def _set_up(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)  # before there is an address to write there
        self._network = network = self._node.take_address()
        self._volumes = await self._make_volumes()
        shm = self._folder / _SHM
        shm.mkdir(parents=True, exist_ok=True)
        memory = {volume.path: volume.memory_bytes for volume in self._volumes.values()}
        sizes = {path: size for path, size in memory.items() if size is not None}
        self.tell_hosts()
        hostname = self.thing["spec"].get("hostname") or self.name
        self._sandbox = Sandbox(network, hostname[:63], {shm: 0, **sizes})
        await self._sandbox.start()
        self._ready_to_start = True
        self.changed()

    async def _make_volumes(self) -> dict[str, Volume]:
        made = Volumes(
            self.thing,
            self._folder / "volumes",
            self._read,
            self._addresses,
            self._node.capacity,
        )
        said = ""
        while True:
            try:
                return await made.make()
            except ConfigError as error:
                if str(error) != said:
                    said = str(error)
                    self.say("FailedMount", f"MountVolume.SetUp failed: {said}")
            await asyncio.sleep(_RETRY_S)

    async def _run_first(self) -> bool:
        """Run the init containers, and say whether the others may start."""
        for container in self._first:
            keeping = self._keep(container)
            if container.sidecar:
                await container.is_up()
            elif await keeping:
                return False
        return True

    async def _run_main(self) -> None:
        """Run the other containers until all have ended for good."""
        limit_s = self.thing["spec"].get("activeDeadlineSeconds")
        for container in self._main:
            container.state = {"waiting": {"reason": "ContainerCreating"}}
        keeping = [self._keep(container) for container in self._main]
        _, late = await asyncio.wait(keeping, timeout=limit_s)
        if late:
            text = "Pod was active on the node longer than the specified deadline"
            self._failure = {"reason": "DeadlineExceeded", "message": text}
            await self._stop(self._main, self._own_grace_s)
        await self._stop(self._sidecars, self._own_grace_s)

    def _keep(self, container: Container) -> asyncio.Task[int]:
        task = asyncio.create_task(container.keep())
        self._keeping.append(task)
        return task

    async def _end(self, living: asyncio.Task[None]) -> None:
        """End what runs, within the grace."""
        tasks = [living, *self._keeping]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.say("Killing", "Stopping containers", warning=False)
        if self._grace_s:
            await self._stop(self._main, self._grace_s)
            await self._stop(self._sidecars, self._grace_s)

    async def _stop(self, containers: Iterable[Container], grace_s: float) -> None:
        await asyncio.gather(*(container.stop(grace_s) for container in containers))

    async def _tear_down(self) -> None:
        """Have nothing run any more, and free the address."""
        if self._sandbox is not None:
            await self._sandbox.kill()
        for container in self.containers.values():
            await container.settle()
        if self._network is not None:
            self._node.give_back(self._network)
            self._network = None
        shutil.rmtree(self._folder / "volumes", ignore_errors=True)
        self._ready_to_start = False
        self._over = True

    async def _delete(self) -> None:
        """Tell how it ended, and have its object go."""
        about = {"gracePeriodSeconds": 0, "preconditions": {"uid": self.thing["metadata"]["uid"]}}
        with contextlib.suppress(ApiError):  # it is gone, or another one has its name
            await self._tell()
            await self._node.api.insist("DELETE", self._path, about)

    # What it tells the API server

    @property
    def _path(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods/{self.name}"

    async def _tell_for_ever(self) -> None:
        while True:
            await self._change.wait()
            self._change.clear()
            try:
                await self._tell()
            except ApiError as error:
                if error.code not in (404, 409):  # it is gone, or another one has its name
                    print(f"{self.name}: {error}", file=sys.stderr, flush=True)

    async def _tell(self) -> None:
        change = {"metadata": {"uid": self.thing["metadata"]["uid"]}, "status": self.status()}
        await self._node.api.insist("PATCH", f"{self._path}/status", change, kind=STRATEGIC)

    def status(self) -> Json:
        """Return its status as Kubernetes writes it."""
        phase = self._phase()
        found: Json = {
            "phase": phase,
            "conditions": self._conditions(phase),
            "hostIP": self._node.address,
            "startTime": self._began,
            "initContainerStatuses": [container.status() for container in self._first],
            "containerStatuses": [container.status() for container in self._main],
            **self._failure,
        }
        if self._ready_to_start and self._network is not None:
            found["podIP"] = self._network.address
            # Without the directive another address would be added.
            found["podIPs"] = [{"ip": self._network.address}, {"$patch": "replace"}]
        return found

    def _phase(self) -> str:
        codes = [container.exit_code for container in self._main]
        if self._over:
            return "Failed" if self._failure or any(code != 0 for code in codes) else "Succeeded"
        begun = any(one.exit_code is not None or one.instance for one in self._main)
        return "Running" if begun else "Pending"

    def _conditions(self, phase: str) -> list[Json]:
        ready = phase == "Running" and all(one.ready for one in self._main)
        first_done = all(one.started if one.sidecar else one.exit_code == 0 for one in self._first)
        reason = f"Pod{phase if phase != 'Succeeded' else 'Completed'}" if self._over else ""
        states = {
            "PodReadyToStartContainers": self._ready_to_start,
            "Initialized": first_done or (self._over and phase == "Succeeded"),
            "ContainersReady": ready,
            "Ready": ready,
        }
        found = []
        for kind, true in states.items():
            value = str(true)
            if self._since.get(kind, ("", ""))[0] != value:
                self._since[kind] = (value, now())
            about = {"type": kind, "status": value, "lastTransitionTime": self._since[kind][1]}
            if not true and kind in ("ContainersReady", "Ready"):
                about["reason"] = reason or "ContainersNotReady"
            found.append(about)
        return found

    # Details

    @property
    def _sidecars(self) -> list[Container]:
        return [container for container in reversed(self._first) if container.sidecar]

    @property
    def _own_grace_s(self) -> float:
        return float(self.thing["spec"].get("terminationGracePeriodSeconds", 30))

    @property
    def _addresses(self) -> dict[str, str]:
        own = "" if self._network is None else self._network.address
        return {"status.podIP": own, "status.hostIP": self._node.address}

    async def _read(self, resource: str, name: str) -> Json | None:
        """Return what environment and volumes ask for, once the server is there to answer."""
        where = f"/api/v1/namespaces/{self.namespace}/{resource}/{name}"
        method, body = "GET", None
        if resource == "persistentvolumes":
            where = f"/api/v1/persistentvolumes/{name}"
        elif resource == "tokens":
            where = f"/api/v1/namespaces/{self.namespace}/serviceaccounts/{name}/token"
            method, body = "POST", volumes.token_request(self.thing)
        try:
            return await self._node.api.insist(method, where, body)
        except ApiError as error:
            if error.code == 404:
                return None
            raise ConfigError(str(error)) from error

    def _mounts(self, container: Json, variables: Mapping[str, str]) -> tuple[Json, ...]:
        """Return what is mounted in a container, outer places first.

        Raises:
            ConfigError: It mounts a volume that the pod does not have.
        """
        shm = {"source": str(self._folder / _SHM), "target": "/dev/shm", "read_only": False}
        hosts = {"source": str(self._folder / "hosts"), "target": "/etc/hosts", "read_only": False}
        found = [hosts]
        wanted = container.get("volumeMounts", [])
        if not any(mount["mountPath"].rstrip("/") == "/dev/shm" for mount in wanted):
            found.append(shm)
        for mount in sorted(wanted, key=lambda mount: len(Path(mount["mountPath"]).parts)):
            volume = self._volumes.get(mount["name"])
            if volume is None:
                raise ConfigError(f"volume {mount['name']} is not in the pod")
            part = environment.expand(mount.get("subPathExpr", ""), variables)
            source = volume.path / (mount.get("subPath") or part)
            if not source.exists():
                source.mkdir(parents=True)
            read_only = bool(mount.get("readOnly")) or volume.read_only
            found.append(
                {"source": str(source), "target": mount["mountPath"], "read_only": read_only}
            )
        return tuple(found)


def _restarts(thing: Json) -> dict[str, int]:
    """Return how often each container was started again, once more for those that ran till now."""
    status = thing.get("status", {})
    return {
        one["name"]: one["restartCount"] + ("running" in one.get("state", {}))
        for part in ("initContainerStatuses", "containerStatuses")
        for one in status.get(part, [])
    }
