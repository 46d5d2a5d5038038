"""Is this machine ready? Looks without starting Ray, and changes nothing."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from raytune_hpo.redact import redact

Verdict = Literal["ok", "warn", "fail"]

MIN_PYTHON = (3, 11)
_PACKAGES = {"ray": (2, 60), "mlflow": (3, 17), "optuna": (5, 0)}
_GIB = 2**30
_LOW_MEMORY = 2 * _GIB
_LOW_DISK = 5 * _GIB
_LOW_SHM = _GIB // 4
_SOCKET_PATH = 107
"""Longest path of a Unix socket on Linux, in bytes."""
_RAY_SOCKET = "/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store"
"""What Ray appends to its temporary folder, at its longest."""
_HTTP_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report: what was looked at, the verdict, and what was seen."""

    subject: str
    verdict: Verdict
    text: str


def examine(tracking_uri: str | None = None, storage: str | None = None) -> Iterator[Finding]:
    """Yield one finding after the other.

    Args:
        tracking_uri: An MLflow store to reach as well.
        storage: URL of an object store for runs, on which each thing that is needed is tried.
    """
    yield _python()
    for name, oldest in _PACKAGES.items():
        yield _package(name, oldest)
    yield _cpus()
    yield _memory()
    yield _disk(Path.cwd())
    temp = Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir()))
    yield _ray_temp(temp)
    yield _ray_ports()
    yield _shared_memory(Path("/dev/shm"))
    if storage is not None:
        yield from _storage(storage)
    if tracking_uri is not None:
        yield store(tracking_uri)


def _python() -> Finding:
    seen = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < MIN_PYTHON:
        return Finding("Python", "fail", f"{seen}; 3.11 or newer is needed")
    return Finding("Python", "ok", seen)


def _package(name: str, oldest: tuple[int, int]) -> Finding:
    try:
        seen = version(name)
    except PackageNotFoundError:
        return Finding(name, "fail", f"not installed; pip install '{name}>={_dotted(oldest)}'")
    numbers = tuple(int(part) for part in seen.split(".")[:2] if part.isdigit())
    if numbers < oldest:
        return Finding(name, "fail", f"{seen}; {_dotted(oldest)} or newer is needed")
    return Finding(name, "ok", seen)


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))


def cpus() -> int:
    """Return the CPUs this process may use."""
    return len(os.sched_getaffinity(0))


def memory() -> int:
    """Return the bytes of memory of this machine, or of the control group it is held to."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(path).read_text()))
        except (OSError, ValueError):
            continue  # no such control group, or "max"
    return total


def gpus() -> int:
    """Return the NVIDIA devices that can be seen here."""
    return sum(path.name[6:].isdigit() for path in Path("/dev").glob("nvidia*"))


def _cpus() -> Finding:
    return Finding("CPUs", "ok", f"{cpus()} usable, {gpus()} GPU{'' if gpus() == 1 else 's'}")


def _memory() -> Finding:
    low = memory() < _LOW_MEMORY
    return Finding("memory", "warn" if low else "ok", f"{memory() / _GIB:.1f} GiB")


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    text = f"{free / _GIB:.1f} GiB free in {folder}"
    if not os.access(folder, os.W_OK):
        return Finding("disk", "fail", f"{folder} cannot be written; use --storage DIR")
    return Finding("disk", "warn" if free < _LOW_DISK else "ok", text)


def _ray_temp(folder: Path) -> Finding:
    place = folder / "ray"
    target = place if place.exists() else folder
    if not target.is_dir() or not os.access(target, os.W_OK | os.X_OK):
        return Finding("Ray's folder", "fail", f"{target} cannot be written; set RAY_TMPDIR")
    if len(str(place) + _RAY_SOCKET) > _SOCKET_PATH:
        text = f"{place} is too long a path for Ray's sockets; set RAY_TMPDIR to a shorter one"
        return Finding("Ray's folder", "fail", text)
    usage = shutil.disk_usage(target)
    if usage.free / usage.total < 0.05:
        text = f"{target} is over 95% full; Ray stops storing objects there. Set RAY_TMPDIR"
        return Finding("Ray's folder", "warn", text)
    return Finding("Ray's folder", "ok", f"{place} can be used")


def _ray_ports() -> Finding:
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = server.getsockname()
            with socket.create_connection(address, timeout=_HTTP_TIMEOUT_S):
                pass
    except OSError as error:
        return Finding("Ray's ports", "fail", f"no port on 127.0.0.1 can be used: {error}")
    proxy = os.environ.get("http_proxy") or os.environ.get("HTTP_PROXY")
    excepted = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = {word.strip() for word in excepted.split(",")}
    if proxy and not hosts & {"127.0.0.1", "localhost", "*"}:
        text = "a proxy is set that local addresses go through; set no_proxy=127.0.0.1,localhost"
        return Finding("Ray's ports", "warn", text)
    return Finding("Ray's ports", "ok", "local ports can be opened and reached")


def _shared_memory(folder: Path) -> Finding:
    if not folder.is_dir():
        return Finding("shared memory", "warn", f"no {folder}; Ray uses slower files instead")
    free = shutil.disk_usage(folder).free
    text = f"{free / _GIB:.1f} GiB free in {folder}"
    if free < _LOW_SHM:
        return Finding("shared memory", "warn", f"{text}; in a container: --shm-size=1g")
    return Finding("shared memory", "ok", text)


def _storage(url: str) -> Iterator[Finding]:
    from raytune_hpo.storage.probe import probe

    for tried in probe(url):
        verdict: Verdict = "ok" if tried.trouble is None else "fail"
        yield Finding("storage", verdict, f"{tried.what}: {tried.trouble or url}")


def store(uri: str) -> Finding:
    """Return whether an MLflow store can be reached: a server, a sqlite file or a folder."""
    parts = urlsplit(uri)
    kind: dict[str, Callable[[str], Finding]] = {"http": _server, "https": _server}
    if parts.scheme in kind:
        return kind[parts.scheme](uri)
    if parts.scheme == "sqlite":
        return _store_path(Path(parts.path[1:]), uri)
    if parts.scheme in ("", "file"):
        return _store_path(Path(parts.path), uri)
    return Finding("MLflow", "warn", f"{redact(uri)}: a store of this kind is not looked at")


def _store_path(path: Path, uri: str) -> Finding:
    target = path if path.exists() else path.absolute().parent
    if not target.exists():
        return Finding("MLflow", "fail", f"{uri}: there is no folder {target}")
    if not os.access(target, os.W_OK):
        return Finding("MLflow", "fail", f"{uri}: {target} cannot be written")
    state = "is there" if path.exists() else "will be made"
    return Finding("MLflow", "ok", f"{uri}: {state} and can be written")


def _server(uri: str) -> Finding:
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=_HTTP_TIMEOUT_S):
            return Finding("MLflow", "ok", f"{redact(uri)} answers")
    except urllib.error.HTTPError as error:
        return Finding("MLflow", "fail", f"{redact(uri)}: {_http_reason(error)}")
    except OSError as error:
        reason = getattr(error, "reason", error)
        text = f"{redact(uri)} does not answer: {reason}. Runs go on without it; then: mlflow sync"
        return Finding("MLflow", "fail", text)


def _http_reason(error: urllib.error.HTTPError) -> str:
    body = error.read(2000).decode("utf-8", "replace")
    if error.code == 403 and "host" in body.lower():
        return "it refuses this host name; start it with: mlflow server --allowed-hosts NAME"
    if error.code in (401, 403):
        return f"HTTP {error.code}; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    return f"HTTP {error.code}"
