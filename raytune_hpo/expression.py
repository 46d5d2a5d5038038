"""Expressions over metrics and parameters; nothing is ever evaluated as Python."""

from __future__ import annotations

import ast
import keyword
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from raytune_hpo.errors import ExpressionError, Problem, RaytuneHpoError, did_you_mean

MAX_LENGTH = 2000
MAX_POWER = 64.0

_FUNCTIONS: dict[str, tuple[Callable[..., float], int, int]] = {
    "abs": (abs, 1, 1),
    "exp": (math.exp, 1, 1),
    "log": (math.log, 1, 1),
    "max": (max, 2, 99),
    "min": (min, 2, 99),
    "sqrt": (math.sqrt, 1, 1),
}
_BINARY: dict[type[ast.operator], tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Add: ("+", operator.add),
    ast.Sub: ("-", operator.sub),
    ast.Mult: ("*", operator.mul),
    ast.Div: ("/", operator.truediv),
    ast.Mod: ("%", operator.mod),
    ast.Pow: ("**", lambda base, power: _power(base, power)),
}
_COMPARE: dict[type[ast.cmpop], tuple[str, Callable[[Any, Any], bool]]] = {
    ast.Lt: ("<", operator.lt),
    ast.LtE: ("<=", operator.le),
    ast.Gt: (">", operator.gt),
    ast.GtE: (">=", operator.ge),
    ast.Eq: ("==", operator.eq),
    ast.NotEq: ("!=", operator.ne),
    ast.In: ("in", lambda a, b: a in b),
    ast.NotIn: ("not in", lambda a, b: a not in b),
}
_QUOTED = re.compile(r"`([^`]*)`")


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


@dataclass(frozen=True)
class Expression:
    """A formula over named values.

    Allowed are numbers, names (in backticks when they are no identifiers), ``+ - * / % **``,
    comparisons, ``and or not``, ``in [..]``, ``a if b else c`` and the functions abs, exp, log,
    max, min and sqrt.

    Attributes:
        text: As the user wrote it.
        names: The names it needs.

    Example:
        >>> cost = Expression.parse("1.25 * throughput / `p99(ms)`")
        >>> str(cost)
        '((1.25 * throughput) / `p99(ms)`)'
        >>> cost({"throughput": 8.0, "p99(ms)": 2.0})
        5.0
    """

    text: str
    names: frozenset[str]
    _tree: ast.expr
    _quoted: Mapping[str, str]

    @classmethod
    def parse(cls, text: str, *, strings: bool = False) -> Expression:
        """Return the expression that ``text`` says.

        Args:
            text: The formula.
            strings: Allow text values, as conditions on parameters need them.

        Raises:
            ExpressionError: It is no formula; ``problems[0].column`` says where, from 1.
        """
        if len(text) > MAX_LENGTH:
            raise _error(text, 0, f"longer than {MAX_LENGTH} characters")
        source, quoted = _unquote(text)
        try:
            # Brackets, so that a formula may run over several lines.
            tree = ast.parse(f"({source}\n)", mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            column = max(0, (getattr(error, "offset", None) or 1) - 2)
            raise _error(text, min(column, len(text)), "not a formula") from None
        names: set[str] = set()
        try:
            _check(tree, text, names, strings)
        except RecursionError:
            raise _error(text, 0, "nested too deeply") from None
        return cls(text, frozenset(quoted.get(name, name) for name in names), tree, quoted)

    @classmethod
    def name(cls, name: str) -> Expression:
        """Return the expression that is nothing but a name, whatever its characters."""
        if "`" in name:
            raise _error(name, name.index("`"), "a name cannot hold a backtick")
        plain = name.isidentifier() and not keyword.iskeyword(name) and name not in _FUNCTIONS
        tree = ast.Name(name if plain else "_")
        return cls(name, frozenset({name}), tree, {} if plain else {"_": name})

    @property
    def is_name(self) -> bool:
        """Whether it is nothing but a name."""
        return isinstance(self._tree, ast.Name)

    def comparison(self) -> tuple[Expression, str, Expression] | None:
        """Return left side, operator and right side if it is one comparison, else None."""
        tree = self._tree
        if not isinstance(tree, ast.Compare) or len(tree.ops) != 1:
            return None
        sign = _COMPARE[type(tree.ops[0])][0]
        return self._part(tree.left), sign, self._part(tree.comparators[0])

    def _part(self, tree: ast.expr) -> Expression:
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        names -= _FUNCTIONS.keys()
        part = Expression("", frozenset(self._quoted.get(n, n) for n in names), tree, self._quoted)
        return Expression(str(part), part.names, tree, self._quoted)

    def __call__(self, values: Mapping[str, Any]) -> Any:
        """Return its value.

        Raises:
            MissingName: A name has no value.
            ExpressionValueError: A division by zero, a logarithm of nothing, an overflow, or a
                value that is no number where one is needed.
        """
        try:
            return _evaluate(self._tree, values, self._quoted)
        except ExpressionValueError:
            raise
        except (ArithmeticError, ValueError, TypeError) as error:
            raise ExpressionValueError(f"{self.text}: {error}") from error

    def __str__(self) -> str:
        """Return the formula with all its parentheses."""
        return _show(self._tree, self._quoted)


def _unquote(text: str) -> tuple[str, dict[str, str]]:
    """Replace names in backticks by identifiers of the same length."""
    quoted: dict[str, str] = {}

    def replace(match: re.Match[str]) -> str:
        width = len(match[0])
        stand_in = f"_{len(quoted):0{max(1, width - 1)}d}"
        quoted[stand_in] = match[1]
        return stand_in

    return _QUOTED.sub(replace, text), quoted


def _error(text: str, column: int, what: str) -> ExpressionError:
    message = f"{what}; allowed are numbers, names, + - * / % **, comparisons, and/or/not, if-else "
    message += f"and the functions {', '.join(_FUNCTIONS)}"
    return ExpressionError([Problem("", message, line=1, column=column + 1, snippet=text)])


def _check(node: ast.expr, text: str, names: set[str], strings: bool) -> None:
    """Refuse every node that is not in the small language; collect the names."""

    def bad(what: str) -> ExpressionError:
        return _error(text, max(0, node.col_offset - 1), what)

    children: list[ast.expr] = []
    match node:
        case ast.Constant(value=bool() | int() | float()):
            if not math.isfinite(_as_float(node.value)):
                raise bad("a number too large")
        case ast.Constant(value=str()) if strings:
            pass
        case ast.Constant():
            raise bad(f"{node.value!r} is no number")
        case ast.Name():
            if node.id in _FUNCTIONS:
                raise bad(f"{node.id} is a function")
            names.add(node.id)
        case ast.BinOp() if type(node.op) in _BINARY:
            children = [node.left, node.right]
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() | ast.Not()):
            children = [node.operand]
        case ast.BoolOp():
            children = node.values
        case ast.IfExp():
            children = [node.test, node.body, node.orelse]
        case ast.Compare() if all(type(op) in _COMPARE for op in node.ops):
            children = [node.left, *node.comparators]
        case ast.List() | ast.Tuple():
            children = node.elts
        case ast.Call(func=ast.Name(id=name), keywords=[]) if name in _FUNCTIONS:
            _, least, most = _FUNCTIONS[name]
            if not least <= len(node.args) <= most:
                raise bad(f"{name} takes {least if least == most else f'{least} or more'} values")
            children = node.args
        case ast.Call(func=ast.Name(id=name)):
            raise bad(f"unknown function {name}{did_you_mean(name, _FUNCTIONS)}")
        case _:
            raise bad(f"{type(node).__name__.lower()} is not allowed")
    for child in children:
        _check(child, text, names, strings)


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _evaluate(node: ast.expr, values: Mapping[str, Any], quoted: Mapping[str, str]) -> Any:
    def of(child: ast.expr) -> Any:
        return _evaluate(child, values, quoted)

    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            name = quoted.get(node.id, node.id)
            if name not in values:
                raise MissingName(name, values)
            return values[name]
        case ast.BinOp():
            return _BINARY[type(node.op)][1](_number(of(node.left)), _number(of(node.right)))
        case ast.UnaryOp(op=ast.Not()):
            return not of(node.operand)
        case ast.UnaryOp():
            value = _number(of(node.operand))
            return -value if isinstance(node.op, ast.USub) else value
        case ast.BoolOp(op=ast.And()):
            return all(of(child) for child in node.values)
        case ast.BoolOp():
            return any(of(child) for child in node.values)
        case ast.IfExp():
            return of(node.body) if of(node.test) else of(node.orelse)
        case ast.Compare():
            return _compare(node, [of(child) for child in (node.left, *node.comparators)])
        case ast.List() | ast.Tuple():
            return [of(child) for child in node.elts]
        case ast.Call(func=ast.Name(id=name)):
            return _FUNCTIONS[name][0](*(_number(of(child)) for child in node.args))
    raise ExpressionValueError(f"cannot evaluate {type(node).__name__}")


def _compare(node: ast.Compare, values: list[Any]) -> bool:
    pairs = zip(node.ops, values, values[1:], strict=False)
    return all(_COMPARE[type(op)][1](left, right) for op, left, right in pairs)


def _number(value: Any) -> Any:
    if isinstance(value, int | float):
        return value
    raise ExpressionValueError(f"{value!r} is no number")


def _power(base: float, power: float) -> float:
    if abs(power) > MAX_POWER:
        raise ExpressionValueError(f"the power {power:g} is larger than {MAX_POWER:g}")
    result = float(base) ** power
    if isinstance(result, complex):
        raise ExpressionValueError(f"{base:g} ** {power:g} is not a real number")
    return float(result)


def _show(node: ast.expr, quoted: Mapping[str, str]) -> str:
    def of(child: ast.expr) -> str:
        return _show(child, quoted)

    match node:
        case ast.Name():
            return f"`{quoted[node.id]}`" if node.id in quoted else node.id
        case ast.BinOp():
            return f"({of(node.left)} {_BINARY[type(node.op)][0]} {of(node.right)})"
        case ast.UnaryOp():
            sign = {ast.USub: "-", ast.UAdd: "+", ast.Not: "not "}[type(node.op)]
            return f"({sign}{of(node.operand)})"
        case ast.BoolOp():
            word = " and " if isinstance(node.op, ast.And) else " or "
            return f"({word.join(of(child) for child in node.values)})"
        case ast.IfExp():
            return f"({of(node.body)} if {of(node.test)} else {of(node.orelse)})"
        case ast.Compare():
            signs = [_COMPARE[type(op)][0] for op in node.ops]
            rest = zip(signs, node.comparators, strict=True)
            return f"({of(node.left)} {' '.join(f'{s} {of(c)}' for s, c in rest)})"
        case ast.List() | ast.Tuple():
            return f"[{', '.join(of(child) for child in node.elts)}]"
        case ast.Call(func=ast.Name(id=name)):
            return f"{name}({', '.join(of(child) for child in node.args)})"
        case ast.Constant():
            return repr(node.value)
    return ast.unparse(node)
