"""Probes: whether a container has started, lives, and is ready; and hooks, which are alike."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp

from tests.kube.api import Json
from tests.kube.node.instance import Instance, StartError

_CHARACTERS = 300


class Prober:
    """Carries out the checks of one container.

    Args:
        container: Its specification, for the names of ports.
        instance: Its run.
        address: Of the pod.
        session: For requests.
    """

    def __init__(
        self, container: Json, instance: Instance, address: str, session: aiohttp.ClientSession
    ) -> None:
        self._ports = {
            port.get("name"): port["containerPort"] for port in container.get("ports", [])
        }
        self._instance = instance
        self._address = address
        self._session = session

    async def follow(self, probe: Json, changed: Callable[[bool, str], None]) -> None:
        """Check again and again, and tell each time when a threshold is reached, and why.

        Args:
            probe: The specification.
            changed: Called with whether the probe is passed, and with what was seen.
        """
        await asyncio.sleep(probe.get("initialDelaySeconds", 0))
        thresholds = (probe.get("failureThreshold", 3), probe.get("successThreshold", 1))
        last, count = False, 0
        while True:
            problem = await self.check(probe, probe.get("timeoutSeconds", 1))
            passed = problem is None
            count = count + 1 if passed == last else 1
            last = passed
            if count >= thresholds[passed]:
                changed(passed, problem or "")
            await asyncio.sleep(probe.get("periodSeconds", 10))

    async def check(self, action: Mapping[str, Any], timeout_s: float | None) -> str | None:
        """Carry out an action, exec, httpGet, tcpSocket or sleep, and return what went wrong."""
        try:
            if "exec" in action:
                return await self._execute(action["exec"]["command"], timeout_s)
            async with asyncio.timeout(timeout_s):
                return await self._check(action)
        except TimeoutError:
            return f"no answer within {timeout_s} s"
        except (OSError, aiohttp.ClientError, StartError) as error:
            return str(error) or type(error).__name__

    async def _check(self, action: Mapping[str, Any]) -> str | None:
        if "httpGet" in action:
            return await self._get(action["httpGet"])
        if "tcpSocket" in action:
            port = self._port(action["tcpSocket"]["port"])
            _, writer = await asyncio.open_connection(self._address, port)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            return None
        if "sleep" in action:
            await asyncio.sleep(action["sleep"]["seconds"])
            return None
        return f"the tests' node knows no probe such as {', '.join(action)}"

    async def _execute(self, words: list[str], timeout_s: float | None) -> str | None:
        code, out = await self._instance.execute(words, timeout_s)
        if code == 0:
            return None
        return out.decode(errors="replace")[:_CHARACTERS] or f"exit code {code}"

    async def _get(self, action: Json) -> str | None:
        scheme = action.get("scheme", "HTTP").lower()
        host = action.get("host") or self._address
        url = f"{scheme}://{host}:{self._port(action['port'])}{action.get('path', '/')}"
        headers = {entry["name"]: entry["value"] for entry in action.get("httpHeaders", [])}
        async with self._session.get(url, headers=headers, ssl=False) as answer:
            if 200 <= answer.status < 400:
                return None
            return f"HTTP probe failed with statuscode: {answer.status}"

    def _port(self, port: int | str) -> int:
        return self._ports[port] if isinstance(port, str) else port
