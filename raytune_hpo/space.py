"""What is searched: parameters, conditions between them, and one encoding for all searchers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from raytune_hpo.axes import (
    Axis,
    Choice,
    Constant,
    Float,
    Int,
    LogNormal,
    Normal,
    Ordinal,
    Parameter,
    Prior,
    mass,
    same,
)
from raytune_hpo.errors import ExpressionError, Problem, SpaceError, did_you_mean
from raytune_hpo.expression import Expression
from raytune_hpo.trial import Config

Cube = npt.NDArray[np.float64]
MOST_COMBINATIONS = 10_000
"""Conditions are tried out on no more combinations than this."""
_LEAST_MASS = 1e-6


class SearchSpace:
    """A set of parameters, some of which are there only under a condition.

    Args:
        parameters: By name; a mapping inside gives its parameters dotted names.

    Attributes:
        parameters: By dotted name, each after those that its condition names.
        dimensions: The names of all but the constants: the axes of the unit cube, in order.

    Raises:
        SpaceError: With everything that is wrong.

    Example:
        >>> space = SearchSpace({
        ...     "optimizer": Choice(("sgd", "adam")),
        ...     "momentum": Float(0.0, 0.9, when="optimizer == sgd"),
        ... })
        >>> space.decode(np.array([0.9, 0.5]))
        {'optimizer': 'adam'}
        >>> space.decode(np.array([0.1, 0.5]))
        {'optimizer': 'sgd', 'momentum': 0.45}
    """

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        flat = dict(_flatten(parameters))
        problems = [p for name, one in flat.items() for p in _wrong(name, one)]
        if not flat:
            problems.append(Problem("", "a search space needs at least one parameter"))
        conditions, wrong = _conditions(flat)
        problems += wrong
        order = list(flat)
        if not wrong:
            order, wrong = _sorted(flat, conditions)
            problems += wrong
        self.parameters: dict[str, Parameter] = {name: flat[name] for name in order}
        self._conditions = conditions
        self.dimensions = [n for n, p in self.parameters.items() if not isinstance(p, Constant)]
        if not problems:
            problems = self._never_there()
        if problems:
            raise SpaceError(problems)

    @property
    def axes(self) -> dict[str, Axis]:
        """The parameters that are searched, by name, in the order of ``dimensions``."""
        return {n: p for n, p in self.parameters.items() if not isinstance(p, Constant)}

    def is_active(self, name: str, config: Mapping[str, Any]) -> bool:
        """Return whether a parameter is there, given the ones that its condition names."""
        condition = self._conditions.get(name)
        if condition is None:
            return True
        if any(needed not in config for needed in self._needs(condition)):
            return False
        return bool(condition({**{word: word for word in condition.names}, **config}))

    def _needs(self, condition: Expression) -> list[str]:
        return [name for name in condition.names if name in self.parameters]

    def sample(self, rng: np.random.Generator) -> Config:
        """Return a random config, drawn from the priors."""
        return self.decode(rng.random(len(self.dimensions)))

    def decode(self, u: Cube) -> Config:
        """Return the config at a point of the unit cube.

        Args:
            u: Shape (d,); clipped to [0, 1]. Places of parameters that are not there are ignored.
        """
        place = dict(zip(self.dimensions, u, strict=True))
        config: Config = {}
        for name, parameter in self.parameters.items():
            if not self.is_active(name, config):
                continue
            if isinstance(parameter, Constant):
                config[name] = parameter.value
            else:
                config[name] = parameter.decode(min(max(float(place[name]), 0.0), 1.0))
        return config

    def encode(self, config: Mapping[str, Any]) -> Cube:
        """Return the point of the unit cube of a config, shape (d,); NaN for what is not there."""
        return np.array(
            [
                axis.encode(config[name]) if name in config else math.nan
                for name, axis in self.axes.items()
            ]
        )

    def validate(self, config: Mapping[str, Any]) -> None:
        """Check that a config is one of this space.

        Raises:
            SpaceError: Names each value that is missing, unknown, illegal or not active.
        """
        problems = [
            Problem(name, f"unknown parameter{did_you_mean(name, self.parameters)}")
            for name in config
            if name not in self.parameters
        ]
        legal: Config = {}
        for name, parameter in self.parameters.items():
            wrong = self._illegal(name, parameter, config, legal)
            if wrong is not None:
                problems.append(Problem(name, wrong))
            elif name in config:
                legal[name] = config[name]
        if problems:
            raise SpaceError(problems)

    def _illegal(
        self, name: str, parameter: Parameter, config: Mapping[str, Any], legal: Config
    ) -> str | None:
        if not self.is_active(name, legal):
            if name in config:
                return f"is only there when {parameter.when}; leave it out"
            return None
        if name not in config:
            return "is missing"
        if not parameter.holds(config[name]):
            return f"{config[name]!r} is not one of its values: {describe(parameter)}"
        return None

    def complete(self, partial: Mapping[str, Any], rng: np.random.Generator) -> Config:
        """Return a config with the given values, the others being drawn at random.

        Raises:
            SpaceError: A given value is unknown, illegal or not active.
        """
        drawn = dict(zip(self.dimensions, rng.random(len(self.dimensions)), strict=True))
        config: Config = {}
        for name, parameter in self.parameters.items():
            if not self.is_active(name, config):
                continue
            if name in partial:
                config[name] = partial[name]
            elif isinstance(parameter, Constant):
                config[name] = parameter.value
            else:
                config[name] = parameter.decode(float(drawn[name]))
        self.validate({**config, **partial})
        return config

    def grid(self, resolution: int | None = None) -> Iterator[Config]:
        """Return every combination of values, each once.

        Args:
            resolution: Number of values of a parameter that has infinitely many; and the most
                of an Int. None needs a finite space.

        Raises:
            SpaceError: The space is infinite and there is no resolution.
        """
        self.grid_size(resolution)
        yield from self._combinations(list(self.parameters), {}, resolution)

    def _combinations(
        self, names: list[str], config: Config, resolution: int | None
    ) -> Iterator[Config]:
        if not names:
            yield dict(config)
            return
        name, *rest = names
        parameter = self.parameters[name]
        if not self.is_active(name, config):
            yield from self._combinations(rest, config, resolution)
            return
        for value in _grid_values(parameter, resolution):
            config[name] = value
            yield from self._combinations(rest, config, resolution)
        del config[name]

    def grid_size(self, resolution: int | None = None) -> int:
        """Return the number of combinations that ``grid`` gives.

        Without conditions it is the product; with them it is counted out, up to a bound.

        Raises:
            SpaceError: The space is infinite and there is no resolution.
        """
        endless = [n for n, axis in self.axes.items() if axis.size is None]
        if endless and resolution is None:
            problems = [Problem(n, "has infinitely many values: give it a step") for n in endless]
            raise SpaceError(problems)
        sizes = [len(list(axis.points(resolution))) for axis in self.axes.values()]
        product = math.prod(sizes)
        if not self._conditions or product > MOST_COMBINATIONS * 100:
            return product
        return sum(1 for _ in self._combinations(list(self.parameters), {}, resolution))

    @property
    def cardinality(self) -> int | None:
        """Number of configs, or None for infinitely many."""
        if any(axis.size is None for axis in self.axes.values()):
            return None
        product = math.prod(axis.size or 1 for axis in self.axes.values())
        if not self._conditions or product > MOST_COMBINATIONS * 100:
            return product
        return self.grid_size()

    def nested(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return a config with dotted names turned into nested dicts."""
        nested: dict[str, Any] = {}
        for name, value in config.items():
            *groups, last = name.split(".")
            place = nested
            for group in groups:
                place = place.setdefault(group, {})
            place[last] = value
        return nested

    def _never_there(self) -> list[Problem]:
        """Return a problem for each parameter whose condition no combination can meet."""
        problems = []
        for name in self._conditions:
            names = self._ancestors(name)
            sizes = [getattr(self.parameters[n], "size", 1) for n in names]
            if any(s is None for s in sizes) or math.prod(sizes) > MOST_COMBINATIONS:
                continue
            combinations = self._combinations(names, {}, None)
            if not any(self.is_active(name, config) for config in combinations):
                message = f"the condition '{self.parameters[name].when}' can never hold"
                known = {
                    n: describe(self.parameters[n]) for n in self._needs(self._conditions[name])
                }
                shown = "; ".join(f"{n} is {values}" for n, values in known.items())
                problems.append(Problem(f"{name}.when", f"{message}: {shown}"))
        return problems

    def _ancestors(self, name: str) -> list[str]:
        """Return all parameters that a condition depends on, in order."""
        found: set[str] = set()
        todo = [name]
        while todo:
            condition = self._conditions.get(todo.pop())
            for needed in self._needs(condition) if condition else ():
                if needed not in found:
                    found.add(needed)
                    todo.append(needed)
        return [n for n in self.parameters if n in found]


def describe(parameter: Parameter) -> str:
    """Return a parameter's values in words."""
    if isinstance(parameter, Constant):
        return repr(parameter.value)
    if isinstance(parameter, Choice):
        return ", ".join(str(value) for value in parameter.values)
    step = f" in steps of {parameter.step:g}" if parameter.step else ""
    kind = "a whole number" if isinstance(parameter, Int) else "a number"
    return f"{kind} from {parameter.low:g} to {parameter.high:g}{step}"


def _grid_values(parameter: Parameter, resolution: int | None) -> Iterator[Any]:
    if isinstance(parameter, Constant):
        yield parameter.value
    else:
        yield from parameter.points(resolution)


def _flatten(parameters: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Parameter]]:
    for key, value in parameters.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{name}.")
        elif isinstance(value, Float | Int | Choice | Constant):
            yield name, value
        else:
            kinds = "Float, Int, Choice, Ordinal or Constant"
            raise SpaceError([Problem(name, f"{value!r} is no parameter: use {kinds}")])


# What can be wrong with one parameter


def _wrong(name: str, parameter: Parameter) -> Iterator[Problem]:
    if isinstance(parameter, Choice):
        yield from _wrong_values(name, parameter)
    elif isinstance(parameter, Float | Int):
        yield from _wrong_range(name, parameter)


def _wrong_values(name: str, parameter: Choice) -> Iterator[Problem]:
    values = parameter.values
    if not values:
        yield Problem(f"{name}.values", "is empty: give at least one value")
    for index, value in enumerate(values):
        if any(same(value, other) for other in values[:index]):
            yield Problem(f"{name}.values", f"{value!r} is there twice")
        if isinstance(value, float) and not math.isfinite(value):
            yield Problem(f"{name}.values", f"{value!r} is not finite")
        elif not _is_json(value):
            kinds = "texts, numbers, truth values, None and lists of them"
            yield Problem(f"{name}.values", f"{value!r} cannot be a value: only {kinds} can")


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return not isinstance(value, dict)


def _wrong_range(name: str, parameter: Float | Int) -> Iterator[Problem]:
    low, high = parameter.low, parameter.high
    number = int if isinstance(parameter, Int) else int | float
    for field, value in (("low", low), ("high", high), ("step", parameter.step)):
        if value is None and field == "step":
            continue
        if isinstance(value, bool) or not isinstance(value, number):
            kind = "a whole number" if isinstance(parameter, Int) else "a number"
            yield Problem(f"{name}.{field}", f"{value!r} is not {kind}")
            return
        if not math.isfinite(value):
            yield Problem(f"{name}.{field}", f"{value!r} is not finite")
            return
    if low > high:
        yield Problem(f"{name}.low", f"{low:g} is above the upper bound {high:g}")
        return
    if low == high:
        yield Problem(f"{name}.high", f"both bounds are {low:g}: write it as a constant value")
        return
    if parameter.log and low <= 0:
        yield Problem(f"{name}.low", f"{low:g} has no logarithm: log needs a bound above 0")
        return
    yield from _wrong_step(name, parameter)
    yield from _wrong_prior(name, parameter)


def _wrong_step(name: str, parameter: Float | Int) -> Iterator[Problem]:
    step = parameter.step
    if step is None:
        return
    if step <= 0:
        yield Problem(f"{name}.step", f"{step:g} is not above 0")
    elif step > parameter.high - parameter.low:
        reach = parameter.high - parameter.low
        yield Problem(f"{name}.step", f"{step:g} is larger than the whole range of {reach:g}")


def _wrong_prior(name: str, parameter: Float | Int) -> Iterator[Problem]:
    prior = parameter.prior
    if prior is None:
        return
    if not math.isfinite(prior.mean):
        yield Problem(f"{name}.prior", f"the mean {prior.mean} is not finite")
    elif not (math.isfinite(prior.sd) and prior.sd > 0):
        yield Problem(f"{name}.prior", f"the standard deviation {prior.sd:g} is not above 0")
    elif parameter.log:
        hint = (
            "a lognormal prior is in the logarithm already"
            if isinstance(prior, LogNormal)
            else "write a lognormal prior"
        )
        yield Problem(f"{name}.log", f"log and prior do not go together: {hint}")
    elif isinstance(prior, LogNormal) and parameter.high <= 0:
        yield Problem(f"{name}.high", "a lognormal prior needs values above 0")
    elif mass(parameter) < _LEAST_MASS:
        bounds = f"{parameter.low:g} to {parameter.high:g}"
        yield Problem(f"{name}.prior", f"the prior has next to no probability from {bounds}")


# Conditions


def _conditions(flat: Mapping[str, Parameter]) -> tuple[dict[str, Expression], list[Problem]]:
    found: dict[str, Expression] = {}
    problems: list[Problem] = []
    for name, parameter in flat.items():
        if parameter.when is None:
            continue
        try:
            condition = Expression.parse(_backticked(parameter.when, flat), strings=True)
        except ExpressionError as error:
            first = error.problems[0]
            problems.append(
                Problem(f"{name}.when", first.message, column=first.column, snippet=parameter.when)
            )
            continue
        found[name] = condition
        problems += _wrong_names(name, condition, flat)
    return found, problems


def _backticked(text: str, flat: Mapping[str, Parameter]) -> str:
    """Put dotted parameter names in backticks, as the expression language wants them."""
    for name in sorted((n for n in flat if not n.isidentifier()), key=len, reverse=True):
        if f"`{name}`" not in text:
            text = text.replace(name, f"`{name}`")
    return text


def _wrong_names(
    name: str, condition: Expression, flat: Mapping[str, Parameter]
) -> Iterator[Problem]:
    """Return a problem when a condition names no parameter, or words that are no value of any."""
    needs = [n for n in condition.names if n in flat]
    if not needs:
        names = sorted(condition.names)
        hint = did_you_mean(names[0], flat) if names else ""
        yield Problem(f"{name}.when", f"names no other parameter{hint}")
        return
    values = {
        str(value)
        for needed in needs
        for value in getattr(flat[needed], "values", (getattr(flat[needed], "value", None),))
    }
    for word in sorted(condition.names - set(needs) - values):
        hint = did_you_mean(word, [*flat, *values])
        yield Problem(f"{name}.when", f"'{word}' is neither a parameter nor a value{hint}")


def _sorted(
    flat: Mapping[str, Parameter], conditions: Mapping[str, Expression]
) -> tuple[list[str], list[Problem]]:
    """Return the names with each after those its condition needs; keeps the order otherwise."""
    order: list[str] = []
    left = list(flat)
    while left:
        ready = next(
            (
                name
                for name in left
                if name not in conditions
                or all(n in order for n in conditions[name].names if n in flat)
            ),
            None,
        )
        if ready is None:
            loop = [name for name in left if name in conditions]
            message = f"the conditions of {', '.join(loop)} depend on one another in a circle"
            return list(flat), [Problem(f"{loop[0]}.when", message)]
        order.append(ready)
        left.remove(ready)
    return order, []


__all__ = [
    "Choice",
    "Constant",
    "Float",
    "Int",
    "LogNormal",
    "Normal",
    "Ordinal",
    "Parameter",
    "Prior",
    "SearchSpace",
    "describe",
]
