"""The stores: what fsspec has a file system for, a folder, and the memory of this process."""

from __future__ import annotations

import contextlib
import inspect
import os
import shutil
import threading
from pathlib import Path
from typing import Any

from raytune_hpo.errors import StoreError
from raytune_hpo.storage import place
from raytune_hpo.storage.objects import Backend

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 20.0
_PACKAGES = {"s3": "s3", "gs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure"}
"""Extras of this package, by scheme."""
_TOGETHER = 1000
"""Objects deleted by one call."""


def connect(url: str) -> Backend:
    """Return the store of a URL that ``place.trouble`` has nothing against.

    Raises:
        StoreError: The package for such stores is not installed.
    """
    scheme = place.scheme_of(url)
    if scheme == place.MEMORY:
        return InMemory(url)
    if scheme == "file":
        return InFolder(Path(url.removeprefix("file://")))
    try:
        return Fsspec(url)
    except ImportError as error:
        raise StoreError(
            f"{scheme}:// needs a package that is not installed: "
            f"pip install 'raytune-hpo[{_PACKAGES[scheme]}]'"
        ) from error


class Fsspec:
    """Below a URL of a file system of fsspec's.

    Credentials come from where the file system's library finds them: variables of the environment,
    its own files, the machine's role.

    Args:
        url: Of the folder that keys are relative to.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        options = _options(place.scheme_of(url))
        self._fs: Any
        # One of our own: those that fsspec keeps are not made anew when the environment changes.
        self._fs, root = fsspec.url_to_fs(
            url, use_listings_cache=False, skip_instance_cache=True, **options
        )
        self._root = root.rstrip("/")
        known = inspect.signature(type(self._fs)._cat_file).parameters
        # Else s3fs asks for the size first.
        self._at_once = {"max_concurrency": 1} if "max_concurrency" in known else {}
        # What is tried again, and for how long, is for ``Objects`` to say.
        if place.scheme_of(url) == "s3":
            self._fs.retries = 1

    def get(self, key: str) -> bytes:
        """See ``Backend``."""
        content: bytes = self._fs.cat_file(self._path(key), **self._at_once)
        return content

    def put(self, key: str, data: bytes) -> None:
        """See ``Backend``."""
        self._fs.pipe_file(self._path(key), data)

    def create(self, key: str, data: bytes) -> None:
        """See ``Backend``.

        S3 gets ``If-None-Match: *``, Google ``ifGenerationMatch=0``, Azure ``If-None-Match: *``.
        """
        self._fs.pipe_file(self._path(key), data, mode="create")

    def delete(self, keys: list[str]) -> None:
        """See ``Backend``."""
        for first in range(0, len(keys), _TOGETHER):
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm([self._path(key) for key in keys[first : first + _TOGETHER]])

    def list(self, folder: str) -> list[str]:
        """See ``Backend``."""
        found: list[str] = self._fs.find(self._path(folder).rstrip("/"))
        inside = f"{self._root}/{folder}/" if folder else f"{self._root}/"
        keep = len(self._root) + 1
        return [path[keep:] for path in found if path.startswith(inside)]

    def upload(self, path: Path, key: str) -> None:
        """See ``Backend``."""
        self._fs.put_file(str(path), self._path(key))

    def download(self, key: str, path: Path) -> None:
        """See ``Backend``."""
        self._fs.get_file(self._path(key), str(path))

    def copy(self, source: str, target: str) -> None:
        """See ``Backend``."""
        self._fs.cp_file(self._path(source), self._path(target))

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"


def _options(scheme: str) -> dict[str, Any]:
    """Return settings of a file system: short waits, and nothing tried again below us."""
    if scheme == "s3":
        timeouts = {"connect_timeout": CONNECT_TIMEOUT_S, "read_timeout": READ_TIMEOUT_S}
        return {"config_kwargs": {**timeouts, "retries": {"total_max_attempts": 1}}}
    if scheme in ("az", "abfs", "abfss"):
        return {"connection_timeout": CONNECT_TIMEOUT_S, "read_timeout": READ_TIMEOUT_S}
    return {}


class InFolder:
    """Below a folder of a file system of this machine.

    Args:
        root: The folder that keys are relative to.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def get(self, key: str) -> bytes:
        """See ``Backend``."""
        return self._path(key).read_bytes()

    def put(self, key: str, data: bytes) -> None:
        """See ``Backend``."""
        self._draft(key, data).replace(self._path(key))

    def create(self, key: str, data: bytes) -> None:
        """See ``Backend``: a link is made by one of several only, and to a whole file."""
        draft = self._draft(key, data)
        try:
            os.link(draft, self._path(key))
        finally:
            draft.unlink()

    def delete(self, keys: list[str]) -> None:
        """See ``Backend``."""
        for key in keys:
            self._path(key).unlink(missing_ok=True)

    def list(self, folder: str) -> list[str]:
        """See ``Backend``."""
        found = (path for path in (self._root / folder).rglob("*") if path.is_file())
        return [str(path.relative_to(self._root)) for path in found if not _is_draft(path)]

    def upload(self, path: Path, key: str) -> None:
        """See ``Backend``."""
        draft = self._new_draft(key)
        shutil.copyfile(path, draft)
        draft.replace(self._path(key))

    def download(self, key: str, path: Path) -> None:
        """See ``Backend``."""
        shutil.copyfile(self._path(key), path)

    def copy(self, source: str, target: str) -> None:
        """See ``Backend``."""
        self.upload(self._path(source), target)

    def _path(self, key: str) -> Path:
        return self._root / key

    def _draft(self, key: str, data: bytes) -> Path:
        draft = self._new_draft(key)
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return draft

    def _new_draft(self, key: str) -> Path:
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")


def _is_draft(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".part")


class InMemory:
    """Below a URL ``memory://...``, in this process: for tests and for trying out.

    Args:
        url: Of the folder that keys are relative to.
    """

    content: dict[str, bytes] = {}  # noqa: RUF012, shared by all on purpose
    _lock = threading.Lock()

    def __init__(self, url: str) -> None:
        self._root = url.rstrip("/")

    def get(self, key: str) -> bytes:
        """See ``Backend``."""
        try:
            return self.content[self._path(key)]
        except KeyError:
            raise FileNotFoundError(key) from None

    def put(self, key: str, data: bytes) -> None:
        """See ``Backend``."""
        self.content[self._path(key)] = bytes(data)

    def create(self, key: str, data: bytes) -> None:
        """See ``Backend``."""
        with self._lock:
            if self._path(key) in self.content:
                raise FileExistsError(key)
            self.put(key, data)

    def delete(self, keys: list[str]) -> None:
        """See ``Backend``."""
        for key in keys:
            self.content.pop(self._path(key), None)

    def list(self, folder: str) -> list[str]:
        """See ``Backend``."""
        inside = self._path(f"{folder}/") if folder else self._path("")
        keep = len(self._root) + 1
        return [path[keep:] for path in list(self.content) if path.startswith(inside)]

    def upload(self, path: Path, key: str) -> None:
        """See ``Backend``."""
        self.put(key, path.read_bytes())

    def download(self, key: str, path: Path) -> None:
        """See ``Backend``."""
        path.write_bytes(self.get(key))

    def copy(self, source: str, target: str) -> None:
        """See ``Backend``."""
        self.put(target, self.get(source))

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"
