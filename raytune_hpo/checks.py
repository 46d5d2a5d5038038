"""Checks of an experiment that look at more than one field."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from raytune_hpo import fields, parameters, plugins, running
from raytune_hpo.errors import SpaceError, SpecError, did_you_mean
from raytune_hpo.fields import Finding, Path, seen, wrong
from raytune_hpo.parameters import Parsed
from raytune_hpo.space import Constant, Float

if TYPE_CHECKING:
    from raytune_hpo.experiment import Experiment

_OTHER_NAMES = {
    "searchers": {
        "bayes": "bo",
        "bayesian": "bo",
        "bayesopt": "bo",
        "gp": "bo",
        "optuna": "tpe",
        "randomsearch": "random",
    },
    "schedulers": {
        "async_hyperband": "asha",
        "asynchyperband": "asha",
        "earlystopping": "patient",
        "fifo": "none",
        "median_stopping": "median",
        "medianstop": "median",
        "successive_halving": "sha",
    },
}
TOP_HINTS: Mapping[str, str] = {
    "metric": "write objective: {metric: ..., mode: min}",
    "method": "write search: {algorithm: ...}",
    "program": "write run",
    "command": "write run",
    "seed": "write search: {seed: ...}",
    "algorithm": "write search: {algorithm: ...}",
    "run_cap": "write trials",
    "max_trials": "write trials",
    "n_trials": "write trials",
    "num_samples": "write trials",
    "max_concurrent": "write parallel",
    "early_terminate": "write scheduler: {algorithm: asha}",
    "timeout": "write time_limit",
    "target": "write it under objective",
    "initial": "write it under search",
    "cpu": "write it under resources",
    "gpu": "write it under resources",
    "memory": "write it under resources",
    "slurm": "write it under targets",
    "kuberay": "write it under targets",
    "time_limit_s": "write time_limit",
    "space": "write parameters",
}
_STAND_INS: Mapping[str, Any] = {
    "run": "true",
    "objective": {"metric": "value"},
    "parameters": {"x": 0},
}


def plugin(kind: Literal["searchers", "schedulers"], value: Any) -> str:
    """Return the name of a searcher or scheduler."""
    word = kind.removesuffix("s")
    valid = plugins.names(kind)
    if isinstance(value, str) and value in valid:
        return value
    if not isinstance(value, str):
        raise wrong(f"must be the name of a {word}, one of {', '.join(valid)}; not {seen(value)}")
    other = _OTHER_NAMES[kind].get(value.lower())
    hint = f"; write {other}" if other else did_you_mean(value, valid)
    raise wrong(f"unknown {word} '{value}'{hint}; valid: {', '.join(valid)}")


def metrics_source(value: Any) -> str:
    """Return where metrics come from."""
    if value in ("tensorboard", "prometheus"):
        raise wrong(f"'{value}' is not supported yet; there are stdout, json and file")
    return fields.one_of("stdout", "json", "file")(value)


def prepare(data: dict[str, Any], default_trials: int) -> dict[str, Any]:
    """Return the data with configurations made flat and the default budget filled in."""
    prepared = dict(data)
    parsed = parameters.parse(data.get("parameters"))

    def flat(config: Any) -> Any:
        if not isinstance(config, Mapping):
            return config
        values = {name: value for name, (_, value) in flatten(config, parsed.names).items()}
        return _complete(values, parsed)

    if "baseline" in data:
        prepared["baseline"] = flat(data["baseline"])
    search = data.get("search")
    if isinstance(search, Mapping) and isinstance(search.get("initial"), (list, tuple)):
        prepared["search"] = {**search, "initial": [flat(config) for config in search["initial"]]}
    if not _is_limited(data):
        prepared["trials"] = default_trials
    return prepared


def flatten(
    config: Mapping[Any, Any], names: Sequence[str], above: Path = ()
) -> dict[str, tuple[Path, Any]]:
    """Return path and value of each parameter in a configuration, by dotted name."""
    found: dict[str, tuple[Path, Any]] = {}
    for key, value in config.items():
        path = (*above, str(key))
        name = ".".join(str(step) for step in path)
        if isinstance(value, Mapping) and name not in names:
            found |= flatten(value, names, path)
        else:
            found[name] = (path, value)
    return found


def cross(
    data: Mapping[str, Any], failed: frozenset[str], make: Callable[[dict[str, Any]], Experiment]
) -> list[Finding]:
    """Return what is wrong between fields.

    Args:
        data: What was written.
        failed: Fields that are wrong in themselves; what they would say is left out.
        make: Makes an experiment out of data without those fields.
    """
    parsed = parameters.parse(data.get("parameters"))
    findings = [*_config_findings(data, failed, parsed)]
    if "run" not in failed:
        findings += _placeholder_findings(data.get("run"), parsed)
    rest = {key: value for key, value in data.items() if str(key) not in failed}
    try:
        experiment = make({**_STAND_INS, **rest})
    except ValidationError:
        # What is wrong stands in the findings of the fields already, or it could be made.
        return findings
    if not failed & {"objective", "scheduler"}:
        findings += _scheduler_findings(experiment)
    if not failed & {"objective", "search", "stop_when"}:
        findings += _stop_findings(experiment)
    if "search" not in failed:
        findings += _settings_findings(experiment, "searchers", "search")
        findings += _grid_findings(experiment, parsed)
    if not failed & {"objective", "constraints", "search"}:
        findings += _searcher_findings(experiment)
    if "scheduler" not in failed:
        findings += _settings_findings(experiment, "schedulers", "scheduler")
    if "objective" not in failed:
        findings += _objective_findings(experiment)
    return findings


def _complete(values: Mapping[str, Any], parsed: Parsed) -> dict[str, Any]:
    """Return a configuration with floats as floats and with the constants that belong to it."""
    made = dict(values)
    for name, parameter in parsed.good.items():
        if isinstance(parameter, Float) and type(made.get(name)) is int:
            made[name] = float(made[name])
    if parsed.space is None:
        return made
    for name, parameter in parsed.space.parameters.items():
        if not isinstance(parameter, Constant) or name in made:
            continue
        if parsed.space.is_active(name, made):
            made[name] = parameter.value
    return made


def _is_limited(data: Mapping[str, Any]) -> bool:
    """Return whether something that was written ends the run by itself."""
    if "trials" in data or "time_limit" in data:
        return True
    stop_when, search, objective = (data.get(k) for k in ("stop_when", "search", "objective"))
    if isinstance(stop_when, Mapping) and any(value is not None for value in stop_when.values()):
        return True
    if isinstance(search, Mapping) and search.get("algorithm") == "grid":
        return True
    goals: Sequence[Any] = objective if isinstance(objective, (list, tuple)) else [objective]
    return any(isinstance(goal, Mapping) and goal.get("target") is not None for goal in goals)


def _placeholder_findings(run: Any, parsed: Parsed) -> Iterator[Finding]:
    """Return the ``${name}`` in a command that name no parameter."""
    if not parsed.names:
        return
    words: list[tuple[Path, Any]] = [(("run",), run)]
    if isinstance(run, (list, tuple)):
        words = [(("run", index), word) for index, word in enumerate(run)]
    for path, word in words:
        for name, column in running.placeholders(word) if isinstance(word, str) else ():
            if name not in parsed.names:
                listed = ", ".join(parsed.names)
                hint = did_you_mean(name, parsed.names)
                hint = hint or f"; parameters: {listed}; a shell variable is ${name}"
                yield Finding(path, f"${{{name}}} is no parameter{hint}", column)


def _scheduler_findings(experiment: Experiment) -> Iterator[Finding]:
    """Return what a scheduler with settings of the right types says of their values."""
    plan = experiment.scheduler
    if plugins.check_settings("schedulers", plan.algorithm, plan.settings):
        return
    space, objectives = experiment.search_space, experiment.objectives
    try:
        plugins.make_scheduler(plan.algorithm, space, objectives, 0, plan.settings)
    except SpecError as error:
        for problem in error.problems:
            path = tuple(problem.path.split("."))
            # A setting that is missing stands nowhere.
            there = path[-1] in plan.settings or path[-1] == "algorithm"
            message = problem.message if there else f"{path[-1]} {problem.message}"
            yield Finding(path if there else ("scheduler",), message)
    if plan.algorithm in plugins.POPULATIONS and experiment.trials is None:
        message = f"{plan.algorithm} needs trials, the size of its population"
        yield Finding(("scheduler", "algorithm"), message)


def _stop_findings(experiment: Experiment) -> Iterator[Finding]:
    """Return the rules that cannot be applied to this experiment."""
    wanted = experiment.stop_when
    if wanted.plateau is not None and experiment.objectives.multi:
        yield Finding(("stop_when", "plateau"), "is for one goal; write no_improvement")
    if wanted.expected_improvement is None:
        return
    path, able = ("stop_when", "expected_improvement"), plugins.expectant()
    if experiment.objectives.multi:
        yield Finding(path, "is for one goal; write no_improvement")
        return
    name = experiment.search.algorithm
    if name == plugins.AUTO:
        space, objectives = experiment.search_space, experiment.objectives
        name, _ = plugins.auto_searcher(
            space, objectives, experiment.trials, experiment.scheduler.algorithm
        )
    if name not in able:
        yield Finding(path, f"{name} cannot tell what it expects; these can: {', '.join(able)}")


def _searcher_findings(experiment: Experiment) -> Iterator[Finding]:
    message = plugins.check_objective(experiment.search.algorithm, experiment.objectives)
    if message is not None:
        yield Finding(("search", "algorithm"), message)


def _settings_findings(
    experiment: Experiment, kind: Literal["searchers", "schedulers"], field: str
) -> Iterator[Finding]:
    """Return the settings that the searcher or scheduler does not take."""
    plan = getattr(experiment, field)
    for key, value in plan.settings.items():
        for message in plugins.check_settings(kind, plan.algorithm, {key: value}):
            yield Finding((field, "settings", key), message, key=True)


def _grid_findings(experiment: Experiment, parsed: Parsed) -> Iterator[Finding]:
    """Return the parameters that a grid cannot enumerate."""
    search = experiment.search
    if search.algorithm != "grid" or "resolution" in search.settings:
        return
    endless = [n for n, p in parsed.good.items() if isinstance(p, Float) and p.step is None]
    if endless:
        message = f"grid needs a step for {', '.join(endless)}, or search.settings.resolution"
        yield Finding(("search", "algorithm"), message)


def _objective_findings(experiment: Experiment) -> Iterator[Finding]:
    """Return the objectives that are there twice."""
    names = [item.metric or item.expression for item in experiment.objective]
    for index, name in enumerate(names):
        if name in names[:index]:
            yield Finding(("objective", index), f"the objective '{name}' is there twice")


def _config_findings(
    data: Mapping[str, Any], failed: frozenset[str], parsed: Parsed
) -> Iterator[Finding]:
    """Return what is wrong in the configurations that the user gives."""
    search = data.get("search")
    initial = search.get("initial") if isinstance(search, Mapping) else None
    configs: list[tuple[Path, Any]] = []
    if "baseline" not in failed:
        configs.append((("baseline",), data.get("baseline")))
    if isinstance(initial, (list, tuple)):
        configs += [(("search", "initial", i), config) for i, config in enumerate(initial)]
    for path, config in configs:
        if isinstance(config, Mapping) and parsed.names:
            for finding in _one_config(config, parsed):
                yield finding.under(*path)


def _one_config(config: Mapping[str, Any], parsed: Parsed) -> Iterator[Finding]:
    flat = flatten(config, parsed.names)
    if parsed.space is None:
        for name, (path, _) in flat.items():
            if name not in parsed.names:
                message = f"unknown parameter{did_you_mean(name, parsed.names)}"
                yield Finding(path, message, key=True)
        return
    try:
        parsed.space.validate(_complete({n: value for n, (_, value) in flat.items()}, parsed))
    except SpaceError as error:
        for problem in error.problems:
            # What is missing stands nowhere; its own name is the best place to speak of.
            path = flat[problem.path][0] if problem.path in flat else (problem.path,)
            yield Finding(path, problem.message, key=problem.path not in parsed.names)
