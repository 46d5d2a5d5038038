"""What the user wants tuned: the typed form of an experiment file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, PrivateAttr, WithJsonSchema

from raytune_hpo import checks, fields, parameters, running, section, sections
from raytune_hpo.errors import Problem, SpecError
from raytune_hpo.fields import Finding
from raytune_hpo.objective import Constraint, Mode, Objective
from raytune_hpo.running import FromEnv
from raytune_hpo.section import Section
from raytune_hpo.sections import (
    Checkpoint,
    Metrics,
    Mlflow,
    ObjectiveItem,
    Resources,
    Scheduler,
    Search,
    StopWhen,
    Targets,
)
from raytune_hpo.space import Parameter, SearchSpace

DEFAULT_TRIALS = 50


def _parameters(value: Any) -> dict[str, Parameter]:
    parsed = parameters.parse(value)
    if parsed.findings:
        raise fields.all_wrong(parsed.findings)
    return dict(parsed.good)


class Experiment(Section):
    """An experiment, checked and complete.

    Built by ``raytune_hpo.spec.load`` from a file, by ``from_python`` from objects, and by
    ``from_json`` from a journal.

    Example:
        >>> experiment = Experiment.from_json({
        ...     "run": "python train.py --lr ${lr}",
        ...     "objective": {"metric": "loss"},
        ...     "parameters": {"lr": {"min": 1e-5, "max": 0.1, "log": True}},
        ... })
        >>> experiment.trials, experiment.objectives.names, experiment.search_space.dimensions
        (50, ('loss',), ['lr'])
    """

    later: ClassVar = ("repeats",)
    hints: ClassVar = checks.TOP_HINTS

    name: fields.Name = Field(
        default="experiment", description="Of the run's folder and its MLflow run."
    )
    description: fields.Text | None = Field(default=None, description="For people.")
    run: running.Run = Field(
        description="The command of a trial with ${name} for parameters, or module:function."
    )
    workdir: fields.Text | None = Field(
        default=None,
        description="Where trials start, from the file's folder; `trial`: each in its own folder.",
    )
    env: running.Env = Field(
        default_factory=dict,
        description="Environment variables of trials; secrets as {from_env: NAME}.",
    )
    setup: fields.Text | None = Field(default=None, description="Shell line before each trial.")
    objective: Annotated[
        tuple[ObjectiveItem, ...],
        BeforeValidator(sections.objectives),
        WithJsonSchema({}),
    ] = Field(description="What is to become small or large; a list for several.")
    constraints: Annotated[
        tuple[str, ...],
        BeforeValidator(sections.constraints),
        WithJsonSchema({"type": "array", "items": {"type": "string"}}),
    ] = Field(default=(), description="Comparisons that a good trial meets, such as p99_ms <= 20.")
    parameters: Annotated[
        dict[str, Parameter],
        BeforeValidator(_parameters),
        WithJsonSchema({"type": "object", "minProperties": 1}),
    ] = Field(description="What is varied, by name.")
    trials: fields.Positive | None = Field(
        default=None, description="How many; 50 if nothing else ends the run."
    )
    search: Search = Field(default_factory=Search, description="How configurations are proposed.")
    scheduler: Scheduler = Field(
        default_factory=Scheduler, description="How bad trials are cut short."
    )
    parallel: fields.Positive | None = Field(
        default=None, description="Trials at once; as many as fit if absent."
    )
    max_failed: fields.Natural | None = Field(
        default=None, description="So many failed trials end the run; 0 and 1 mean the first."
    )
    retries: fields.Natural = Field(
        default=0, description="Further attempts of a trial that failed."
    )
    time_limit_s: fields.Duration | None = Field(
        default=None,
        alias="time_limit",
        description="Of the whole run, in all its sessions: 2h, 10m, 90s or seconds.",
    )
    trial_time_limit_s: fields.Duration | None = Field(
        default=None, alias="trial_time_limit", description="Of one attempt of a trial."
    )
    silent_limit_s: fields.Duration | None = Field(
        default=None,
        alias="silent_limit",
        description="Of an attempt without any report or output.",
    )
    stop_when: StopWhen = Field(default_factory=StopWhen, description="What else ends the run.")
    baseline: fields.Free | None = Field(
        default=None, description="Configuration that is tried first and compared with."
    )
    resources: Resources = Field(default_factory=Resources, description="What one trial needs.")
    metrics: Metrics = Field(
        default_factory=Metrics, description="Where the metrics of a command come from."
    )
    storage: fields.Storage | None = Field(
        default=None,
        description="Folder that holds the runs, or an object store such as s3://bucket/runs.",
    )
    mlflow: Annotated[
        Mlflow | Literal[False],
        BeforeValidator(sections.mlflow),
        WithJsonSchema({}),
    ] = Field(default_factory=Mlflow, description="Tracking; false switches it off.")
    tensorboard: fields.Flag = Field(
        default=False, description="Whether to write TensorBoard files."
    )
    checkpoint: Checkpoint = Field(
        default_factory=Checkpoint, description="Which checkpoints stay on disk."
    )
    targets: Targets = Field(default_factory=Targets, description="Options of Slurm and KubeRay.")

    _function: Callable[..., Any] | None = PrivateAttr(None)

    @classmethod
    def check(cls, data: Any) -> tuple[Self | None, list[Finding]]:
        """Return the experiment that data stands for, or None, and all that is wrong with it."""
        return section.check(cls, data)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the experiment that a mapping in the form of the file stands for.

        Raises:
            SpecError: With all that is wrong.
        """
        made, findings = cls.check(data)
        if made is None:
            raise SpecError([Problem(fields.dotted(f.path), f.message) for f in findings])
        return made

    @classmethod
    def from_python(
        cls,
        run: Callable[..., Any] | str | list[str],
        parameters: Mapping[str, Any],
        metric: str | None = None,
        mode: Mode = "min",
        **more: Any,
    ) -> Self:
        """Return an experiment made of Python objects.

        Args:
            run: The function of a trial, ``module:function``, or a command.
            parameters: Objects such as ``Float``, or mappings as in the file, by name; nested
                mappings are groups.
            metric: What is to become small or large.
            mode: ``min`` or ``max``.
            **more: Further fields of the file; ``objective`` in place of ``metric``.

        Raises:
            SpecError: With all that is wrong.
        """
        data = dict(more)
        if metric is not None and "objective" in more:
            raise SpecError("give either metric or objective, not both")
        if metric is not None:
            data["objective"] = {"metric": metric, "mode": mode}
        function = run if callable(run) else None
        data |= {"run": run if function is None else _object_name(function)}
        data["parameters"] = parameters
        if function is not None:
            data.setdefault("name", fields.legal_name(data["run"].rpartition(":")[2]))
        made = cls.from_json(data)
        return made if function is None else made.with_function(function)

    @classmethod
    def prepare(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Return the data with configurations made flat and the default budget filled in."""
        return checks.prepare(data, DEFAULT_TRIALS)

    @classmethod
    def cross(
        cls, data: Mapping[str, Any], failed: frozenset[str], handler: Any
    ) -> Iterable[Finding]:
        """Return what is wrong between fields; fields that are wrong in themselves are left out."""
        return checks.cross(data, failed, lambda partial: handler(cls.prepare(partial)))

    @property
    def function(self) -> Callable[..., Any] | None:
        """The function object that was given to ``from_python``, or None."""
        return self._function

    @property
    def is_function(self) -> bool:
        """Whether a trial is a Python function and no command."""
        return self._function is not None or (
            isinstance(self.run, str) and running.names_function(self.run)
        )

    def with_function(self, function: Callable[..., Any]) -> Self:
        """Return the same experiment with a function object as its trial."""
        made = self.model_copy()
        made._function = function
        return made

    @cached_property
    def search_space(self) -> SearchSpace:
        """What is searched."""
        return SearchSpace(self.parameters)

    @cached_property
    def objectives(self) -> Objective:
        """What makes a trial good."""
        goals = tuple(item.goal() for item in self.objective)
        return Objective(goals, tuple(Constraint.parse(text) for text in self.constraints))

    def resolved_env(self, environ: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the environment variables of trials, with references looked up.

        The values may be secret: they are for the process of a trial only.

        Args:
            environ: Where to look them up; default: the environment of this process.

        Raises:
            SpecError: A variable that is referred to is not set.
        """
        here = os.environ if environ is None else environ
        problems = [
            Problem(f"env.{name}", f"the environment variable {value.from_env} is not set here")
            for name, value in self.env.items()
            if isinstance(value, FromEnv) and value.from_env not in here
        ]
        if problems:
            raise SpecError(problems)
        return {
            name: here[value.from_env] if isinstance(value, FromEnv) else value
            for name, value in self.env.items()
        }

    def to_json(self) -> dict[str, Any]:
        """Return the experiment as JSON values, complete and without secrets.

        ``from_json`` reads it. Values in ``env`` whose name says that they are secret are left
        out; after ``from_json`` they are looked up in the environment under their own name.
        """
        written = super().to_json()
        written["parameters"] = {
            name: parameters.to_json(parameter) for name, parameter in self.parameters.items()
        }
        for name, value in self.env.items():
            if isinstance(value, str) and running.looks_secret(name):
                written["env"][name] = running.HIDDEN
        return written


def _object_name(function: Callable[..., Any]) -> str:
    """Return ``module:qualified name`` of a function object."""
    of = function if hasattr(function, "__qualname__") else type(function)
    return f"{of.__module__}:{of.__qualname__}"
