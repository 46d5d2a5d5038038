"""What KubeRay's operator refuses although Kubernetes takes it: every rule, once broken."""

from __future__ import annotations

import re
from typing import Any

import pytest

from raytune_hpo.cluster.kuberay import rules
from raytune_hpo.cluster.kuberay.patching import merge

CONTAINER = {"name": "ray", "image": "i"}
GROUP = {
    "groupName": "g",
    "replicas": 0,
    "minReplicas": 0,
    "maxReplicas": 2,
    "rayStartParams": {"num-cpus": "1"},
    "template": {"spec": {"containers": [CONTAINER]}},
}
JOB: dict[str, Any] = {
    "apiVersion": "ray.io/v1",
    "kind": "RayJob",
    "metadata": {"name": "x"},
    "spec": {
        "submissionMode": "SidecarMode",
        "entrypoint": "true",
        "shutdownAfterJobFinishes": True,
        "backoffLimit": 3,
        "rayClusterSpec": {
            "rayVersion": "2.60.0",
            "enableInTreeAutoscaling": True,
            "autoscalerOptions": {"version": "v2"},
            "authOptions": {"mode": "token"},
            "headGroupSpec": {"template": {"spec": {"containers": [CONTAINER]}}},
            "workerGroupSpecs": [GROUP],
        },
    },
}


def cluster(**patch: Any) -> dict[str, Any]:
    return {"rayClusterSpec": patch}


def head(**patch: Any) -> dict[str, Any]:
    return cluster(headGroupSpec=patch)


def head_env(name: str, value: str = "x", **more: Any) -> dict[str, Any]:
    containers = [{**CONTAINER, "env": [{"name": name, "value": value}]}]
    return head(template={"spec": {"containers": containers}}) | more


def group(**patch: Any) -> dict[str, Any]:
    return cluster(workerGroupSpecs=[merge(GROUP, patch)])


def deletion(*rules_: dict[str, Any], **more: Any) -> dict[str, Any]:
    strategy = {"deletionRules": list(rules_)}
    return {"shutdownAfterJobFinishes": None, "deletionStrategy": strategy, **more}


def rule(policy: str, ttl: int = 0, **condition: Any) -> dict[str, Any]:
    condition = condition or {"jobStatus": "FAILED"}
    return {"policy": policy, "condition": {**condition, "ttlSeconds": ttl}}


SELECTED = {"rayClusterSpec": None, "clusterSelector": {"ray.io/cluster": "c"}, "backoffLimit": 0}
FT = {"gcsFaultToleranceOptions": {"redisAddress": "r:1"}}
OLD = {"onSuccess": {"policy": "DeleteCluster"}, "onFailure": {"policy": "DeleteCluster"}}

TAKEN: list[dict[str, Any]] = [
    {},
    {"submissionMode": "HTTPMode"},
    {"submissionMode": "InteractiveMode", "backoffLimit": 0, "entrypoint": None},
    {"submissionMode": "K8sJobMode", "submitterConfig": {"backoffLimit": 1}},
    {"submissionMode": None, **SELECTED},
    {"suspend": True},
    {"ttlSecondsAfterFinished": 600},
    {"runtimeEnvYAML": "pip: [x]"},
    {"deletionStrategy": OLD},
    deletion(rule("DeleteCluster", 60), rule("DeleteSelf", 600)),
    deletion(rule("DeleteSelf", 5, jobDeploymentStatus="Failed"), rule("DeleteCluster", 9)),
    group(idleTimeoutSeconds=60, priority=3),
    group(resources={"CPU": "1"}, rayStartParams={"num-cpus": None}),
    group(labels={"example.com/a": "b"}),
    cluster(**FT),
    cluster(authOptions={"mode": "disabled"}),
]
BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"submissionMode": "Bogus"}, r"submissionMode must be .* or SidecarMode, not 'Bogus'"),
    ({"entrypoint": " "}, r"entrypoint must say what to run"),
    ({"backoffLimit": -1}, r"backoffLimit must be 0 or more, not -1"),
    ({"ttlSecondsAfterFinished": -1}, r"ttlSecondsAfterFinished must be 0 or more"),
    ({"activeDeadlineSeconds": 0}, r"activeDeadlineSeconds must be above 0, not 0"),
    ({"preRunningDeadlineSeconds": -5}, r"preRunningDeadlineSeconds must be above 0"),
    ({"suspend": True, "shutdownAfterJobFinishes": None}, r"suspend needs shutdown"),
    ({"ttlSecondsAfterFinished": 5, "shutdownAfterJobFinishes": False}, r"ttl.* needs shutdown"),
    ({"submitterPodTemplate": {"spec": {}}}, r"submitterPodTemplate does not go with Sidecar"),
    ({"submitterConfig": {"backoffLimit": 1}}, r"submitterConfig does not go with SidecarMode"),
    (
        head(template={"spec": {"restartPolicy": "Always"}}),
        r"restartPolicy of the head must be Never in SidecarMode, not Always",
    ),
    (
        {"submissionMode": "InteractiveMode"},
        r"backoffLimit does not go with InteractiveMode",
    ),
    ({**SELECTED, "submissionMode": None, "backoffLimit": 1}, r"backoffLimit .*clusterSelector"),
    ({**SELECTED}, r"clusterSelector does not go with SidecarMode"),
    ({**SELECTED, "submissionMode": None, "suspend": True}, r"suspend does not go with cluster"),
    (
        {**SELECTED, "submissionMode": None, "clusterSelector": {"ray.io/cluster": "", "a": "b"}},
        r"clusterSelector must name a cluster",
    ),
    ({"rayClusterSpec": None}, r"either rayClusterSpec or clusterSelector must be there"),
    ({"runtimeEnvYAML": "a: [b"}, r"runtimeEnvYAML is no YAML"),
    ({"runtimeEnvYAML": "just text"}, r"runtimeEnvYAML must be a mapping"),
    (deletion(rule("DeleteSelf"), shutdownAfterJobFinishes=True), r"deletionRules do not go with"),
    (
        deletion(rule("DeleteSelf")) | {"deletionStrategy": {**OLD, "deletionRules": [1]}},
        r"takes deletionRules or onSuccess and onFailure, not both",
    ),
    ({"deletionStrategy": {}}, r"deletionStrategy needs deletionRules"),
    ({"deletionStrategy": {**OLD, "onFailure": None}}, r"needs both onSuccess and onFailure"),
    ({"deletionStrategy": {**OLD, "onFailure": {"policy": None}}}, r"need a policy"),
    (
        {"deletionStrategy": {**OLD, "onFailure": {"policy": "DeleteNone"}}},
        r"DeleteNone does not go with shutdownAfterJobFinishes",
    ),
    (
        {"deletionStrategy": {**OLD, "onFailure": {"policy": "DeleteWorkers"}}},
        r"DeleteWorkers does not go with autoscaling",
    ),
    (deletion(rule("DeleteWorkers")), r"deletionRules\[0\]: .*DeleteWorkers .*autoscaling"),
    (
        deletion(rule("DeleteCluster"), **SELECTED, submissionMode=None),
        r"deletionRules\[0\]: the policy DeleteCluster does not go with clusterSelector",
    ),
    (deletion(rule("DeleteSelf", -1)), r"ttlSeconds must be 0 or more, not -1"),
    (
        deletion(rule("DeleteSelf", jobStatus="FAILED", jobDeploymentStatus="Failed")),
        r"deletionRules\[0\] needs exactly one of jobStatus",
    ),
    (
        deletion(rule("DeleteSelf"), rule("DeleteSelf", 9)),
        r"deletionRules\[1\]: there is a rule for DeleteSelf at FAILED already",
    ),
    (
        deletion(rule("DeleteCluster", 60), rule("DeleteSelf", 30)),
        r"at FAILED, DeleteSelf \(ttlSeconds 30\) comes before DeleteCluster \(60\)",
    ),
    (head(template={"spec": {"containers": []}}), r"the head must have at least one container"),
    (group(template={"spec": {"containers": []}}), r"the group g must have at least one"),
    (group(resources={"CPU": "1"}), r"the group g says its size in resources and in ray"),
    (head(rayStartParams={"labels": "a=b"}), r"the head has labels in rayStartParams"),
    (group(labels={"a b": "c"}), r"the group g has a label that Kubernetes does not take: a b"),
    (group(labels={"a": "c d"}), r"value of the label a that Kubernetes does not take: c d"),
    (
        merge(group(maxReplicas=None), cluster(enableInTreeAutoscaling=False)),
        r"needs minReplicas and maxReplicas where there is no autoscaling",
    ),
    (group(minReplicas=-1), r"minReplicas must be 0 or more, not -1"),
    (group(maxReplicas=-1), r"maxReplicas must be 0 or more, not -1"),
    (group(minReplicas=3), r"minReplicas 3 is above maxReplicas 2"),
    (group(suspend=True), r"the group g cannot be suspended with autoscaling"),
    (group(idleTimeoutSeconds=-1), r"idleTimeoutSeconds must be 0 or more"),
    (
        merge(group(idleTimeoutSeconds=9), cluster(autoscalerOptions={"version": "v1"})),
        r"the group g: idleTimeoutSeconds needs autoscalerOptions.version: v2",
    ),
    (
        merge(group(priority=1), cluster(autoscalerOptions={"version": "v1"})),
        r"the group g: priority needs autoscalerOptions.version: v2",
    ),
    (
        merge(group(priority=1), cluster(rayVersion="2.55.1")),
        r"priority needs Ray 2.56.0 or later, not 2.55.1",
    ),
    (
        cluster(autoscalerOptions={"idleTimeoutSeconds": -1}),
        r"autoscalerOptions.idleTimeoutSeconds must be 0 or more",
    ),
    (
        cluster(autoscalerOptions={"env": [{"name": "KUBERAY_GEN_AUTOSCALER_START_CMD"}]}),
        r"must not hold KUBERAY_GEN_AUTOSCALER_START_CMD",
    ),
    (
        merge(
            head_env("RAY_enable_autoscaler_v2", "true"),
            cluster(enableInTreeAutoscaling=False),
        ),
        r"RAY_enable_autoscaler_v2 of the head needs enableInTreeAutoscaling",
    ),
    (head_env("RAY_enable_autoscaler_v2", "1"), r"say the same; only one may"),
    (
        merge({"submissionMode": "HTTPMode"}, head(template={"spec": {"restartPolicy": "Always"}})),
        r"restartPolicy of the head must be Never with autoscaler v2, not Always",
    ),
    (
        group(template={"spec": {"restartPolicy": "OnFailure"}}),
        r"restartPolicy of the group g must be Never with autoscaler v2, not OnFailure",
    ),
    (head_env("RAY_REDIS_ADDRESS"), r"RAY_REDIS_ADDRESS of the head needs gcsFault"),
    (head_env("REDIS_USERNAME"), r"goes into gcsFaultToleranceOptions.redisUsername"),
    (merge(head_env("REDIS_PASSWORD"), cluster(**FT)), r"goes into .*redisPassword"),
    (merge(head_env("RAY_REDIS_ADDRESS"), cluster(**FT)), r"goes into .*redisAddress"),
    (
        merge(head(rayStartParams={"redis-password": "x"}), cluster(**FT)),
        r"goes into .*redisPassword",
    ),
    (
        cluster(gcsFaultToleranceOptions={"storage": {"size": "1Gi"}}),
        r"storage goes with the backend rocksdb",
    ),
    (cluster(gcsFaultToleranceOptions={"backend": "rocksdb"}), r"feature gate GCSFault"),
    (cluster(rayVersion=None), r"authOptions.mode: token needs rayVersion to say Ray 2.52.0"),
    (cluster(rayVersion="2.51.9"), r"authOptions.mode: token needs Ray 2.52.0 or later"),
    (cluster(rayVersion="nightly"), r"needs rayVersion to be a version .* not 'nightly'"),
    (cluster(authOptions={"enableK8sTokenAuth": True}), r"does not work for a RayJob"),
    (
        cluster(authOptions={"mode": None, "enableK8sTokenAuth": True}),
        r"enableK8sTokenAuth needs authOptions.mode: token",
    ),
    (cluster(networkPolicy={"mode": "DenyAll"}), r"feature gate RayClusterNetworkPolicy"),
    (cluster(tlsOptions={"enabled": True}), r"feature gate RayClusterMTLS"),
    (cluster(historyServerOptions={"a": 1}), r"feature gate RayClusterHistoryServer"),
    (cluster(upgradeStrategy={"type": "Recreate"}), r"upgradeStrategy does not go with a RayJob"),
]


@pytest.mark.parametrize("patch", TAKEN, ids=str)
def test_what_the_operator_takes(patch: dict[str, Any]) -> None:
    assert rules.problems(merge(JOB, {"spec": patch})) == []


@pytest.mark.parametrize(("patch", "sentence"), BROKEN, ids=[text for _, text in BROKEN])
def test_what_the_operator_refuses(patch: dict[str, Any], sentence: str) -> None:
    found = rules.problems(merge(JOB, {"spec": patch}))
    assert [text for text in found if re.search(sentence, text)], found


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("a" * 48, r"has 48 characters, and 47 is the most"),
        ("1a", r"must be of a-z, 0-9 and -, begin with a letter"),
        ("a-", r"end with a letter or digit: 'a-'"),
        ("A", r"must be of a-z"),
        ("", r"must be of a-z"),
    ],
)
def test_names_that_the_operator_refuses(name: str, sentence: str) -> None:
    (found,) = rules.problems(merge(JOB, {"metadata": {"name": name}}))
    assert re.search(sentence, found)


@pytest.mark.parametrize(
    ("annotation", "sentence"),
    [
        ("ray.io/ft-enabled", r"and the annotation ray.io/ft-enabled say the same"),
        ("ray.io/external-storage-namespace", r"goes into .*externalStorageNamespace"),
    ],
)
def test_annotations_that_say_what_fields_say(annotation: str, sentence: str) -> None:
    patch = {"metadata": {"annotations": {annotation: "true"}}, "spec": cluster(**FT)}
    assert any(re.search(sentence, text) for text in rules.problems(merge(JOB, patch)))


def test_all_that_is_wrong_is_said_at_once() -> None:
    patch = {"submissionMode": "Bogus", "backoffLimit": -1, **group(minReplicas=3)}
    assert len(rules.problems(merge(JOB, {"spec": patch}))) == 3
