"""Checkpoints of a trial in the store of its run.

A checkpoint is there when its manifest is, ``trials/0007/checkpoints/001-000003.json``: written
last, deleted first, created by one of several only. It says which objects hold the files. These lie
under a name that no other upload has, so that what a dead worker left of one never is mistaken for
a part of another.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import quote

from raytune_hpo import checkpoints, failpoints
from raytune_hpo.errors import StoreError
from raytune_hpo.storage.objects import Objects

_AT_ONCE = 8
_MANIFEST = re.compile(r"(\d{3,}-\d{6,})\.json")
_PIECE = re.compile(r"(\d{3,}-\d{6,})[./]")

T = TypeVar("T")
R = TypeVar("R")


def manifest_key(place: str) -> str:
    """Return the key of a checkpoint's manifest; ``place`` is as in the journal."""
    return f"{place}.json"


def exists(objects: Objects, place: str) -> bool:
    """Return whether there is a complete checkpoint."""
    return objects.get(manifest_key(place)) is not None


def upload(objects: Objects, folder: Path, place: str) -> bool:
    """Bring a checkpoint to the store.

    Args:
        objects: Of the run.
        folder: With the checkpoint.
        place: As it is to be called in the journal.

    Returns:
        Whether it is there now; False when another attempt has taken the name.
    """
    data = f"{place}/{secrets.token_hex(4)}"
    content = _content(folder)
    files = [entry for entry in content if entry["kind"] == "file"]
    for entry in files:
        entry["key"] = f"{data}/{quote(entry['path'])}"
    _at_once(lambda entry: objects.upload(folder / entry["path"], entry["key"]), files)
    failpoints.reach("store.checkpoint")
    manifest = _encoded(content)
    if objects.create(manifest_key(place), manifest):
        _known(folder).write_bytes(manifest)
        return True
    objects.delete(entry["key"] for entry in files)
    return False


def download(objects: Objects, place: str, folder: Path) -> bool:
    """Bring a checkpoint here, unless it is here already; return whether it is.

    Args:
        objects: Of the run.
        place: As it is called in the journal.
        folder: Where it is to be.
    """
    manifest = objects.get(manifest_key(place))
    if manifest is None:
        return False
    known = _known(folder)
    if folder.is_dir() and known.is_file() and known.read_bytes() == manifest:
        return True
    draft = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    if not _fetched(objects, json.loads(manifest)["content"], draft):
        shutil.rmtree(draft)
        return False
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)
    known.write_bytes(manifest)
    return True


def copy(objects: Objects, place: str, target: str) -> bool:
    """Copy a checkpoint within the store; return whether it was still there.

    Args:
        objects: Of the run.
        place: Of the checkpoint, as in the journal.
        target: Of the copy; what an earlier try left there is replaced.
    """
    manifest = objects.get(manifest_key(place))
    if manifest is None:
        return False
    content = json.loads(manifest)["content"]
    data = f"{target}/{secrets.token_hex(4)}"
    files = [entry for entry in content if entry["kind"] == "file"]
    sources = [entry["key"] for entry in files]
    for entry in files:
        entry["key"] = f"{data}/{quote(entry['path'])}"
    pairs = list(zip(sources, files, strict=True))
    if not all(_at_once(lambda pair: objects.copy(pair[0], pair[1]["key"]), pairs)):
        return False
    objects.put(manifest_key(target), _encoded(content))
    return True


def prune(objects: Objects, trial: str, keep: int, newest: str) -> None:
    """Delete all checkpoints of a trial but the ``keep`` newest up to ``newest``.

    With them goes what is left of uploads that never came to their end.

    Args:
        objects: Of the run.
        trial: Key of the trial's folder.
        keep: How many stay.
        newest: Name of the newest one that the journal has, such as ``001-000003``.
    """
    keys = objects.list(f"{trial}/{checkpoints.FOLDER}")
    names = {key: key.rpartition(f"/{checkpoints.FOLDER}/")[2] for key in keys}
    whole = sorted(
        {found[1] for name in names.values() if (found := _MANIFEST.fullmatch(name))},
        key=checkpoints.order,
    )
    older = [name for name in whole if checkpoints.order(name) <= checkpoints.order(newest)]
    kept = set(older[max(0, len(older) - keep) :])
    gone = [
        key
        for key, name in names.items()
        if (found := _PIECE.match(name))
        and found[1] not in kept
        and checkpoints.order(found[1]) <= checkpoints.order(newest)
    ]
    # Half a checkpoint must never have a manifest.
    objects.delete(key for key in gone if key.endswith(".json") and _is_manifest(names[key]))
    objects.delete(key for key in gone if not _is_manifest(names[key]))


def forget(folder: Path) -> None:
    """Delete what is known here of checkpoints that are no longer here."""
    for path in folder.glob("*.json"):
        if _MANIFEST.fullmatch(path.name) and not path.with_suffix("").is_dir():
            path.unlink(missing_ok=True)


def _is_manifest(name: str) -> bool:
    return _MANIFEST.fullmatch(name) is not None


def _known(folder: Path) -> Path:
    """Return the file that says which upload a folder here is the same as."""
    return folder.with_name(f"{folder.name}.json")


def _content(folder: Path) -> list[dict[str, Any]]:
    """Return the folders and files of a checkpoint."""
    content: list[dict[str, Any]] = []
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir():
            content.append({"kind": "folder", "path": name})
        elif path.is_file():
            status = path.stat()
            mode = status.st_mode & 0o777
            content.append({"kind": "file", "path": name, "size": status.st_size, "mode": mode})
    return content


def _encoded(content: list[dict[str, Any]]) -> bytes:
    return json.dumps({"content": content}).encode() + b"\n"


def _fetched(objects: Objects, content: list[dict[str, Any]], folder: Path) -> bool:
    """Bring the files of a checkpoint to a folder; return whether all were there, and whole."""
    for entry in content:
        if PurePosixPath(entry["path"]).is_absolute() or ".." in Path(entry["path"]).parts:
            raise StoreError(f"{objects.url}: a checkpoint has a file outside of its folder")
        if entry["kind"] == "folder":
            (folder / entry["path"]).mkdir(parents=True, exist_ok=True)

    def fetch(entry: dict[str, Any]) -> bool:
        path = folder / entry["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        if not objects.download(entry["key"], path) or path.stat().st_size != entry["size"]:
            return False
        path.chmod(entry["mode"])
        return True

    return all(_at_once(fetch, [entry for entry in content if entry["kind"] == "file"]))


def _at_once(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Return what the work makes of each item, of which several are done at the same time."""
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="checkpoint") as threads:
        return list(threads.map(work, items))
