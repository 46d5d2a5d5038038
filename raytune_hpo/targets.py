"""The section ``targets`` of an experiment file: options of the places where it can run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, WithJsonSchema

from raytune_hpo import fields, target_fields
from raytune_hpo.fields import Finding, seen, wrong
from raytune_hpo.target_fields import Written

DEFAULT_MARGIN_S = 120.0
_TEMP_MOST = 20
"""A socket's path has at most 107 characters, of which Ray and the folder's name take the rest."""
_WORD = re.compile(r"[A-Za-z0-9_.,:+*()|&!@%/\[\]=-]+")
_SLURM_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")

_OWNED = {
    "account": "account",
    "array": "workers",
    "chdir": None,
    "constraint": "constraint",
    "cpus-per-task": "cpus",
    "dependency": None,
    "error": None,
    "export": "env",
    "gpus": "gpus",
    "gpus-per-node": "gpus",
    "gres": "gres",
    "input": None,
    "job-name": "name",
    "mem": "memory",
    "mem-per-cpu": "memory",
    "no-kill": None,
    "no-requeue": "requeue",
    "nodes": "nodes",
    "ntasks": "nodes",
    "ntasks-per-node": None,
    "open-mode": None,
    "output": None,
    "parsable": None,
    "partition": "partition",
    "qos": "qos",
    "requeue": "requeue",
    "reservation": "reservation",
    "signal": "margin",
    "time": "time",
    "wrap": None,
}
"""Options of sbatch that are not for ``sbatch:``, and the setting to use, if there is one."""
_SHORT = {
    "A": "account",
    "C": "constraint",
    "D": "chdir",
    "G": "gpus",
    "J": "job-name",
    "N": "nodes",
    "a": "array",
    "c": "cpus-per-task",
    "d": "dependency",
    "e": "error",
    "i": "input",
    "k": "no-kill",
    "n": "ntasks",
    "o": "output",
    "p": "partition",
    "q": "qos",
    "t": "time",
}


def _word(value: Any) -> str:
    """Return a name as Slurm's options take it: no white space, nothing that a shell reads."""
    found = fields.text(value) if not isinstance(value, int) or isinstance(value, bool) else value
    text = str(found).strip()
    if not _WORD.fullmatch(text):
        raise wrong(f"must be one word as Slurm's options take it, not {seen(value)}")
    if text.startswith("-"):
        raise wrong(f"must not begin with a dash: {seen(value)}")
    return text


def _lines(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [value] if "\n" not in value.strip() else value.strip().split("\n")
    if not isinstance(value, (list, tuple)):
        raise wrong(f"must be a list of lines, not {seen(value)}")
    return tuple(fields.each(value, target_fields.line))


def _words(value: Any) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, (list, tuple)):
        raise wrong(f"must be a list of names, not {seen(value)}")
    return tuple(fields.each(values, _word))


def _time(value: Any) -> float:
    """Return a duration in seconds, also from Slurm's own forms.

    >>> _time("1-12:00:00"), _time("90:00"), _time("2h")
    (129600.0, 5400.0, 7200.0)
    """
    match = _SLURM_TIME.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or not (match[1] or match[3]):
        return fields.duration(value)
    days, *rest = match.groups()
    parts = [int(part) for part in rest if part is not None]
    # days-hours[:minutes[:seconds]], hours:minutes:seconds, or minutes:seconds.
    units = (60, 1) if days is None and len(parts) == 2 else (3600, 60, 1)
    total = int(days or 0) * 86400
    return fields.duration(float(total + sum(p * u for p, u in zip(parts, units, strict=False))))


def _temp(value: Any) -> str:
    text = target_fields.path(value)
    if not text.startswith("/"):
        raise wrong(f"must be the whole path of a folder that each node has, not {seen(value)}")
    if len(text) > _TEMP_MOST:
        raise wrong(
            f"must have at most {_TEMP_MOST} characters, since Ray's sockets lie in it, not "
            f"{len(text)}; write /tmp, or a symbolic link to the folder"
        )
    return text.rstrip("/") or "/"


def _options(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        raise wrong(f'must be a list of options; write ["{value}"]')
    if not isinstance(value, (list, tuple)):
        raise wrong(f"must be a list of options such as --mail-type=END, not {seen(value)}")
    return tuple(fields.each(value, _option))


def _option(value: Any) -> str:
    text = target_fields.line(value).strip()
    if not text.startswith("-") or text.strip("-") == "":
        raise wrong(f"must be an option of sbatch such as --mail-type=END, not {seen(value)}")
    if text.startswith("--"):
        name = re.split(r"[= ]", text[2:], maxsplit=1)[0]
        # Slurm takes unambiguous beginnings of names.
        names = [known for known in _OWNED if known == name or known.startswith(name)]
        known = name if name in _OWNED else names[0] if names else None
    else:
        known = _SHORT.get(text[1])
    if known is not None:
        setting = _OWNED[known]
        instead = f"; use the setting {setting}" if setting else ""
        raise wrong(f"--{known} is set by raytune-hpo itself{instead}")
    return text


_Word = Annotated[str, BeforeValidator(_word), WithJsonSchema({"type": "string"})]
_Words = Annotated[
    tuple[str, ...],
    BeforeValidator(_words),
    WithJsonSchema({"type": "array", "items": {"type": "string"}}),
]
_Lines = Annotated[
    tuple[str, ...],
    BeforeValidator(_lines),
    WithJsonSchema({"type": "array", "items": {"type": "string"}}),
]
_Options = Annotated[
    tuple[str, ...],
    BeforeValidator(_options),
    WithJsonSchema({"type": "array", "items": {"type": "string", "pattern": "^-"}}),
]
_Time = Annotated[
    float,
    BeforeValidator(_time),
    WithJsonSchema({"type": ["number", "string"]}),
]
_Path = Annotated[str, BeforeValidator(target_fields.path), WithJsonSchema({"type": "string"})]
_Temp = Annotated[
    str, BeforeValidator(_temp), WithJsonSchema({"type": "string", "maxLength": _TEMP_MOST})
]


class SlurmHead(Written):
    """Of an elastic run: what the job with the head gets; what is absent is as for workers."""

    hints: ClassVar = {"mem": "write memory"}

    partition: _Word | None = Field(default=None, description="Partition.")
    account: _Word | None = Field(default=None, description="Account.")
    qos: _Word | None = Field(default=None, description="Quality of service.")
    constraint: _Word | None = Field(default=None, description="Features that its node must have.")
    reservation: _Word | None = Field(default=None, description="Reservation.")
    cpus: fields.Positive = Field(default=1, description="CPUs; no trial runs there.")
    memory: fields.Memory | None = Field(default=None, description="Such as 4Gi.")
    time_s: _Time | None = Field(default=None, alias="time", description="Its time limit.")


class SlurmTarget(Written):
    """Options of Slurm; a file for all your experiments can hold the same."""

    hints: ClassVar = {
        "mem": "write memory",
        "walltime": "write time",
        "time_limit": "write time",
        "cpus_per_task": "write cpus",
        "gpus_per_node": "write gpus",
        "array": "write workers",
        "venv": "write activate",
        "conda": "write activate",
        "signal": "write margin",
    }

    partition: _Word | None = Field(default=None, description="Partition; the site's default.")
    account: _Word | None = Field(default=None, description="Account that is charged.")
    qos: _Word | None = Field(default=None, description="Quality of service.")
    constraint: _Word | None = Field(default=None, description="Features that nodes must have.")
    reservation: _Word | None = Field(default=None, description="Reservation to run in.")
    nodes: fields.Positive | None = Field(
        default=None, description="Nodes of the job; 1 if absent. Not with `workers`."
    )
    min_nodes: fields.Positive | None = Field(
        default=None,
        description="The job may start with so few; if absent it waits for all `nodes`.",
    )
    workers: fields.Positive | None = Field(
        default=None,
        description="Elastic: up to so many worker jobs of one node, besides a small head job.",
    )
    cpus: fields.Positive | None = Field(
        default=None,
        description="CPUs of each node; if absent what `parallel` trials need, or 4 on each node.",
    )
    gpus: fields.Natural | None = Field(
        default=None, description="GPUs of each node; if absent what its trials need."
    )
    gpu_type: _Word | None = Field(default=None, description="Such as a100.")
    gres: _Word | None = Field(default=None, description="In Slurm's words, instead of `gpus`.")
    memory: fields.Memory | None = Field(
        default=None, description="Of each node, such as 16Gi; the site's default if absent."
    )
    time_s: _Time | None = Field(
        default=None,
        alias="time",
        description="Time limit of one job, such as 2h or 1-12:00:00; the partition's if absent.",
    )
    modules: _Words = Field(default=(), description="Modules to load.")
    setup: _Lines = Field(default=(), description="Shell lines before anything else.")
    activate: _Path | None = Field(
        default=None,
        description="Folder of a virtual or conda environment; if absent, the one that submits.",
    )
    interface: _Word | None = Field(
        default=None, description="Network interface between the nodes, such as ib0."
    )
    temp: _Temp = Field(default="/tmp", description="Folder on each node for Ray's own files.")
    margin_s: fields.Duration = Field(
        default=DEFAULT_MARGIN_S,
        alias="margin",
        description="So long before the time limit trials are to save a checkpoint.",
    )
    requeue: fields.Flag = Field(
        default=True, description="Whether the job may be requeued; if not a new one follows it."
    )
    max_restarts: fields.Natural = Field(
        default=50, description="So many times a job is started again at the most."
    )
    idle_s: fields.Duration = Field(
        default=60.0,
        alias="idle",
        description="Elastic: a worker without a trial for so long is given back.",
    )
    head: SlurmHead = Field(
        default_factory=SlurmHead, description="Elastic: what the head's job gets instead."
    )
    sbatch: _Options = Field(
        default=(), description="Further options of sbatch, such as --mail-type=END."
    )

    @classmethod
    def cross(
        cls, data: Mapping[str, Any], failed: frozenset[str], handler: Any
    ) -> Iterable[Finding]:
        """Return a finding where settings exclude each other."""
        if "nodes" in data and "workers" in data:
            yield Finding(("workers",), "either nodes or workers, not both", key=True)
        if "head" in data and "workers" not in data:
            yield Finding(("head",), "goes with workers", key=True)
        if "gres" in data and ("gpus" in data or "gpu_type" in data):
            yield Finding(("gres",), "either gres or gpus, not both", key=True)
        if failed:
            return
        made = handler(cls.prepare(dict(data)))
        if made.min_nodes is not None and made.min_nodes > (made.nodes or 1):
            yield Finding(("min_nodes",), f"must be at most nodes: {made.nodes or 1}")
        limits = {made.time_s, made.head.time_s} - {None}
        if limits and made.margin_s > min(limits) / 2:
            yield Finding(
                ("margin",) if "margin" in data else ("time",),
                f"margin ({made.margin_s:g} s) must be at most half of time ({min(limits):g} s)",
            )
