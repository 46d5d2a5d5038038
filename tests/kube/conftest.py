"""A real Kubernetes with KubeRay for the tests of this folder, skipped where there can be none.

With KUBECONFIG set, that cluster is used instead of one of this host's own. It must have the
KubeRay operator, and tests of faults that only this host's own cluster can have are skipped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kube.client import Cluster
from tests.kube.cluster import KubeLab, claim, missing
from tests.kube.layout import Size
from tests.storage.s3 import Server

_HERE = Path(__file__).parent
_CONFIG = os.environ.get("KUBECONFIG")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use the cluster, and skip them where none can be started."""
    here = [item for item in items if _HERE in item.path.parents]
    ours = [item for item in here if "kube" in getattr(item, "fixturenames", ())]
    reason = missing() if ours and not _CONFIG else None
    for item in ours:
        item.add_marker(pytest.mark.kube)
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=f"no Kubernetes here: {reason}"))


@pytest.fixture(scope="session")
def kube() -> Iterator[Cluster]:
    """Return a cluster with KubeRay; each test finds it as new."""
    if _CONFIG:
        yield Cluster(Path(_CONFIG))
        return
    with KubeLab(3, claim(), Size(cpus=12, memory="64Gi")) as made:
        yield made


@pytest.fixture
def lab(kube: Cluster) -> KubeLab:
    """Return the cluster as one of this host, whose nodes and daemons can be killed."""
    if not isinstance(kube, KubeLab):
        pytest.skip("the cluster of KUBECONFIG is not ours to break")
    return kube


@pytest.fixture(autouse=True)
def restored(request: pytest.FixtureRequest) -> Iterator[None]:
    """Undo what the test did to the session's cluster."""
    used = "kube" in request.fixturenames
    made = request.getfixturevalue("kube") if used else None
    yield
    if made is not None:
        made.restore()


@pytest.fixture
def space(kube: Cluster) -> str:
    """Return a new namespace for one test."""
    return kube.namespace()


@pytest.fixture
def store(lab: KubeLab, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Return an S3 server that pods and this host reach at the same address."""
    server = Server(lab.layout.host)
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    yield server
    server.stop()
