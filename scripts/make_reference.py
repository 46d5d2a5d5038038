"""Write the tables of docs/experiment-file.md: fields from the schema, settings from the classes.

With --check nothing is written; the exit code says whether the file is current.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from raytune_hpo import plugins, spec
from raytune_hpo.plugins import Kind

DOC = Path(__file__).resolve().parent.parent / "docs" / "experiment-file.md"
BEGIN = "<!-- fields: begin (written by scripts/make_reference.py) -->\n"
END = "<!-- fields: end -->\n"


def tables() -> str:
    """Return the tables of all fields as Markdown."""
    schema = spec.schema()
    sections = {name: part for name, part in schema["$defs"].items() if part.get("properties")}
    parts = ["### The file\n", *_table(schema, sections)]
    for field, name in sorted((_field_of(name, schema), name) for name in sections):
        parts += [f"\n### {field}: {_phrase(sections[name])}\n"]
        parts += _table(sections[name], sections)
    kinds: tuple[Kind, ...] = ("searchers", "schedulers")
    for kind in kinds:
        parts += [f"\n### Settings of {kind}\n", *_settings(kind)]
    return "\n".join(parts) + "\n"


def _field_of(name: str, schema: Mapping[str, Any]) -> str:
    """Return the field of the file that a section is the content of."""
    reference = f'"#/$defs/{name}"'
    fields = schema["properties"].items()
    return next((key for key, field in fields if reference in json.dumps(field)), name.lower())


def _phrase(section: Mapping[str, Any]) -> str:
    """Return what a section is, as a phrase after a colon."""
    text: str = section.get("description", "").rstrip(".")
    return text[:1].lower() + text[1:]


def _table(section: Mapping[str, Any], sections: Mapping[str, Any]) -> Iterator[str]:
    required = section.get("required", ())
    yield "| field | default | what it is |"
    yield "|---|---|---|"
    for name, field in section["properties"].items():
        default = "required" if name in required else _default(field)
        text = field.get("description") or _refers(field, sections)
        yield f"| `{name}` | {default} | {text} |".replace("  ", " ")


def _refers(field: Mapping[str, Any], sections: Mapping[str, Any]) -> str:
    """Return what a field is that has fields of its own."""
    section = sections.get(field.get("$ref", "").rpartition("/")[2])
    return f"{section['description']} Its fields are below." if section else ""


def _settings(kind: Kind) -> Iterator[str]:
    """Yield a table of the settings of all plug-ins of a kind."""
    yield f"| {kind.removesuffix('s')} | setting | default | what it is |"
    yield "|---|---|---|---|"
    for name in plugins.names(kind):
        described = _arguments(inspect.getdoc(plugins.load(kind, name)) or "")
        settings = plugins.settings_of(kind, name) or {}
        for key, parameter in settings.items():
            default = json.dumps(parameter.default)
            yield f"| `{name}` | `{key}` | `{default}` | {described[key]} |"
        if not settings:
            yield f"| `{name}` | none | | |"


def _arguments(doc: str) -> dict[str, str]:
    """Return what the section Args of a docstring says of each argument."""
    _, _, rest = doc.partition("\nArgs:\n")
    text = re.split(r"\n(?=\S)", rest)[0]
    found = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", text, re.MULTILINE)
    return {name: _as_in_the_file(words) for name, words in found}


def _as_in_the_file(words: str) -> str:
    """Return a docstring's sentence in the words of the file, on one line."""
    return re.sub(r"\bNone\b", "`null`", " ".join(words.replace("``", "`").split()))


def _default(field: Mapping[str, Any]) -> str:
    value = field.get("default")
    if value is None or value in ({}, []):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def current(text: str) -> str:
    """Return the document with its tables made anew."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + "\n" + tables() + "\n" + END + rest.split(END)[1]


def main() -> None:
    """Write, or check."""
    text = DOC.read_text()
    if "--check" in sys.argv:
        sys.exit(0 if current(text) == text else f"{DOC} is not current: run {__file__}")
    DOC.write_text(current(text))


if __name__ == "__main__":
    main()
