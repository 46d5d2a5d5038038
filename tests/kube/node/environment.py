"""The environment of a container: values, references to other objects, and $(NAME) in words."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Awaitable, Callable, Mapping
from decimal import Decimal
from typing import Any

from tests.kube.api import Json

Read = Callable[[str, str], Awaitable[Json | None]]
"""Returns an object of the pod's namespace (configmaps or secrets, and a name), or None."""
_REFERENCE = re.compile(r"\$\$|\$\(([-._a-zA-Z][-._a-zA-Z0-9]*)\)")
_LABEL = re.compile(r"metadata\.(labels|annotations)\['(.*)'\]")
_SUFFIXES = {
    "": Decimal(1),
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    **{letter: Decimal(1000) ** power for power, letter in enumerate("kMGTPE", 1)},
    **{f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", 1)},
}


class ConfigError(Exception):
    """A container or volume refers to something that is not there."""


def expand(text: str, values: Mapping[str, str]) -> str:
    """Replace $(NAME) where NAME is known, and $$ by $.

    >>> expand("$(A) $(B) $$(A)", {"A": "1"})
    '1 $(B) $(A)'
    """

    def replaced(match: re.Match[str]) -> str:
        if match[1] is None:
            return "$"
        return values.get(match[1], match[0])

    return _REFERENCE.sub(replaced, text)


def quantity(text: str) -> Decimal:
    """Return the number that Kubernetes writes like this.

    >>> quantity("500m"), quantity("2Ki"), quantity("1e3")
    (Decimal('0.500'), Decimal('2048'), Decimal('1E+3'))
    """
    found = re.fullmatch(r"([-+.0-9]+(?:[eE][-+]?\d+)?)([a-zA-Z]*)", str(text).strip())
    if found is None:
        raise ConfigError(f"{text!r} is no quantity")
    return Decimal(found[1]) * _SUFFIXES[found[2]]


def field(path: str, pod: Json, addresses: Mapping[str, str]) -> str:
    """Return what the downward API says.

    Args:
        path: Such as metadata.name or status.podIP.
        pod: The pod.
        addresses: status.podIP and status.hostIP, which the pod may not yet have.
    """
    if match := _LABEL.fullmatch(path):
        return str(pod["metadata"].get(match[1], {}).get(match[2], ""))
    if path in ("metadata.labels", "metadata.annotations"):
        found = pod["metadata"].get(path.partition(".")[2], {})
        return "\n".join(f'{name}="{value}"' for name, value in sorted(found.items()))
    single = path.removesuffix("s") if path.endswith("IPs") else path
    if single in addresses:
        return addresses[single]
    part: Any = pod
    for name in path.split("."):
        part = part.get(name, "")
    return str(part)


def resource(reference: Mapping[str, Any], container: Json, capacity: Mapping[str, str]) -> str:
    """Return a request or limit of a container; without a limit, what the node has."""
    part, _, name = reference["resource"].partition(".")
    stated = container.get("resources", {}).get(part, {}).get(name)
    value = quantity(stated if stated is not None else capacity.get(name, "0"))
    divisor = quantity(reference.get("divisor") or "1")
    return str(math.ceil(value / (divisor or 1)))


async def resolve(
    container: Json,
    pod: Json,
    start: Mapping[str, str],
    read: Read,
    addresses: Mapping[str, str],
    capacity: Mapping[str, str],
) -> dict[str, str]:
    """Return the environment of a container.

    Args:
        container: Its specification.
        pod: Of the container.
        start: The environment of the image.
        read: Returns config maps and secrets.
        addresses: For the downward API, see `field`.
        capacity: Of the node.

    Raises:
        ConfigError: It refers to something that is not there.
    """
    found = dict(start)
    for source in container.get("envFrom", []):
        for kind, reference in source.items():
            if kind != "prefix":
                data = await _data(_RESOURCES[kind], reference, read)
                prefix = source.get("prefix", "")
                found.update({f"{prefix}{name}": value for name, value in data.items()})
    for entry in container.get("env", []):
        source = entry.get("valueFrom")
        if source is None:
            found[entry["name"]] = expand(entry.get("value", ""), found)
        elif "fieldRef" in source:
            found[entry["name"]] = field(source["fieldRef"]["fieldPath"], pod, addresses)
        elif "resourceFieldRef" in source:
            owner = _container(pod, source["resourceFieldRef"].get("containerName"), container)
            found[entry["name"]] = resource(source["resourceFieldRef"], owner, capacity)
        else:
            value = await _value(source, read)
            if value is not None:
                found[entry["name"]] = value
    return found


_RESOURCES = {
    "configMapRef": "configmaps",
    "configMapKeyRef": "configmaps",
    "secretRef": "secrets",
    "secretKeyRef": "secrets",
}


def _container(pod: Json, name: str | None, default: Json) -> Json:
    for other in pod["spec"]["containers"]:
        if other["name"] == name:
            return dict(other)
    return default


async def _value(source: Json, read: Read) -> str | None:
    kind, reference = next(iter(source.items()))
    if kind not in _RESOURCES:
        raise ConfigError(f"valueFrom.{kind} is not known to the tests' node")
    data = await _data(_RESOURCES[kind], reference, read)
    key = reference["key"]
    if key not in data and not reference.get("optional"):
        what = _RESOURCES[kind].removesuffix("s")
        raise ConfigError(f"couldn't find key {key} in {what} {reference['name']}")
    return data.get(key)


async def _data(kind: str, reference: Json, read: Read) -> dict[str, str]:
    found = await read(kind, reference["name"])
    if found is None:
        if reference.get("optional"):
            return {}
        raise ConfigError(f'{kind.removesuffix("s")} "{reference["name"]}" not found')
    return {name: value.decode() for name, value in contents(found).items()}


def contents(thing: Json) -> dict[str, bytes]:
    """Return what a config map or secret holds."""
    if thing["kind"] == "Secret":
        coded = thing.get("data") or {}
        return {name: base64.b64decode(value) for name, value in coded.items()}
    coded = thing.get("binaryData") or {}
    plain = thing.get("data") or {}
    return {name: value.encode() for name, value in plain.items()} | {
        name: base64.b64decode(value) for name, value in coded.items()
    }
