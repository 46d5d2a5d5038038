"""The golden manifests, as the real API server takes them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.kube.client import Cluster

GOLDEN = sorted((Path(__file__).parents[1] / "golden" / "kuberay").glob("*.yaml"))
KUEUE = "kueue.x-k8s.io"
"""Its kinds are not known to the tests' cluster."""


@pytest.mark.parametrize("file", GOLDEN, ids=[file.stem for file in GOLDEN])
def test_the_server_takes_it(kube: Cluster, space: str, file: Path) -> None:
    taken = 0
    for thing in yaml.safe_load_all(file.read_text()):
        if thing["apiVersion"].startswith(KUEUE):
            continue
        if "namespace" in thing["metadata"]:
            thing["metadata"]["namespace"] = space
        made = kube.api.apply(thing, space, dry_run=True)
        assert made["metadata"]["name"] == thing["metadata"]["name"]
        taken += 1
    assert taken
