"""One container of a pod through all its runs: starts, probes, restarts and its end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import aiohttp

from tests.kube.api import Json
from tests.kube.node.api import now
from tests.kube.node.environment import ConfigError, expand
from tests.kube.node.instance import Instance, Recipe, StartError
from tests.kube.node.logs import Log
from tests.kube.node.probes import Prober
from tests.kube.node.sandbox import Sandbox

_RETRY_S = 1.0
_BACK_OFF_S = (0.0, 1.0, 2.0, 4.0, 8.0)
"""Before the restarts of a container; a real kubelet waits 10 s and more from the second on."""
_NO_IMAGE = "does-not-exist"


class Surroundings(Protocol):
    """What a container needs from its pod."""

    @property
    def sandbox(self) -> Sandbox:
        """Return the machine in which the container runs."""

    @property
    def session(self) -> aiohttp.ClientSession:
        """Return the session for probes."""

    async def recipe(self, container: Json, run: int) -> Recipe:
        """Return what a run of the container is to be; raises ConfigError."""

    def log_of(self, container: str, run: int) -> Log:
        """Return an empty log for a run of a container."""

    def changed(self) -> None:
        """Have the state of the containers told to the API server."""

    def say(self, reason: str, message: str, *, warning: bool = True) -> None:
        """Make an event of the pod."""


class Container:
    """A container of a pod.

    Args:
        spec: Its specification.
        policy: Whether it is restarted: Always, OnFailure, Never.
        pod: What is around it.
        restarts: How often it was restarted before.

    Attributes:
        name: Its name.
        state: waiting, running or terminated, as Kubernetes writes it.
        started: Whether its startup probe, if any, has been passed.
        ready: Whether its readiness probe, if any, is passed.
        log: Of its run now or last.
        earlier: Of the run before.
    """

    def __init__(self, spec: Json, policy: str, pod: Surroundings, restarts: int = 0) -> None:
        self.name: str = spec["name"]
        self.spec = spec
        self.state: Json = {"waiting": {"reason": "PodInitializing"}}
        self.started = False
        self.ready = False
        self.log: Log | None = None
        self.earlier: Log | None = None
        self.instance: Instance | None = None
        self.sidecar = spec.get("restartPolicy") == "Always"
        self._policy = spec.get("restartPolicy", policy)
        self._pod = pod
        self._restarts = restarts
        self._last: Json = {}
        self._up = asyncio.Event()
        self._stopping = False
        self._problem = ""

    async def keep(self) -> int:
        """Start it, and again as its policy says; return the exit code of its last run."""
        first = self._restarts
        while True:
            code = await self._run()
            again = self._policy == "Always" or (self._policy == "OnFailure" and code)
            if self._stopping or not again:
                return code
            self._last = self.state
            await self._back_off(self._restarts - first)
            self._restarts += 1

    async def is_up(self) -> None:
        """Wait until it has started, its startup probe included."""
        await self._up.wait()

    async def stop(self, grace_s: float) -> None:
        """End it: its hook, SIGTERM, and SIGKILL when the grace is over."""
        self._stopping = True
        instance = self.instance
        if instance is None or not instance.alive:
            return
        end = asyncio.ensure_future(instance.wait())
        try:
            async with asyncio.timeout(grace_s):
                if hook := self.spec.get("lifecycle", {}).get("preStop"):
                    await self._carry_out(instance, "preStop", hook)
                instance.signal(signal.SIGTERM)
                await asyncio.shield(end)
        except TimeoutError:
            instance.kill()
        await end
        await self._ended(instance)

    async def settle(self) -> None:
        """Note the end of what no longer runs, and begin nothing more."""
        self._stopping = True
        if self.instance is not None:
            await self._ended(self.instance)

    def kill(self) -> None:
        """Kill its processes, as by a fault; the policy says what then happens."""
        if self.instance is not None:
            self.instance.kill()

    def forget(self) -> None:
        """Say that it ended without anybody seeing how, as with its node."""
        end = {"exitCode": 137, "reason": "ContainerStatusUnknown", "finishedAt": now()}
        end["message"] = "The container could not be located when the pod was terminated"
        self.state = {"terminated": end}
        self.started = self.ready = False

    def status(self) -> Json:
        """Return its status as Kubernetes writes it."""
        found: Json = {
            "name": self.name,
            "image": self.spec["image"],
            "imageID": "",
            "state": self.state,
            "lastState": self._last,
            "ready": self.ready,
            "started": self.started,
            "restartCount": self._restarts,
        }
        return found

    @property
    def exit_code(self) -> int | None:
        """Return the exit code when it has ended."""
        found: int | None = self.state.get("terminated", {}).get("exitCode")
        return found

    async def _run(self) -> int:
        """Start it once and return its exit code."""
        await self._image()
        recipe = await self._recipe()
        self.earlier, self.log = self.log, self._pod.log_of(self.name, self._restarts)
        began = now()
        try:
            instance = await Instance.start(self._pod.sandbox, recipe, self.log)
        except StartError as error:
            times = {"startedAt": began, "finishedAt": now()}
            about = {"exitCode": 128, "reason": "StartError", "message": str(error), **times}
            self._set({"terminated": about})
            return 128
        self.instance = instance
        self._set({"running": {"startedAt": began}})
        checks = asyncio.create_task(self._check(instance))
        try:
            await instance.wait()
        finally:
            checks.cancel()
        return await self._ended(instance)

    async def _ended(self, instance: Instance) -> int:
        """Note how a run ended."""
        code = await instance.wait()
        if "running" in self.state:
            times = {"startedAt": self.state["running"]["startedAt"], "finishedAt": now()}
            reason = "Completed" if code == 0 else "Error"
            self.started = self.ready = False
            self._set({"terminated": {"exitCode": code, "reason": reason, **times}})
        return code

    async def _image(self) -> None:
        """Wait for ever for an image that does not exist; others need not be fetched."""
        image = self.spec["image"]
        if _NO_IMAGE not in image:
            return
        problem = f'failed to pull and unpack image "{image}": not found'
        self._wait("ErrImagePull", problem)
        self._pod.say("Failed", f'Failed to pull image "{image}": {problem}')
        await asyncio.sleep(_RETRY_S)
        self._wait("ImagePullBackOff", f'Back-off pulling image "{image}": {problem}')
        self._pod.say("BackOff", f'Back-off pulling image "{image}"')
        await asyncio.Event().wait()

    async def _recipe(self) -> Recipe:
        said = ""
        while True:
            try:
                return await self._pod.recipe(self.spec, self._restarts)
            except ConfigError as error:
                if str(error) != said:
                    said = str(error)
                    self._wait("CreateContainerConfigError", said)
                    self._pod.say("Failed", f"Error: {said}")
            await asyncio.sleep(_RETRY_S)

    async def _back_off(self, times: int) -> None:
        pause_s = _BACK_OFF_S[min(times, len(_BACK_OFF_S) - 1)]
        if pause_s:
            text = f"back-off {pause_s:g}s restarting failed container={self.name}"
            self._wait("CrashLoopBackOff", text)
            self._pod.say("BackOff", f"Back-off restarting failed container {self.name}")
            await asyncio.sleep(pause_s)

    async def _check(self, instance: Instance) -> None:
        """Carry out the hook and the probes of a run until cancelled."""
        address = self._pod.sandbox.network.address
        prober = Prober(self.spec, instance, address, self._pod.session)
        if hook := self.spec.get("lifecycle", {}).get("postStart"):
            await self._carry_out(instance, "postStart", hook)
        if probe := self.spec.get("startupProbe"):
            await self._first_pass(prober, probe, instance)
        self.started = True
        self._up.set()
        readiness, liveness = self.spec.get("readinessProbe"), self.spec.get("livenessProbe")
        self._note_ready(readiness is None)
        followed: list[Awaitable[None]] = []
        if readiness is not None:
            followed.append(prober.follow(readiness, self._readiness))
        if liveness is not None:
            followed.append(prober.follow(liveness, self._fatal("Liveness", instance)))
        await asyncio.gather(*followed)

    async def _first_pass(self, prober: Prober, probe: Json, instance: Instance) -> None:
        """Wait until the startup probe is passed."""
        passed = asyncio.Event()
        fatal = self._fatal("Startup", instance)

        def seen(success: bool, problem: str) -> None:
            passed.set() if success else fatal(success, problem)

        task = asyncio.create_task(prober.follow(probe, seen))
        try:
            await passed.wait()
        finally:
            task.cancel()

    def _readiness(self, passed: bool, problem: str) -> None:
        if problem and problem != self._problem:
            self._pod.say("Unhealthy", f"Readiness probe failed: {problem}")
        self._problem = problem
        self._note_ready(passed)

    def _fatal(self, kind: str, instance: Instance) -> Callable[[bool, str], None]:
        """Return what kills a run when its probe fails."""
        told = False

        def seen(passed: bool, problem: str) -> None:
            nonlocal told
            if not passed and not told:
                told = True
                self._pod.say("Unhealthy", f"{kind} probe failed: {problem}")
                self._pod.say("Killing", f"Container {self.name} failed {kind.lower()} probe")
                instance.kill()

        return seen

    async def _carry_out(self, instance: Instance, name: str, hook: Any) -> None:
        problem = await Prober(
            self.spec, instance, self._pod.sandbox.network.address, self._pod.session
        ).check(hook, None)
        if problem is not None:
            self._pod.say(f"Failed{name[0].upper()}{name[1:]}Hook", problem)
            if name == "postStart":
                instance.kill()

    def _note_ready(self, ready: bool) -> None:
        if ready != self.ready:
            self.ready = ready
        self._pod.changed()

    def _wait(self, reason: str, message: str) -> None:
        self._set({"waiting": {"reason": reason, "message": message}})

    def _set(self, state: Json) -> None:
        self.state = state
        self._pod.changed()


def command_of(spec: Json, environment: dict[str, str]) -> tuple[str, ...]:
    """Return the command line of a container, with $(NAME) replaced.

    Raises:
        ConfigError: It has no command; the tests' images have none either.
    """
    words = [*spec.get("command", []), *spec.get("args", [])]
    if not spec.get("command"):
        raise ConfigError(
            f"container {spec['name']} has no command, and its image is not looked at"
        )
    return tuple(expand(word, environment) for word in words)
