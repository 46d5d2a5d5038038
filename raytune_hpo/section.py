"""The base of every mapping in an experiment file: all that is wrong is reported at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)

from raytune_hpo.errors import did_you_mean
from raytune_hpo.fields import Finding, all_wrong, seen, wrong


class Section(BaseModel):
    """A mapping with a fixed set of keys.

    A key without a value, such as ``seed:``, is the same as no key.

    Attributes:
        later: Keys of the format whose feature is not there yet.
        hints: Words of other tools or places, and what to write instead.
        shorthand: What to write when somebody gives a value and no mapping; ``{}`` is the value.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    later: ClassVar[tuple[str, ...]] = ()
    hints: ClassVar[Mapping[str, str]] = {}
    shorthand: ClassVar[str] = ""

    @classmethod
    def valid_keys(cls) -> tuple[str, ...]:
        """Return the valid keys, in the order of the class."""
        return tuple(info.alias or name for name, info in cls.model_fields.items())

    @classmethod
    def prepare(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Return the data in the form that the fields read."""
        return data

    @classmethod
    def cross(
        cls, data: Mapping[str, Any], failed: frozenset[str], handler: Any
    ) -> Iterable[Finding]:
        """Return what is wrong between fields.

        Args:
            data: What was written.
            failed: Keys whose own value is wrong.
            handler: Makes the section out of prepared data, or raises.
        """
        return ()

    def to_json(self) -> dict[str, Any]:
        """Return the section as JSON values, in the words of the file."""
        return {
            info.alias or name: to_json(getattr(self, name))
            for name, info in type(self).model_fields.items()
            if getattr(self, name) is not None
        }

    @model_validator(mode="wrap")
    @classmethod
    def _collect(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if isinstance(data, cls):
            return data
        if not isinstance(data, Mapping):
            hint = f"; write {cls.shorthand.replace('{}', str(data))}" if cls.shorthand else ""
            hint = hint if isinstance(data, str) else ""
            raise wrong(
                f"must be a mapping with {', '.join(cls.valid_keys())}, not {seen(data)}{hint}"
            )
        valid = cls.valid_keys()
        data = {key: value for key, value in data.items() if value is not None or key not in valid}
        findings: list[Finding] = []
        made: Self | None = None
        try:
            made = handler(cls.prepare(data))
        except ValidationError as error:
            findings = cls.translate(error)
        failed = frozenset(str(finding.path[0]) for finding in findings if finding.path)
        findings += cls.cross(data, failed, handler)
        if made is None or findings:
            raise all_wrong(findings)
        return made

    @classmethod
    def translate(cls, error: ValidationError) -> list[Finding]:
        """Return the mistakes that pydantic found, in our words."""
        findings: list[Finding] = []
        lines = error.errors(include_url=False)
        told = [cls.hints.get(str(line["loc"][-1]), "") for line in lines if line["loc"]]
        for line in lines:
            path, kind = line["loc"], line["type"]
            if kind == "findings":
                findings += [finding.under(*path) for finding in line.get("ctx", {})["findings"]]
            elif kind == "extra_forbidden":
                findings.append(Finding(path, cls.unknown(str(path[-1])), key=True))
            elif kind == "missing":
                if not any(hint.startswith(f"write {path[-1]}") for hint in told):
                    findings.append(Finding(path, f"is required: {cls.about(str(path[-1]))}"))
            else:
                findings.append(Finding(path, f"{line['msg']}, not {seen(line['input'])}"))
        return findings

    @classmethod
    def unknown(cls, key: str) -> str:
        """Return what to say of a key that does not exist."""
        if key in cls.later:
            return "not supported yet"
        if key in cls.hints:
            return f"unknown key '{key}': {cls.hints[key]}"
        valid = cls.valid_keys()
        return f"unknown key '{key}'{did_you_mean(key, valid)}; valid keys: {', '.join(valid)}"

    @classmethod
    def about(cls, key: str) -> str:
        """Return the description of a field, as the end of a sentence."""
        info = next(i for n, i in cls.model_fields.items() if key in (n, i.alias))
        described = (info.description or key).removesuffix(".")
        return described[0].lower() + described[1:]


def check(section: type[Section], data: Any) -> tuple[Any, list[Finding]]:
    """Return the section that data stands for, or None, and all that is wrong with the data."""
    try:
        return section.model_validate(data), []
    except ValidationError as error:
        return None, section.translate(error)


def read(section: type[Section], data: Any) -> Any:
    """Return the section that data stands for, within the reading of another one."""
    made, findings = check(section, data)
    if findings:
        raise all_wrong(findings)
    return made


def to_json(value: Any) -> Any:
    """Return a value of a section as JSON values."""
    if isinstance(value, Section):
        return value.to_json()
    if isinstance(value, Mapping):
        return {key: to_json(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(entry) for entry in value]
    return value
