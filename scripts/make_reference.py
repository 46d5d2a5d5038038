"""Write the field tables of docs/experiment-file.md from the experiment's own schema.

With --check nothing is written; the exit code says whether the file is current.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from raytune_hpo import spec

DOC = Path(__file__).resolve().parent.parent / "docs" / "experiment-file.md"
BEGIN = "<!-- fields: begin (written by scripts/make_reference.py) -->\n"
END = "<!-- fields: end -->\n"


def tables() -> str:
    """Return the tables of all fields as Markdown."""
    schema = spec.schema()
    parts = ["### The file\n", *_table(schema)]
    for name, section in sorted(schema["$defs"].items()):
        if section.get("properties"):
            title = section.get("description", "").rstrip(".")
            parts += [f"\n### {name.lower()}: {title[:1].lower()}{title[1:]}\n", *_table(section)]
    return "\n".join(parts) + "\n"


def _table(section: Mapping[str, Any]) -> Iterator[str]:
    required = section.get("required", ())
    yield "| field | default | what it is |"
    yield "|---|---|---|"
    for name, field in section["properties"].items():
        default = "required" if name in required else _default(field)
        yield f"| `{name}` | {default} | {field.get('description', '')} |".replace("  ", " ")


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
