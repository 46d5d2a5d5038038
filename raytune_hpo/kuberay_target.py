"""The section ``targets.kuberay`` of an experiment file: how a run looks on Kubernetes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from raytune_hpo import fields, kuberay_fields
from raytune_hpo.errors import did_you_mean
from raytune_hpo.fields import Finding
from raytune_hpo.kuberay_parts import (
    EnvFroms,
    KubeRayHead,
    KubeRayLimit,
    KubeRayPvc,
    KubeRayWorker,
    Secrets,
    Tolerations,
)
from raytune_hpo.redact import redact
from raytune_hpo.running import looks_secret
from raytune_hpo.target_fields import Written

Mode = Literal["SidecarMode", "K8sJobMode", "HTTPMode"]
Pull = Literal["Always", "IfNotPresent", "Never"]
PATCHED = ("rayjob", "config_map", "head", "head_container", "worker", "worker_container")
"""What can be patched: objects, and within the RayJob the pods' templates and Ray's containers."""

_MODES = {
    "interactivemode": "with InteractiveMode nothing would start the run",
    "sidecar": "write SidecarMode",
    "http": "write HTTPMode",
    "k8sjob": "write K8sJobMode",
    "job": "write K8sJobMode",
}
_IN_A_SHELL = ("SidecarMode", "K8sJobMode")
"""In these modes KubeRay puts the runtime environment between double quotes of a shell script."""


def _patches(value: Any) -> dict[str, Any]:
    found = fields.free(value)
    for key in found:
        if key not in PATCHED:
            message = f"unknown object '{key}'{did_you_mean(key, PATCHED)}"
            raise fields.all_wrong(
                [Finding((key,), f"{message}; there are {', '.join(PATCHED)}", key=True)]
            )
    fields.each_of(found, fields.free)
    hidden = list(_written_secrets(found))
    if hidden:
        message = "a secret must not stand in a manifest; write env_from_secret"
        raise fields.all_wrong(Finding(path, message) for path in hidden)
    return found


def _written_secrets(value: Any, path: fields.Path = ()) -> Iterator[fields.Path]:
    """Yield where environment variables of a container hold what looks like a secret."""
    if isinstance(value, Mapping):
        if value.get("value") and looks_secret(str(value.get("name", ""))):
            yield (*path, "value")
        for key, entry in value.items():
            yield from _written_secrets(entry, (*path, key))
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _written_secrets(entry, (*path, index))


class KubeRayTarget(Written):
    """Options of KubeRay; a file for all your experiments can hold the same."""

    hints: ClassVar = {
        "activeDeadlineSeconds": "write deadline",
        "autoscaler": "write autoscaling",
        "backoffLimit": "write retries",
        "backoff_limit": "write retries",
        "cpus": "write it under head or worker",
        "enableInTreeAutoscaling": "write autoscaling",
        "envFrom": "write env_from",
        "gpu_type": "write worker: {gpu_resource: ...}, or node_selector for a model",
        "gpus": "write it under worker",
        "idleTimeoutSeconds": "write idle",
        "idle_timeout": "write idle",
        "imagePullSecrets": "write image_pull_secrets",
        "maxReplicas": "write max_workers",
        "memory": "write it under head or worker",
        "minReplicas": "write min_workers",
        "nodeSelector": "write node_selector",
        "pip": "write runtime_env: {pip: [...]}",
        "priorityClassName": "write priority_class",
        "rayVersion": "write ray_version",
        "replicas": "write max_workers",
        "secrets": "write env_from_secret or env_from",
        "serviceAccountName": "write service_account",
        "storage": "write pvc: {claim: NAME} here, or storage: s3://... at the top of the file",
        "submissionMode": "write submission_mode",
        "ttlSecondsAfterFinished": "write ttl",
        "workers": "write max_workers",
        "working_dir": "write runtime_env: {working_dir: ...}",
    }

    namespace: kuberay_fields.Label | None = Field(
        default=None, description="Namespace; that of your kubeconfig's context if absent."
    )
    image: kuberay_fields.Image | None = Field(
        default=None, description="With raytune-hpo and all that trials need; has to be said."
    )
    pull_policy: (
        Annotated[Pull, BeforeValidator(fields.one_of("Always", "IfNotPresent", "Never"))] | None
    ) = Field(default=None, description="When the image is pulled.")
    image_pull_secrets: kuberay_fields.Names = Field(
        default=(), description="Secrets for the image's registry."
    )
    ray_version: fields.Text | None = Field(
        default=None, description="Of the image's Ray; the one that submits if absent."
    )
    service_account: kuberay_fields.Name | None = Field(
        default=None, description="Of all pods; also the way to storage by workload identity."
    )
    head: KubeRayHead = Field(
        default_factory=KubeRayHead, description="The pod with Ray's head and the driver."
    )
    worker: KubeRayWorker = Field(
        default_factory=KubeRayWorker, description="The pods with trials."
    )
    min_workers: fields.Natural = Field(
        default=0, description="Workers that stay without trials too."
    )
    max_workers: fields.Positive | None = Field(
        default=None, description="Workers at the most; if absent what `parallel` trials need."
    )
    limit: KubeRayLimit | None = Field(
        default=None, description="Of CPUs, memory and GPUs of all pods of the run together."
    )
    autoscaling: fields.Flag = Field(
        default=True, description="Whether workers come and go with the trials."
    )
    idle_s: fields.Duration = Field(
        default=60.0,
        alias="idle",
        description="A worker without a trial for so long is given back.",
    )
    node_selector: kuberay_fields.Selector = Field(
        default_factory=dict, description="Labels that machines must have."
    )
    tolerations: Tolerations = Field(
        default=(),
        description="Taints that all pods bear: a list of {key, operator, value, effect, seconds}.",
    )
    priority_class: kuberay_fields.Name | None = Field(
        default=None, description="Priority class of all pods."
    )
    pvc: KubeRayPvc | None = Field(
        default=None, description="Volume for the runs, where `storage` is no object store."
    )
    env: kuberay_fields.Env = Field(
        default_factory=dict, description="Environment variables of all pods; no secrets."
    )
    env_from_secret: Secrets = Field(
        default_factory=dict,
        description="Environment variables out of Secrets: NAME: {secret: ..., key: ...}.",
    )
    env_from: EnvFroms = Field(
        default=(),
        description="Environment variables, all of one source: [{secret: NAME}] or "
        "[{config_map: NAME}], also with a prefix.",
    )
    runtime_env: fields.Free = Field(
        default_factory=dict, description="Ray's runtime environment, such as {pip: [...]}."
    )
    code: kuberay_fields.Code = Field(
        default=(),
        description="Small files beside the experiment file that go with it, 900 KiB in all.",
    )
    folder: kuberay_fields.Folder | None = Field(
        default=None,
        description="Folder in the image that stands for the experiment file's own.",
    )
    queue: kuberay_fields.Name | None = Field(
        default=None, description="Kueue's LocalQueue; with autoscaling, of Kueue 0.18 or later."
    )
    deadline_s: fields.Duration | None = Field(
        default=None,
        alias="deadline",
        description="Of one attempt of the job; if absent, `time_limit` and time to start and end.",
    )
    pending_limit_s: fields.Duration = Field(
        default=1800.0,
        alias="pending_limit",
        description="An attempt that has not started after so long is given up.",
    )
    ttl_s: kuberay_fields.Ttl = Field(
        default=600.0, alias="ttl", description="So long the ended job's pods stay to be looked at."
    )
    grace_s: fields.Duration = Field(
        default=60.0, alias="grace", description="So long a pod may take to end when it is told to."
    )
    retries: fields.Natural = Field(
        default=3, description="Further attempts of the job, each on a new Ray cluster."
    )
    submission_mode: Annotated[
        Mode,
        BeforeValidator(fields.one_of("SidecarMode", "K8sJobMode", "HTTPMode", hints=_MODES)),
    ] = Field(default="SidecarMode", description="How KubeRay starts the driver.")
    token_auth: fields.Flag = Field(
        default=True, description="Whether Ray wants a token that KubeRay makes."
    )
    labels: kuberay_fields.Labels = Field(
        default_factory=dict, description="Further labels of objects and pods."
    )
    annotations: kuberay_fields.Annotations = Field(
        default_factory=dict, description="Further annotations of objects and pods."
    )
    patches: Annotated[
        dict[str, Any],
        BeforeValidator(_patches),
        WithJsonSchema(
            {
                "type": "object",
                "properties": {key: {"type": "object"} for key in PATCHED},
                "additionalProperties": False,
            }
        ),
    ] = Field(
        default_factory=dict,
        description="JSON merge patches, last of all: rayjob, config_map, head, head_container, "
        "worker, worker_container.",
    )

    @classmethod
    def cross(
        cls, data: Mapping[str, Any], failed: frozenset[str], handler: Any
    ) -> Iterable[Finding]:
        """Return a finding where settings do not go together."""
        if data.get("autoscaling") is False:
            for key in ("idle", "min_workers"):
                if key in data:
                    yield Finding((key,), "goes with autoscaling", key=True)
        both = data.get("env"), data.get("env_from_secret")
        if isinstance(both[0], Mapping) and isinstance(both[1], Mapping):
            for key in both[0].keys() & both[1].keys():
                yield Finding(("env_from_secret", key), "is under env too", key=True)
        if failed:
            return
        made: KubeRayTarget = handler(cls.prepare(dict(data)))
        if made.max_workers is not None and made.min_workers > made.max_workers:
            yield Finding(("min_workers",), f"must be at most max_workers: {made.max_workers}")
        if made.head.cpus == 0 and made.submission_mode == "SidecarMode":
            message = (
                "goes with submission_mode: HTTPMode or K8sJobMode; in SidecarMode KubeRay itself "
                "gives the head's pod 0.5 CPU more"
            )
            yield Finding(("head", "cpus"), message)
        yield from _runtime_env_findings(made)


def _runtime_env_findings(target: KubeRayTarget) -> Iterator[Finding]:
    """Yield a finding for what of a runtime environment would not arrive, or is secret."""
    variables = target.runtime_env.get("env_vars")
    for key in variables if isinstance(variables, Mapping) else ():
        if looks_secret(key):
            message = "a secret must not stand in a manifest; write env_from_secret"
            yield Finding(("runtime_env", "env_vars", key), message)
    for path, text in _texts(target.runtime_env, ("runtime_env",)):
        if redact(text) != text:
            yield Finding(path, "must not hold a password or token; write env_from_secret")
        if target.submission_mode not in _IN_A_SHELL:
            continue
        odd = {
            sign for sign in text if sign in "$`" or (ord(sign) > 126 and not sign.isprintable())
        }
        if odd:
            message = (
                f"must not hold {' or '.join(sorted(map(repr, odd)))} in {target.submission_mode}, "
                "where KubeRay passes it through a shell; write it under env, or "
                "submission_mode: HTTPMode"
            )
            yield Finding(path, message)


def _texts(value: Any, path: fields.Path) -> Iterator[tuple[fields.Path, str]]:
    """Yield each text in a value, keys of mappings too, with its path."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield (*path, key), key
            yield from _texts(entry, (*path, key))
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _texts(entry, (*path, index))
