"""What a trial runs: a command or a function, and the environment variables it gets."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from raytune_hpo import fields, section
from raytune_hpo.errors import Problem, SpecError
from raytune_hpo.fields import Finding, seen, wrong
from raytune_hpo.section import Section

HIDDEN = "***"
"""Stands for the value of a variable whose name says that it is secret."""

_FUNCTION = re.compile(r"([\w.]+):[A-Za-z_]\w*")
_OBJECT = re.compile(r"[\w.]+:[\w.<>]*<(locals|lambda)>[\w.<>]*")
_SECRET = re.compile(
    r"passw|secret|credential|passphrase|token(_|$)|(^|_)(api)?keys?(_|$)|(^|_)pwd(_|$)",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(r"\$\$|\$\{([A-Za-z_][\w.-]*)\}")


class FromEnv(Section):
    """A value that is looked up where a trial starts, and is written nowhere."""

    from_env: Annotated[str, BeforeValidator(fields.variable)] = Field(
        description="Environment variable that holds the value."
    )


def looks_secret(name: str) -> bool:
    """Return whether the name of an environment variable says that its value is a secret.

    >>> looks_secret("HF_TOKEN"), looks_secret("AWS_SECRET_ACCESS_KEY"), looks_secret("THREADS")
    (True, True, False)
    """
    return _SECRET.search(name) is not None


def names_function(run: str) -> bool:
    """Return whether a text is ``module:function``, or the name of a function inside another.

    >>> names_function("train:main"), names_function("python train.py")
    (True, False)
    """
    return bool(_FUNCTION.fullmatch(run) or _OBJECT.fullmatch(run))


def placeholders(text: str) -> list[tuple[str, int]]:
    """Return each parameter that a text names as ``${name}``, with its column from 1.

    What belongs to the shell is not one: ``$name``, ``$$``, ``${name:-default}``.

    >>> placeholders("train --lr ${lr} $HOME $${x} ${X:-1}")
    [('lr', 14)]
    """
    found = _PLACEHOLDER.finditer(text)
    return [(match[1], match.start(1) + 1) for match in found if match[1] is not None]


def _run(value: Any) -> str | tuple[str, ...]:
    if isinstance(value, (list, tuple)):
        if not value:
            raise wrong("must name a command")
        return tuple(fields.each(value, _word))
    if callable(value):
        raise wrong(
            "a function object goes into Experiment.from_python; write module:function here"
        )
    text = fields.text(value)
    found = _FUNCTION.fullmatch(text.strip())
    if found is None:
        return text
    module = found[1].removesuffix(".py")
    if not all(part.isidentifier() for part in module.split(".")) or module != found[1]:
        function = text.strip().partition(":")[2]
        raise wrong(f"'{found[1]}' is not the name of a module; write {module}:{function}")
    return text.strip()


def _word(value: Any) -> str:
    """Return an element of a command or the value of a variable as text."""
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)):
        return seen(value)
    raise wrong(f"must be a text, not {seen(value)}")


def _env(value: Any) -> dict[str, str | FromEnv]:
    if not isinstance(value, Mapping):
        raise wrong(f"must be a mapping of names to values, not {seen(value)}")
    findings = [
        Finding((name,), "must be the name of an environment variable", key=True)
        for name in value
        if not isinstance(name, str) or not name.isidentifier() or not name.isascii()
    ]
    hidden = {
        name: {"from_env": name} if entry == HIDDEN and looks_secret(str(name)) else entry
        for name, entry in value.items()
    }
    try:
        found = fields.each_of(hidden, _env_value)
    except PydanticCustomError as error:
        raise fields.all_wrong([*findings, *fields.findings_of(error)]) from error
    if findings:
        raise fields.all_wrong(findings)
    return found


def _env_value(value: Any) -> str | FromEnv:
    if isinstance(value, (Mapping, FromEnv)):
        found: FromEnv = section.read(FromEnv, value)
        return found
    if value is None:
        raise wrong("has no value; write '' for an empty one")
    if isinstance(value, (list, tuple)):
        raise wrong("must be a text or {from_env: NAME}, not a list")
    return _word(value)


Run = Annotated[
    str | tuple[str, ...],
    BeforeValidator(_run),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1},
                {
                    "type": "array",
                    "minItems": 1,
                    "items": {"type": ["string", "number", "boolean"]},
                },
            ]
        }
    ),
]
Env = Annotated[
    dict[str, str | FromEnv],
    BeforeValidator(_env),
    WithJsonSchema(
        {
            "type": "object",
            "additionalProperties": {
                "anyOf": [
                    {"type": ["string", "number", "boolean"]},
                    {
                        "type": "object",
                        "properties": {"from_env": {"type": "string"}},
                        "required": ["from_env"],
                        "additionalProperties": False,
                    },
                ]
            },
        }
    ),
]


def refuse_secrets(overrides: Sequence[str], where: str) -> None:
    """Refuse overrides that hold what should not stand in a file.

    Args:
        overrides: Such as ``env.HF_TOKEN=abc``.
        where: What they would stand in, such as a batch script.

    Raises:
        SpecError: Names them, and the way without the secret.
    """
    problems = []
    for text in overrides:
        key = text.partition("=")[0].strip()
        part, _, name = key.partition(".")
        if part == "env" and looks_secret(name) and "from_env" not in text:
            value = json.dumps({"from_env": name})
            message = f"a secret must not stand in {where}; write --set '{key}={value}'"
            problems.append(Problem(key, message))
    if problems:
        raise SpecError(problems)
