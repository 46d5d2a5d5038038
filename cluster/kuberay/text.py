"""Objects as YAML that a person reads and that every reader of YAML takes alike."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*( [A-Za-z0-9_./-]+)*|[0-9]+(m|[KMGTP]i)")
# Of YAML 1.1, by which Kubernetes reads, and of 1.2.
_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"})


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _represent(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=_style(text))


def _style(text: str) -> str | None:
    """Return how a text is written: plain, as a block of lines, or in double quotes."""
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return None
    lines = text.split("\n")
    blank = any(line != line.rstrip() for line in lines) or not lines[0] or lines[0][0] == " "
    if len(lines) > 1 and not blank and all(line.isprintable() for line in lines):
        return "|"
    return '"'


_Dumper.add_representer(str, _represent)


def from_yaml(text: str) -> list[dict[str, Any]]:
    """Return the objects of a text that ``to_yaml`` has made."""
    return list(yaml.safe_load_all(text))


def to_yaml(objects: Iterable[Mapping[str, Any]]) -> str:
    """Return objects as one text for ``kubectl apply -f -``."""
    return yaml.dump_all(
        objects,
        Dumper=_Dumper,
        sort_keys=False,
        explicit_start=True,
        allow_unicode=True,
        default_flow_style=False,
        width=2**31,
    )
