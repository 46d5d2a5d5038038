"""What is looked at before a run is submitted, on the real API server."""

from __future__ import annotations

import time
from typing import Any

import pytest

from raytune_hpo.cluster.kuberay import api as kube_api
from raytune_hpo.cluster.kuberay import kinds, preflight
from raytune_hpo.cluster.kuberay.api import Api
from raytune_hpo.cluster.kuberay.preflight import NEEDED, USEFUL, Finding
from tests.kube import pretend
from tests.kube.cluster import Cluster, KubeLab

COUNTED_S = 120.0


@pytest.fixture
def api(kube: Cluster, space: str) -> Api:
    """Return the API server, in the test's own namespace."""
    return kube_api.connect(kubeconfig=kube.config, namespace=space)


def look(api: Api, **settings: Any) -> dict[str, Finding]:
    """Return the findings by their subjects; of several, the last one."""
    objects = pretend.objects("digits", **settings)
    return {found.subject: found for found in preflight.examine(api, objects)}


def make(api: Api, kind: str, name: str, spec: dict[str, Any]) -> None:
    about = {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}}
    api.create({**about, "spec": spec})


def test_all_is_well_and_nothing_was_made(api: Api) -> None:
    found = look(api)
    # The operator of these tests runs beside the cluster, where nobody sees it.
    bad = {name: one.text for name, one in found.items() if one.verdict != "ok"}
    assert set(bad) <= {"operator"}
    assert api.all(kinds.RAYJOB) == []
    assert api.get(kinds.CONFIG_MAP, "digits") is None


def test_a_quota_as_the_server_counts_it(api: Api) -> None:
    make(api, "ResourceQuota", "small", {"hard": {"requests.cpu": "700m"}})
    deadline_s = time.monotonic() + COUNTED_S
    while not (api.all(kinds.QUOTA)[0].get("status") or {}).get("used"):
        assert time.monotonic() < deadline_s
        time.sleep(1)
    objects = pretend.objects("digits", workers=4)
    found = [one for one in preflight.examine(api, objects) if one.subject == "quota"]
    assert [one.verdict for one in found] == ["fail"]
    assert "allows 0.7 CPUs, 0 are in use; head 0.6 + 4 workers of 0.2 ask for 1.4" in found[0].text


def test_a_limit_range(api: Api) -> None:
    limits = [{"type": "Container", "max": {"cpu": "1"}}]
    make(api, "LimitRange", "sizes", {"limits": limits})
    found = look(api, workers=1, cpu="2")
    assert found["limit range"].verdict == "fail"
    assert "at most 1 CPUs, 2 is asked" in found["limit range"].text


def test_a_namespace_with_restrictions(api: Api) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    api.patch(kinds.NAMESPACE, api.namespace, {"metadata": {"labels": labels}})
    found = look(api)["namespace"]
    assert found.verdict == "fail"
    assert "ray-job-submitter" in found.text


def test_what_is_missing(api: Api) -> None:
    found = look(api, head={"serviceAccountName": "tuner", "priorityClassName": "no-such"})
    assert found["ServiceAccount tuner"].verdict == "fail"
    assert found["PriorityClass no-such"].verdict == "fail"


def test_a_field_that_this_kuberay_does_not_have(api: Api) -> None:
    found = look(api, newerThanThis=1)
    assert "does not have spec.newerThanThis" in found["KubeRay"].text


def allow(api: Api, user: str, tables: Any) -> None:
    """Give somebody the rights of some tables in the namespace."""
    rules = [
        {"apiGroups": [right.kind.group], "resources": [right.resource], "verbs": [right.verb]}
        for table in tables
        for right, _ in table
    ]
    rbac = "rbac.authorization.k8s.io"
    about = {"apiVersion": f"{rbac}/v1", "metadata": {"name": user}}
    role = {"apiGroup": rbac, "kind": "Role", "name": user}
    subject = {"apiGroup": rbac, "kind": "User", "name": user}
    api.create({**about, "kind": "Role", "rules": rules})
    api.create({**about, "kind": "RoleBinding", "roleRef": role, "subjects": [subject]})


def test_rights_that_are_enough_are_found_to_be_so(lab: KubeLab, api: Api) -> None:
    bob = kube_api.connect(kubeconfig=lab.kubeconfig_of("bob"), namespace=api.namespace)
    before = [one for one in preflight.rights(bob) if one.verdict == "fail"]
    assert "you may not create rayjobs (to submit)" in before[0].text

    allow(api, "bob", [NEEDED])
    after = list(preflight.rights(bob))
    assert [one.verdict for one in after] == ["ok", "warn"]

    found = {one.subject: one for one in preflight.examine(bob, pretend.objects("digits"))}
    assert found["KubeRay"].verdict == "ok"
    assert found["dry run"].verdict == "ok"
    assert found["quota"].verdict == "warn"


def test_useful_rights_too(lab: KubeLab, api: Api) -> None:
    allow(api, "bob", [NEEDED, USEFUL])
    bob = kube_api.connect(kubeconfig=lab.kubeconfig_of("bob"), namespace=api.namespace)
    assert {one.verdict for one in preflight.rights(bob)} == {"ok"}
