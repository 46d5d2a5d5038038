"""The values an experiment's fields may hold: how each is read, and what is said when wrong."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from raytune_hpo.errors import did_you_mean
from raytune_hpo.storage import place

Path = tuple[str | int, ...]

MAX_SEED = 2**32 - 1
_SHOWN = 60
_DURATION = re.compile(
    r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?"
)
_CLOCK = re.compile(r"(\d+):(\d\d)")
_SECONDS = (86400.0, 3600.0, 60.0, 1.0)
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*([kKMGTP]i?)?B?")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Finding:
    """One mistake, before its place in a file is known.

    Attributes:
        path: Keys and list positions, as the user wrote them.
        message: What is wrong, what was seen and what is right.
        offset: Column within a text value, from 1; 0 for all of it.
        key: Whether the key is wrong and not its value.
    """

    path: Path
    message: str
    offset: int = 0
    key: bool = False

    def under(self, *above: str | int) -> Finding:
        """Return the same mistake seen from further up."""
        return replace(self, path=(*above, *self.path))


def dotted(path: Path) -> str:
    """Return a path as text.

    >>> dotted(("search", "initial", 0, "lr"))
    'search.initial[0].lr'
    """
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def wrong(message: str, offset: int = 0) -> PydanticCustomError:
    """Return the error that reports one mistake to pydantic."""
    return all_wrong([Finding((), message, offset)])


def all_wrong(findings: Iterable[Finding]) -> PydanticCustomError:
    """Return the error that reports several mistakes of one field to pydantic."""
    found = list(findings)
    text = "\n".join(f"{dotted(f.path)}: {f.message}" if f.path else f.message for f in found)
    return PydanticCustomError("findings", "{text}", {"text": text, "findings": found})


def seen(value: Any) -> str:
    """Return a value as a message shows it.

    >>> seen("abc"), seen(True), seen([1, 2]), seen(None)
    ("'abc'", 'true', 'a list', 'nothing')
    """
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def text(value: Any) -> str:
    """Return a non-empty text."""
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, str):
        raise wrong("must not be empty")
    hint = "; put it in quotes" if isinstance(value, (bool, int, float)) else ""
    raise wrong(f"must be a text, not {seen(value)}{hint}")


def flag(value: Any) -> bool:
    """Return true or false."""
    if isinstance(value, bool):
        return value
    words = {"yes": "true", "on": "true", "no": "false", "off": "false"}
    hint = words.get(value.lower(), "") if isinstance(value, str) else ""
    raise wrong(f"must be true or false, not {seen(value)}" + (f"; write {hint}" if hint else ""))


def number(value: Any) -> float | int:
    """Return a finite number."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if isinstance(value, int) and abs(value) > 10**300:
            raise wrong("is beyond what a number can hold")
        if math.isfinite(value):
            return value
        raise wrong(f"must be a finite number, not {value}")
    raise wrong(f"must be a number, not {seen(value)}{_number_hint(value)}")


def _number_hint(value: Any) -> str:
    if not isinstance(value, str):
        return ""
    plain = re.sub(r"^([-+]?)0+(?=[0-9])", r"\1", value.replace("_", "").strip())
    try:
        float(plain)
    except ValueError:
        return ""
    return f"; write {plain}" + (" without quotes" if plain == value else "")


def whole(low: int, high: int | None = None) -> Callable[[Any], int]:
    """Return a reader of whole numbers within bounds."""
    wanted = f"a whole number of at least {low}"
    if high is not None:
        wanted = f"a whole number from {low} to {high}"

    def read(value: Any) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise wrong(f"must be {wanted}, not {seen(value)}{_number_hint(value)}")
        if value < low or (high is not None and value > high):
            raise wrong(f"must be {wanted}, not {value}")
        return value

    return read


def amount(value: Any) -> float:
    """Return an amount of a resource: 0 or more, a whole number above 1."""
    found = float(number(value))
    if found < 0:
        raise wrong(f"must be 0 or more, not {found:g}")
    if found > 1 and not found.is_integer():
        raise wrong(f"must be a whole number when above 1, not {found:g}")
    return found


def duration(value: Any) -> float:
    """Return a duration in seconds.

    >>> duration("1h30m"), duration("90s"), duration(15)
    (5400.0, 90.0, 15.0)
    """
    wanted = "a duration such as 90s, 10m, 2h, 1d or 1h30m, or a number of seconds"
    if isinstance(value, str):
        clock = _CLOCK.fullmatch(value.strip())
        if clock:
            hours, minutes = int(clock[1]), int(clock[2])
            raise wrong(f"must be {wanted}, not {seen(value)}; write {hours}h{minutes}m")
        match = _DURATION.fullmatch(value.strip())
        if not value.strip() or match is None:
            raise wrong(f"must be {wanted}, not {seen(value)}")
        value = sum(
            float(part) * unit for part, unit in zip(match.groups(), _SECONDS, strict=True) if part
        )
    elif not isinstance(value, (int, float)) or isinstance(value, bool):
        raise wrong(f"must be {wanted}, not {seen(value)}")
    if not 0 < float(number(value)) <= 1e9:
        raise wrong(f"must be above 0 seconds and at most 30 years, not {value:g} seconds")
    return float(value)


def memory(value: Any) -> int:
    """Return an amount of memory in bytes.

    >>> memory("4Gi"), memory("1.5G"), memory(1000)
    (4294967296, 1500000000, 1000)
    """
    wanted = "an amount of memory such as 4Gi, 512Mi or 1.5G, or a number of bytes"
    if isinstance(value, str):
        match = _MEMORY.fullmatch(value.strip())
        if match is None:
            raise wrong(f"must be {wanted}, not {seen(value)}")
        unit = match[2] or ""
        base = 1024 if unit.endswith("i") else 1000
        power = " KMGTP".index(unit[0].upper()) if unit else 0
        value = float(match[1]) * base**power
    elif not isinstance(value, (int, float)) or isinstance(value, bool):
        raise wrong(f"must be {wanted}, not {seen(value)}")
    found = number(value)
    if not 1 <= found < 2**60:
        raise wrong(f"must be at least 1 byte and below 1 EiB, not {found:g} bytes")
    return round(found)


def one_of(*valid: str, hints: Mapping[str, str] | None = None) -> Callable[[Any], str]:
    """Return a reader of one word out of several, with hints for words of other tools."""

    def read(value: Any) -> str:
        if isinstance(value, str) and value in valid:
            return value
        near = did_you_mean(value, valid) if isinstance(value, str) else ""
        if isinstance(value, str) and value.lower() in (hints or {}):
            near = f"; {(hints or {})[value.lower()]}"
        raise wrong(f"must be {' or '.join(valid)}, not {seen(value)}{near}")

    return read


def name(value: Any) -> str:
    """Return the legal name of an experiment."""
    if isinstance(value, str) and _NAME.fullmatch(value):
        return value
    legal = legal_name(value if isinstance(value, str) else str(value))
    raise wrong(
        f"must be up to 63 characters of a-z, 0-9, _ and -, beginning with a letter or digit, "
        f"not {seen(value)}; write {legal}"
    )


def legal_name(value: str) -> str:
    """Return the nearest legal name.

    >>> legal_name("My Experiment (2).v1"), legal_name("--")
    ('my-experiment-2-v1', 'experiment')
    """
    plain = re.sub(r"[^a-z0-9_]+", "-", value.lower()).strip("-_")
    return plain[:63].rstrip("-_") or "experiment"


def variable(value: Any) -> str:
    """Return the name of an environment variable."""
    if isinstance(value, str) and _VARIABLE.fullmatch(value):
        return value
    raise wrong(f"must be the name of an environment variable, not {seen(value)}")


def storage(value: Any) -> str:
    """Return the path of a folder, or the URL of an object store."""
    found = text(value)
    if not place.is_url(found):
        return found
    problem = place.trouble(found)
    if place.scheme_of(found) == place.MEMORY:
        problem = "memory:// ends with the process; write a folder, or file:///data/runs"
    if problem is not None:
        raise wrong(problem)
    return place.tidy(found)


def strings(value: Any) -> tuple[str, ...]:
    """Return a list of texts."""
    if isinstance(value, str):
        raise wrong(f'must be a list of texts; write ["{value}"]')
    if not isinstance(value, (list, tuple)):
        raise wrong(f"must be a list of texts, not {seen(value)}")
    return tuple(each(value, text))


def each(values: Iterable[Any], read: Callable[[Any], Any]) -> list[Any]:
    """Return what ``read`` makes of each value, reporting all that are wrong."""
    return list(each_of(dict(enumerate(values)), read).values())


def each_of(values: Any, read: Callable[[Any], Any]) -> dict[Any, Any]:
    """Return what ``read`` makes of each entry of a mapping, reporting all that are wrong."""
    if not isinstance(values, Mapping):
        raise wrong(f"must be a mapping of names to values, not {seen(values)}")
    found: dict[Any, Any] = {}
    findings: list[Finding] = []
    for key, value in values.items():
        try:
            found[key] = read(value)
        except PydanticCustomError as error:
            findings += [finding.under(key) for finding in findings_of(error)]
    if findings:
        raise all_wrong(findings)
    return found


def findings_of(error: PydanticCustomError) -> list[Finding]:
    """Return what ``fail`` or ``fail_all`` reported."""
    context = error.context or {}
    found: list[Finding] = context["findings"]
    return found


def free(value: Any) -> dict[str, Any]:
    """Return a mapping of JSON values that somebody else will read."""
    if not isinstance(value, Mapping):
        raise wrong(f"must be a mapping, not {seen(value)}")
    return each_of(value, plain)


def plain(value: Any) -> Any:
    """Return a value as JSON knows it."""
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise wrong(f"must have texts as keys, not {seen(key)}")
        return each_of(value, plain)
    if isinstance(value, (list, tuple)):
        return each(value, plain)
    if value is None or isinstance(value, (str, bool)):
        return value
    return number(value)


def _schema(**schema: Any) -> WithJsonSchema:
    return WithJsonSchema(schema)


Text = Annotated[str, BeforeValidator(text), _schema(type="string", minLength=1)]
Flag = Annotated[bool, BeforeValidator(flag), _schema(type="boolean")]
Number = Annotated[float, BeforeValidator(number), _schema(type="number")]
Positive = Annotated[int, BeforeValidator(whole(1)), _schema(type="integer", minimum=1)]
Natural = Annotated[int, BeforeValidator(whole(0)), _schema(type="integer", minimum=0)]
Seed = Annotated[
    int,
    BeforeValidator(whole(0, MAX_SEED)),
    _schema(type="integer", minimum=0, maximum=MAX_SEED),
]
Amount = Annotated[float, BeforeValidator(amount), _schema(type="number", minimum=0)]
Amounts = Annotated[
    dict[str, float],
    BeforeValidator(lambda value: each_of(value, amount)),
    _schema(type="object", additionalProperties={"type": "number", "minimum": 0}),
]
Duration = Annotated[
    float,
    BeforeValidator(duration),
    _schema(
        anyOf=[
            {"type": "number", "exclusiveMinimum": 0},
            {"type": "string", "pattern": r"^([0-9.]+d)?([0-9.]+h)?([0-9.]+m)?([0-9.]+s)?$"},
        ]
    ),
]
Memory = Annotated[
    int,
    BeforeValidator(memory),
    _schema(
        anyOf=[
            {"type": "number", "minimum": 1},
            {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)? *([kKMGTP]i?)?B?$"},
        ]
    ),
]
Name = Annotated[
    str, BeforeValidator(name), _schema(type="string", pattern="^[a-z0-9][a-z0-9_-]{0,62}$")
]
Storage = Annotated[str, BeforeValidator(storage), _schema(type="string", minLength=1)]
Free = Annotated[dict[str, Any], BeforeValidator(free), _schema(type="object")]
Texts = Annotated[
    dict[str, str],
    BeforeValidator(lambda value: each_of(value, text)),
    _schema(type="object", additionalProperties={"type": "string"}),
]
