"""The files that the pods of a run have: the experiment, small code beside it, and the volume."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raytune_hpo.errors import Problem, SpecError
from raytune_hpo.kuberay_parts import KubeRayPvc
from raytune_hpo.kuberay_target import KubeRayTarget

FILE = "experiment.yaml"
FOLDER = "/etc/raytune-hpo"
MOST_BYTES = 900 * 1024
"""Of a ConfigMap, which may have 1 MiB, with room for what is added to it."""
_VOLUME = "experiment"
_STORAGE = "storage"
_MODE = 0o555
"""Files of a ConfigMap cannot be written; they may be executed."""


@dataclass(frozen=True)
class Files:
    """What the pods of a run have as files.

    Attributes:
        name: Of the ConfigMap.
        source: Text of the experiment file.
        code: Content of further files, by their paths beside it.
        folder: Of the image, to lay the files into; None for a folder of their own.
        pvc: The volume for the runs, or None.
    """

    name: str
    source: str
    code: Mapping[str, bytes]
    folder: str | None
    pvc: KubeRayPvc | None

    @property
    def experiment(self) -> str:
        """Path of the experiment file in the pods."""
        return f"{self.folder or FOLDER}/{FILE}"

    def data(self) -> dict[str, Any]:
        """Return the content of the ConfigMap."""
        texts = {FILE: self.source}
        others = {}
        for path, content in self.code.items():
            try:
                texts[_key(path)] = content.decode("utf-8")
            except UnicodeDecodeError:
                others[_key(path)] = base64.b64encode(content).decode()
        return {"data": texts, **({"binaryData": others} if others else {})}

    def volumes(self) -> list[dict[str, Any]]:
        """Return the volumes of a pod."""
        items = [{"key": _key(path), "path": path} for path in (FILE, *self.code)]
        source = {"name": self.name, "defaultMode": _MODE, "items": items}
        volumes: list[dict[str, Any]] = [{"name": _VOLUME, "configMap": source}]
        if self.pvc is not None:
            claim = {"claimName": self.pvc.claim}
            volumes.append({"name": _STORAGE, "persistentVolumeClaim": claim})
        return volumes

    def mounts(self) -> list[dict[str, Any]]:
        """Return where a container has the volumes."""
        if self.folder is None:
            mounts: list[dict[str, Any]] = [
                {"name": _VOLUME, "mountPath": FOLDER, "readOnly": True}
            ]
        else:
            # One by one, so that the image's own files in the folder stay.
            mounts = [
                {
                    "name": _VOLUME,
                    "mountPath": f"{self.folder}/{path}",
                    "subPath": path,
                    "readOnly": True,
                }
                for path in (FILE, *self.code)
            ]
        if self.pvc is not None:
            mount = {"name": _STORAGE, "mountPath": self.pvc.path}
            mounts.append(mount | ({"subPath": self.pvc.below} if self.pvc.below else {}))
        return mounts

    @property
    def bytes(self) -> int:
        """Size of the ConfigMap's content, as it is sent."""
        held = self.data()
        parts = [*held["data"].items(), *held.get("binaryData", {}).items()]
        return sum(len(key) + len(value.encode()) for key, value in parts)


def _key(path: str) -> str:
    """Return the key of a file in a ConfigMap, which takes no slash."""
    return path.replace("/", "__")


def read(folder: Path, target: KubeRayTarget) -> dict[str, bytes]:
    """Return the content of the files that go with an experiment.

    Args:
        folder: Of the experiment file.
        target: Names them.

    Raises:
        SpecError: One cannot be read, or they are too large.
    """
    found: dict[str, bytes] = {}
    problems = []
    for index, path in enumerate(target.code):
        where = f"targets.kuberay.code[{index}]"
        file = folder / path
        try:
            if not file.resolve().is_relative_to(folder.resolve()):
                problems.append(Problem(where, f"{file} leads out of the experiment's folder"))
                continue
            found[path] = file.read_bytes()
        except OSError as error:
            problems.append(Problem(where, f"{file}: {(error.strerror or str(error)).lower()}"))
    if problems:
        raise SpecError(problems)
    return found
