"""KubeRay's own CRD as a judge of manifests: defaults, schema without unknown fields, CEL rules.

The CRD comes with the Go module of the operator, where the machine has it in its module cache
(``go mod download github.com/ray-project/kuberay/ray-operator@v1.7.0``), or out of the folder that
the variable RAYTUNE_HPO_KUBERAY_CRDS names.
"""

from __future__ import annotations

import copy
import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cel
import jsonschema  # type: ignore[import-untyped]
import yaml

FOLDER_ENV = "RAYTUNE_HPO_KUBERAY_CRDS"
_FILE = "ray.io_rayjobs.yaml"
_MODULE = "github.com/ray-project/kuberay"


def files() -> dict[str, Path]:
    """Return the RayJob CRDs to judge by: the newest in the cache, and the one that is named."""
    root = Path(os.environ.get("GOPATH") or Path.home() / "go") / "pkg" / "mod"
    cache = Path(os.environ.get("GOMODCACHE") or root) / _MODULE
    known = {}
    for path in cache.glob(f"ray-operator@v*/config/crd/bases/{_FILE}"):
        version = path.relative_to(cache).parts[0].partition("@v")[2]
        if re.fullmatch(r"1\.\d+\.\d+", version):
            known[tuple(map(int, version.split(".")))] = (version, path)
    found = dict([max(known.items())[1]]) if known else {}
    if FOLDER_ENV in os.environ:
        found["given"] = Path(os.environ[FOLDER_ENV]) / _FILE
    return found


@functools.cache
def schema(path: Path) -> dict[str, Any]:
    """Return the schema of the version v1 in a CRD."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    crd = yaml.load(path.read_text(), Loader=loader)
    (found,) = (v for v in crd["spec"]["versions"] if v["name"] == "v1")
    made: dict[str, Any] = found["schema"]["openAPIV3Schema"]
    return made


@functools.cache
def validator(path: Path) -> Any:
    """Return what validates a RayJob as the API server does: unknown fields are wrong."""
    strict = _strict(copy.deepcopy(schema(path)))
    strict["properties"]["metadata"] = {"type": "object"}
    return jsonschema.Draft202012Validator(strict)


def _strict(part: Any) -> Any:
    if isinstance(part, dict):
        free = part.get("x-kubernetes-preserve-unknown-fields")
        if "properties" in part and not free and "additionalProperties" not in part:
            part["additionalProperties"] = False
        for key, entry in part.items():
            # The fields of an object may be called as the words of a schema.
            for inner in entry.values() if key == "properties" else [entry]:
                _strict(inner)
    elif isinstance(part, list):
        for entry in part:
            _strict(entry)
    return part


def mistakes(path: Path, rayjob: dict[str, Any]) -> list[str]:
    """Return what a CRD refuses of a RayJob."""
    made = _with_defaults(schema(path), copy.deepcopy(rayjob))
    errors = validator(path).iter_errors(made)
    found = [f"{error.json_path}: {error.message}" for error in errors]
    return found + [f"{where}: {message}" for where, message in _broken(schema(path), made, "$")]


def _with_defaults(part: dict[str, Any], value: Any) -> Any:
    """Return a value with what the API server fills in."""
    if isinstance(value, dict):
        for key, inner in part.get("properties", {}).items():
            if "default" in inner and key not in value:
                value[key] = copy.deepcopy(inner["default"])
            if key in value:
                _with_defaults(inner, value[key])
    elif isinstance(value, list):
        for entry in value:
            _with_defaults(part.get("items", {}), entry)
    return value


def _broken(part: dict[str, Any], value: Any, where: str) -> Iterator[tuple[str, str]]:
    """Yield each CEL rule that a new object breaks, with its place."""
    for rule in part.get("x-kubernetes-validations", ()):
        # What compares with the object before holds for changes.
        if "oldSelf" not in rule["rule"] and not cel.evaluate(rule["rule"], {"self": value}):
            yield where, rule["message"]
    if isinstance(value, dict):
        for key, inner in part.get("properties", {}).items():
            if key in value:
                yield from _broken(inner, value[key], f"{where}.{key}")
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _broken(part.get("items", {}), entry, f"{where}[{index}]")
