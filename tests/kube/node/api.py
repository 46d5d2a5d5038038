"""The API server, as an agent of a node asks and watches it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

import aiohttp

from tests.kube.api import ApiError, Json, error_of

STRATEGIC = "application/strategic-merge-patch+json"
FAULTS = (ApiError, aiohttp.ClientError, asyncio.TimeoutError, ConnectionError)
"""What asking can raise; all but some ApiErrors pass when the server is back."""
RETRY_S = 0.3
_WATCH_S = 300


class Api:
    """Asks an API server; an asynchronous context.

    Args:
        server: Its URL.
        authority: File with the certificate authority's certificate.
        token: Of an administrator.
    """

    def __init__(self, server: str, authority: Path, token: str) -> None:
        self._server = server
        self._context = ssl.create_default_context(cafile=str(authority))
        self._headers = {"Authorization": f"Bearer {token}"}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Api:
        self._session = aiohttp.ClientSession(
            self._server,
            connector=aiohttp.TCPConnector(ssl=self._context, limit=0),
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=20),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        """Return the session of HTTP, which is there between enter and exit."""
        if self._session is None:
            raise RuntimeError("the API is used outside of its context")
        return self._session

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        kind: str = "application/json",
        query: Mapping[str, str] | None = None,
    ) -> Json:
        """Ask, and return the answer.

        Raises:
            ApiError: The answer is an error.
            aiohttp.ClientError: The server cannot be reached.
        """
        data = None if body is None else json.dumps(body)
        async with self.session.request(
            method, path, data=data, params=query, headers={"Content-Type": kind}
        ) as answer:
            text = await answer.read()
        if answer.status >= 400:
            raise error_of(answer.status, text)
        found: Json = json.loads(text)
        return found

    async def insist(
        self, method: str, path: str, body: object = None, *, kind: str = "application/json"
    ) -> Json:
        """Ask until the server is there to answer.

        Raises:
            ApiError: It answered, and the answer is an error that a second try does not heal.
        """
        while True:
            try:
                return await self.ask(method, path, body, kind=kind)
            except FAULTS as error:
                if isinstance(error, ApiError) and error.code < 500 and error.code != 429:
                    raise
            await asyncio.sleep(RETRY_S)

    async def watch(
        self, path: str, version: str, query: Mapping[str, str]
    ) -> AsyncIterator[tuple[str, Json]]:
        """Yield the changes after a version, as (ADDED | MODIFIED | DELETED, object)."""
        more = {"watch": "1", "resourceVersion": version, "timeoutSeconds": str(_WATCH_S)}
        patience = aiohttp.ClientTimeout(total=None, sock_read=2 * _WATCH_S)
        async with self.session.get(path, params={**query, **more}, timeout=patience) as answer:
            if answer.status >= 400:
                raise error_of(answer.status, await answer.read())
            rest = b""
            async for piece in answer.content.iter_any():
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise error_of(event["object"].get("code", 500), line)
                    yield event["type"], event["object"]


class Mirror:
    """The objects behind a path, as the server has them.

    Args:
        api: To ask.
        path: Such as /api/v1/services.
        changed: Called for each change, with the object's uid, and None when it is gone.
        query: Such as a selector.

    Attributes:
        objects: The objects by uid.
        synced: Set when they are all there for the first time.
    """

    def __init__(
        self,
        api: Api,
        path: str,
        changed: Callable[[str, Json | None], None],
        query: Mapping[str, str] | None = None,
    ) -> None:
        self.objects: dict[str, Json] = {}
        self.synced = asyncio.Event()
        self._api = api
        self._path = path
        self._changed = changed
        self._query = dict(query or {})

    async def run(self) -> None:
        """Keep the objects up to date for ever."""
        while True:
            with contextlib.suppress(*FAULTS, json.JSONDecodeError):
                await self._follow()
            await asyncio.sleep(RETRY_S)

    async def _follow(self) -> None:
        listed = await self._api.ask("GET", self._path, query=self._query)
        fresh = {item["metadata"]["uid"]: item for item in listed["items"]}
        for uid in self.objects.keys() - fresh.keys():
            self._set(uid, None)
        for uid, item in fresh.items():
            if self.objects.get(uid) != item:
                self._set(uid, item)
        self.synced.set()
        version = listed["metadata"]["resourceVersion"]
        async for change, item in self._api.watch(self._path, version, self._query):
            self._set(item["metadata"]["uid"], None if change == "DELETED" else item)

    def _set(self, uid: str, item: Json | None) -> None:
        if item is None:
            self.objects.pop(uid, None)
        else:
            self.objects[uid] = item
        self._changed(uid, item)


def now() -> str:
    """Return the time as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def now_exactly() -> str:
    """Return the time with microseconds, as leases have it and with more digits logs."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
