"""The sections of an experiment file below its top level."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, get_args
from urllib.parse import parse_qsl, urlsplit

from pydantic import BeforeValidator, Field, WithJsonSchema

from raytune_hpo import checks, fields, section
from raytune_hpo.errors import ExpressionError
from raytune_hpo.expression import Expression
from raytune_hpo.fields import Finding, seen, wrong
from raytune_hpo.kuberay_target import KubeRayTarget
from raytune_hpo.objective import At, Constraint, Goal, Objective
from raytune_hpo.running import looks_secret
from raytune_hpo.section import Section
from raytune_hpo.targets import SlurmTarget

_MODES = {
    "minimize": "write min",
    "minimise": "write min",
    "maximize": "write max",
    "maximise": "write max",
}


def _metric(value: Any) -> str:
    text = fields.text(value)
    try:
        Objective.of(text)
    except ExpressionError as error:
        raise wrong(f"cannot be the name of a metric: {seen(text)}") from error
    return text


def _expression(value: Any) -> str:
    text = fields.text(value)
    try:
        Expression.parse(text)
    except ExpressionError as error:
        raise fields.all_wrong(Finding((), p.message, p.column) for p in error.problems) from error
    return text


def _constraint(value: Any) -> str:
    text = fields.text(value)
    try:
        Constraint.parse(text)
    except ExpressionError as error:
        raise fields.all_wrong(Finding((), p.message, p.column) for p in error.problems) from error
    return text


def constraints(value: Any) -> tuple[str, ...]:
    """Return a list of comparisons over metrics."""
    return tuple(fields.each(fields.strings(value), _constraint))


def objectives(value: Any) -> tuple[Any, ...]:
    """Return one objective or a list of them as a tuple."""
    if isinstance(value, str):
        raise wrong(f"must be a mapping; write {{metric: {value}, mode: min}}")
    if isinstance(value, (list, tuple)) and not value:
        raise wrong("must name at least one metric or expression")
    if isinstance(value, (list, tuple)):
        return tuple(fields.each(value, partial(section.read, ObjectiveItem)))
    return (section.read(ObjectiveItem, value),)


def _configs(value: Any) -> tuple[dict[str, Any], ...]:
    if not isinstance(value, (list, tuple)):
        hint = "; put [ ] around it" if isinstance(value, Mapping) else ""
        raise wrong(f"must be a list of configurations, not {seen(value)}{hint}")
    return tuple(fields.each(value, fields.free))


def _patterns(value: Any) -> dict[str, str]:
    return fields.each_of(value, _pattern)


def _pattern(value: Any) -> str:
    text = fields.text(value)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what may mean something else in a later Python
            groups = re.compile(text).groups
    except re.error as error:
        offset = 0 if error.pos is None else error.pos + 1
        raise wrong(f"is not a regular expression: {error.msg}", offset) from error
    if not groups:
        raise wrong(r"must mark the number by a group, such as p99=(?P<value>[\d.]+)")
    return text


def _uri(value: Any) -> str:
    text = fields.text(value)
    try:
        parts = urlsplit(text)
        given = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
        web = parts.scheme in ("http", "https")
        # What stands before the @ of a web address is a user and a password, or a token.
        secret = parts.password is not None or (web and parts.username is not None)
    except ValueError as error:
        raise wrong("is not an address") from error
    if secret or any(looks_secret(name) for name in given):
        names = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        where = names if web else "MLFLOW_TRACKING_URI, and leave out uri here"
        raise wrong(f"must not hold a password: set the environment variables {where}")
    return text


def _above_0(value: Any) -> float:
    found = float(fields.number(value))
    if not found > 0:
        raise wrong(f"must be above 0, not {found:g}")
    return found


_Above0 = Annotated[
    float,
    BeforeValidator(_above_0),
    WithJsonSchema({"type": "number", "exclusiveMinimum": 0}),
]


def mlflow(value: Any) -> Any:
    """Return the options of tracking, or False when it is switched off."""
    if isinstance(value, bool):
        return Mlflow() if value else False
    return section.read(Mlflow, value)


class ObjectiveItem(Section):
    """What is to become small or large."""

    hints: ClassVar = {
        "goal": "write mode: min or max for a direction, target for a number",
        "direction": "write mode: min or max",
        "type": "write mode: min or max",
        "name": "write metric",
        "objectiveMetricName": "write metric",
    }

    metric: Annotated[str, BeforeValidator(_metric), WithJsonSchema({"type": "string"})] | None = (
        Field(default=None, description="Name of a reported metric.")
    )
    expression: (
        Annotated[str, BeforeValidator(_expression), WithJsonSchema({"type": "string"})] | None
    ) = Field(
        default=None,
        description="Formula over reported metrics, such as 1.25 * throughput / p99_ms.",
    )
    mode: Annotated[
        Literal["min", "max"], BeforeValidator(fields.one_of("min", "max", hints=_MODES))
    ] = Field(default="min", description="Whether small or large is good.")
    target: fields.Number | None = Field(
        default=None, description="The run ends once this is reached."
    )
    at: Annotated[At, BeforeValidator(fields.one_of(*get_args(At)))] = Field(
        default="last", description="Which of a trial's reports counts, or the mean of all."
    )

    @classmethod
    def cross(
        cls, data: Mapping[str, Any], failed: frozenset[str], handler: Any
    ) -> Iterable[Finding]:
        """Return a finding unless there is exactly one of metric and expression."""
        if "metric" in data and "expression" in data:
            yield Finding(("expression",), "either metric or expression, not both", key=True)
        elif "metric" not in data and "expression" not in data:
            yield Finding((), "needs a metric or an expression")

    def goal(self) -> Goal:
        """Return the goal for the engine."""
        if self.expression is not None:
            expression = Expression.parse(self.expression)
            return Goal(expression, self.mode, self.expression, self.target, self.at)
        one = Objective.of(str(self.metric), self.mode, self.target).goals[0]
        return replace(one, at=self.at)


class Search(Section):
    """How configurations are proposed."""

    hints: ClassVar = {"method": "write algorithm", "name": "write algorithm"}
    shorthand: ClassVar = "{algorithm: {}}"

    algorithm: Annotated[str, BeforeValidator(partial(checks.plugin, "searchers"))] = Field(
        default="auto",
        description="Name of the searcher, such as grid, random or tpe; auto chooses.",
    )
    seed: fields.Seed | None = Field(
        default=None, description="Of all random choices; drawn if absent."
    )
    initial: Annotated[
        tuple[dict[str, Any], ...],
        BeforeValidator(_configs),
        WithJsonSchema({"type": "array", "items": {"type": "object"}}),
    ] = Field(default=(), description="Configurations to try first.")
    settings: fields.Free = Field(default_factory=dict, description="Of the searcher.")


class Scheduler(Section):
    """How bad trials are cut short."""

    shorthand: ClassVar = "{algorithm: {}}"

    algorithm: Annotated[str, BeforeValidator(partial(checks.plugin, "schedulers"))] = Field(
        default="none", description="Name of the scheduler, such as asha or pbt; none cuts nothing."
    )
    settings: fields.Free = Field(default_factory=dict, description="Of the scheduler.")


class Plateau(Section):
    """How little is too little."""

    hints: ClassVar = {"patience": "write trials", "min_delta": "write absolute"}

    trials: fields.Positive = Field(description="So many last trials are looked at.")
    absolute: _Above0 | None = Field(
        default=None, description="Improvement in the unit of the objective that is enough."
    )
    relative: _Above0 | None = Field(
        default=None, description="Improvement as a share of the best value before that is enough."
    )

    @classmethod
    def cross(
        cls, data: Mapping[str, Any], failed: frozenset[str], handler: Any
    ) -> Iterable[Finding]:
        """Return a finding unless it is said what is enough."""
        if not {"absolute", "relative"} & data.keys():
            yield Finding((), "needs absolute or relative: the improvement that is enough")


class Cost(Section):
    """What the trials may cost."""

    metric: fields.Text = Field(description="Reported by trials: what each has cost so far.")
    limit: _Above0 = Field(description="Of the sum over all trials.")


class StopWhen(Section):
    """What ends the run besides the number of trials and the time."""

    hints: ClassVar = {
        "target": "write it under objective",
        "time_limit": "write it at the top of the file",
        "trials": "write it at the top of the file",
        "max_failed": "write it at the top of the file",
    }

    no_improvement: fields.Positive | None = Field(
        default=None, description="So many finished trials in a row without a new best one."
    )
    no_improvement_time_s: fields.Duration | None = Field(
        default=None,
        alias="no_improvement_time",
        description="So long without a new best trial; time between sessions does not count.",
    )
    plateau: Plateau | None = Field(
        default=None,
        description="The last `trials` made the best value better by less than `absolute` or "
        "`relative`.",
    )
    expected_improvement: _Above0 | None = Field(
        default=None,
        description="The searcher (bo, mfbo, auto) expects less gain of the next trial, in the "
        "objective's unit.",
    )
    cost: Cost | None = Field(
        default=None, description="The latest values of `metric` sum to `limit` over all trials."
    )


class Resources(Section):
    """What one trial needs."""

    later: ClassVar = ("workers",)
    hints: ClassVar = {"cpus": "write cpu", "gpus": "write gpu", "mem": "write memory"}

    cpu: fields.Amount = Field(default=1.0, description="CPU cores; fractions below 1 share one.")
    gpu: fields.Amount = Field(default=0.0, description="GPUs; fractions below 1 share one.")
    memory: fields.Memory | None = Field(default=None, description="Such as 4Gi or 512Mi.")
    custom: fields.Amounts = Field(
        default_factory=dict, description="Ray's custom resources by name."
    )


class Metrics(Section):
    """Where the metrics of a command come from."""

    source: Annotated[Literal["stdout", "json", "file"], BeforeValidator(checks.metrics_source)] = (
        Field(
            default="stdout", description="Lines name=value, JSON lines, or a file that is written."
        )
    )
    path: fields.Text | None = Field(
        default=None, description="The file, from the folder that the trial starts in."
    )
    patterns: Annotated[
        dict[str, str],
        BeforeValidator(_patterns),
        WithJsonSchema({"type": "object", "additionalProperties": {"type": "string"}}),
    ] = Field(
        default_factory=dict,
        description="Regular expression for each metric; its group 'value', or its first one.",
    )

    @classmethod
    def cross(
        cls, data: Mapping[str, Any], failed: frozenset[str], handler: Any
    ) -> Iterable[Finding]:
        """Return a finding when source and path do not fit together."""
        source = data.get("source", "stdout")
        if source == "file" and "path" not in data:
            yield Finding(("source",), "source: file needs a path")
        if source in ("stdout", "json") and "path" in data:
            yield Finding(("path",), "path goes with source: file", key=True)
        if source == "json" and data.get("patterns"):
            yield Finding(("patterns",), "patterns go with source: stdout or file", key=True)


class Mlflow(Section):
    """Where the results are tracked."""

    later: ClassVar = ("register",)
    hints: ClassVar = {"tracking_uri": "write uri", "experiment_name": "write experiment"}

    uri: Annotated[str, BeforeValidator(_uri), WithJsonSchema({"type": "string"})] | None = Field(
        default=None,
        description="Tracking server or store; MLFLOW_TRACKING_URI or ./mlflow.db if absent.",
    )
    experiment: fields.Text | None = Field(
        default=None, description="MLflow experiment; default: name."
    )
    tags: fields.Texts = Field(default_factory=dict, description="Tags of the parent run.")


class Checkpoint(Section):
    """Which checkpoints stay on disk."""

    keep: fields.Positive = Field(default=1, description="How many of each trial.")


class Targets(Section):
    """Options of the places where the experiment can run."""

    slurm: SlurmTarget | None = Field(default=None, description="Options of Slurm.")
    kuberay: KubeRayTarget | None = Field(default=None, description="Options of KubeRay.")
