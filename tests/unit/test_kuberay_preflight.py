"""What is looked at before a run is submitted, against a server on loopback."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raytune_hpo import doctor
from raytune_hpo.cluster.kuberay import api as kube
from raytune_hpo.cluster.kuberay import preflight, refers, schema, wire
from raytune_hpo.cluster.kuberay.api import Api
from raytune_hpo.cluster.kuberay.preflight import Finding
from tests.unit.kuberay_server import Answer, Server, refusal, serving

CORE = "/api/v1/namespaces/team-a"
JOBS = "/apis/ray.io/v1/namespaces/team-a/rayjobs"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
DEPLOYMENTS = "/apis/apps/v1/deployments"
TEXT = {"type": "string"}
SPEC = {
    "type": "object",
    "properties": {
        "entrypoint": TEXT,
        "submissionMode": TEXT,
        "rayClusterSpec": {
            "type": "object",
            "properties": {
                "headGroupSpec": {
                    "type": "object",
                    "x-kubernetes-preserve-unknown-fields": True,
                    "properties": {"template": {"type": "object"}},
                },
                "workerGroupSpecs": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {
                            "groupName": TEXT,
                            "replicas": {"type": "integer"},
                            "rayStartParams": {"type": "object", "additionalProperties": TEXT},
                            "template": {"type": "object"},
                        },
                    },
                },
            },
        },
    },
}
RAYJOB_SCHEMA = {
    "type": "object",
    "properties": {"apiVersion": TEXT, "kind": TEXT, "metadata": {"type": "object"}, "spec": SPEC},
}
AMOUNTS = {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}}


def container(**more: Any) -> dict[str, Any]:
    return {"name": "main", "resources": AMOUNTS, **more}


def rayjob(**head: Any) -> dict[str, Any]:
    spec = {"containers": [container()], **head}
    group = {
        "groupName": "trials",
        "replicas": 2,
        "template": {"spec": {"containers": [container()]}},
    }
    cluster = {"headGroupSpec": {"template": {"spec": spec}}, "workerGroupSpecs": [group]}
    meta = {"name": "digits", "labels": {"raytune-hpo/experiment": "digits"}}
    job = {"entrypoint": "x", "submissionMode": "SidecarMode", "rayClusterSpec": cluster}
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": meta, "spec": job}


@pytest.fixture
def server_and_api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Server, Api]]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(wire, "_RETRY_WAIT_S", 0.01)
    with serving(tmp_path) as (server, file):
        ready(server)
        yield server, kube.connect(kubeconfig=file)


def ready(server: Server) -> None:
    """Put a cluster with KubeRay on the server."""
    server.on("GET", "/version", lambda _: Answer(200, {"gitVersion": "v1.36.2"}))
    version = {"name": "v1", "served": True, "schema": {"openAPIV3Schema": RAYJOB_SCHEMA}}
    server.put(CRDS, metadata={"name": "rayjobs.ray.io"}, spec={"versions": [version]})
    server.put("/api/v1/namespaces", metadata={"name": "team-a"})
    server.put(DEPLOYMENTS, **operator())


def operator(*arguments: str, ready_replicas: int = 1) -> dict[str, Any]:
    labels = {"app.kubernetes.io/name": "kuberay-operator"}
    meta = {"name": "kuberay-operator", "namespace": "kuberay", "labels": labels}
    main = {"image": "quay.io/kuberay/operator:v1.7.0", "args": list(arguments)}
    spec = {"template": {"spec": {"containers": [main]}}}
    return {"metadata": meta, "spec": spec, "status": {"readyReplicas": ready_replicas}}


@pytest.fixture
def server(server_and_api: tuple[Server, Api]) -> Server:
    return server_and_api[0]


@pytest.fixture
def api(server_and_api: tuple[Server, Api]) -> Api:
    return server_and_api[1]


def look(api: Api, job: dict[str, Any] | None = None) -> dict[str, Finding]:
    """Return the findings by their subjects; of several, the last one."""
    objects = [rayjob() if job is None else job]
    return {found.subject: found for found in preflight.examine(api, objects)}


def forbid(server: Server, path: str, resource: str, verb: str = "get") -> None:
    said = f'x is forbidden: User "bob" cannot {verb} resource "{resource}" in API group ""'
    server.on("GET", path, refusal(403, "Forbidden", said))


def test_all_is_well(api: Api, server: Server) -> None:
    found = look(api)
    assert {one.verdict for one in found.values()} == {"ok"}
    assert found["Kubernetes"].text.startswith("v1.36.2 at context here (http://127.0.0.1:")
    assert "operator:v1.7.0" in found["operator"].text
    assert server.writes() == []


def test_findings_are_like_those_of_the_doctor(api: Api) -> None:
    for found in look(api).values():
        doctor.Finding(found.subject, found.verdict, found.text)


def test_a_server_that_is_not_there_ends_it(api: Api, server: Server) -> None:
    server._laid_out.clear()
    server.on("GET", "/version", refusal(401, "Unauthorized", "Unauthorized"))
    found = look(api)
    assert [one.verdict for one in found.values()] == ["fail"]
    assert "Log in again" in found["Kubernetes"].text


def test_kuberay_that_is_not_installed(api: Api, server: Server) -> None:
    server.drop(f"{CRDS}/rayjobs.ray.io")
    found = look(api)
    assert list(found) == ["Kubernetes", "KubeRay"]
    assert "helm install" in found["KubeRay"].text


def test_kuberay_that_is_too_old(api: Api, server: Server) -> None:
    job = rayjob()
    job["spec"]["preRunningDeadlineSeconds"] = 60
    job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["idleTimeoutSeconds"] = 60
    found = look(api, job)["KubeRay"]
    assert found.verdict == "fail"
    assert "does not have spec.rayClusterSpec.workerGroupSpecs[0].idleTimeoutSeconds" in found.text
    assert "spec.preRunningDeadlineSeconds; have it upgraded" in found.text


def test_the_schema_out_of_what_everybody_may_read(api: Api, server: Server) -> None:
    forbid(server, f"{CRDS}/rayjobs.ray.io", "customresourcedefinitions")
    known = {"group": "ray.io", "version": "v1", "kind": "RayJob"}
    schemas = {"io.ray.v1.RayJob": {**RAYJOB_SCHEMA, "x-kubernetes-group-version-kind": [known]}}
    path = "/openapi/v3/apis/ray.io/v1"
    server.on("GET", path, Answer(200, {"components": {"schemas": schemas}}))
    assert look(api)["KubeRay"].verdict == "ok"
    forbid(server, f"{CRDS}/rayjobs.ray.io", "customresourcedefinitions")
    server.on("GET", path, Answer(404, b"404 page not found\n"))
    assert "is not installed" in look(api)["KubeRay"].text


def test_fields_that_are_not_checked_here() -> None:
    one: dict[str, Any] = {
        "metadata": {"x": 1},
        "spec": {"entrypoint": "x", "rayClusterSpec": {}},
        "status": {},
    }
    assert list(schema.unknown_fields(one, RAYJOB_SCHEMA)) == ["status"]
    group = {"groupName": "g", "rayStartParams": {"num-cpus": "0"}, "x": 1}
    head = {"anything": 1}
    one["spec"]["rayClusterSpec"] = {"workerGroupSpecs": [group], "headGroupSpec": head}
    one.pop("status")
    path = "spec.rayClusterSpec.workerGroupSpecs[0].x"
    assert list(schema.unknown_fields(one, RAYJOB_SCHEMA)) == [path]


@pytest.mark.parametrize(
    ("deployments", "verdict", "words"),
    [
        ([operator(ready_replicas=0)], "fail", "is not ready; no RayJob would be started"),
        ([operator("--watch-namespace", "a,b")], "fail", "watches a, b only: not team-a"),
        ([operator("--watch-namespace=a,team-a")], "ok", "is ready"),
        ([], "warn", "was not seen"),
    ],
)
def test_the_operator(
    api: Api, server: Server, deployments: list[dict[str, Any]], verdict: str, words: str
) -> None:
    server.drop(f"{DEPLOYMENTS}/kuberay-operator")
    for one in deployments:
        server.put(DEPLOYMENTS, **one)
    found = look(api)["operator"]
    assert found.verdict == verdict
    assert words in found.text


def test_an_operator_that_one_may_not_see_but_that_has_worked(api: Api, server: Server) -> None:
    server.put(JOBS, metadata={"name": "old"}, status={"jobDeploymentStatus": "Complete"})
    forbid(server, DEPLOYMENTS, "deployments", "list")
    found = look(api)["operator"]
    assert (found.verdict, found.text) == ("ok", "has worked on RayJobs of namespace team-a")


def test_rights_that_are_missing_in_one_sentence(api: Api, server: Server) -> None:
    server.denied |= {("create", "rayjobs"), ("patch", "rayjobs"), ("get", "pods/log")}
    found = [one for one in preflight.rights(api) if one.verdict != "ok"]
    assert [one.verdict for one in found] == ["fail", "warn"]
    assert found[0].text == (
        "in namespace team-a you may not create rayjobs (to submit), patch rayjobs (to suspend and "
        "resume). Ask for a Role with the rules: "
        '[{apiGroups: ["ray.io"], resources: ["rayjobs"], verbs: ["create", "patch"]}]'
    )
    assert "get pods/log (to read logs)" in found[1].text


def test_the_namespace(api: Api, server: Server) -> None:
    server.drop("/api/v1/namespaces/team-a")
    assert "there is no namespace team-a" in look(api)["namespace"].text
    going = {"name": "team-a", "deletionTimestamp": "2026-11-26T17:00:00Z"}
    server.put("/api/v1/namespaces", metadata=going)
    assert "is being deleted" in look(api)["namespace"].text
    forbid(server, "/api/v1/namespaces/team-a", "namespaces")
    assert look(api)["namespace"].verdict == "ok"


def test_a_level_of_security_that_kuberays_own_container_cannot_meet(
    api: Api, server: Server
) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    server.put("/api/v1/namespaces", metadata={"name": "team-a", "labels": labels})
    found = look(api)["namespace"]
    assert found.verdict == "fail"
    assert "container main of the head without allowPrivilegeEscalation: false" in found.text
    assert "use submission_mode: K8sJobMode or HTTPMode" in found.text


SAFE = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def test_pods_that_meet_the_highest_level() -> None:
    job = rayjob(containers=[container(securityContext=SAFE)])
    group = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    pod_level = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    own = {name: SAFE[name] for name in ("allowPrivilegeEscalation", "capabilities")}
    group["template"]["spec"] |= {
        "securityContext": pod_level,
        "containers": [container(securityContext=own)],
    }
    job["spec"]["submissionMode"] = "HTTPMode"
    assert list(refers.forbidden(job, "restricted")) == []
    job["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"] = True
    (one,) = refers.forbidden(job, "restricted")
    assert one.startswith("container autoscaler of the head without")
    job["spec"]["rayClusterSpec"]["autoscalerOptions"] = {"securityContext": SAFE}
    assert list(refers.forbidden(job, "restricted")) == []
    job["spec"]["submissionMode"] = "K8sJobMode"
    (one,) = refers.forbidden(job, "restricted")
    assert one.startswith("container ray-job-submitter, which KubeRay makes")
    job["spec"]["submitterPodTemplate"] = {"spec": {"containers": [container()]}}
    (one,) = refers.forbidden(job, "restricted")
    assert one.startswith("container main of the submitter without")


def test_pods_that_break_the_middle_level() -> None:
    added = {"privileged": True, "capabilities": {"add": ["SYS_ADMIN", "CHOWN"]}}
    job = rayjob(
        hostNetwork=True,
        volumes=[{"name": "v", "hostPath": {"path": "/data"}}],
        containers=[container(securityContext=added)],
    )
    assert list(refers.forbidden(job, "baseline")) == [
        "hostNetwork of the head",
        "the hostPath volume v of the head",
        "privileged container main of the head",
        "capabilities SYS_ADMIN of container main of the head",
    ]
    assert list(refers.forbidden(job, "privileged")) == []


def test_quotas_and_limit_ranges(api: Api, server: Server) -> None:
    hard = {"requests.cpu": "3"}
    status = {"hard": hard, "used": {"requests.cpu": "0"}}
    server.put(f"{CORE}/resourcequotas", metadata={"name": "q"}, spec={"hard": hard}, status=status)
    limits = [{"type": "Container", "max": {"cpu": "500m"}}]
    server.put(f"{CORE}/limitranges", metadata={"name": "r"}, spec={"limits": limits})
    found = look(api)
    assert found["quota"].verdict == "fail"
    assert "head 1.5 + 2 workers of 1 ask for 3.5" in found["quota"].text
    assert "LimitRange r allows container main" in found["limit range"].text


def test_quotas_that_one_may_not_see(api: Api, server: Server) -> None:
    forbid(server, f"{CORE}/resourcequotas", "resourcequotas", "list")
    found = look(api)["quota"]
    assert found.verdict == "warn"
    assert "quotas cannot be seen: bob may not list resourcequotas" in found.text


def test_what_pods_refer_to(api: Api, server: Server) -> None:
    job = rayjob(
        serviceAccountName="tuner",
        priorityClassName="high",
        imagePullSecrets=[{"name": "registry"}],
        volumes=[
            {"name": "file", "configMap": {"name": "digits"}},
            {"name": "all", "projected": {"sources": [{"secret": {"name": "certificates"}}]}},
            {"name": "maybe", "secret": {"secretName": "maybe", "optional": True}},
        ],
        containers=[
            container(
                envFrom=[{"secretRef": {"name": "s3"}}, {"configMapRef": {"name": "usual"}}],
                env=[
                    {"name": "A", "value": "x"},
                    {"name": "B", "valueFrom": {"secretKeyRef": {"name": "mlflow", "key": "k"}}},
                    {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                ],
            )
        ],
    )
    server.put(f"{CORE}/secrets", metadata={"name": "s3"}, data={"key": "aGlkZGVu"})
    forbid(server, f"{CORE}/secrets/mlflow", "secrets")
    config = {"kind": "ConfigMap", "metadata": {"name": "digits"}}
    config |= {"apiVersion": "v1"}
    found = {one.subject: one for one in preflight.examine(api, [job, config])}
    verdicts = {name: one.verdict for name, one in found.items() if " " in name}
    assert verdicts == {
        "ServiceAccount tuner": "fail",
        "PriorityClass high": "fail",
        "Secret registry": "fail",
        "Secret certificates": "fail",
        "Secret s3": "ok",
        "ConfigMap usual": "fail",
        "Secret mlflow": "warn",
        "dry run": "ok",
    }
    assert found["Secret registry"].text == (
        "is not there in namespace team-a; it is the secret for the image of the head. Create it"
    )
    assert "aGlkZGVu" not in str(found)


@pytest.mark.parametrize(
    ("claim", "verdict", "words"),
    [
        (None, "fail", "is not there; create it with accessModes: [ReadWriteMany]"),
        ({"modes": ["ReadWriteOnce"]}, "fail", "is ReadWriteOnce, and the head and workers of"),
        ({"modes": ["ReadWriteMany"], "phase": "Pending"}, "warn", "has no volume yet"),
        ({"modes": ["ReadWriteMany"], "phase": "Lost"}, "fail", "has lost its volume"),
        ({"modes": ["ReadWriteMany"]}, "ok", "is there and ReadWriteMany"),
    ],
)
def test_volumes(
    api: Api, server: Server, claim: dict[str, Any] | None, verdict: str, words: str
) -> None:
    volume = {"name": "runs", "persistentVolumeClaim": {"claimName": "runs"}}
    job = rayjob(volumes=[volume])
    group = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    group["template"]["spec"]["volumes"] = [copy.deepcopy(volume)]
    if claim is not None:
        path = f"{CORE}/persistentvolumeclaims"
        status = {"phase": claim.get("phase", "Bound")}
        spec = {"accessModes": claim["modes"]}
        server.put(path, metadata={"name": "runs"}, spec=spec, status=status)
    found = look(api, job)["PersistentVolumeClaim runs"]
    assert found.verdict == verdict
    assert words in found.text


def test_queues(api: Api, server: Server) -> None:
    job = rayjob()
    job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "small"
    assert "Kueue is not installed" in look(api, job)["LocalQueue small"].text
    version = "kueue.x-k8s.io/v1beta2"
    group = {"preferredVersion": {"groupVersion": version}}
    resources = [{"name": "localqueues", "kind": "LocalQueue", "namespaced": True}]
    server.on("GET", "/apis/kueue.x-k8s.io", lambda _: Answer(200, group))
    server.on("GET", f"/apis/{version}", lambda _: Answer(200, {"resources": resources}))
    path = f"/apis/{version}/namespaces/team-a/localqueues"
    assert "is not there in namespace team-a" in look(api, job)["LocalQueue small"].text
    server.put(path, metadata={"name": "small"}, status={"pendingWorkloads": 3})
    assert look(api, job)["LocalQueue small"].text == "is open, 3 workloads wait in it"
    closed = [{"type": "Active", "status": "False", "message": "Can't submit new workloads"}]
    server.put(path, metadata={"name": "small"}, status={"conditions": closed})
    assert look(api, job)["LocalQueue small"].verdict == "fail"


def test_the_server_has_the_last_word(api: Api, server: Server) -> None:
    cause = {"field": "spec.x", "message": "Invalid value"}
    said = refusal(422, "Invalid", "RayJob is invalid", causes=[cause])
    server.on("PATCH", f"{JOBS}/digits", said)
    found = look(api)["dry run"]
    assert (found.verdict, "spec.x: Invalid value" in found.text) == ("fail", True)
