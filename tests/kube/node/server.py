"""The HTTPS server of a node, to which the API server passes on logs, exec and port-forward.

Port-forward is there for clients that use plain web sockets, such as the official one of Python;
kubectl wants SPDY for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import Callable
from pathlib import Path

from aiohttp import WSMsgType, web

from tests.kube.node.instance import Instance
from tests.kube.node.pod import Pod

PORT = 10250
_PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
_STDIN, _STDOUT, _STDERR, _ERROR, _CLOSE = 0, 1, 2, 3, 255
_PIECE = 32 * 1024


class Server:
    """Answers about the pods of a node.

    Args:
        find: Returns a pod by namespace and name, or None.
    """

    def __init__(self, find: Callable[[str, str], Pod | None]) -> None:
        self._find = find

    async def start(self, address: str, pki: Path) -> None:
        """Listen, with the server's certificate in the folder, until the loop ends."""
        app = web.Application()
        app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._logs)
        app.router.add_get("/exec/{namespace}/{pod}/{container}", self._exec)
        app.router.add_get("/portForward/{namespace}/{pod}", self._forward)
        app.router.add_post("/kill/{namespace}/{pod}", self._kill)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(pki / "server.crt", pki / "server.key")
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, address, PORT, ssl_context=context).start()

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        pod = self._pod(request)
        name = request.match_info["container"]
        container = pod.containers.get(name)
        if container is None:
            raise web.HTTPBadRequest(text=f"container {name} is not valid for pod {pod.name}")
        previous = request.query.get("previous") == "true"
        log = container.earlier if previous else container.log
        if log is None:
            what = f'previous terminated container "{name}"' if previous else f'container "{name}"'
            state = json.dumps(container.state)
            raise web.HTTPBadRequest(
                text=f'{what} in pod "{pod.name}" is waiting to start: {state}'
            )
        answer = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await answer.prepare(request)
        async for piece in log.read(request.query):
            await answer.write(piece)
        await answer.write_eof()
        return answer

    async def _kill(self, request: web.Request) -> web.Response:
        self._pod(request).kill()
        return web.json_response({})

    async def _exec(self, request: web.Request) -> web.WebSocketResponse:
        instance = self._instance(request)
        socket = web.WebSocketResponse(protocols=_PROTOCOLS)
        await socket.prepare(request)
        process = await instance.open(request.query.getall("command"))
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        taking = asyncio.create_task(_take(socket, process.stdin))
        await asyncio.gather(
            _give(socket, _STDOUT, process.stdout), _give(socket, _STDERR, process.stderr)
        )
        code = await process.wait()
        await socket.send_bytes(bytes([_ERROR]) + json.dumps(_status(code)).encode())
        taking.cancel()
        await socket.close()
        return socket

    async def _forward(self, request: web.Request) -> web.WebSocketResponse:
        address = self._pod(request).sandbox.network.address
        ports = [int(port) for port in ",".join(request.query.getall("port")).split(",")]
        socket = web.WebSocketResponse(protocols=("v4.channel.k8s.io",))
        await socket.prepare(request)
        writers: dict[int, asyncio.StreamWriter] = {}
        giving = []
        for index, port in enumerate(ports):
            data, problem = 2 * index, 2 * index + 1
            for channel in (data, problem):
                await socket.send_bytes(bytes([channel]) + port.to_bytes(2, "little"))
            try:
                reader, writers[data] = await asyncio.open_connection(address, port)
            except OSError as error:
                await socket.send_bytes(bytes([problem]) + str(error).encode())
            else:
                giving.append(asyncio.create_task(_give(socket, data, reader)))
        if giving:
            taking = asyncio.create_task(_pass_on(socket, writers))
            await asyncio.wait((taking, asyncio.gather(*giving)), return_when="FIRST_COMPLETED")
            for task in (taking, *giving):
                task.cancel()
        for writer in writers.values():
            writer.close()
        await socket.close()
        return socket

    def _pod(self, request: web.Request) -> Pod:
        found = self._find(request.match_info["namespace"], request.match_info["pod"])
        if found is None:
            raise web.HTTPNotFound(text=f"pod {request.match_info['pod']} is not here")
        return found

    def _instance(self, request: web.Request) -> Instance:
        container = self._pod(request).containers.get(request.match_info["container"])
        if container is None or container.instance is None or not container.instance.alive:
            raise web.HTTPNotFound(text=f"no container {request.match_info['container']} runs here")
        return container.instance


async def _give(socket: web.WebSocketResponse, channel: int, output: asyncio.StreamReader) -> None:
    with contextlib.suppress(ConnectionError):
        while piece := await output.read(_PIECE):
            await socket.send_bytes(bytes([channel]) + piece)


async def _take(socket: web.WebSocketResponse, stdin: asyncio.StreamWriter) -> None:
    """Pass on what comes for the standard input of a command."""
    async for message in socket:
        data = message.data if message.type is WSMsgType.BINARY else message.data.encode()
        if data[:1] == bytes([_STDIN]) and data[1:]:
            stdin.write(data[1:])
        elif data[:2] == bytes([_CLOSE, _STDIN]):
            stdin.close()


async def _pass_on(socket: web.WebSocketResponse, writers: dict[int, asyncio.StreamWriter]) -> None:
    async for message in socket:
        if message.type is WSMsgType.BINARY and message.data[0] in writers:
            writers[message.data[0]].write(message.data[1:])


def _status(code: int) -> dict[str, object]:
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    cause = {"reason": "ExitCode", "message": str(code)}
    return {
        "metadata": {},
        "status": "Failure",
        "reason": "NonZeroExitCode",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "details": {"causes": [cause]},
    }
