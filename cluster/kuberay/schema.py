"""Whether a cluster's KubeRay knows all fields of an object: pure functions over its schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Object = Mapping[str, Any]


def of_crd(crd: Object, version: str) -> Object | None:
    """Return the schema of a version that a CustomResourceDefinition serves, or None.

    Args:
        crd: The definition.
        version: Such as ``v1``.
    """
    for one in crd["spec"].get("versions") or ():
        if one["name"] == version and one.get("served"):
            return (one.get("schema") or {}).get("openAPIV3Schema") or {}
    return None


def of_openapi(document: Object, group: str, version: str, kind: str) -> Object | None:
    """Return the schema of a kind out of the document that everybody may read, or None."""
    wanted = {"group": group, "version": version, "kind": kind}
    for schema in ((document.get("components") or {}).get("schemas") or {}).values():
        kinds = schema.get("x-kubernetes-group-version-kind") or ()
        if any({key: one.get(key) for key in wanted} == wanted for one in kinds):
            found: Object = schema
            return found
    return None


def unknown_fields(one: Any, schema: Object, path: str = "") -> Iterator[str]:
    """Yield the paths of fields of an object that a schema does not have.

    Args:
        one: The object, or a part of it.
        schema: OpenAPI schema of the part.
        path: Of the part.
    """
    if isinstance(one, Mapping):
        yield from _of_mapping(one, schema, path)
    elif isinstance(one, list) and "items" in schema:
        for index, entry in enumerate(one):
            yield from unknown_fields(entry, schema["items"], f"{path}[{index}]")


def _of_mapping(one: Object, schema: Object, path: str) -> Iterator[str]:
    known = schema.get("properties") or {}
    others = schema.get("additionalProperties")
    # What the cluster itself checks by other rules: metadata, and references to other schemas.
    if not known and not isinstance(others, Mapping):
        return
    for name, value in one.items():
        here = f"{path}.{name}" if path else name
        if name in known:
            if here not in ("metadata", "apiVersion", "kind"):
                yield from unknown_fields(value, known[name], here)
        elif isinstance(others, Mapping):
            yield from unknown_fields(value, others, here)
        elif not schema.get("x-kubernetes-preserve-unknown-fields"):
            yield here
