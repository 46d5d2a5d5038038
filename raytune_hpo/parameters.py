"""The ``parameters`` field of an experiment: what people write, as search space, and back."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

from pydantic_core import PydanticCustomError

from raytune_hpo import fields
from raytune_hpo.errors import SpaceError, did_you_mean
from raytune_hpo.fields import Finding, Path, seen
from raytune_hpo.space import (
    Choice,
    Constant,
    Float,
    Int,
    LogNormal,
    Normal,
    Ordinal,
    Parameter,
    Prior,
    SearchSpace,
)

RANGE_KEYS = ("min", "max", "log", "step", "prior", "type", "when")
VALUES_KEYS = ("values", "ordered", "when")
VALUE_KEYS = ("value", "when")
KEYS = tuple(dict.fromkeys((*RANGE_KEYS, *VALUES_KEYS, *VALUE_KEYS)))

_FOREIGN = {
    "distribution": "leave it out: the bounds and values say it, with log, step and prior",
    "low": "write min",
    "lower": "write min",
    "minimum": "write min",
    "high": "write max",
    "upper": "write max",
    "maximum": "write max",
    "choices": "write values",
    "options": "write values",
    "list": "write values",
    "feasibleSpace": "write its min, max, step or values here",
    "q": "write step",
    "mu": "write prior: {normal: {mean: ..., sd: ...}}",
    "sigma": "write prior: {normal: {mean: ..., sd: ...}}",
    "probabilities": "it is not supported yet",
    "default": "write it under search.initial or baseline",
    "log_scale": "write log",
    "scale": "write log: true",
    "condition": "write when",
    "if": "write when",
}
_TELLING = frozenset(
    ("distribution", "low", "high", "lower", "upper", "minimum", "maximum", "choices")
)
_PRIORS: Mapping[str, type[Normal] | type[LogNormal]] = {"normal": Normal, "lognormal": LogNormal}
_NAME = re.compile(r"[A-Za-z_][\w-]*(\.[\w-]+)*")
_TYPES = fields.one_of(
    "int", "float", hints={"integer": "write int", "double": "write float", "real": "write float"}
)
# How this module names what the file calls otherwise.
_FIELDS = {"low": "min", "high": "max"}


@dataclass(frozen=True)
class Parsed:
    """What was made of the ``parameters`` field.

    Attributes:
        names: Of all parameters, dotted, wrong ones too.
        good: The parameters that can be read.
        findings: Everything that is wrong.
        space: The search space, or None when something is wrong.
    """

    names: tuple[str, ...] = ()
    good: Mapping[str, Parameter] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    space: SearchSpace | None = None


def parse(raw: Any) -> Parsed:
    """Return what the file's ``parameters`` stand for.

    Args:
        raw: Mapping of names to parameters as the file writes them, to objects such as ``Float``,
            or to further mappings.
    """
    if not isinstance(raw, Mapping):
        found = Finding((), f"must be a mapping of names to parameters, not {seen(raw)}")
        return Parsed(findings=(found,))
    if not raw:
        return Parsed(findings=(Finding((), "must name at least one parameter"),))
    good: dict[str, Parameter] = {}
    findings: list[Finding] = []
    origins: dict[str, Path] = {}
    objects: set[str] = set()
    for path, value in leaves(raw):
        name = ".".join(str(step) for step in path)
        misnamed = _misnamed(name, origins)
        if misnamed:
            findings.append(Finding(path, misnamed, key=True))
            continue
        origins[name] = path
        results = list(_read(value))
        made = results[-1]
        if isinstance(made, Finding):
            findings += [wrong.under(*path) for wrong in results if isinstance(wrong, Finding)]
        else:
            good[name] = made
        if value is made:
            objects.add(name)
    space, wrong_space = _space(good, origins, objects)
    findings += wrong_space
    return Parsed(tuple(origins), good, tuple(findings), None if findings else space)


def _misnamed(name: str, others: Iterable[str]) -> str:
    """Return what is wrong with a name, or an empty text."""
    if not _NAME.fullmatch(name):
        return "a name is made of letters, digits, _, - and dots, beginning with a letter or _"
    if name in others:
        return f"the parameter '{name}' is there twice"
    inside = [o for o in others if o.startswith(f"{name}.") or name.startswith(f"{o}.")]
    return f"'{name}' and '{inside[0]}' cannot both be parameters" if inside else ""


def leaves(raw: Mapping[Any, Any], above: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Return each parameter of a nested mapping with its path."""
    for key, value in raw.items():
        path = (*above, str(key))
        if isinstance(value, Mapping) and value and not _is_parameter(value):
            yield from leaves(value, path)
        else:
            yield path, value


def to_json(parameter: Parameter) -> dict[str, Any]:
    """Return a parameter as the file writes it."""
    if isinstance(parameter, Constant):
        written: dict[str, Any] = {"value": parameter.value}
    elif isinstance(parameter, (Choice, Ordinal)):
        values = [list(v) if isinstance(v, tuple) else v for v in parameter.values]
        written = {"values": values}
        if isinstance(parameter, Ordinal):
            written["ordered"] = True
    else:
        written = _range_to_json(parameter)
    if parameter.when is not None:
        written["when"] = parameter.when
    return written


def _range_to_json(parameter: Float | Int) -> dict[str, Any]:
    kind = "int" if isinstance(parameter, Int) else "float"
    written: dict[str, Any] = {"type": kind, "min": parameter.low, "max": parameter.high}
    if parameter.log:
        written["log"] = True
    if parameter.step is not None:
        written["step"] = parameter.step
    if parameter.prior is not None:
        word = next(word for word, kind in _PRIORS.items() if type(parameter.prior) is kind)
        written["prior"] = {word: {"mean": parameter.prior.mean, "sd": parameter.prior.sd}}
    return written


def _is_parameter(value: Mapping[Any, Any]) -> bool:
    """Return whether a mapping describes one parameter and not a group of them.

    A misspelt key counts when it cannot be meant as a constant, or when there are two.
    """
    flat = {str(key): entry for key, entry in value.items() if not isinstance(entry, Mapping)}
    if any(key in KEYS or key in _TELLING for key in flat):
        return True
    if "prior" in value:
        return True
    near = [key for key in flat if get_close_matches(key, KEYS, n=1)]
    return len(near) > 1 or any(isinstance(flat[key], (list, tuple)) for key in near)


def _read(value: Any) -> Iterator[Finding | Parameter]:
    """Return what is wrong with one parameter, and last the parameter if nothing is."""
    if isinstance(value, (Float, Int, Choice, Ordinal, Constant)):
        yield value
    elif value is None:
        yield Finding((), "is empty; write {min: ..., max: ...}, {values: [...]} or a value")
    elif isinstance(value, (list, tuple)):
        yield Finding((), "a list of choices is written {values: [...]}")
    elif isinstance(value, Mapping):
        yield from _read_mapping(value)
    elif isinstance(value, (str, bool, int, float)):
        yield from _Reader({"value": value}).constant()
    else:
        yield Finding((), f"cannot be a parameter: {seen(value)}")


def _read_mapping(value: Mapping[Any, Any]) -> Iterator[Finding | Parameter]:
    reader = _Reader(value)
    if "value" in value:
        yield from reader.constant()
    elif "values" in value or _means_values(value):
        yield from reader.choice()
    elif value:
        yield from reader.range()
    else:
        yield Finding((), "is empty; write {min: ..., max: ...} or {values: [...]}")


def _means_values(value: Mapping[Any, Any]) -> bool:
    """Return whether a mapping without ``values`` is meant to have them."""
    if "min" in value or "max" in value:
        return False
    return "ordered" in value or any(isinstance(v, (list, tuple)) for v in value.values())


class _Reader:
    """Reads one parameter from its mapping, collecting what is wrong."""

    def __init__(self, raw: Mapping[Any, Any]) -> None:
        self.raw = {str(key): value for key, value in raw.items()}
        self.findings: list[Finding] = []

    def constant(self) -> Iterator[Finding | Parameter]:
        self.check_keys(VALUE_KEYS, "value")
        value = self.get("value", _constant)
        when = self.get("when", fields.text)
        yield from self.result(lambda: Constant(value, when=when))

    def choice(self) -> Iterator[Finding | Parameter]:
        self.check_keys(VALUES_KEYS, "values")
        values = self.get("values", _values)
        if "values" not in self.raw:
            self.missing("values", [key for key in self.raw if key not in KEYS])
        ordered = self.get("ordered", fields.flag)
        when = self.get("when", fields.text)
        kind = Ordinal if ordered else Choice
        yield from self.result(lambda: kind(tuple(values or ()), when=when))

    def range(self) -> Iterator[Finding | Parameter]:
        self.check_keys(RANGE_KEYS, "min and max")
        foreign = [key for key in self.raw if key not in KEYS]
        low, high = (self.get(key, fields.number) for key in ("min", "max"))
        for key in ("min", "max"):
            if self.raw.get(key) is None:
                self.missing(key, foreign)
        step = self.get("step", fields.number)
        log = bool(self.get("log", fields.flag))
        prior = self.get("prior", _prior)
        when = self.get("when", fields.text)
        kind = self.get("type", _TYPES) or _kind(low, high, step)
        if kind == "int":
            low, high = self.whole("min", low), self.whole("max", high)
            step = self.whole("step", step)
            yield from self.result(lambda: Int(low, high, log, step, prior, when))
        else:
            yield from self.result(
                lambda: Float(
                    float(low), float(high), log, None if step is None else float(step), prior, when
                )
            )

    def result(self, make: Callable[[], Parameter]) -> Iterator[Finding | Parameter]:
        """Return the mistakes, or the parameter when there are none."""
        if self.findings:
            yield from self.findings
        else:
            yield make()

    def get(self, key: str, read: Callable[[Any], Any]) -> Any:
        """Return what an entry holds, or None when it is absent, empty or wrong."""
        if self.raw.get(key) is None and not (key == "value" and key in self.raw):
            return None
        try:
            return read(self.raw[key])
        except PydanticCustomError as error:
            self.findings += [finding.under(key) for finding in fields.findings_of(error)]
            return None

    def whole(self, key: str, value: Any) -> Any:
        """Return a bound or step of an int."""
        if value is None or float(value).is_integer():
            return None if value is None else int(value)
        self.findings.append(Finding((key,), f"must be a whole number, not {value:g}"))
        return None

    def missing(self, key: str, foreign: Iterable[str]) -> None:
        """Note that an entry is missing, unless a foreign word already stands for it."""
        if not any(_stands_for(word, key) for word in foreign):
            self.findings.append(Finding((), f"{key} is missing"))

    def check_keys(self, valid: tuple[str, ...], kind: str) -> None:
        """Note each key that does not belong to a parameter of this kind."""
        for key in self.raw:
            if key in valid:
                continue
            if key in KEYS:
                message = f"'{key}' does not go with {kind}"
            elif key in _FOREIGN:
                message = f"unknown key '{key}': {_FOREIGN[key]}"
            else:
                near = did_you_mean(key, KEYS)
                message = f"unknown key '{key}'{near}; valid keys: {', '.join(valid)}"
            self.findings.append(Finding((key,), message, key=True))


def _stands_for(word: str, key: str) -> bool:
    return _FOREIGN.get(word) == f"write {key}" or key in get_close_matches(word, KEYS, n=1)


def _kind(low: Any, high: Any, step: Any) -> str:
    """Return what a range without ``type`` is: an int when all its numbers are whole."""
    numbers = [value for value in (low, high, step) if value is not None]
    return "int" if all(isinstance(value, int) for value in numbers) else "float"


def _values(value: Any) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise fields.wrong(f"must be a list, not {seen(value)}")
    return fields.each(value, _constant)


def _constant(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return list(fields.each(value, _constant))
    if isinstance(value, float):
        return fields.number(value)
    if value is None or isinstance(value, (str, bool, int)):
        return value
    raise fields.wrong(
        f"must be a text, a number, true, false, null or a list of them, not {seen(value)}"
    )


def _prior(value: Any) -> Prior | None:
    wanted = "{normal: {mean: ..., sd: ...}} or {lognormal: {mean: ..., sd: ...}}"
    if value == "uniform":
        return None
    if isinstance(value, (Normal, LogNormal)):
        return value
    if not isinstance(value, Mapping) or len(value) != 1:
        raise fields.wrong(f"must be {wanted}, not {seen(value)}")
    (word, numbers), *_ = value.items()
    if word not in _PRIORS:
        found = Finding((str(word),), f"unknown prior; write {wanted}", key=True)
        raise fields.all_wrong([found])
    if not isinstance(numbers, Mapping) or set(numbers) != {"mean", "sd"}:
        raise fields.wrong(f"must be {wanted}")
    mean_sd = fields.each_of({word: numbers}, lambda entry: fields.each_of(entry, fields.number))
    return _PRIORS[word](**{key: float(entry) for key, entry in mean_sd[word].items()})


def _space(
    good: Mapping[str, Parameter], origins: Mapping[str, Path], objects: Container[str]
) -> tuple[SearchSpace | None, list[Finding]]:
    """Return the search space of the readable parameters, or what it finds wrong.

    Conditions that name an unreadable parameter cannot be judged and are left out.
    """
    failed = origins.keys() - good.keys()
    known = {
        name: replace(parameter, when=None) if _mentions(parameter.when, failed) else parameter
        for name, parameter in good.items()
    }
    if not known:
        return None, []
    try:
        return SearchSpace(known), []
    except SpaceError as error:
        return None, [
            Finding(_origin(problem.path, origins, objects), problem.message, problem.column)
            for problem in error.problems
        ]


def _mentions(condition: str | None, names: Iterable[str]) -> bool:
    return condition is not None and any(name in condition for name in names)


def _origin(path: str, origins: Mapping[str, Path], objects: Container[str]) -> Path:
    """Return where the user has what the search space calls ``path``, such as ``lr.low``."""
    for name in sorted(origins, key=len, reverse=True):
        if path == name:
            return origins[name]
        if path.startswith(f"{name}."):
            rest = path[len(name) + 1 :].split(".")
            words = {} if name in objects else _FIELDS
            return (*origins[name], *(words.get(step, step) for step in rest))
    return ()
