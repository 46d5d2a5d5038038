"""The tree of an expression: what its nodes are, what they are worth and how they are written."""

from __future__ import annotations

import keyword
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from raytune_hpo.errors import RaytuneHpoError, did_you_mean

MAX_POWER = 64.0

Kind = Literal["number", "truth", "text", "list", "any"]
"""What a node gives; ``any`` when it shows only in the values."""


class ExpressionValueError(RaytuneHpoError, ArithmeticError):
    """An expression has no value for these inputs."""


class MissingName(ExpressionValueError):
    """A name that the expression needs has no value.

    Attributes:
        name: The name.
    """

    def __init__(self, name: str, there: Mapping[str, Any]) -> None:
        self.name = name
        super().__init__(f"'{name}' has no value{did_you_mean(name, there)}")

    def __reduce__(self) -> tuple[type[MissingName], tuple[str, dict[str, Any]]]:
        return type(self), (self.name, {})


@dataclass(frozen=True)
class Node:
    """A part of an expression.

    Attributes:
        sign: ``value``, ``name``, ``list``, ``compare``, ``call``, ``if``, or an operator; a sign
            before one operand is written ``+x`` and ``-x``.
        kind: What it gives.
        parts: What it is made of.
        detail: The value; the name; the comparison's signs; or the function's name.
    """

    sign: str
    kind: Kind
    parts: tuple[Node, ...] = ()
    detail: Any = None


FUNCTIONS: Mapping[str, tuple[Callable[..., float], int, int]] = {
    "abs": (math.fabs, 1, 1),
    "exp": (math.exp, 1, 1),
    "log": (math.log, 1, 1),
    "max": (lambda *numbers: _extreme(max, numbers), 2, 99),
    "min": (lambda *numbers: _extreme(min, numbers), 2, 99),
    "sqrt": (math.sqrt, 1, 1),
}
"""Each function with the least and the most numbers it takes."""
ARITHMETIC: Mapping[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "%": operator.mod,
    "**": lambda base, power: _power(base, power),
}
COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "in": lambda value, values: value in values,
    "not in": lambda value, values: value not in values,
}
_EQUALITY = frozenset({"==", "!=", "in", "not in"})


def evaluate(node: Node, values: Mapping[str, Any]) -> Any:
    """Return what a node is worth.

    Raises:
        MissingName: A name has no value.
        ArithmeticError: There is no value.
        ValueError: As before, out of a function.
    """
    parts = node.parts
    match node.sign:
        case "value":
            return node.detail
        case "name":
            if node.detail not in values:
                raise MissingName(node.detail, values)
            return values[node.detail]
        case "and":
            return all(_truth(evaluate(part, values)) for part in parts)
        case "or":
            return any(_truth(evaluate(part, values)) for part in parts)
        case "if":
            chosen = parts[0] if _truth(evaluate(parts[1], values)) else parts[2]
            return evaluate(chosen, values)
    return _combine(node, [evaluate(part, values) for part in parts])


def _combine(node: Node, operands: list[Any]) -> Any:
    """Return the worth of a node all of whose parts are needed."""
    match node.sign:
        case "list":
            return operands
        case "not":
            return not _truth(operands[0])
        case "+x":
            return _number(operands[0])
        case "-x":
            return -_number(operands[0])
        case "call":
            return FUNCTIONS[node.detail][0](*map(_number, operands))
        case "compare":
            return _compare(node.detail, operands)
    return ARITHMETIC[node.sign](*map(_number, operands))


def _compare(signs: Sequence[str], operands: Sequence[Any]) -> bool:
    for sign, left, right in zip(signs, operands, operands[1:], strict=False):
        if sign not in _EQUALITY:
            left, right = _ordered(left), _ordered(right)
        if not COMPARISONS[sign](left, right):
            return False
    return True


def _ordered(value: Any) -> Any:
    """Return a number as it is, since large whole numbers are compared exactly."""
    _number(value)
    return value


def _truth(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise ExpressionValueError(f"{value!r} is neither true nor false")


def _number(value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise ExpressionValueError(f"{value!r} is no number")


def _extreme(choose: Callable[..., float], numbers: tuple[float, ...]) -> float:
    """Return the largest or smallest number; nan if one of them is, wherever it stands."""
    return math.nan if any(map(math.isnan, numbers)) else choose(numbers)


def _power(base: float, power: float) -> float:
    if abs(power) > MAX_POWER:
        raise ExpressionValueError(f"the power {power:g} is larger than {MAX_POWER:g}")
    result = base**power
    if isinstance(result, complex):
        raise ExpressionValueError(f"{base:g} ** {power:g} is not a real number")
    return float(result)


def is_plain(name: str) -> bool:
    """Return whether a name can be written without backticks.

    >>> is_plain("val_loss"), is_plain("model.layers"), is_plain("val/loss"), is_plain("max")
    (True, True, False, False)
    """
    words = name.split(".")
    if not all(word.isidentifier() and not keyword.iskeyword(word) for word in words):
        return False
    return name not in FUNCTIONS


def show(node: Node) -> str:
    """Return a node with all its parentheses."""
    parts = [show(part) for part in node.parts]
    match node.sign:
        case "value":
            return repr(node.detail)
        case "name":
            return str(node.detail) if is_plain(node.detail) else f"`{node.detail}`"
        case "list":
            return f"[{', '.join(parts)}]"
        case "call":
            return f"{node.detail}({', '.join(parts)})"
        case "if":
            return f"({parts[0]} if {parts[1]} else {parts[2]})"
        case "compare":
            rest = zip(node.detail, parts[1:], strict=True)
            return f"({parts[0]} {' '.join(f'{sign} {part}' for sign, part in rest)})"
        case "not":
            return f"(not {parts[0]})"
        case "+x" | "-x":
            return f"({node.sign[0]}{parts[0]})"
    return f"({f' {node.sign} '.join(parts)})"
