"""The file that says which teams share a cluster, and what each of them gets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, WithJsonSchema

from raytune_hpo import document, fields, kuberay_fields, section
from raytune_hpo.errors import SpecError
from raytune_hpo.fields import Finding, seen, wrong
from raytune_hpo.section import Section

_GIB = 2**30
_PER_CPU = 4 * _GIB


class TenantHead(Section):
    """What one head, with the containers that KubeRay adds to its pod, may ask for."""

    hints: ClassVar = {"cpu": "write cpus", "mem": "write memory"}

    cpus: kuberay_fields.Cpus = Field(default=2.0, description="CPUs.")
    memory: fields.Memory = Field(default=5 * _GIB, description="Such as 5Gi.")


class Tenant(Section):
    """What one team gets; its name is that of its namespace."""

    hints: ClassVar = {
        "cpu": "write cpus",
        "gpu": "write gpus",
        "mem": "write memory",
        "quota": "write cpus, memory, gpus and runs",
        "namespace": "the tenant's name is its namespace",
    }

    cpus: kuberay_fields.Cpus = Field(description="CPUs of all trials together.")
    memory: fields.Memory | None = Field(
        default=None, description="Of all trials together; 4Gi a CPU if absent."
    )
    gpus: fields.Natural = Field(default=0, description="GPUs of all trials together.")
    gpu_resource: kuberay_fields.Resource = Field(
        default="nvidia.com/gpu", description="Kubernetes' name of a GPU."
    )
    pods: fields.Positive = Field(default=200, description="Pods with trials at the most.")
    runs: fields.Positive = Field(default=4, description="RayJobs at the most, ended ones too.")
    own_heads: fields.Flag = Field(
        default=True,
        description="Whether heads have a quota of their own; if not, they count as trials do.",
    )
    head: TenantHead = Field(
        default_factory=TenantHead, description="What the head of a run may ask for."
    )
    others: fields.Flag = Field(
        default=False, description="Whether pods that belong to no run may be there, uncounted."
    )
    users: Annotated[
        tuple[str, ...],
        BeforeValidator(fields.strings),
        WithJsonSchema({"type": "array", "items": {"type": "string"}}),
    ] = Field(default=(), description="Who may use the namespace.")
    groups: Annotated[
        tuple[str, ...],
        BeforeValidator(fields.strings),
        WithJsonSchema({"type": "array", "items": {"type": "string"}}),
    ] = Field(default=(), description="And which groups.")
    service_account: kuberay_fields.Name = Field(
        default="tuning", description="Of the pods of its runs."
    )
    service_account_annotations: kuberay_fields.Annotations = Field(
        default_factory=dict, description="Of it, such as the cloud's role for its storage."
    )

    @classmethod
    def cross(
        cls, data: Mapping[str, Any], failed: frozenset[str], handler: Any
    ) -> Iterable[Finding]:
        """Return a finding where settings do not go together."""
        if data.get("own_heads") is False:
            for key in ("head", "others"):
                if key in data:
                    yield Finding((key,), "goes with own_heads", key=True)

    @property
    def bytes(self) -> int:
        """Memory of all trials together."""
        return round(self.cpus * _PER_CPU) if self.memory is None else self.memory


class Queues(Section):
    """Kueue's queues, in place of quotas: what one team leaves free, others may use."""

    cohort: kuberay_fields.Name = Field(
        default="raytune-hpo", description="Teams of one cohort lend each other what is free."
    )
    flavor: kuberay_fields.Name = Field(
        default="raytune-hpo", description="Name of the ResourceFlavor that is made."
    )


def _tenants(value: Any) -> dict[str, Tenant]:
    if not isinstance(value, Mapping) or not value:
        raise wrong(f"must be a mapping of names to what each gets, not {seen(value)}")
    findings = [
        Finding((name,), "must be up to 63 characters of a-z, 0-9 and -", key=True)
        for name in value
        if not kuberay_fields.is_label(name)
    ]
    if findings:
        raise fields.all_wrong(findings)
    return fields.each_of(value, partial(section.read, Tenant))


class Tenants(Section):
    """Which teams share a cluster."""

    tenants: Annotated[
        dict[str, Tenant],
        BeforeValidator(_tenants),
        WithJsonSchema(
            {"type": "object", "minProperties": 1, "additionalProperties": {"type": "object"}}
        ),
    ] = Field(description="What each gets, by name.")
    heads: kuberay_fields.Name = Field(
        default="raytune-hpo-heads", description="Priority class of heads."
    )
    trials: kuberay_fields.Name = Field(
        default="raytune-hpo-trials", description="Priority class of workers."
    )
    operator_namespace: kuberay_fields.Label = Field(
        default="kuberay-operator", description="Where KubeRay's operator runs."
    )
    queues: Queues | None = Field(default=None, description="Kueue's queues, in place of quotas.")


def load(path: Path) -> Tenants:
    """Return what a file says of the teams.

    Raises:
        SpecError: It cannot be read or is wrong; with all mistakes, in file order.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read: {error}") from error
    return loads(text, str(path))


def loads(text: str, source: str = "<text>") -> Tenants:
    """Return what a text says of the teams.

    Raises:
        SpecError: It is wrong; with all mistakes, in the order of the text.
    """
    read = document.read(text, source)
    problems = list(read.problems)
    made, findings = section.check(Tenants, read.root.data())
    for finding in findings:
        place = read.place(finding.path, key=finding.key, offset=finding.offset)
        problems.append(read.problem(fields.dotted(finding.path), finding.message, place))
    if problems:
        raise SpecError(sorted(problems, key=lambda p: (p.line, p.column)), source)
    tenants: Tenants = made
    return tenants
