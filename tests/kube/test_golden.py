"""The golden manifests, as the real API server takes them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.kube import build
from tests.kube.api import Json
from tests.kube.client import Cluster

GOLDEN = sorted((Path(__file__).parents[1] / "golden" / "kuberay").glob("*.yaml"))
DEFINITIONS = "customresourcedefinitions"


@pytest.fixture(scope="module")
def queues(kube: Cluster) -> Iterator[None]:
    """Have the kinds of Kueue known to the cluster, without Kueue."""
    made = []
    for definition in json.loads((build.build() / "kueue.json").read_text()):
        name = definition["metadata"]["name"]
        if kube.api.find(DEFINITIONS, name) is None:
            kube.api.create(definition)
            made.append(name)
    for name in made:
        kube.wait(DEFINITIONS, name, None, established)
    yield
    for name in made:
        kube.api.delete(DEFINITIONS, name)


def established(definition: Json) -> bool:
    """Return whether the server takes objects of this kind."""
    conditions = definition.get("status", {}).get("conditions") or []
    return any(one["type"] == "Established" and one["status"] == "True" for one in conditions)


@pytest.mark.usefixtures("queues")
@pytest.mark.parametrize("file", GOLDEN, ids=[file.stem for file in GOLDEN])
def test_the_server_takes_it(kube: Cluster, space: str, file: Path) -> None:
    taken = 0
    for thing in yaml.safe_load_all(file.read_text()):
        if "namespace" in thing["metadata"]:
            thing["metadata"]["namespace"] = space
        made = kube.api.apply(thing, space, dry_run=True)
        assert made["metadata"]["name"] == thing["metadata"]["name"]
        taken += 1
    assert taken
