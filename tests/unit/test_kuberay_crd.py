"""Manifests against the schema and the rules of KubeRay's own CRD, where that is here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raytune_hpo.cluster.kuberay.patching import merge
from tests.golden.test_kuberay_manifest import MANIFESTS, objects
from tests.unit import kuberay_crd

FOUND = kuberay_crd.files()
ABSENT = (
    "KubeRay's CRDs are not in the Go module cache: go mod download "
    "github.com/ray-project/kuberay/ray-operator@v1.7.0"
)
SINCE_1_7 = {"spec": {"preRunningDeadlineSeconds": None}}

pytestmark = pytest.mark.skipif(not FOUND, reason=ABSENT)


@pytest.fixture(params=FOUND or ["none"])
def crd(request: pytest.FixtureRequest) -> Path:
    return FOUND[request.param]


def rayjob(crd: Path, name: str, **patch: Any) -> dict[str, Any]:
    """Return a manifest for the KubeRay whose CRD it is."""
    made: dict[str, Any] = merge(objects(name)[1], {"spec": patch})
    known = kuberay_crd.schema(crd)["properties"]["spec"]["properties"]
    if "preRunningDeadlineSeconds" not in known:
        made = merge(made, SINCE_1_7)
    return made


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_crd_takes_every_manifest(name: str, crd: Path) -> None:
    assert kuberay_crd.mistakes(crd, rayjob(crd, name)) == []


CONDITION = {"jobStatus": "FAILED", "ttlSeconds": 1}


@pytest.mark.parametrize(
    ("patch", "mistake"),
    [
        ({"replicas": 1}, r"'replicas' was unexpected"),
        ({"backoffLimit": "3"}, r"$.spec.backoffLimit: '3' is not of type 'integer'"),
        ({"preRunningDeadlineSeconds": 0}, r"preRunningDeadlineSeconds"),
        ({"managedBy": "me"}, r"$.spec.managedBy: the managedBy field value must be"),
        ({"deletionStrategy": {"onSuccess": {"policy": "DeleteSelf"}}}, r"requires either BOTH"),
        (
            {
                "deletionStrategy": {
                    "onSuccess": {"policy": "DeleteSelf"},
                    "onFailure": {"policy": "DeleteSelf"},
                    "deletionRules": [{"policy": "DeleteSelf", "condition": CONDITION}],
                }
            },
            r"cannot be used together",
        ),
        (
            {"deletionStrategy": {"deletionRules": [{"policy": "DeleteSelf", "condition": {}}]}},
            r"$.spec.deletionStrategy.deletionRules[0].condition: the deletion condition requires",
        ),
    ],
)
def test_the_judge_sees_mistakes(patch: dict[str, Any], mistake: str, crd: Path) -> None:
    made = merge(rayjob(crd, "least"), {"spec": patch})
    found = kuberay_crd.mistakes(crd, made)
    assert [text for text in found if mistake in text], found
