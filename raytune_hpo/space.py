"""What is searched: parameters, conditions between them, and one encoding for all searchers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from raytune_hpo import _space_checks as checks
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
)
from raytune_hpo.errors import Problem, SpaceError, did_you_mean
from raytune_hpo.expression import Expression, ExpressionValueError
from raytune_hpo.trial import Config

Cube = npt.NDArray[np.float64]
MOST_COMBINATIONS = 10_000
"""Conditions are tried out on no more combinations than this."""
_TRIED = 1000
_ABSENT, _END = object(), object()


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
        flat, problems = checks.flatten(parameters)
        problems += [p for name, one in flat.items() for p in checks.wrong(name, one)]
        if not flat and not problems:
            problems.append(Problem("", "a search space needs at least one parameter"))
        conditions, unclear = checks.conditions(flat)
        problems += unclear
        order = list(flat)
        if not unclear:
            order, circles = checks.in_order(flat, conditions)
            problems += circles
        self.parameters: dict[str, Parameter] = {name: flat[name] for name in order}
        self._conditions = conditions
        self.dimensions = [n for n, p in self.parameters.items() if not isinstance(p, Constant)]
        if not problems:
            problems = self._unclear_conditions() or self._never_there()
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
        return _holds(condition, config)

    def _needs(self, condition: Expression) -> list[str]:
        return [name for name in condition.names if name in self.parameters]

    def sample(self, rng: np.random.Generator) -> Config:
        """Return a random config, drawn from the priors."""
        return self.decode(rng.random(len(self.dimensions)))

    def decode(self, u: Cube) -> Config:
        """Return the config at a point of the unit cube.

        Args:
            u: Shape (d,); clipped to [0, 1], and NaN counts as 0.5. Places of parameters that are
                not there are ignored.
        """
        place = dict(zip(self.dimensions, u, strict=True))
        config: Config = {}
        for name, parameter in self.parameters.items():
            if not self.is_active(name, config):
                continue
            if isinstance(parameter, Constant):
                config[name] = _own(parameter.value)
            else:
                at = float(place[name])
                config[name] = _own(parameter.decode(0.5 if at != at else min(max(at, 0.0), 1.0)))
        return config

    def encode(self, config: Mapping[str, Any]) -> Cube:
        """Return the point of the unit cube of a config, shape (d,); NaN for what is not there.

        Raises:
            SpaceError: A parameter cannot have the value that it has.
        """
        problems = [
            Problem(name, _no_value(config[name], axis))
            for name, axis in self.axes.items()
            if name in config and not axis.holds(config[name])
        ]
        if problems:
            raise SpaceError(problems)
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
            return _no_value(config[name], parameter)
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
                config[name] = _own(parameter.value)
            else:
                config[name] = _own(parameter.decode(float(drawn[name])))
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
        self._check_finite(resolution)
        yield from self._combinations(list(self.parameters), resolution)

    def _combinations(self, names: Sequence[str], resolution: int | None) -> Iterator[Config]:
        """Yield every combination of some parameters, the last one changing fastest.

        Args:
            names: In the order of ``parameters``, with all that their conditions name.
            resolution: As ``grid`` takes it.
        """
        config: Config = {}
        rows: list[Iterator[Any]] = []  # the values that are left of each parameter but the last
        while True:
            while len(rows) < len(names):
                rows.append(self._row(names[len(rows)], config, resolution))
                self._turn(names, rows, config)
            yield {name: _own(config[name]) for name in names if name in config}
            while rows and not self._turn(names, rows, config):
                rows.pop()
            if not rows:
                return

    def _row(self, name: str, config: Config, resolution: int | None) -> Iterator[Any]:
        """Return a parameter's values, or one stand-in when it is not there."""
        if not self.is_active(name, config):
            return iter((_ABSENT,))
        return _grid_values(self.parameters[name], resolution)

    def _turn(self, names: Sequence[str], rows: Sequence[Iterator[Any]], config: Config) -> bool:
        """Give the last parameter of ``rows`` its next value; False when there is none."""
        name = names[len(rows) - 1]
        value = next(rows[-1], _END)
        config.pop(name, None)
        if value is not _ABSENT and value is not _END:
            config[name] = value
        return value is not _END

    def grid_size(self, resolution: int | None = None) -> int:
        """Return the number of combinations that ``grid`` gives.

        It is exact unless the parameters that conditions name have more than
        ``MOST_COMBINATIONS`` combinations; then it is what there would be without conditions.

        Raises:
            SpaceError: The space is infinite and there is no resolution.
        """
        self._check_finite(resolution)
        sizes = {name: _grid_count(axis, resolution) for name, axis in self.axes.items()}
        deciding = self.deciding()
        if math.prod(sizes.get(name, 1) for name in deciding) > MOST_COMBINATIONS:
            return math.prod(sizes.values())
        conditional = [n for n in sizes if n in self._conditions and n not in deciding]
        free = math.prod(
            size for n, size in sizes.items() if n not in deciding and n not in conditional
        )
        return free * sum(
            math.prod(sizes[name] for name in conditional if self.is_active(name, config))
            for config in self._combinations(deciding, resolution)
        )

    def deciding(self) -> list[str]:
        """Return the parameters that conditions depend on, in order."""
        found = {needed for name in self._conditions for needed in self._ancestors(name)}
        return [name for name in self.parameters if name in found]

    def _check_finite(self, resolution: int | None) -> None:
        endless = [n for n, axis in self.axes.items() if axis.size is None]
        if endless and resolution is None:
            problems = [Problem(n, "has infinitely many values: give it a step") for n in endless]
            raise SpaceError(problems)

    @property
    def cardinality(self) -> int | None:
        """Number of configs, or None for infinitely many; exact where ``grid_size`` is."""
        if any(axis.size is None for axis in self.axes.values()):
            return None
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

    def _unclear_conditions(self) -> list[Problem]:
        """Return a problem for each condition that fails on values it can meet."""
        problems = []
        for name, condition in self._conditions.items():
            for config in self._examples(self._needs(condition)):
                try:
                    _holds(condition, config)
                except ExpressionValueError as error:
                    problems.append(Problem(f"{name}.when", str(error)))
                    break
        return problems

    def _examples(self, names: Sequence[str]) -> Iterator[Config]:
        """Yield configs in which each parameter has each of some of its values once."""
        values = [list(islice(_grid_values(self.parameters[n], 3), _TRIED)) for n in names]
        for index in range(max(map(len, values), default=0)):
            yield {n: row[index % len(row)] for n, row in zip(names, values, strict=True)}

    def _never_there(self) -> list[Problem]:
        """Return a problem for each parameter whose condition no combination can meet."""
        problems = []
        for name in self._conditions:
            names = self._ancestors(name)
            sizes = [getattr(self.parameters[n], "size", 1) for n in names]
            if any(s is None for s in sizes) or math.prod(sizes) > MOST_COMBINATIONS:
                continue
            combinations = self._combinations(names, None)
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


def _grid_count(axis: Axis, resolution: int | None) -> int:
    size = axis.size
    if size is None:
        return resolution or 1
    if resolution is None or resolution >= size or not isinstance(axis, Int):
        return size
    return sum(1 for _ in axis.points(resolution))


def _holds(condition: Expression, config: Mapping[str, Any]) -> bool:
    """Return whether a condition holds; a word that is no parameter stands for itself."""
    value = condition({**{word: word for word in condition.names}, **config})
    if not isinstance(value, bool):
        message = f"gives {value!r} where true or false is needed"
        raise ExpressionValueError(f"{condition.text}: {message}")
    return value


def _own(value: Any) -> Any:
    """Return a value that whoever gets it may change."""
    return [_own(entry) for entry in value] if isinstance(value, list | tuple) else value


def _no_value(value: Any, parameter: Parameter) -> str:
    return f"{value!r} is not one of its values: {describe(parameter)}"


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
