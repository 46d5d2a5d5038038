"""Write the tables of the documents: fields from the schema, settings from the classes.

All are in docs/experiment-file.md, and those of a searcher or scheduler on its own page too. With
--check nothing is written; the exit code says whether the files are current.
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

DOCS = Path(__file__).resolve().parent.parent / "docs"
BEGIN = "<!-- {}: begin (written by scripts/make_reference.py) -->\n"
END = "<!-- {}: end -->\n"


_INNER = {
    "SlurmTarget": "targets.slurm",
    "SlurmHead": "targets.slurm.head",
    "KubeRayTarget": "targets.kuberay",
    "KubeRayHead": "targets.kuberay.head",
    "KubeRayLimit": "targets.kuberay.limit",
    "KubeRayPvc": "targets.kuberay.pvc",
    "KubeRayWorker": "targets.kuberay.worker",
}


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
    if name in _INNER:
        return _INNER[name]
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
        rows = list(_settings_of(kind, name))
        yield from (f"| `{name}` {row}" for row in rows or ["| none | | |"])


def _settings_of(kind: Kind, name: str) -> Iterator[str]:
    """Yield a row of setting, default and meaning for each setting of a plug-in."""
    described = _arguments(inspect.getdoc(plugins.load(kind, name)) or "")
    for key, parameter in (plugins.settings_of(kind, name) or {}).items():
        default = json.dumps(_short(parameter.default))
        yield f"| `{key}` | `{default}` | {described[key]} |"


def _short(default: Any) -> Any:
    return round(default, 4) if isinstance(default, float) else default


def page_table(kind: Kind, name: str) -> str:
    """Return the table of the settings of one plug-in as Markdown."""
    rows = list(_settings_of(kind, name))
    if not rows:
        return "There are no settings.\n"
    return "\n".join(["| setting | default | what it is |", "|---|---|---|", *rows]) + "\n"


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


def current(page: Path) -> str:
    """Return a document with its tables made anew."""
    if page.parent == DOCS:
        return _filled(page.read_text(), "fields", tables())
    return _filled(page.read_text(), "settings", page_table(_kind(page), page.stem))


def _kind(page: Path) -> Kind:
    return "searchers" if page.parent.name == "searchers" else "schedulers"


def _filled(text: str, word: str, table: str) -> str:
    before, rest = text.split(BEGIN.format(word))
    after = rest.split(END.format(word))[1]
    return f"{before}{BEGIN.format(word)}\n{table}\n{END.format(word)}{after}"


def pages() -> list[Path]:
    """Return the documents that have tables: a plug-in's page is named as it is."""
    found = [*sorted(DOCS.glob("searchers/*.md")), *sorted(DOCS.glob("schedulers/*.md"))]
    named = [page for page in found if page.stem in plugins.names(_kind(page))]
    return [DOCS / "experiment-file.md", *named]


def main() -> None:
    """Write, or check."""
    made = {page: current(page) for page in pages()}
    if "--check" in sys.argv:
        stale = [str(page) for page, text in made.items() if page.read_text() != text]
        sys.exit(f"not current: {', '.join(stale)}; run {__file__}" if stale else 0)
    for page, text in made.items():
        page.write_text(text)


if __name__ == "__main__":
    main()
