"""What can be wrong with a search space, found when it is made."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from raytune_hpo.axes import Choice, Constant, Float, Int, LogNormal, Normal, Parameter, mass
from raytune_hpo.errors import ExpressionError, Problem, did_you_mean
from raytune_hpo.expression import Expression

MOST_VALUES = 2**50
"""Steps of a larger range cannot be told apart on the unit interval."""
_LEAST_MASS = 1e-6
_KINDS = "Float, Int, Choice, Ordinal or Constant"
_VALUES = "texts, finite numbers, truth values, None and lists of them"


def flatten(parameters: Mapping[str, Any]) -> tuple[dict[str, Parameter], list[Problem]]:
    """Return the parameters by dotted name, and what is wrong with names and types."""
    flat: dict[str, Parameter] = {}
    problems: list[Problem] = []
    for name, value in _leaves(parameters):
        if not all(part.strip() for part in name.split(".")) or "`" in name:
            problems.append(Problem(name, f"{name!r} cannot be a name: a part of it is empty"))
        elif name in flat:
            problems.append(Problem(name, "is there twice"))
        elif not isinstance(value, Float | Int | Choice | Constant):
            problems.append(Problem(name, f"{value!r} is no parameter: use {_KINDS}"))
        else:
            flat[name] = value
    for name in flat:
        above = name.rpartition(".")[0]
        while above:
            if above in flat:
                message = f"is a parameter in '{above}', which is a parameter itself"
                problems.append(Problem(name, message))
            above = above.rpartition(".")[0]
    return flat, problems


def _leaves(parameters: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in parameters.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


# One parameter


def wrong(name: str, parameter: Parameter) -> Iterator[Problem]:
    """Yield what is wrong with a parameter by itself."""
    when: Any = parameter.when
    if when is not None and not isinstance(when, str):
        yield Problem(f"{name}.when", f"must be a text, not {when!r}")
    if isinstance(parameter, Choice):
        yield from _wrong_values(name, parameter)
    elif isinstance(parameter, Constant):
        if not _is_json(parameter.value):
            message = f"{parameter.value!r} cannot be a value: only {_VALUES} can"
            yield Problem(f"{name}.value", message)
    else:
        yield from _wrong_range(name, parameter)


def _wrong_values(name: str, parameter: Choice) -> Iterator[Problem]:
    path = f"{name}.values"
    values: Any = parameter.values
    if not isinstance(values, list | tuple):
        yield Problem(path, f"must be a tuple of values, not {values!r}")
        return
    if not values:
        yield Problem(path, "is empty: give at least one value")
    known: set[str] = set()
    for value in values:
        if not _is_json(value):
            yield Problem(path, f"{value!r} cannot be a value: only {_VALUES} can")
            continue
        # As JSON, values of different types differ: 1, 1.0 and true.
        text = json.dumps(value)
        if text in known:
            yield Problem(path, f"{value!r} is there twice")
        known.add(text)


def _is_json(value: Any) -> bool:
    if isinstance(value, Mapping):
        return False
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def _wrong_range(name: str, parameter: Float | Int) -> Iterator[Problem]:
    low, high = parameter.low, parameter.high
    unreadable = list(_no_numbers(name, parameter))
    if unreadable:
        yield from unreadable
    elif low > high:
        yield Problem(f"{name}.low", f"{low:g} is above the upper bound {high:g}")
    elif low == high:
        yield Problem(f"{name}.high", f"both bounds are {low:g}: write it as a constant value")
    elif not math.isfinite(float(high) - float(low)):
        yield Problem(f"{name}.high", f"the range from {low:g} to {high:g} is too wide")
    elif parameter.log and low <= 0:
        yield Problem(f"{name}.low", f"{low:g} has no logarithm: log needs a bound above 0")
    else:
        yield from _wrong_step(name, parameter)
        yield from _wrong_prior(name, parameter)


def _no_numbers(name: str, parameter: Float | Int) -> Iterator[Problem]:
    whole = isinstance(parameter, Int)
    for field in ("low", "high", "step"):
        value = getattr(parameter, field)
        if value is None and field == "step":
            continue
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            kind = "a whole number" if whole else "a number"
            yield Problem(f"{name}.{field}", f"{value!r} is not {kind}")
        elif abs(value) > 1e300 or not math.isfinite(value):
            yield Problem(f"{name}.{field}", f"{value!r:.40} is not finite or too large")


def _wrong_step(name: str, parameter: Float | Int) -> Iterator[Problem]:
    step, reach = parameter.step, parameter.high - parameter.low
    if step is not None and step <= 0:
        yield Problem(f"{name}.step", f"{step:g} is not above 0")
    elif step is not None and parameter.size == 1:
        yield Problem(f"{name}.step", f"{step!r} is larger than the whole range of {reach:.15g}")
    elif (step is not None or isinstance(parameter, Int)) and reach / (step or 1) > MOST_VALUES:
        field = "high" if step is None else "step"
        hint = "give it a step, or make it a float" if step is None else "use a larger one"
        yield Problem(f"{name}.{field}", f"gives more than {MOST_VALUES:.0e} values: {hint}")


def _wrong_prior(name: str, parameter: Float | Int) -> Iterator[Problem]:
    prior: Any = parameter.prior
    if prior is None:
        return
    if not isinstance(prior, Normal | LogNormal):
        yield Problem(f"{name}.prior", f"must be Normal or LogNormal, not {prior!r}")
    elif not _is_finite(prior.mean):
        yield Problem(f"{name}.prior", f"the mean {prior.mean!r} is not a finite number")
    elif not (_is_finite(prior.sd) and prior.sd > 0):
        yield Problem(f"{name}.prior", f"the standard deviation {prior.sd!r} is not above 0")
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


def _is_finite(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)


# Conditions


def conditions(flat: Mapping[str, Parameter]) -> tuple[dict[str, Expression], list[Problem]]:
    """Return the conditions that can be read, by parameter, and what is wrong with them."""
    found: dict[str, Expression] = {}
    problems: list[Problem] = []
    for name, parameter in flat.items():
        if not isinstance(parameter.when, str):
            continue
        try:
            condition = Expression.parse(parameter.when, strings=True, known=flat)
        except ExpressionError as error:
            first = error.problems[0]
            problems.append(
                Problem(f"{name}.when", first.message, column=first.column, snippet=first.snippet)
            )
            continue
        found[name] = condition
        problems += _wrong_names(name, condition, flat)
    return found, problems


def _wrong_names(
    name: str, condition: Expression, flat: Mapping[str, Parameter]
) -> Iterator[Problem]:
    """Yield a problem when a condition names no parameter, or words that are no value of any."""
    needs = sorted(word for word in condition.names if word in flat)
    if not needs:
        near = (did_you_mean(word, flat) for word in sorted(condition.names))
        hint = next((text for text in near if text), "")
        yield Problem(f"{name}.when", f"names no other parameter{hint}")
        return
    values = {str(value) for needed in needs for value in _values(flat[needed])}
    for word in sorted(condition.names - set(needs) - values):
        hint = did_you_mean(word, [*flat, *values])
        yield Problem(f"{name}.when", f"'{word}' is neither a parameter nor a value{hint}")


def _values(parameter: Parameter) -> tuple[Any, ...]:
    if isinstance(parameter, Constant):
        return (parameter.value,)
    return tuple(parameter.values) if isinstance(parameter, Choice) else ()


def in_order(
    flat: Mapping[str, Parameter], found: Mapping[str, Expression]
) -> tuple[list[str], list[Problem]]:
    """Return the names with each after those its condition needs; as they are otherwise."""
    order: dict[str, None] = {}
    left = list(flat)
    needs = {name: [n for n in flat if n in found[name].names] for name in found}
    while left:
        ready = next((n for n in left if all(m in order for m in needs.get(n, ()))), None)
        if ready is None:
            circle = _circle(left[0], needs, order)
            message = f"the conditions depend on one another in a circle: {' -> '.join(circle)}"
            return list(flat), [Problem(f"{circle[0]}.when", message)]
        order[ready] = None
        left.remove(ready)
    return list(order), []


def _circle(start: str, needs: Mapping[str, list[str]], order: Mapping[str, None]) -> list[str]:
    """Return a way from a parameter back to itself, along what is not in order."""
    path = [start]
    while True:
        step = next(name for name in needs[path[-1]] if name not in order)
        if step in path:
            return [*path[path.index(step) :], step]
        path.append(step)
