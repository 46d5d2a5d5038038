"""What the pods of a RayJob refer to, and what a namespace's security level forbids them: pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from raytune_hpo.cluster.kuberay.kinds import (
    CONFIG_MAP,
    PRIORITY_CLASS,
    SECRET,
    SERVICE_ACCOUNT,
    VOLUME_CLAIM,
    Kind,
)
from raytune_hpo.cluster.kuberay.names import AUTOSCALER, SUBMITTER

Object = Mapping[str, Any]
_BASELINE_CAPABILITIES = frozenset(
    {
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    }
)


@dataclass(frozen=True)
class Reference:
    """An object that has to be there.

    Attributes:
        kind: Its kind.
        name: Its name.
        use: What for.
    """

    kind: Kind
    name: str
    use: str


def templates(job: Object) -> Iterator[tuple[str, Object]]:
    """Yield the pods of a RayJob, each with what it is called in a sentence."""
    cluster = job["spec"]["rayClusterSpec"]
    yield "the head", cluster["headGroupSpec"]["template"]["spec"]
    for group in cluster.get("workerGroupSpecs") or ():
        yield f"workers of group {group['groupName']}", group["template"]["spec"]
    submitter = job["spec"].get("submitterPodTemplate")
    if submitter is not None:
        yield "the submitter", submitter["spec"]


def references(job: Object) -> list[Reference]:
    """Return what the pods of a RayJob need in their namespace, each once."""
    found: dict[tuple[Kind, str], Reference] = {}
    for where, spec in templates(job):
        for one in _of_pod(where, spec):
            found.setdefault((one.kind, one.name), one)
    return list(found.values())


def _of_pod(where: str, spec: Object) -> Iterator[Reference]:
    if spec.get("serviceAccountName"):
        yield Reference(SERVICE_ACCOUNT, spec["serviceAccountName"], f"service account of {where}")
    if spec.get("priorityClassName"):
        yield Reference(PRIORITY_CLASS, spec["priorityClassName"], f"priority class of {where}")
    for one in spec.get("imagePullSecrets") or ():
        yield Reference(SECRET, one["name"], f"secret for the image of {where}")
    for volume in spec.get("volumes") or ():
        yield from _of_volume(volume, f"volume {volume['name']} of {where}")
    for container in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ())):
        yield from _of_container(container, f"container {container['name']} of {where}")


def _of_volume(volume: Object, use: str) -> Iterator[Reference]:
    sources = [volume, *((volume.get("projected") or {}).get("sources") or ())]
    for source in sources:
        config = source.get("configMap") or {}
        secret = source.get("secret") or {}
        if config and not config.get("optional"):
            yield Reference(CONFIG_MAP, config["name"], use)
        # A volume says secretName, a part of a projected one says name.
        if secret and not secret.get("optional"):
            yield Reference(SECRET, secret.get("secretName") or secret["name"], use)
    claim = volume.get("persistentVolumeClaim")
    if claim:
        yield Reference(VOLUME_CLAIM, claim["claimName"], use)


def _of_container(container: Object, use: str) -> Iterator[Reference]:
    kinds = {"configMapRef": CONFIG_MAP, "configMapKeyRef": CONFIG_MAP}
    kinds |= {"secretRef": SECRET, "secretKeyRef": SECRET}
    sources = list(container.get("envFrom") or ())
    sources += [one["valueFrom"] for one in container.get("env") or () if one.get("valueFrom")]
    for source in sources:
        for key, kind in kinds.items():
            one = source.get(key)
            if one and not one.get("optional"):
                yield Reference(kind, one["name"], f"environment of {use}")


def volumes_in_common(job: Object) -> dict[str, list[str]]:
    """Return the volume claims of a RayJob, with the pods that use each."""
    found: dict[str, list[str]] = {}
    for where, spec in templates(job):
        for volume in spec.get("volumes") or ():
            claim = volume.get("persistentVolumeClaim")
            if claim:
                found.setdefault(claim["claimName"], []).append(where)
    return found


def forbidden(job: Object, level: str) -> Iterator[str]:
    """Yield what of a RayJob's pods a Pod Security level does not allow.

    Only the rules that pods of Ray meet or break by how they are made are looked at.

    Args:
        job: The RayJob.
        level: ``privileged``, ``baseline`` or ``restricted``.

    Source: Kubernetes, Pod Security Standards.
    """
    if level not in ("baseline", "restricted"):
        return
    for where, spec in templates(job):
        yield from _baseline(where, spec)
        if level == "restricted":
            yield from _restricted(where, spec)
    if level == "restricted":
        yield from _restricted_additions(job)


def _baseline(where: str, spec: Object) -> Iterator[str]:
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield f"{name} of {where}"
    for volume in spec.get("volumes") or ():
        if volume.get("hostPath"):
            yield f"the hostPath volume {volume['name']} of {where}"
    for container in spec.get("containers") or ():
        security = container.get("securityContext") or {}
        if security.get("privileged"):
            yield f"privileged container {container['name']} of {where}"
        added = set((security.get("capabilities") or {}).get("add") or ())
        if added - _BASELINE_CAPABILITIES:
            names = ", ".join(sorted(added - _BASELINE_CAPABILITIES))
            yield f"capabilities {names} of container {container['name']} of {where}"


def _restricted(where: str, spec: Object) -> Iterator[str]:
    pod = spec.get("securityContext") or {}
    for container in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ())):
        own = container.get("securityContext") or {}
        missing = list(_unrestricted(own, pod))
        if missing:
            yield f"container {container['name']} of {where} without {', '.join(missing)}"


def _unrestricted(own: Object, pod: Object) -> Iterator[str]:
    """Yield what a container's security context lacks for the level ``restricted``."""
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation: false"
    if "ALL" not in ((own.get("capabilities") or {}).get("drop") or ()):
        yield "capabilities: {drop: [ALL]}"
    if own.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
        yield "runAsNonRoot: true"
    profile = own.get("seccompProfile") or pod.get("seccompProfile") or {}
    if profile.get("type") not in ("RuntimeDefault", "Localhost"):
        yield "seccompProfile: {type: RuntimeDefault}"


def _restricted_additions(job: Object) -> Iterator[str]:
    """Yield what is wrong with the containers that KubeRay adds."""
    cluster = job["spec"]["rayClusterSpec"]
    pod = cluster["headGroupSpec"]["template"]["spec"].get("securityContext") or {}
    if cluster.get("enableInTreeAutoscaling"):
        own = (cluster.get("autoscalerOptions") or {}).get("securityContext") or {}
        missing = list(_unrestricted(own, pod))
        if missing:
            yield f"container {AUTOSCALER} of the head without {', '.join(missing)}"
    mode = job["spec"].get("submissionMode", "K8sJobMode")
    if mode == "SidecarMode":
        yield (
            f"container {SUBMITTER} of the head, which KubeRay makes in SidecarMode without a "
            "security context of its own (use submission_mode: K8sJobMode or HTTPMode)"
        )
    if mode == "K8sJobMode" and not job["spec"].get("submitterPodTemplate"):
        yield f"container {SUBMITTER}, which KubeRay makes without a security context of its own"
