"""Values of the settings for KubeRay; what Kubernetes would refuse is refused here."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from raytune_hpo import fields, target_fields
from raytune_hpo.fields import Finding, seen, wrong
from raytune_hpo.redact import redact
from raytune_hpo.running import looks_secret

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL.pattern}(\.{_LABEL.pattern})*")
_KEY = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,1023}")
_RESOURCE = re.compile(rf"({_NAME.pattern}/)?{_KEY.pattern}")
_FILE = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")
_OURS = ("raytune-hpo", "ray.io")
OWN_PREFIX = "RAYTUNE_HPO_"
_OWN_ENV = frozenset(
    {
        "FQ_RAY_IP",
        "RAY_ADDRESS",
        "RAY_AUTH_MODE",
        "RAY_AUTH_TOKEN",
        "RAY_CLOUD_INSTANCE_ID",
        "RAY_CLUSTER_NAME",
        "RAY_CLUSTER_NAMESPACE",
        "RAY_IP",
        "RAY_NODE_TYPE_NAME",
        "RAY_REDIS_ADDRESS",
        "RAY_enable_autoscaler_v2",
        "REDIS_USERNAME",
        "TUNE_MAX_PENDING_TRIALS_PG",
    }
)
"""Environment variables that KubeRay sets, refuses, or that are set for it here."""


def _matching(pattern: re.Pattern[str], wanted: str) -> Callable[[Any], str]:
    """Return a reader of texts that match a pattern."""

    def read(value: Any) -> str:
        text = fields.text(value)
        if not pattern.fullmatch(text):
            raise wrong(f"must be {wanted}, not {seen(value)}")
        return text

    return read


label = _matching(_LABEL, "up to 63 characters of a-z, 0-9 and -, as names in Kubernetes")
name = _matching(_NAME, "up to 253 characters of a-z, 0-9, - and ., as names in Kubernetes")
image = _matching(_IMAGE, "an image such as registry.example.com/team/tuning:1.4")
resource = _matching(_RESOURCE, "a resource of Kubernetes such as nvidia.com/gpu")


def names(value: Any) -> tuple[str, ...]:
    """Return a list of names."""
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, (list, tuple)):
        raise wrong(f"must be a list of names, not {seen(value)}")
    return tuple(fields.each(values, name))


def cpus(value: Any) -> float:
    """Return CPUs of a container, to a thousandth."""
    found = float(fields.number(value))
    if not 0 <= found <= 1e6 or abs(round(found * 1000) - found * 1000) > 1e-6:
        raise wrong(f"must be 0 or more CPUs, to a thousandth, not {found:g}")
    return found


def ttl(value: Any) -> float:
    """Return a duration in seconds that may be 0."""
    if value == 0 and not isinstance(value, bool):
        return 0.0
    return fields.duration(value)


def is_label(name: Any) -> bool:
    """Return whether Kubernetes takes a text as the name of a namespace.

    >>> is_label("team-1"), is_label("Team")
    (True, False)
    """
    return isinstance(name, str) and bool(_LABEL.fullmatch(name))


def is_label_key(key: Any) -> bool:
    """Return whether Kubernetes takes a text as the key of a label.

    >>> is_label_key("team"), is_label_key("example.com/team"), is_label_key("a b")
    (True, True, False)
    """
    if not isinstance(key, str):
        return False
    prefix, slash, last = key.rpartition("/")
    return bool(_KEY.fullmatch(last)) and (not slash or bool(_NAME.fullmatch(prefix)))


def is_label_value(value: Any) -> bool:
    """Return whether Kubernetes takes a text as the value of a label.

    >>> is_label_value("a_1"), is_label_value(""), is_label_value("-")
    (True, True, False)
    """
    return isinstance(value, str) and (not value or bool(_KEY.fullmatch(value)))


def _keyed(value: Any, read: Callable[[Any], str], *, owned: bool) -> dict[str, str]:
    """Return a mapping whose keys are those of labels, reporting all that is wrong."""
    if not isinstance(value, Mapping):
        raise wrong(f"must be a mapping of names to values, not {seen(value)}")
    findings = []
    for key in value:
        if not is_label_key(key):
            message = "must be a key such as team or example.com/team"
        elif owned and "/" in key and key.partition("/")[0] in _OURS:
            message = "is set by KubeRay or raytune-hpo itself"
        else:
            continue
        findings.append(Finding((key,), message, key=True))
    if findings:
        raise fields.all_wrong(findings)
    return fields.each_of(value, read)


def _label_value(value: Any) -> str:
    if value == "":
        return ""
    text = fields.text(value)
    if not is_label_value(text):
        raise wrong(f"must be up to 63 letters, digits, -, _ and ., not {seen(value)}")
    return text


def any_text(value: Any) -> str:
    """Return a text that may be empty."""
    return "" if value == "" else fields.text(value)


def label_map(value: Any) -> dict[str, str]:
    """Return labels for objects of ours."""
    return _keyed(value, _label_value, owned=True)


def selector(value: Any) -> dict[str, str]:
    """Return labels that nodes must have."""
    return _keyed(value, _label_value, owned=False)


def annotation_map(value: Any) -> dict[str, str]:
    """Return annotations."""
    return _keyed(value, any_text, owned=True)


def variables(value: Any, read: Callable[[Any], Any]) -> dict[str, Any]:
    """Return a mapping of environment variables to what ``read`` makes of each value."""
    if not isinstance(value, Mapping):
        raise wrong(f"must be a mapping of names to values, not {seen(value)}")
    findings = []
    for key in value:
        if not isinstance(key, str) or not key.isidentifier() or not key.isascii():
            message = "must be the name of an environment variable"
        elif key in _OWN_ENV or key.startswith(OWN_PREFIX):
            message = "is set by KubeRay or raytune-hpo itself"
        else:
            continue
        findings.append(Finding((key,), message, key=True))
    if findings:
        raise fields.all_wrong(findings)
    return fields.each_of(value, read)


def env(value: Any) -> dict[str, str]:
    """Return plain environment variables; values that are secret are refused."""
    found = variables(value, _variable)
    findings = [
        Finding((key,), secret) for key, text in found.items() if (secret := _told(key, text))
    ]
    if findings:
        raise fields.all_wrong(findings)
    return found


def _variable(value: Any) -> str:
    if isinstance(value, str):
        if "\0" in value:
            raise wrong("must not hold a NUL character")
        return value
    raise wrong(f"must be a text, not {seen(value)}; put it in quotes")


def _told(key: str, text: str) -> str:
    """Return what to say of a variable whose value is secret, or an empty text."""
    instead = f"write env_from_secret: {{{key}: {{secret: NAME, key: KEY}}}}"
    if looks_secret(key):
        return f"a secret must not stand in a manifest; {instead}"
    if redact(text) != text:
        return f"must not hold a password or token; {instead}"
    return ""


def code(value: Any) -> tuple[str, ...]:
    """Return paths of files, relative to the experiment file."""
    found = fields.each(fields.strings(value), _file)
    findings = [
        Finding((index,), "is there twice")
        for index, path in enumerate(found)
        if path in found[:index]
    ]
    if findings:
        raise fields.all_wrong(findings)
    return tuple(found)


def _file(value: Any) -> str:
    text = fields.text(value).removeprefix("./")
    parts = PurePosixPath(text).parts
    if not _FILE.fullmatch(text) or ".." in parts or "." in parts:
        raise wrong(
            f"must be the path of a file below the experiment file's folder, of letters, digits, "
            f"., _ and -, not {seen(value)}"
        )
    return text


def folder(value: Any) -> str:
    """Return a whole path in a container."""
    text = target_fields.path(value)
    if not text.startswith("/") or ":" in text or ".." in PurePosixPath(text).parts:
        raise wrong(f"must be a whole path without : and .., such as /mnt/runs, not {seen(value)}")
    if text.rstrip("/") == "":
        raise wrong("must be a folder below /")
    return text.rstrip("/")


def below(value: Any) -> str:
    """Return a path below the top of a volume."""
    text = target_fields.path(value).strip("/")
    if not text or ".." in PurePosixPath(text).parts:
        raise wrong(f"must be a path below the volume's top, without .., not {seen(value)}")
    return text


def _schema(**schema: Any) -> WithJsonSchema:
    return WithJsonSchema(schema)


_MAPPING = _schema(type="object", additionalProperties={"type": "string"})
_LIST = _schema(type="array", items={"type": "string"})

Label = Annotated[str, BeforeValidator(label), _schema(type="string")]
Name = Annotated[str, BeforeValidator(name), _schema(type="string")]
Names = Annotated[tuple[str, ...], BeforeValidator(names), _LIST]
Image = Annotated[str, BeforeValidator(image), _schema(type="string")]
Resource = Annotated[str, BeforeValidator(resource), _schema(type="string")]
Cpus = Annotated[float, BeforeValidator(cpus), _schema(type="number", minimum=0)]
Ttl = Annotated[float, BeforeValidator(ttl), _schema(type=["number", "string"])]
Labels = Annotated[dict[str, str], BeforeValidator(label_map), _MAPPING]
Selector = Annotated[dict[str, str], BeforeValidator(selector), _MAPPING]
Annotations = Annotated[dict[str, str], BeforeValidator(annotation_map), _MAPPING]
Env = Annotated[dict[str, str], BeforeValidator(env), _MAPPING]
Code = Annotated[tuple[str, ...], BeforeValidator(code), _LIST]
Folder = Annotated[str, BeforeValidator(folder), _schema(type="string", pattern="^/.")]
Below = Annotated[str, BeforeValidator(below), _schema(type="string")]
