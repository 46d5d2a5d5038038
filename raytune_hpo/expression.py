"""Expressions over metrics and parameters; nothing is ever evaluated as Python."""

from __future__ import annotations

import ast
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from raytune_hpo._formula import (
    FUNCTIONS,
    MAX_POWER,
    ExpressionValueError,
    Kind,
    MissingName,
    Node,
    evaluate,
    is_plain,
    show,
)
from raytune_hpo.errors import ExpressionError, Problem, did_you_mean

MAX_LENGTH = 2000
MAX_DEPTH = 100

_BINARY: Mapping[type[ast.operator], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.Mod: "%",
    ast.Pow: "**",
}
_COMPARE: Mapping[type[ast.cmpop], str] = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.In: "in",
    ast.NotIn: "not in",
}
_WORDS: Mapping[str, bool | None] = {"true": True, "false": False, "null": None}
"""Values as YAML writes them."""
_TEXT = r"'[^'\\]*'|\"[^\"\\]*\""
_SLIPS = (
    (re.compile(r"[`#\\;\0]"), ""),
    (re.compile(r"=<|=>"), "write <= or >="),
    (re.compile(r"(?<![=<>!])=(?!=)"), "write == to compare"),
    (re.compile(r"&+"), "write and"),
    (re.compile(r"\|+"), "write or"),
    (re.compile(r"!(?!=)"), "write not"),
    (re.compile(r"\^"), "write ** for a power"),
    (re.compile(r"[≤≥≠]"), "write <=, >= or !="),
)
_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_WANTED: Mapping[Kind, str] = {"truth": "true or false", "text": "a text", "number": "a number"}


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
    _tree: Node = field(repr=False)

    @classmethod
    def parse(
        cls, text: str, *, strings: bool = False, truth: bool = False, known: Iterable[str] = ()
    ) -> Expression:
        """Return the expression that ``text`` says.

        Args:
            text: The formula.
            strings: Read a condition: it is true or false, texts are allowed, and a name may
                stand for anything.
            truth: Allow that it is true or false and not a number.
            known: Names that are no identifiers and are recognised without backticks too.

        Raises:
            ExpressionError: It is no formula; ``problems[0].column`` says where, from 1.
        """
        if len(text) > MAX_LENGTH:
            raise _error(text, 0, f"longer than {MAX_LENGTH} characters")
        source, quoted = _unquote(text, known)
        tree = _Builder(text, source, quoted, strings).build(_python_tree(source, text), 0)
        names = frozenset(_names(tree))
        if not strings and not names:
            raise _error(text, 0, "names no metric")
        good: set[Kind] = (
            {"any", "truth"} if strings else {"number", "truth" if truth else "number"}
        )
        if tree.kind not in good:
            raise _error(text, 0, f"does not give {_WANTED['truth' if strings else 'number']}")
        return cls(text, names, tree)

    @classmethod
    def name(cls, name: str) -> Expression:
        """Return the expression that is nothing but a name, whatever its characters.

        Raises:
            ExpressionError: The name is empty or has a backtick.
        """
        if not name.strip() or "`" in name:
            raise _error(name, 0, "a name is a text without backticks")
        return cls(name, frozenset({name}), Node("name", "number", detail=name))

    @property
    def is_name(self) -> bool:
        """Whether it is nothing but a name."""
        return self._tree.sign == "name"

    def comparison(self) -> tuple[Expression, str, Expression] | None:
        """Return left side, operator and right side if it is one comparison, else None."""
        if self._tree.sign != "compare" or len(self._tree.detail) != 1:
            return None
        left, right = (
            Expression(show(part), frozenset(_names(part)), part) for part in self._tree.parts
        )
        return left, self._tree.detail[0], right

    def __call__(self, values: Mapping[str, Any]) -> Any:
        """Return its value.

        Raises:
            MissingName: A name has no value.
            ExpressionValueError: A division by zero, a logarithm of nothing, an overflow, or a
                value that is no number where one is needed.
        """
        try:
            return evaluate(self._tree, values)
        except MissingName:
            raise
        except (ArithmeticError, ValueError) as error:
            raise ExpressionValueError(f"{self.text}: {error}") from error

    def __str__(self) -> str:
        """Return the formula with all its parentheses."""
        return show(self._tree)


def _error(text: str, column: int, what: str) -> ExpressionError:
    message = f"{what}; allowed are numbers, names, + - * / % **, comparisons, and/or/not, if-else "
    message += f"and the functions {', '.join(FUNCTIONS)}"
    return ExpressionError([Problem("", message, line=1, column=column + 1, snippet=text)])


def _names(node: Node) -> Iterator[str]:
    if node.sign == "name":
        yield node.detail
    for part in node.parts:
        yield from _names(part)


def _unquote(text: str, known: Iterable[str]) -> tuple[str, dict[int, str]]:
    """Put identifiers of the same length in place of names that are none.

    Returns:
        The source, and by the place of each stand-in the name that is meant.
    """
    quoted: dict[int, str] = {}
    special = sorted((name for name in known if not is_plain(name)), key=len, reverse=True)
    words = "|".join(map(re.escape, special)) or "(?!)"
    pattern = rf"{_TEXT}|`(?P<name>[^`]+)`|(?<![\w.])(?P<word>{words})(?![\w.(])"

    def replace(match: re.Match[str]) -> str:
        name = match["name"] or match["word"]
        if name is None:
            return match[0]
        quoted[match.start()] = name
        return "_" * len(match[0])

    source = re.sub(pattern, replace, text)
    bare = re.sub(_TEXT, lambda match: " " * len(match[0]), source)
    for slip, hint in _SLIPS:
        if found := slip.search(bare):
            what = f"{found[0]!r} is not allowed{': ' * bool(hint)}{hint}"
            raise _error(text, found.start(), what)
    return re.sub(r"\s", " ", source), quoted


def _python_tree(source: str, text: str) -> ast.expr:
    """Return Python's syntax tree, whose places count in UTF-8 bytes after leading spaces."""
    indent = len(source) - len(source.lstrip())
    try:
        with warnings.catch_warnings():
            # What Python has doubts about, such as 0xfor, is not taken either.
            warnings.simplefilter("error")
            return ast.parse(source.strip(), mode="eval").body
    except (SyntaxError, ValueError, Warning, RecursionError, MemoryError) as error:
        offset = getattr(error, "offset", None) or len(source.strip())
        place = max(indent + offset - 1, 0)
        raise _error(text, min(place, max(len(text) - 1, 0)), "not a formula") from None


@dataclass(frozen=True)
class _Builder:
    """Makes nodes of Python's syntax tree and refuses what is not in the small language.

    Attributes:
        text: As the user wrote it.
        source: The same with stand-ins for quoted names.
        quoted: What the stand-ins stand for, by their place.
        strings: Whether texts are allowed and names may stand for anything.
    """

    text: str
    source: str
    quoted: Mapping[int, str]
    strings: bool

    def build(self, tree: ast.expr, depth: int) -> Node:
        """Return the node of a part of the tree."""
        if depth > MAX_DEPTH:
            raise self.bad(tree, f"nested more than {MAX_DEPTH} levels deep")
        depth += 1
        match tree:
            case ast.Constant():
                return self.constant(tree)
            case ast.Name() | ast.Attribute():
                return self.name(tree)
            case ast.BinOp() if type(tree.op) in _BINARY:
                parts = self.all_of("number", (tree.left, tree.right), depth)
                return Node(_BINARY[type(tree.op)], "number", parts)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
                sign = "-x" if isinstance(tree.op, ast.USub) else "+x"
                return Node(sign, "number", self.all_of("number", (tree.operand,), depth))
            case ast.UnaryOp(op=ast.Not()):
                return Node("not", "truth", self.all_of("truth", (tree.operand,), depth))
            case ast.BoolOp():
                sign = "and" if isinstance(tree.op, ast.And) else "or"
                return Node(sign, "truth", self.all_of("truth", tree.values, depth))
            case ast.IfExp():
                return self.choice(tree, depth)
            case ast.Compare():
                return self.comparison(tree, depth)
            case ast.Call():
                return self.call(tree, depth)
        raise self.bad(tree, f"{type(tree).__name__.lower()} is not allowed")

    def place(self, offset: int) -> int:
        """Return the character at a byte offset of Python's, from 0."""
        body = self.source.lstrip()
        return len(self.source) - len(body) + len(body.encode()[:offset].decode())

    def bad(self, tree: ast.expr, what: str) -> ExpressionError:
        return _error(self.text, self.place(tree.col_offset), what)

    def all_of(self, kind: Kind, trees: Iterable[ast.expr], depth: int) -> tuple[Node, ...]:
        """Return the nodes of parts that have to give one kind."""
        return tuple(self.one(kind, tree, depth) for tree in trees)

    def one(self, kind: Kind, tree: ast.expr, depth: int) -> Node:
        node = self.build(tree, depth)
        if "any" not in (kind, node.kind) and node.kind != kind:
            raise self.bad(tree, f"{show(node)} is not {_WANTED[kind]}")
        return node

    def constant(self, tree: ast.Constant) -> Node:
        value = tree.value
        if self.strings and (value is None or isinstance(value, str | bool)):
            return _value(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.bad(tree, f"{value!r} is no number")
        if not math.isfinite(_as_float(value)):
            raise self.bad(tree, "a number too large")
        return _value(value)

    def name(self, tree: ast.Name | ast.Attribute) -> Node:
        """Return a name as it was written: Python's parser changes some letters."""
        begin, end = self.place(tree.col_offset), self.place(tree.end_col_offset or 0)
        name = self.quoted.get(begin) if isinstance(tree, ast.Name) else None
        if name is None:
            name = self.source[begin:end]
            if not _NAME.fullmatch(name) or any(begin <= place < end for place in self.quoted):
                raise self.bad(tree, "attribute is not allowed")
            if name in FUNCTIONS:
                raise self.bad(tree, f"{name} is a function; put a name like it in backticks")
            if self.strings and name in _WORDS:
                return _value(_WORDS[name])
        return Node("name", "any" if self.strings else "number", detail=name)

    def choice(self, tree: ast.IfExp, depth: int) -> Node:
        test = self.one("truth", tree.test, depth)
        then = self.build(tree.body, depth)
        other = self.one(then.kind, tree.orelse, depth)
        kind = other.kind if then.kind == "any" else then.kind
        return Node("if", kind, (then, test, other))

    def comparison(self, tree: ast.Compare, depth: int) -> Node:
        signs = []
        for op, right in zip(tree.ops, tree.comparators, strict=True):
            if type(op) not in _COMPARE:
                raise self.bad(right, "is has no meaning here: write ==")
            signs.append(_COMPARE[type(op)])
        free = self.strings and set(signs) <= {"==", "!=", "in", "not in"}
        parts = [self.one("any" if free else "number", tree.left, depth)]
        for sign, right in zip(signs, tree.comparators, strict=True):
            if sign in ("in", "not in"):
                parts.append(self.listed(right, depth))
            else:
                parts.append(self.one("any" if free else "number", right, depth))
        if len(signs) > 1 and any(part.kind == "list" for part in parts[:-1]):
            raise self.bad(tree, "nothing can be compared with a list; write and")
        return Node("compare", "truth", tuple(parts), tuple(signs))

    def listed(self, tree: ast.expr, depth: int) -> Node:
        """Return the list that ``in`` looks into."""
        if not isinstance(tree, ast.List | ast.Tuple):
            raise self.bad(tree, "in needs a list, such as in [1, 2]")
        kind: Kind = "any" if self.strings else "number"
        return Node("list", "list", self.all_of(kind, tree.elts, depth))

    def call(self, tree: ast.Call, depth: int) -> Node:
        if not isinstance(tree.func, ast.Name) or self.place(tree.func.col_offset) in self.quoted:
            raise self.bad(tree, "only functions can be called")
        name = tree.func.id
        if name not in FUNCTIONS:
            near = did_you_mean(name, FUNCTIONS) or "; a name with brackets goes in backticks"
            raise self.bad(tree, f"unknown function {name}{near}")
        _, least, most = FUNCTIONS[name]
        if tree.keywords or not least <= len(tree.args) <= most:
            count = str(least) if least == most else f"{least} or more"
            raise self.bad(tree, f"{name} takes {count} number{'s' * (count != '1')}")
        return Node("call", "number", self.all_of("number", tree.args, depth), name)


def _value(value: Any) -> Node:
    kinds: Mapping[type, Kind] = {bool: "truth", str: "text", int: "number", float: "number"}
    return Node("value", kinds.get(type(value), "any"), detail=value)


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


__all__ = [
    "MAX_DEPTH",
    "MAX_LENGTH",
    "MAX_POWER",
    "Expression",
    "ExpressionValueError",
    "MissingName",
]
