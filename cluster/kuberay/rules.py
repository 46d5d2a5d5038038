"""What KubeRay 1.7's operator refuses although Kubernetes takes it.

``kubectl apply`` would succeed, and the job then be ValidationFailed, or Running for ever. So what
is to be sent is looked at here before.
Source: ray-operator/controllers/ray/utils/validation.go of KubeRay v1.7.0.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from raytune_hpo.cluster.kuberay import cluster_rules
from raytune_hpo.cluster.kuberay.names import MODES, MOST_RAYJOB, RAYJOB_NAME

_ORDER = ("DeleteWorkers", "DeleteCluster", "DeleteSelf")
"""What is deleted later may not come before what is deleted earlier."""
_DEADLINES = ("activeDeadlineSeconds", "preRunningDeadlineSeconds")

Spec = Mapping[str, Any]


def problems(rayjob: Mapping[str, Any]) -> list[str]:
    """Return what the operator would refuse of a RayJob, in sentences.

    Args:
        rayjob: The whole object. Its form is Kubernetes' to check, by the CRD's schema.
    """
    metadata, spec = rayjob.get("metadata") or {}, rayjob.get("spec") or {}
    cluster = spec.get("rayClusterSpec")
    found = [*_name(str(metadata.get("name", ""))), *_numbers(spec), *_ends(spec)]
    found += [*_mode(spec), *_retries(spec), *_selector(spec), *_runtime_env(spec)]
    if cluster is not None:
        found += cluster_rules.problems(cluster, metadata.get("annotations") or {})
        if (cluster.get("authOptions") or {}).get("enableK8sTokenAuth"):
            found.append("authOptions.enableK8sTokenAuth does not work for a RayJob")
    return found


def _name(name: str) -> Iterator[str]:
    if len(name) > MOST_RAYJOB:
        yield (
            f"the RayJob's name has {len(name)} characters, and {MOST_RAYJOB} is the most: {name}"
        )
    elif not RAYJOB_NAME.fullmatch(name):
        yield (
            "the RayJob's name must be of a-z, 0-9 and -, begin with a letter and end with a "
            f"letter or digit: '{name}'"
        )


def _numbers(spec: Spec) -> Iterator[str]:
    for key in _DEADLINES:
        if spec.get(key) is not None and spec[key] <= 0:
            yield f"{key} must be above 0, not {spec[key]}"
    for key in ("backoffLimit", "ttlSecondsAfterFinished"):
        if (spec.get(key) or 0) < 0:
            yield f"{key} must be 0 or more, not {spec[key]}"


def _mode(spec: Spec) -> Iterator[str]:
    mode = spec.get("submissionMode", "K8sJobMode")
    if mode not in MODES:
        # Neither Kubernetes nor the operator refuses it: the job would be Running for ever.
        yield f"submissionMode must be {', '.join(MODES[:-1])} or {MODES[-1]}, not '{mode}'"
    if mode != "InteractiveMode" and not str(spec.get("entrypoint", "")).strip():
        yield "entrypoint must say what to run"
    if mode != "SidecarMode":
        return
    for key in ("submitterPodTemplate", "submitterConfig"):
        if spec.get(key) is not None:
            yield f"{key} does not go with SidecarMode"
    restart = cluster_rules.restart_policy((spec.get("rayClusterSpec") or {}).get("headGroupSpec"))
    if restart not in ("", "Never"):
        yield f"restartPolicy of the head must be Never in SidecarMode, not {restart}"


def _retries(spec: Spec) -> Iterator[str]:
    if not spec.get("backoffLimit"):
        return
    if spec.get("submissionMode") == "InteractiveMode":
        yield "backoffLimit does not go with InteractiveMode"
    if spec.get("clusterSelector"):
        yield "backoffLimit does not go with clusterSelector"


def _selector(spec: Spec) -> Iterator[str]:
    selector = spec.get("clusterSelector")
    if not selector:
        if spec.get("rayClusterSpec") is None:
            yield "either rayClusterSpec or clusterSelector must be there"
        return
    if not selector.get("ray.io/cluster"):
        yield "clusterSelector must name a cluster: ray.io/cluster: NAME"
    if spec.get("suspend"):
        yield "suspend does not go with clusterSelector"
    if spec.get("submissionMode") == "SidecarMode":
        yield "clusterSelector does not go with SidecarMode"


def _runtime_env(spec: Spec) -> Iterator[str]:
    text = spec.get("runtimeEnvYAML") or ""
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        yield f"runtimeEnvYAML is no YAML: {' '.join(str(error).split())}"
        return
    if found is not None and not isinstance(found, dict):
        yield "runtimeEnvYAML must be a mapping"


def _ends(spec: Spec) -> Iterator[str]:
    """Yield what is wrong with what becomes of the job and its cluster."""
    shutdown = bool(spec.get("shutdownAfterJobFinishes"))
    if spec.get("suspend") and not shutdown:
        yield "suspend needs shutdownAfterJobFinishes: true"
    if (spec.get("ttlSecondsAfterFinished") or 0) > 0 and not shutdown:
        yield "ttlSecondsAfterFinished needs shutdownAfterJobFinishes: true"
    strategy = spec.get("deletionStrategy")
    if strategy is None:
        return
    rules = strategy.get("deletionRules") or ()
    old = [strategy[key] for key in ("onSuccess", "onFailure") if strategy.get(key) is not None]
    if rules and shutdown:
        yield "deletionStrategy.deletionRules do not go with shutdownAfterJobFinishes"
    if rules and old:
        yield "deletionStrategy takes deletionRules or onSuccess and onFailure, not both"
    elif old:
        yield from _old_policies(spec, old)
    elif rules:
        yield from _rules(spec, rules)
    else:
        yield "deletionStrategy needs deletionRules"


def _old_policies(spec: Spec, old: Sequence[Spec]) -> Iterator[str]:
    if len(old) < 2:
        yield "deletionStrategy needs both onSuccess and onFailure, or deletionRules"
    for policy in (one.get("policy") for one in old):
        if policy is None:
            yield "onSuccess and onFailure of deletionStrategy need a policy"
        elif message := _policy(spec, policy):
            yield message
        elif policy == "DeleteNone" and spec.get("shutdownAfterJobFinishes"):
            yield "the policy DeleteNone does not go with shutdownAfterJobFinishes"


def _policy(spec: Spec, policy: str) -> str:
    """Return why a policy cannot be for this job, or an empty text."""
    if spec.get("clusterSelector") and policy in ("DeleteCluster", "DeleteWorkers"):
        return f"the policy {policy} does not go with clusterSelector"
    autoscaling = (spec.get("rayClusterSpec") or {}).get("enableInTreeAutoscaling")
    if policy == "DeleteWorkers" and autoscaling:
        return "the policy DeleteWorkers does not go with autoscaling"
    return ""


def _rules(spec: Spec, rules: Sequence[Spec]) -> Iterator[str]:
    seen: dict[tuple[str, str], dict[str, int]] = {}
    for number, rule in enumerate(rules):
        where, condition = f"deletionRules[{number}]", rule.get("condition") or {}
        told = [key for key in ("jobStatus", "jobDeploymentStatus") if condition.get(key)]
        ttl, policy = condition.get("ttlSeconds") or 0, str(rule.get("policy"))
        if len(told) != 1:
            yield f"{where} needs exactly one of jobStatus and jobDeploymentStatus"
            continue
        if ttl < 0:
            yield f"{where}: ttlSeconds must be 0 or more, not {ttl}"
        if message := _policy(spec, policy):
            yield f"{where}: {message}"
        state = seen.setdefault((told[0], condition[told[0]]), {})
        if policy in state:
            yield f"{where}: there is a rule for {policy} at {condition[told[0]]} already"
        state[policy] = ttl
    for (_, status), ttls in seen.items():
        known = [(policy, ttls[policy]) for policy in _ORDER if policy in ttls]
        for (before, sooner), (after, later) in itertools.pairwise(known):
            if later < sooner:
                yield f"at {status}, {after} (ttlSeconds {later}) comes before {before} ({sooner})"
