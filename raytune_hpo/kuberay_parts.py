"""The sections below ``targets.kuberay``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from raytune_hpo import fields, kuberay_fields, section
from raytune_hpo.fields import Finding, seen, wrong
from raytune_hpo.section import Section
from raytune_hpo.target_fields import Written

Effect = Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]
Operator = Literal["Exists", "Equal"]
DEFAULT_PVC_PATH = "/mnt/raytune-hpo"


class KubeRayToleration(Section):
    """A taint of nodes that is borne."""

    hints: ClassVar = {"tolerationSeconds": "write seconds"}

    key: fields.Text | None = Field(default=None, description="Of the taint; any if absent.")
    operator: Annotated[Operator, BeforeValidator(fields.one_of("Exists", "Equal"))] = Field(
        default="Equal", description="Whether the value counts too."
    )
    value: Annotated[str, BeforeValidator(kuberay_fields.any_text)] | None = Field(
        default=None, description="Of the taint."
    )
    effect: (
        Annotated[
            Effect,
            BeforeValidator(fields.one_of("NoSchedule", "PreferNoSchedule", "NoExecute")),
        ]
        | None
    ) = Field(default=None, description="Of the taint; any if absent.")
    seconds: fields.Natural | None = Field(
        default=None, description="With NoExecute: so long and no longer."
    )

    @classmethod
    def cross(
        cls, data: Mapping[str, Any], failed: frozenset[str], handler: Any
    ) -> Iterable[Finding]:
        """Return a finding where settings do not go together."""
        if data.get("operator", "Equal") == "Equal" and "key" not in data:
            yield Finding((), "needs a key, or operator: Exists for all taints")
        if data.get("operator") == "Exists" and "value" in data:
            yield Finding(("value",), "goes with operator: Equal", key=True)
        if "seconds" in data and data.get("effect") != "NoExecute":
            yield Finding(("seconds",), "goes with effect: NoExecute", key=True)


def _tolerations(value: Any) -> tuple[KubeRayToleration, ...]:
    if isinstance(value, Mapping):
        raise wrong("must be a list; put [ ] around it")
    if not isinstance(value, (list, tuple)):
        raise wrong(f"must be a list of taints that are borne, not {seen(value)}")
    return tuple(fields.each(value, partial(section.read, KubeRayToleration)))


Tolerations = Annotated[
    tuple[KubeRayToleration, ...],
    BeforeValidator(_tolerations),
    WithJsonSchema({"type": "array", "items": KubeRayToleration.model_json_schema()}),
]


class KubeRaySecret(Section):
    """One value of a Secret."""

    hints: ClassVar = {"name": "write secret"}

    secret: kuberay_fields.Name = Field(description="Name of the Secret.")
    key: fields.Text = Field(description="Of the value in it.")


class KubeRayEnvFrom(Section):
    """All values of a Secret or of a ConfigMap as environment variables."""

    hints: ClassVar = {"secretRef": "write secret", "configMapRef": "write config_map"}

    secret: kuberay_fields.Name | None = Field(default=None, description="Name of a Secret.")
    config_map: kuberay_fields.Name | None = Field(default=None, description="Or of a ConfigMap.")
    prefix: fields.Text | None = Field(default=None, description="Before each variable's name.")

    @classmethod
    def cross(
        cls, data: Mapping[str, Any], failed: frozenset[str], handler: Any
    ) -> Iterable[Finding]:
        """Return a finding unless exactly one source is named."""
        if ("secret" in data) == ("config_map" in data):
            yield Finding((), "needs either secret or config_map")


def _secrets(value: Any) -> dict[str, KubeRaySecret]:
    return kuberay_fields.variables(value, partial(section.read, KubeRaySecret))


def _env_from(value: Any) -> tuple[KubeRayEnvFrom, ...]:
    if not isinstance(value, (list, tuple)):
        raise wrong(f"must be a list such as [{{secret: NAME}}], not {seen(value)}")
    return tuple(fields.each(value, partial(section.read, KubeRayEnvFrom)))


class KubeRayHead(Written):
    """What the pod with Ray's head and the driver gets; no trial runs there."""

    hints: ClassVar = {
        "cpu": "write cpus",
        "mem": "write memory",
        "nodeSelector": "write node_selector",
        "priorityClassName": "write priority_class",
        "gpus": "no trial runs on the head; write it under worker",
    }

    cpus: kuberay_fields.Cpus = Field(
        default=1.0, description="CPUs of its main container; KubeRay adds up to two small ones."
    )
    memory: fields.Memory | None = Field(
        default=None, description="Of its main container; 4Gi if absent."
    )
    spot: fields.Flag = Field(
        default=False, description="Whether it may be on a machine that can be taken away."
    )
    node_selector: kuberay_fields.Selector = Field(
        default_factory=dict, description="Labels that its machine must have, further ones."
    )
    tolerations: Tolerations = Field(default=(), description="Taints that it bears, further ones.")
    priority_class: kuberay_fields.Name | None = Field(
        default=None, description="In place of the common one."
    )


class KubeRayWorker(Written):
    """What each pod with trials gets; what is absent follows from `resources` of a trial."""

    hints: ClassVar = {
        "cpu": "write cpus",
        "mem": "write memory",
        "gpu": "write gpus",
        "gpu_type": "write gpu_resource; for a model, node_selector with your cloud's label",
        "min": "write min_workers, one level up",
        "max": "write max_workers, one level up",
        "replicas": "write max_workers, one level up",
        "nodeSelector": "write node_selector",
        "priorityClassName": "write priority_class",
    }

    trials: fields.Positive | None = Field(
        default=None,
        description="Trials at once in one pod; 1, or as many as share one CPU or GPU.",
    )
    cpus: kuberay_fields.Cpus | None = Field(default=None, description="CPUs.")
    memory: fields.Memory | None = Field(
        default=None,
        description="Such as 16Gi; if nothing says it, 2Gi a CPU and 4Gi at the least.",
    )
    gpus: fields.Natural | None = Field(default=None, description="GPUs.")
    gpu_resource: kuberay_fields.Resource = Field(
        default="nvidia.com/gpu", description="Kubernetes' name of a GPU."
    )
    node_selector: kuberay_fields.Selector = Field(
        default_factory=dict, description="Labels that its machine must have, further ones."
    )
    tolerations: Tolerations = Field(default=(), description="Taints that it bears, further ones.")
    priority_class: kuberay_fields.Name | None = Field(
        default=None, description="In place of the common one."
    )


class KubeRayLimit(Section):
    """What all pods of a run together may ask for: as many workers as that leaves room for."""

    hints: ClassVar = {"cpu": "write cpus", "gpu": "write gpus", "mem": "write memory"}

    cpus: kuberay_fields.Cpus | None = Field(default=None, description="CPUs.")
    memory: fields.Memory | None = Field(default=None, description="Such as 64Gi.")
    gpus: fields.Natural | None = Field(default=None, description="GPUs.")


class KubeRayPvc(Section):
    """A volume that all pods of a run see, and that outlives them."""

    hints: ClassVar = {"name": "write claim", "mount_path": "write path", "subPath": "write below"}
    shorthand: ClassVar = "{claim: {}}"

    claim: kuberay_fields.Name = Field(
        description="PersistentVolumeClaim with access mode ReadWriteMany."
    )
    path: kuberay_fields.Folder = Field(
        default=DEFAULT_PVC_PATH, description="Where pods have it; runs go there."
    )
    below: kuberay_fields.Below | None = Field(
        default=None, description="Folder in the volume to use instead of its top."
    )


Secrets = Annotated[
    dict[str, KubeRaySecret],
    BeforeValidator(_secrets),
    WithJsonSchema({"type": "object", "additionalProperties": KubeRaySecret.model_json_schema()}),
]
EnvFroms = Annotated[
    tuple[KubeRayEnvFrom, ...],
    BeforeValidator(_env_from),
    WithJsonSchema({"type": "array", "items": KubeRayEnvFrom.model_json_schema()}),
]
