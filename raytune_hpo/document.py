"""YAML 1.2 text as plain values that know where they were written.

PyYAML reads YAML 1.1 and keeps silent about doubtful input. This module takes its event stream
only, resolves scalars by the core schema of YAML 1.2, and refuses tags, duplicate keys and
documents that are too large, too deep or that multiply through aliases.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from raytune_hpo import escape
from raytune_hpo.errors import Problem, SpecError

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_ALIAS_NODES = 1000
MAX_NODES = 50_000
_MAX_DIGITS = 400
_MAX_CARET_COLUMN = 200
_MAX_SNIPPET = 240

Path = tuple[str | int, ...]

_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_OCTAL = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_PASSWORD = re.compile(r"(://[^\s/:@]*:)[^\s/@]+@")
_WORDS: dict[str, bool | float | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_HINTS = (
    ("character '\\t'", "a tab cannot indent or separate here; use spaces"),
    ("that cannot start any token", "put the text in quotes"),
    ("mapping values are not allowed", "put a text that contains ': ' in quotes"),
    ("expected ',' or", "inside { } and [ ] put a text with one of , : [ ] { } in quotes"),
    ("could not find expected ':'", "a key is followed by ': '"),
    ("expected <block end>", "entries of one level start in the same column"),
)


@dataclass(frozen=True)
class Place:
    """Where something was written.

    Attributes:
        line: From 1.
        column: From 1, in characters.
        override: The whole override it came from, such as ``--set trials=5``; empty for the file.
    """

    line: int
    column: int
    override: str = ""


@dataclass(frozen=True)
class Node:
    """One value of a document.

    Attributes:
        place: Where the value starts.
        value: A scalar, a ``dict[str, Node]`` or a ``list[Node]``.
        text: A scalar as it was written, without quotes.
        inner: Where the first character of ``text`` stands, when ``text`` is in one line and
            needed no escapes, so that columns can be counted in it; else None.
        keys: Where each key of a mapping stands.
        size: Number of nodes, this one included, with aliases counted as what they stand for.
        span: First and last index of a scalar in the text of the file, as for a slice.
    """

    place: Place
    value: Any
    text: str = ""
    inner: Place | None = None
    keys: dict[str, Place] = field(default_factory=dict)
    size: int = 1
    span: tuple[int, int] = (0, 0)

    def data(self) -> Any:
        """Return the plain value: dict, list or scalar."""
        if isinstance(self.value, dict):
            return {key: child.data() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.data() for child in self.value]
        return self.value

    def child(self, step: str | int) -> Node | None:
        """Return the entry of a mapping or list, or None."""
        if isinstance(self.value, dict):
            found = self.value.get(step)
            return found if isinstance(found, Node) else None
        if isinstance(self.value, list) and isinstance(step, int) and 0 <= step < len(self.value):
            entry = self.value[step]
            return entry if isinstance(entry, Node) else None
        return None


class Document:
    """A file that was read.

    Attributes:
        source: Its name for messages.
        root: The top of the tree.
        problems: What was wrong with the text although it could be read: duplicates, tags.
    """

    def __init__(self, source: str, lines: Sequence[str], root: Node, problems: list[Problem]):
        self.source = source
        self.lines = lines
        self.root = root
        self.problems = problems

    def problem(self, path: str, message: str, place: Place) -> Problem:
        """Return a problem at a place, with its source line."""
        path, message = escape.visible(path), escape.visible(message)
        if place.override:
            return Problem(path, message, 0, place.column, escape.visible(place.override))
        line = self.lines[place.line - 1] if place.line <= len(self.lines) else ""
        return Problem(path, message, place.line, place.column, _snippet(line, place.column))

    def find(self, path: Path) -> Node:
        """Return the node at a path, or the nearest existing one above it."""
        node = self.root
        for step in path:
            child = node.child(step)
            if child is None:
                return node
            node = child
        return node

    def place(self, path: Path, *, key: bool = False, offset: int = 0) -> Place:
        """Return where a value, its key, or a character of a scalar stands.

        Args:
            path: Keys and list positions from the top.
            key: Whether the key is meant.
            offset: Column within the scalar, from 1; 0 for its start.
        """
        if key and path:
            parent = self.find(path[:-1])
            if path[-1] in parent.keys:
                return parent.keys[str(path[-1])]
        node = self.find(path)
        if offset and node.inner is not None:
            return replace(node.inner, column=node.inner.column + offset - 1)
        return node.place

    def set(self, path: Path, node: Node, key: Place) -> None:
        """Put a node at a path; mappings on the way are made as needed."""
        self.root = _with(self.root, path, node, key)


def read(text: str, source: str) -> Document:
    """Return a YAML document.

    Raises:
        SpecError: The text is no YAML, or beyond the limits on size, depth and aliases.
    """
    text = text.removeprefix("\ufeff")
    lines = _BREAK.split(text)
    if len(text) > MAX_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise SpecError(f"{source}: the file is larger than 1 MiB", source)
    builder = _Builder(source, lines)
    try:
        events = yaml.parse(_untab(text), Loader=yaml.SafeLoader)
        return builder.document(events)
    except yaml.reader.ReaderError as error:
        before = _BREAK.split(text[: error.position])
        place = Place(len(before), len(before[-1]) + 1)
        raise builder.error("the file contains a control character", place) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(1, 1) if mark is None else _place(mark)
        raise builder.error(_explain(error), place) from error


def from_data(value: Any) -> Node:
    """Return plain values as a node that stands nowhere."""
    nowhere = Place(0, 0)
    if isinstance(value, Mapping):
        return Node(nowhere, {str(key): from_data(entry) for key, entry in value.items()})
    if isinstance(value, (list, tuple)):
        return Node(nowhere, [from_data(entry) for entry in value])
    return Node(nowhere, value, str(value))


def read_value(text: str, override: str, column: int) -> Node:
    """Return the value of an override as a node, such as the ``5`` of ``--set trials=5``.

    Args:
        text: The value, in YAML.
        override: The whole override, for messages.
        column: Where the value starts in the override, from 1.

    Raises:
        SpecError: The value is no YAML.
    """
    try:
        document = read(text, "")
    except SpecError as error:
        problems = error.problems
    else:
        problems = tuple(document.problems)
        if not problems:
            return _shift(document.root, override, column)
    first = problems[0]
    place = first.column + column - 1 if first.line == 1 else column
    raise SpecError([Problem("", first.message, 0, place, override)])


def scalar(text: str) -> Any:
    """Return what a plain scalar means by the core schema of YAML 1.2.

    Numbers with leading zeros, such as ``010``, stay text: they are versions, codes or file modes
    more often than numbers.

    >>> [scalar(t) for t in ("1e-4", "on", "010", "12:30", "true", "0x1F", "")]
    [0.0001, 'on', '010', '12:30', True, 31, None]
    """
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > _MAX_DIGITS:
        return text
    if _DECIMAL.fullmatch(text):
        return int(text)
    if _OCTAL.fullmatch(text):
        return int(text[2:], 8)
    if _HEX.fullmatch(text):
        return int(text[2:], 16)
    return float(text) if _FLOAT.fullmatch(text) else text


class _Builder:
    """Builds the nodes of one document from PyYAML's events."""

    def __init__(self, source: str, lines: Sequence[str]) -> None:
        self.source = source
        self.lines = lines
        self.problems: list[Problem] = []
        self.anchors: dict[str, Node] = {}
        self.alias_nodes = 0
        self.nodes = 0

    def error(self, message: str, place: Place) -> SpecError:
        """Return an error that ends the reading."""
        return SpecError([*self.problems, self.problem(message, place)], self.source)

    def problem(self, message: str, place: Place, path: str = "") -> Problem:
        line = self.lines[place.line - 1] if place.line <= len(self.lines) else ""
        shown = escape.visible(message)
        return Problem(path, shown, place.line, place.column, _snippet(line, place.column))

    def document(self, events: Iterator[yaml.Event]) -> Document:
        """Return the one document of a stream."""
        root: Node | None = None
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent) and root is not None:
                raise self.error("a file holds one document only", _place(event.start_mark))
            if isinstance(event, yaml.NodeEvent):
                root = self.node(event, events, 1)
        if root is None or root.value is None:
            root = Node(Place(1, 1), None)
        return Document(self.source, self.lines, root, self.problems)

    def node(self, event: yaml.Event, events: Iterator[yaml.Event], depth: int) -> Node:
        """Return the node that begins with an event, taking what belongs to it."""
        place = _place(event.start_mark)
        if depth > MAX_DEPTH:
            raise self.error(f"the file is nested deeper than {MAX_DEPTH} levels", place)
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise self.error(f"the file holds more than {MAX_NODES} values", place)
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event, place)
        if getattr(event, "tag", None) is not None:
            self.problems.append(self.problem("YAML tags (with !) are not allowed", place))
        if isinstance(event, yaml.ScalarEvent):
            node = self.scalar(event, place)
        elif isinstance(event, yaml.MappingStartEvent):
            node = self.mapping(place, events, depth)
        else:
            node = self.sequence(place, events, depth)
        anchor = getattr(event, "anchor", None)
        if anchor is not None:
            self.anchors[anchor] = node
        return node

    def alias(self, event: yaml.AliasEvent, place: Place) -> Node:
        if event.anchor not in self.anchors:
            raise self.error(f"there is no anchor &{event.anchor} before this alias", place)
        node = self.anchors[event.anchor]
        self.alias_nodes += node.size
        if self.alias_nodes > MAX_ALIAS_NODES:
            message = f"aliases multiply the file by more than {MAX_ALIAS_NODES} values"
            raise self.error(message, place)
        return node

    def scalar(self, event: yaml.ScalarEvent, place: Place) -> Node:
        text = event.value
        if any("\ud800" <= char <= "\udfff" for char in text):
            text = self.joined(text, place)
        value = text if event.style or event.tag is not None else scalar(text)
        line = self.lines[place.line - 1] if place.line <= len(self.lines) else ""
        start = place.column + (1 if event.style in ("'", '"') else 0)
        written = line[start - 1 : start - 1 + len(text)] == text
        return Node(
            place,
            value,
            text,
            inner=replace(place, column=start) if written else None,
            span=_span(event.start_mark, event.end_mark),
        )

    def joined(self, text: str, place: Place) -> str:
        """Return a text whose surrogate pairs, written as JSON writes them, are joined."""
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError as error:
            raise self.error("half of a surrogate pair is no character", place) from error

    def mapping(self, place: Place, events: Iterator[yaml.Event], depth: int) -> Node:
        children: dict[str, Node] = {}
        keys: dict[str, Place] = {}
        size = 1
        for event in events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            where = _place(event.start_mark)
            key = self.node(event, events, depth + 1)
            child = self.node(next(events), events, depth + 1)
            size += key.size + child.size
            if self.usable(key, where, keys):
                children[key.text] = child
                keys[key.text] = where
        return Node(place, children, keys=keys, size=size)

    def usable(self, key: Node, where: Place, seen: dict[str, Place]) -> bool:
        """Return whether a key may be kept, and note what is wrong otherwise."""
        message = ""
        if isinstance(key.value, (dict, list)):
            message = "a key must be a text"
        elif key.text == "<<":
            message = "merge keys (<<) are not part of YAML 1.2; write the entries out"
        elif key.text in seen:
            first = seen[key.text]
            message = (
                f"the key '{key.text}' is there twice: first at line {first.line}, "
                f"column {first.column}"
            )
        if message:
            self.problems.append(self.problem(message, where))
        return not message

    def sequence(self, place: Place, events: Iterator[yaml.Event], depth: int) -> Node:
        children: list[Node] = []
        for event in events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            children.append(self.node(event, events, depth + 1))
        return Node(place, children, size=1 + sum(child.size for child in children))


def _place(mark: Any) -> Place:
    """Return the place of a mark, which every event and error of a text has."""
    return Place(mark.line + 1, mark.column + 1)


def _span(start: Any, end: Any) -> tuple[int, int]:
    return start.index, end.index


def _explain(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or error.context or "it cannot be read"
    hint = next((hint for word, hint in _HINTS if word in problem), "")
    return f"this is not valid YAML: {problem}" + (f"; {hint}" if hint else "")


def _untab(text: str) -> str:
    """Return JSON with spaces for tabs, which PyYAML does not take between tokens.

    A tab in valid JSON is never part of a string.
    """
    if "\t" not in text or not text.lstrip().startswith("{"):
        return text
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return text
    return text.replace("\t", " ")


def _snippet(line: str, column: int) -> str:
    """Return the part of a source line to show, without passwords; empty if the caret is far."""
    if column > _MAX_CARET_COLUMN:
        return ""
    shown = "".join(char if char.isprintable() else " " for char in line)
    shown = _PASSWORD.sub(r"\1***@", shown).rstrip()
    return shown if len(shown) <= _MAX_SNIPPET else shown[: _MAX_SNIPPET - 3] + "..."


def _shift(node: Node, override: str, column: int) -> Node:
    """Return a node read from the value of an override, placed in the whole override."""

    def moved(place: Place) -> Place:
        return Place(0, place.column + column - 1 if place.line == 1 else column, override)

    value = node.value
    if isinstance(value, dict):
        value = {key: _shift(child, override, column) for key, child in value.items()}
    elif isinstance(value, list):
        value = [_shift(child, override, column) for child in value]
    return replace(
        node,
        place=moved(node.place),
        value=value,
        inner=None if node.inner is None else moved(node.inner),
        keys={key: moved(place) for key, place in node.keys.items()},
    )


def _with(node: Node, path: Path, leaf: Node, key: Place) -> Node:
    """Return a copy of a node in which ``leaf`` stands at ``path``."""
    if not path:
        return leaf
    step, rest = path[0], path[1:]
    below = node.child(step)
    child = _with(below or Node(leaf.place, {}), rest, leaf, key)
    if isinstance(node.value, list) and isinstance(step, int):
        return replace(node, value=[*node.value[:step], child, *node.value[step + 1 :]])
    children = node.value if isinstance(node.value, dict) else {}
    keys = node.keys if below is not None and rest else {**node.keys, str(step): key}
    return replace(node, value={**children, str(step): child}, keys=keys)
