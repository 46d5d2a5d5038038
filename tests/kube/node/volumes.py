"""The volumes of a pod, as folders of this host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.kube.api import Json
from tests.kube.node import environment
from tests.kube.node.environment import ConfigError, Read

_TOKEN_S = 3607


@dataclass(frozen=True)
class Volume:
    """A volume.

    Attributes:
        path: Its folder, or file.
        memory_bytes: When it is to be in memory: how much at most; 0 for any.
        read_only: Whether nobody may write there.
    """

    path: Path
    memory_bytes: int | None = None
    read_only: bool = False


class Volumes:
    """Makes the volumes of a pod.

    Args:
        pod: The pod.
        folder: Where those lie that end with it.
        read: Returns objects of its namespace and, with the resource tokens, a token of the service
            account of that name.
        addresses: For the downward API.
        capacity: Of the node.
    """

    def __init__(
        self,
        pod: Json,
        folder: Path,
        read: Read,
        addresses: Mapping[str, str],
        capacity: Mapping[str, str],
    ) -> None:
        self._pod = pod
        self._folder = folder
        self._read = read
        self._addresses = addresses
        self._capacity = capacity

    async def make(self) -> dict[str, Volume]:
        """Make all volumes.

        Raises:
            ConfigError: One refers to something that is not there.
        """
        return {
            volume["name"]: await self._make(volume)
            for volume in self._pod["spec"].get("volumes", [])
        }

    async def _make(self, volume: Json) -> Volume:
        folder = self._folder / volume["name"]
        kind = next((name for name in volume if name != "name"), "emptyDir")
        about = volume.get(kind) or {}
        if kind == "emptyDir":
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o777)
            if about.get("medium") == "Memory":
                most = int(environment.quantity(about.get("sizeLimit") or "0"))
                return Volume(folder, memory_bytes=most)
            return Volume(folder)
        if kind == "persistentVolumeClaim":
            return Volume(await self._claimed(about["claimName"]), read_only=_flag(about))
        if kind == "hostPath":
            path = Path(about["path"])
            if about.get("type") == "DirectoryOrCreate":
                path.mkdir(parents=True, exist_ok=True)
            return Volume(path)
        sources = about.get("sources", []) if kind == "projected" else [{kind: about}]
        for source in sources:
            for name, part in source.items():
                _write(folder, await self._files(name, part), about.get("defaultMode", 0o644))
        folder.mkdir(parents=True, exist_ok=True)
        return Volume(folder, read_only=True)

    async def _files(self, kind: str, about: Json) -> dict[str, bytes]:
        if kind in ("configMap", "secret"):
            return await self._contents(kind, about)
        if kind == "downwardAPI":
            return {item["path"]: self._fact(item).encode() for item in about.get("items", [])}
        if kind == "serviceAccountToken":
            account = self._pod["spec"].get("serviceAccountName", "default")
            made = await self._read("tokens", account)
            if made is None:
                raise ConfigError(f'serviceaccount "{account}" not found')
            return {about["path"]: made["status"]["token"].encode()}
        raise ConfigError(f"a volume of the kind {kind} is not known to the tests' node")

    async def _contents(self, kind: str, about: Json) -> dict[str, bytes]:
        name = about.get("secretName") or about["name"]
        found = await self._read(f"{kind.lower()}s", name)
        if found is None:
            if about.get("optional"):
                return {}
            raise ConfigError(f'{kind.lower()} "{name}" not found')
        data = environment.contents(found)
        if "items" not in about:
            return data
        missing = [item["key"] for item in about["items"] if item["key"] not in data]
        if missing and not about.get("optional"):
            raise ConfigError(f"{kind.lower()} {name} has no key {', '.join(missing)}")
        return {item["path"]: data[item["key"]] for item in about["items"] if item["key"] in data}

    def _fact(self, item: Json) -> str:
        if "fieldRef" in item:
            return environment.field(item["fieldRef"]["fieldPath"], self._pod, self._addresses)
        reference = item["resourceFieldRef"]
        named = reference.get("containerName")
        owner = next(c for c in self._pod["spec"]["containers"] if c["name"] == named)
        return environment.resource(reference, owner, self._capacity)

    async def _claimed(self, name: str) -> Path:
        """Return the folder of the persistent volume that is bound to a claim."""
        claim = await self._read("persistentvolumeclaims", name)
        if claim is None:
            raise ConfigError(f'persistentvolumeclaim "{name}" not found')
        volume = await self._read("persistentvolumes", claim["spec"].get("volumeName", ""))
        if volume is None or "hostPath" not in volume["spec"]:
            raise ConfigError(f'persistentvolumeclaim "{name}" is not bound to a folder')
        path = Path(volume["spec"]["hostPath"]["path"])
        path.mkdir(parents=True, exist_ok=True)
        return path


def token_request(pod: Json) -> Json:
    """Return the request for a token of the pod's service account."""
    about = {"name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
    bound = {"apiVersion": "v1", "kind": "Pod", **about}
    return {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": _TOKEN_S, "boundObjectRef": bound},
    }


def _flag(about: Json) -> bool:
    return bool(about.get("readOnly"))


def _write(folder: Path, files: Mapping[str, bytes], mode: int) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(mode)
