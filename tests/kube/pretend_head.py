"""Plays the dashboard of a Ray head for KubeRay's operator and `ray job submit`.

    python pretend_head.py SECONDS OUTCOME

A job runs for so many seconds, writes a line of output twice a second, and ends as SUCCEEDED,
FAILED or STOPPED. Nothing of Ray is started.
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass

from aiohttp import web

LINE_S = 0.5
_FAILED = (
    "Job entrypoint command failed with exit code 2, last available logs (truncated to 20,000 "
    "chars):\nerror: the spec is wrong\n"
)


@dataclass
class Job:
    """A job that was submitted."""

    id: str
    entrypoint: str
    begun_s: float


class Head:
    """Answers as a head does."""

    def __init__(self, seconds: float, outcome: str) -> None:
        self._seconds = seconds
        self._outcome = outcome
        self._jobs: dict[str, Job] = {}

    def app(self) -> web.Application:
        app = web.Application()
        healthy = [web.get(f"/api/{name}", self._healthy) for name in ("gcs_healthz", "healthz")]
        healthy.append(web.get("/api/local_raylet_healthz", self._healthy))
        app.add_routes(
            [
                *healthy,
                web.get("/api/version", self._version),
                web.post("/api/jobs/", self._submit),
                web.get("/api/jobs/{id}", self._status),
                web.get("/api/jobs/{id}/logs", self._log),
                web.get("/api/jobs/{id}/logs/tail", self._tail),
                web.post("/api/jobs/{id}/stop", self._stop),
            ]
        )
        return app

    async def _healthy(self, _: web.Request) -> web.Response:
        return web.Response(text="success")

    async def _version(self, _: web.Request) -> web.Response:
        told = {"version": "4", "ray_version": "2.60.0", "ray_commit": "x", "session_name": "s"}
        return web.json_response(told)

    async def _submit(self, request: web.Request) -> web.Response:
        asked = await request.json()
        name = asked.get("submission_id") or "job"
        if name in self._jobs:
            return web.Response(status=500, text="Job with submission_id already exists")
        self._jobs[name] = Job(name, asked["entrypoint"], time.time())
        return web.json_response({"job_id": name, "submission_id": name})

    def _state(self, job: Job) -> str:
        return self._outcome if time.time() - job.begun_s > self._seconds else "RUNNING"

    async def _status(self, request: web.Request) -> web.Response:
        job = self._jobs.get(request.match_info["id"])
        if job is None:
            return web.Response(status=404, text="Job does not exist")
        state, end_s = self._state(job), job.begun_s + self._seconds
        messages = {"RUNNING": "Job is currently running.", "FAILED": _FAILED}
        told: dict[str, object] = {
            "type": "SUBMISSION",
            "job_id": None,
            "submission_id": job.id,
            "driver_info": None,
            "status": state,
            "entrypoint": job.entrypoint,
            "message": messages.get(state, "Job finished successfully."),
            "error_type": None,
            "start_time": int(job.begun_s * 1000),
            "end_time": 0 if state == "RUNNING" else int(end_s * 1000),
            "metadata": {},
            "runtime_env": {},
            "driver_agent_http_address": "",
            "driver_node_id": "",
            "driver_exit_code": 0,
        }
        return web.json_response(told)

    async def _log(self, request: web.Request) -> web.Response:
        job = self._jobs[request.match_info["id"]]
        return web.json_response({"logs": "".join(self._lines(job))})

    def _lines(self, job: Job) -> list[str]:
        """Return what a job has written by now."""
        count = int(min(time.time() - job.begun_s, self._seconds) / LINE_S)
        return [f"epoch {number}\n" for number in range(count)]

    async def _tail(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        job, sent, state = self._jobs[request.match_info["id"]], 0, "RUNNING"
        while state == "RUNNING":
            state = self._state(job)
            for line in self._lines(job)[sent:]:
                await socket.send_str(line)
                sent += 1
            await asyncio.sleep(LINE_S)
        await socket.close()
        return socket

    async def _stop(self, _: web.Request) -> web.Response:
        return web.json_response({"stopped": True})


async def serve(head: Head) -> None:
    """Answer at the ports of the dashboard and of its agent, without end."""
    for port in (8265, 52365):
        runner = web.AppRunner(head.app())
        await runner.setup()
        await web.TCPSite(runner, "0.0.0.0", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(Head(float(sys.argv[1]), sys.argv[2])))
