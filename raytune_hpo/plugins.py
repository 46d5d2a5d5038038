"""Searchers, schedulers and launchers by name: the built-in ones and those of other packages.

Another package adds its own through an entry point in its ``pyproject.toml``::

    [project.entry-points."raytune_hpo.searchers"]
    annealing = "my_package.annealing:Annealing"

A searcher or scheduler class is called with ``(space, objective, seed, **settings)``; its further
parameters are the settings that an experiment may give. Nothing is imported before it is asked for,
so a broken plug-in harms only those who name it.
"""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, Protocol, cast

from raytune_hpo.errors import PluginError, Problem, SpecError, did_you_mean
from raytune_hpo.objective import Objective
from raytune_hpo.schedulers.base import Scheduler
from raytune_hpo.searchers.base import Searcher
from raytune_hpo.space import SearchSpace

Kind = Literal["searchers", "schedulers", "launchers"]

AUTO = "auto"
"""The default searcher; ``auto_searcher`` says which one it means in an experiment."""

_BUILT_IN: Mapping[str, Mapping[str, str]] = {
    "searchers": {
        AUTO: "raytune_hpo.searchers.auto:AutoSearcher",
        "bo": "raytune_hpo.searchers.bo:BoSearcher",
        "bohb": "raytune_hpo.searchers.bohb:BohbSearcher",
        "cmaes": "raytune_hpo.searchers.cmaes:CmaesSearcher",
        "evolution": "raytune_hpo.searchers.evolution:EvolutionSearcher",
        "grid": "raytune_hpo.searchers.grid:GridSearcher",
        "hyperopt": "raytune_hpo.searchers.hyperopt:HyperoptSearcher",
        "irace": "raytune_hpo.searchers.irace:IraceSearcher",
        "mfbo": "raytune_hpo.searchers.mfbo:MfboSearcher",
        "random": "raytune_hpo.searchers.random:RandomSearcher",
        "sobol": "raytune_hpo.searchers.sobol:SobolSearcher",
        "tpe": "raytune_hpo.searchers.tpe:TpeSearcher",
    },
    "schedulers": {
        "asha": "raytune_hpo.schedulers.asha:Asha",
        "bohb": "raytune_hpo.schedulers.hyperband:Hyperband",
        "hyperband": "raytune_hpo.schedulers.hyperband:Hyperband",
        "irace": "raytune_hpo.schedulers.irace:Irace",
        "median": "raytune_hpo.schedulers.median:Median",
        "none": "raytune_hpo.schedulers.none:NoScheduler",
        "patient": "raytune_hpo.schedulers.patient:Patient",
        "pb2": "raytune_hpo.schedulers.pb2:Pb2",
        "pbt": "raytune_hpo.schedulers.pbt:Pbt",
        "pbt_replay": "raytune_hpo.schedulers.replay:PbtReplay",
        "percentile": "raytune_hpo.schedulers.percentile:Percentile",
        "sha": "raytune_hpo.schedulers.sha:Sha",
        "threshold": "raytune_hpo.schedulers.threshold:Threshold",
    },
    "launchers": {},
}

POPULATIONS = frozenset({"pbt", "pb2"})
"""Schedulers that search by themselves, once there is a population."""

_GIVEN = {"searchers": 3, "schedulers": 3, "launchers": 0}
"""How many parameters of a plug-in class come before its settings."""


class _Factory(Protocol):
    def __call__(self, *args: Any, **settings: Any) -> Any: ...


def names(kind: Kind) -> list[str]:
    """Return the names that can be loaded, sorted."""
    return sorted({*_BUILT_IN[kind], *(point.name for point in _entry_points(kind))})


def load(kind: Kind, name: str) -> Any:
    """Return the class behind a name.

    Raises:
        PluginError: When the name is unknown, taken twice, or its class cannot be imported.
    """
    found = [point for point in _entry_points(kind) if point.name == name]
    target = _BUILT_IN[kind].get(name)
    if len(found) + (target is not None) > 1:
        raise PluginError(_taken_twice(kind, name, found, built_in=target is not None))
    if found:
        return _load_foreign(kind, found[0])
    if target is None:
        raise PluginError(_unknown_name(kind, name))
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)


def make_searcher(
    name: str,
    space: SearchSpace,
    objective: Objective,
    seed: int,
    settings: Mapping[str, Any] | None = None,
) -> Searcher:
    """Return a new searcher.

    Raises:
        PluginError: When the name or a setting is unknown, or a setting has the wrong type.
        SpecError: When a setting is out of range, or the searcher cannot search this space or for
            this objective.
    """
    wrong = check_objective(name, objective)
    if wrong is not None:
        raise SpecError([Problem("search.algorithm", wrong)])
    return cast(Searcher, _make("searchers", name, (space, objective, seed), settings))


def make_scheduler(
    name: str,
    space: SearchSpace,
    objective: Objective,
    seed: int,
    settings: Mapping[str, Any] | None = None,
) -> Scheduler:
    """Return a new scheduler.

    Raises:
        PluginError: When the name or a setting is unknown, or a setting has the wrong type.
        SpecError: When a setting is out of range, or the scheduler cannot use this objective.
    """
    return cast(Scheduler, _make("schedulers", name, (space, objective, seed), settings))


def check_settings(kind: Kind, name: str, settings: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a name and its settings, one sentence each.

    Whether a number is in range is known only when the plug-in is made.
    """
    if kind == "searchers" and name == AUTO:
        text = "settings belong to one searcher; name it instead of 'auto', one of: "
        others = [other for other in names(kind) if other != AUTO]
        return [text + ", ".join(others)] if settings else []
    try:
        valid = settings_of(kind, name)
    except PluginError as error:
        return [str(error)]
    if valid is None:
        return []
    messages = (_wrong_setting(kind, name, key, settings[key], valid) for key in settings)
    return [message for message in messages if message]


def check_objective(name: str, objective: Objective) -> str | None:
    """Return why a searcher cannot search for an objective, and which can; None when it can.

    A searcher of another package that says nothing of ``several_goals`` and ``constraints`` can.
    Of a name that cannot be loaded nothing is said here.
    """
    asked = {
        "several_goals": ("searches for one goal only", objective.multi),
        "constraints": ("takes no constraints", bool(objective.constraints)),
    }
    needs = [ability for ability, (_, needed) in asked.items() if needed]
    plugin = _loaded(name) if needs else None
    missing = [ability for ability in needs if not getattr(plugin, ability, True)]
    if not missing:
        return None
    others = {other: _loaded(other) for other in names("searchers")}
    able = [
        other
        for other, found in others.items()
        if found is not None and all(getattr(found, ability, True) for ability in needs)
    ]
    cannot = " and ".join(asked[ability][0] for ability in missing)
    return f"{name} {cannot}; these can do what is asked: {', '.join(able)}"


def expectant() -> list[str]:
    """Return the searchers that can tell what they expect the next trial to gain."""
    found = {name: _loaded(name) for name in names("searchers")}
    return [name for name, plugin in found.items() if hasattr(plugin, "expected_improvement")]


def _loaded(searcher: str) -> Any:
    """Return the class behind a name, or None."""
    try:
        return load("searchers", searcher)
    except PluginError:
        return None


def settings_of(kind: Kind, name: str) -> dict[str, inspect.Parameter] | None:
    """Return the settings of a plug-in with their types and defaults; None if it takes any.

    Raises:
        PluginError: When the plug-in cannot be loaded.
    """
    plugin = load(kind, name)
    try:
        signature = inspect.signature(plugin, eval_str=True)
    except NameError:  # an annotation that exists for type checkers only
        signature = inspect.signature(plugin)
    parameters = list(signature.parameters.values())
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name: parameter for parameter in parameters[_GIVEN[kind] :]}


def auto_searcher(
    space: SearchSpace, objective: Objective, trials: int | None, scheduler: str = "none"
) -> tuple[str, str]:
    """Return the searcher that ``auto`` stands for in an experiment, and why in one sentence.

    Args:
        space: What to search.
        objective: Of the experiment.
        trials: The budget; None when another limit ends the run.
        scheduler: Name of the scheduler.
    """
    count = space.cardinality
    if count is not None and trials is not None and count <= trials:
        return "grid", f"the space has {count} configs and the budget is {trials} trials"
    if scheduler == "irace" and not objective.multi:
        return "irace", "it ranks by instances survived, as the races do"
    if scheduler in POPULATIONS:
        return "sobol", f"{scheduler} begins with trials that cover the space evenly"
    if scheduler == "bohb" and not objective.multi:
        return "bohb", "it is what makes Hyperband BOHB"
    if scheduler != "none":
        return "mfbo", f"{scheduler} cuts trials short, and it learns from how far they got"
    return AUTO, "bo, and tpe every third time while bo finds nothing better"


def _make(
    kind: Kind, name: str, given: tuple[Any, ...], settings: Mapping[str, Any] | None
) -> object:
    settings = settings or {}
    factory: _Factory = load(kind, name)
    messages = check_settings(kind, name, settings)
    if messages:
        raise PluginError("\n".join(messages))
    return factory(*given, **settings)


def _entry_points(kind: Kind) -> list[EntryPoint]:
    return _entry_points_of(kind, tuple(sys.path))


@cache
def _entry_points_of(kind: Kind, path: tuple[str, ...]) -> list[EntryPoint]:
    """Return what is registered; looking through everything that is installed takes its time."""
    return list(entry_points(group=f"raytune_hpo.{kind}"))


def _load_foreign(kind: Kind, point: EntryPoint) -> Any:
    try:
        return point.load()
    except Exception as error:  # a plug-in's module may raise anything
        raise PluginError(
            f"{_one(kind)} '{point.name}' of {_distribution(point)} cannot be loaded from "
            f"{point.value}: {type(error).__name__}: {error}. Repair or uninstall that package."
        ) from error


def _unknown_name(kind: Kind, name: str) -> str:
    valid = names(kind)
    listed = ", ".join(valid) or "none is installed"
    return f"unknown {_one(kind)} '{name}'{did_you_mean(name, valid)}; valid: {listed}"


def _taken_twice(kind: Kind, name: str, found: list[EntryPoint], *, built_in: bool) -> str:
    owners = sorted(_distribution(point) for point in found)
    if built_in:
        owners.insert(0, "raytune-hpo itself")
    return (
        f"{_one(kind)} '{name}' is offered by {' and '.join(owners)}; "
        "uninstall all but one of these packages"
    )


def _wrong_setting(
    kind: Kind, name: str, key: str, value: Any, valid: Mapping[str, inspect.Parameter]
) -> str:
    """Return what is wrong with one setting, or an empty text."""
    if key not in valid:
        listed = ", ".join(sorted(valid)) or "it has none"
        hint = did_you_mean(key, valid)
        return f"unknown setting '{key}' of {_one(kind)} '{name}'{hint}; valid: {listed}"
    annotation = valid[key].annotation
    if _fits(value, annotation):
        return ""
    return f"setting '{key}' of {_one(kind)} '{name}' has to be {_words(annotation)}, not {value!r}"


def _fits(value: Any, annotation: Any) -> bool:
    """Return whether a value is of the annotated type; a type we do not know fits all."""
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        return any(_fits(value, part) for part in typing.get_args(annotation))
    if typing.get_origin(annotation) is Literal:
        return value in typing.get_args(annotation)
    if annotation is None or annotation is type(None):
        return value is None
    if isinstance(value, bool) and annotation in (int, float):
        return False
    if annotation is float:
        return isinstance(value, (int, float))
    return isinstance(value, annotation) if annotation in (int, str, bool) else True


def _words(annotation: Any) -> str:
    """Return a type in words, such as ``a whole number or null``."""
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        return " or ".join(_words(part) for part in typing.get_args(annotation))
    if typing.get_origin(annotation) is Literal:
        return "one of " + ", ".join(repr(part) for part in typing.get_args(annotation))
    return "null" if annotation in (None, type(None)) else words.get(annotation, str(annotation))


def _one(kind: Kind) -> str:
    return kind.removesuffix("s")


def _distribution(point: EntryPoint) -> str:
    return "an unknown package" if point.dist is None else f"{point.dist.name} {point.dist.version}"
