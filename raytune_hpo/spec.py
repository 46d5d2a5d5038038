"""An experiment file, read: every mistake with its line and column, all at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from raytune_hpo import document, escape, fields, parameters
from raytune_hpo.document import Document, Node, Place
from raytune_hpo.errors import Problem, SpecError
from raytune_hpo.experiment import Experiment
from raytune_hpo.fields import Finding
from raytune_hpo.redact import redact
from raytune_hpo.running import looks_secret
from raytune_hpo.sections import Mlflow, ObjectiveItem

_FLAG = "--set "
_KUBERNETES = "Kubernetes objects, such as Katib's Experiment, are not supported yet"
_SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def load(path: str | Path, overrides: Iterable[str] = ()) -> Experiment:
    """Return the experiment in a file; its name is that of the file unless it says otherwise.

    Args:
        path: A YAML or JSON file.
        overrides: Values in place of those in the file, such as ``search.seed=3``.

    Raises:
        SpecError: The file cannot be read or is wrong; with all mistakes, in file order.
    """
    file = Path(path)
    try:
        with file.open("rb") as opened:
            raw = opened.read(document.MAX_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SpecError(
            f"{path}: {reason}; raytune-hpo init writes a file to start with"
        ) from error
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        if len(raw) <= document.MAX_BYTES:
            line = raw.count(b"\n", 0, error.start) + 1
            raise SpecError(f"{path}:{line}: the file is not in UTF-8") from error
        text = raw.decode("utf-8", "replace")
    return loads(text, str(path), overrides, name=fields.legal_name(file.stem))


def loads(
    text: str, source: str = "<text>", overrides: Iterable[str] = (), name: str | None = None
) -> Experiment:
    """Return the experiment in a text.

    Args:
        text: YAML or JSON.
        source: What to call the text in messages.
        overrides: Values in place of those in the text, such as ``search.seed=3``.
        name: Of the experiment, unless the text says it.

    Raises:
        SpecError: The text is wrong; with all mistakes, in the order of the text.
    """
    read, overrides = document.read(text, source), list(overrides)
    problems = [*read.problems, *_override(read, overrides)]
    if not isinstance(read.root.value, dict):
        problems.append(_locate(Finding((), _not_an_experiment(read.root)), read))
        raise SpecError(problems, source)
    if {"apiVersion", "kind"} <= read.root.value.keys():
        problems.append(_locate(Finding(("apiVersion",), _KUBERNETES, key=True), read))
        raise SpecError(problems, source)
    data = _as_written(read.root)
    if name is not None and data.get("name") is None:
        data["name"] = name
    experiment, findings = Experiment.check(data)
    problems += [_locate(finding, read) for finding in findings]
    if experiment is None or problems:
        order = {_shown(text): index for index, text in enumerate(overrides)}
        raise SpecError(sorted(problems, key=partial(_rank, order)), source)
    return experiment


def apply_overrides(data: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return data in the form of an experiment file with some values replaced.

    >>> apply_overrides({"search": {"algorithm": "tpe"}}, ["search.seed=3", "trials=5"])
    {'search': {'algorithm': 'tpe', 'seed': 3}, 'trials': 5}

    Raises:
        SpecError: An override cannot be read, or has no place.
    """
    read = Document("", [], document.from_data(data), [])
    problems = _override(read, overrides)
    if problems:
        raise SpecError(problems)
    changed: dict[str, Any] = read.root.data()
    return changed


def schema() -> dict[str, Any]:
    """Return the JSON Schema of experiment files, for editors."""
    made = Experiment.model_json_schema()
    made["$defs"] |= {
        "Goal": ObjectiveItem.model_json_schema(),
        "Mlflow": Mlflow.model_json_schema(),
        "Parameter": _parameter_schema(),
    }
    goal, of = {"$ref": "#/$defs/Goal"}, made["properties"]
    of["objective"]["anyOf"] = [goal, {"type": "array", "minItems": 1, "items": goal}]
    of["mlflow"]["anyOf"] = [{"$ref": "#/$defs/Mlflow"}, {"type": "boolean"}]
    of["parameters"]["additionalProperties"] = {"$ref": "#/$defs/Parameter"}
    return {"$schema": _SCHEMA_DIALECT, **made, "title": "raytune-hpo experiment"}


def starter() -> str:
    """Return a commented experiment file to start with."""
    return (resources.files("raytune_hpo") / "starter.yaml").read_text("utf-8")


def redacted(text: str) -> str:
    """Return the text of an experiment file without the values of secret variables in ``env``.

    Raises:
        SpecError: The text is no YAML.
    """
    text = text.removeprefix("\ufeff")
    env = document.read(text, "").root.child("env")
    entries = env.value if env is not None and isinstance(env.value, dict) else {}
    spans = [
        node.span
        for name, node in entries.items()
        if looks_secret(name) and not isinstance(node.value, (dict, list))
    ]
    for start, end in sorted(spans, reverse=True):
        newline = "\n" if text[start:end].endswith("\n") else ""
        text = f"{text[:start]}'***'{newline}{text[end:]}"
    return text


def _not_an_experiment(root: Node) -> str:
    if root.value is None:
        return "the file is empty; raytune-hpo init writes one to start with"
    wanted = "an experiment file is a mapping with run, objective and parameters"
    return f"{wanted}, not {fields.seen(root.value)}"


def _as_written(root: Node) -> dict[str, Any]:
    """Return the data of a file, with words of commands and variables as they were written.

    ``3.10`` is a number, but as the value of an environment variable it must not become ``3.1``.
    """
    data: dict[str, Any] = root.data()
    run, env = root.child("run"), root.child("env")
    if run is not None and isinstance(run.value, list):
        data["run"] = [_word(node) for node in run.value]
    if env is not None and isinstance(env.value, dict):
        data["env"] = {name: _word(node) for name, node in env.value.items()}
    return data


def _word(node: Node) -> Any:
    return node.text if isinstance(node.value, (bool, int, float)) else node.data()


def _locate(finding: Finding, read: Document) -> Problem:
    place = read.place(finding.path, key=finding.key, offset=finding.offset)
    return read.problem(fields.dotted(finding.path), finding.message, place)


def _rank(overrides: Mapping[str, int], problem: Problem) -> tuple[int, int, int]:
    """Return what to sort problems by: those of the file first, by place, then of each override."""
    return (
        0 if problem.line else 1 + overrides.get(problem.snippet, 0),
        problem.line,
        problem.column,
    )


def _shown(override: str) -> str:
    """Return an override as messages show it."""
    return escape.visible(redact(_FLAG + override))


def _override(read: Document, overrides: Iterable[str]) -> list[Problem]:
    """Put the values of overrides into a document, and return what is wrong with them."""
    problems: list[Problem] = []
    for text in overrides:
        whole = _shown(text)
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not all(key.split(".")):
            message = "an override is written field=value, such as search.seed=3"
            problems.append(Problem("", message, 0, len(_FLAG) + 1, whole))
            continue
        try:
            path = _path(read.root, key.split("."), Place(0, len(_FLAG) + 1, whole))
            column = len(_FLAG) + len(text) - len(value) + 1
            node = document.read_value(value, whole, column)
        except SpecError as error:
            problems += error.problems
            continue
        start = len(_FLAG) + len(key) - len(str(path[-1])) + 1
        read.set(path, node, Place(0, start, whole))
    return problems


def _path(root: Node, steps: list[str], place: Place) -> fields.Path:
    """Return the path that the steps of an override mean; a key may hold dots itself."""
    path: list[str | int] = []
    node: Node | None = root
    while steps:
        step, steps = _step(node, steps, path, place)
        path.append(step)
        node = None if node is None else node.child(step)
    return tuple(path)


def _step(
    node: Node | None, steps: list[str], above: list[str | int], place: Place
) -> tuple[str | int, list[str]]:
    """Return the next step of a path, and the steps after it."""
    if node is None or node.value is None:
        return steps[0], steps[1:]
    if isinstance(node.value, list):
        if steps[0].isdecimal() and int(steps[0]) < len(node.value):
            return int(steps[0]), steps[1:]
        message = f"is a list with positions 0 to {len(node.value) - 1}, not '{steps[0]}'"
        raise _misplaced(above, message, place)
    if not isinstance(node.value, dict):
        message = f"is {fields.seen(node.value)} and holds no '{steps[0]}'; set it as a whole"
        raise _misplaced(above, message, place)
    for count in range(len(steps), 0, -1):
        joined = ".".join(steps[:count])
        if joined in node.value:
            return joined, steps[count:]
    return steps[0], steps[1:]


def _misplaced(above: list[str | int], message: str, place: Place) -> SpecError:
    return SpecError(
        [Problem(fields.dotted(tuple(above)), message, 0, place.column, place.override)]
    )


def _parameter_schema() -> dict[str, Any]:
    """Return the schema of one parameter or group of parameters."""
    number, text, flag = {"type": "number"}, {"type": "string"}, {"type": "boolean"}
    plain = {"type": ["string", "number", "boolean", "null", "array"]}
    moments = {"type": "object", "required": ["mean", "sd"], "additionalProperties": False}
    moments["properties"] = {"mean": number, "sd": {**number, "exclusiveMinimum": 0}}
    prior = {"type": "object", "minProperties": 1, "maxProperties": 1}
    prior |= {
        "properties": {"normal": moments, "lognormal": moments},
        "additionalProperties": False,
    }
    values = {"type": "array", "minItems": 1, "items": plain}
    kinds: list[dict[str, dict[str, Any]]] = [
        {
            "min": number,
            "max": number,
            "log": flag,
            "step": {**number, "exclusiveMinimum": 0},
            "prior": prior,
            "type": {"enum": ["int", "float"]},
            "when": text,
        },
        {"values": values, "ordered": flag, "when": text},
        {"value": plain, "when": text},
    ]
    required = [["min", "max"], ["values"], ["value"]]
    mappings = [
        {"type": "object", "properties": kind, "required": need, "additionalProperties": False}
        for kind, need in zip(kinds, required, strict=True)
    ]
    group = {
        "type": "object",
        "minProperties": 1,
        "propertyNames": {"not": {"enum": list(parameters.KEYS)}},
        "additionalProperties": {"$ref": "#/$defs/Parameter"},
    }
    constant = {"type": ["string", "number", "boolean"]}
    return {
        "description": "A range, choices, a constant or a group.",
        "anyOf": [*mappings, constant, group],
    }
