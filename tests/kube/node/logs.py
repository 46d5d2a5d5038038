"""What containers write, kept with times, line by line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from tests.kube.node.api import now_exactly

_PIECE = 64 * 1024
_POLL_S = 0.1


class Log:
    """The log of one run of a container.

    Args:
        path: Of its file.

    Attributes:
        ended: Set when nothing more will be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ended = asyncio.Event()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    async def take(self, output: asyncio.StreamReader) -> None:
        """Write all that comes, until there is no more."""
        rest = b""
        try:
            with self.path.open("ab", buffering=0) as file:
                while piece := await output.read(_PIECE):
                    *lines, rest = (rest + piece).split(b"\n")
                    time = now_exactly().encode()
                    file.write(b"".join(b"%s %s\n" % (time, line) for line in lines))
                if rest:
                    file.write(b"%s %s\n" % (now_exactly().encode(), rest))
        finally:
            self.ended.set()

    async def read(self, query: Mapping[str, str]) -> AsyncIterator[bytes]:
        """Yield the log, as a query with Kubernetes' names wants it.

        The names are follow, tailLines, sinceSeconds, sinceTime, timestamps and limitBytes.
        """
        since = _since(query)
        times = query.get("timestamps") == "true"
        most = int(query.get("limitBytes") or 0)
        tail = int(query["tailLines"]) if query.get("tailLines") else None
        sent = 0
        async for lines in self._lines(follow=query.get("follow") == "true"):
            chosen = lines[len(lines) - tail :] if tail is not None and tail < len(lines) else lines
            tail = None
            shown = [_shown(line, times) for line in chosen if line[: len(since)] >= since]
            text = b"".join(shown)[: most - sent if most else None]
            if text:
                yield text
            sent += len(text)
            if most and sent >= most:
                return

    async def _lines(self, *, follow: bool) -> AsyncIterator[list[bytes]]:
        with self.path.open("rb") as file:
            rest = b""
            while True:
                # Looked at before reading, so that nothing written before the end is missed.
                over = not follow or self.ended.is_set()
                *lines, rest = (rest + file.read()).split(b"\n")
                yield lines
                if over:
                    return
                await asyncio.sleep(_POLL_S)


def _since(query: Mapping[str, str]) -> bytes:
    """Return the first time that is wanted; times as text have the order of times."""
    if seconds := query.get("sinceSeconds"):
        first = datetime.fromtimestamp(datetime.now(UTC).timestamp() - int(seconds), UTC)
        return first.strftime("%Y-%m-%dT%H:%M:%S").encode()
    if time := query.get("sinceTime"):
        first = datetime.fromisoformat(time.replace("Z", "+00:00")).astimezone(UTC)
        return first.strftime("%Y-%m-%dT%H:%M:%S").encode()
    return b""


def _shown(line: bytes, times: bool) -> bytes:
    return (line if times else line.partition(b" ")[2]) + b"\n"
