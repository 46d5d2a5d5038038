"""Configs near another one: the explore step of population-based training."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import islice
from typing import Any

import numpy as np

from raytune_hpo.axes import Axis, Choice, Constant, Float, Int, Ordinal, same
from raytune_hpo.space import SearchSpace
from raytune_hpo.trial import Config


def perturbed(
    space: SearchSpace,
    config: Config,
    rng: np.random.Generator,
    *,
    factors: Sequence[float],
    resample: float,
    fixed: Collection[str],
) -> Config:
    """Return a config near another one.

    Args:
        space: That the configs belong to.
        config: To start from.
        rng: Draws each parameter's change.
        factors: A number is multiplied by one of these and stays within its bounds; one with steps
            changes by a step at least.
        resample: Chance of a parameter to be drawn anew from the space instead.
        fixed: Parameters that keep their value.
    """

    def changed(name: str, axis: Axis) -> Any:
        if name not in fixed and rng.random() < resample:
            return axis.decode(rng.random())
        return config[name] if name in fixed else near(axis, config[name], factors, rng)

    return assembled(space, config, changed, rng)


def assembled(
    space: SearchSpace,
    config: Config,
    changed: Callable[[str, Axis], Any],
    rng: np.random.Generator,
) -> Config:
    """Return the config with a new value for each parameter that it has.

    Conditions are looked at anew: what is not there any more is left out, and what is there for the
    first time is drawn at random.

    Args:
        space: That the configs belong to.
        config: To start from.
        changed: Gives the new value of a parameter of ``config``.
        rng: Draws what was not there.
    """
    found: Config = {}
    for name, parameter in space.parameters.items():
        if not space.is_active(name, found):
            continue
        if isinstance(parameter, Constant):
            found[name] = parameter.value
        elif name in config:
            found[name] = changed(name, parameter)
        else:
            found[name] = parameter.decode(rng.random())
    return found


def near(axis: Axis, value: Any, factors: Sequence[float], rng: np.random.Generator) -> Any:
    """Return another value of a parameter: a multiple, a neighbour, or itself without an order."""
    if isinstance(axis, Ordinal):
        index = next(i for i, one in enumerate(axis.values) if same(one, value))
        return axis.values[_reflected(index + int(rng.choice((-1, 1))), len(axis.values))]
    if isinstance(axis, Choice):
        return value
    factor = factors[int(rng.integers(len(factors)))]
    if axis.step is None and isinstance(axis, Float):
        # Twelve digits, as all floats of a space have.
        return min(max(float(f"{value * factor:.12g}"), axis.low), axis.high)
    return _at(axis, _moved(value, factor, axis))


def _reflected(index: int, count: int) -> int:
    """Return an index, or its neighbour inside when it is one beyond an end."""
    if count == 1:
        return 0
    return 1 if index < 0 else count - 2 if index >= count else index


def _moved(value: float, factor: float, axis: Float | Int) -> int:
    """Return the index of the value nearest to a multiple, at least a step away if that differs."""
    step = axis.step or 1
    index = round((value - axis.low) / step)
    target = value * factor
    wanted = round((target - axis.low) / step)
    if wanted == index:
        wanted += (target > value) - (target < value)
    return min(max(wanted, 0), (axis.size or 1) - 1)


def _at(axis: Float | Int, index: int) -> float:
    if isinstance(axis, Int):
        return axis.low + index * (axis.step or 1)
    return next(islice(axis.points(None), index, None))
