"""Names and texts that MLflow takes, made from what people and programs gave."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping

_FORBIDDEN = re.compile(r"[^/\w.\- :]")
_MAX_NAME = 240
_MAX_TAG = 4900
_SEGMENTS = {"": "_", ".": "_", "..": "__"}


def clean(name: str) -> str:
    """Return the nearest name that MLflow takes.

    It may hold alphanumerics, ``_``, ``-``, ``.``, blanks, ``/`` and ``:``, must not read as
    another path, and is at most 250 characters long.

    Example:
        >>> clean("p99(ms)"), clean("a//b"), clean("lr")
        ('p99_ms_', 'a/_/b', 'lr')
    """
    legal = _FORBIDDEN.sub("_", name)
    legal = "/".join(_SEGMENTS.get(part, part) for part in legal.split("/"))
    if len(legal) <= _MAX_NAME:
        return legal
    return f"{legal[: _MAX_NAME - 9]}-{zlib.crc32(name.encode('utf-8', 'replace')):08x}"


def text(value: object, limit: int = _MAX_TAG) -> str:
    """Return a value as text that every database holds, cut to ``limit`` characters."""
    whole = (
        str(value).encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
    )
    return whole if len(whole) <= limit else f"{whole[: limit - 1]}…"


def note(names: Mapping[str, str]) -> str:
    """Return names as JSON for a tag, without the last ones where it would be too long."""
    kept: list[str] = []
    room = _MAX_TAG - len("{}")
    for name, meaning in names.items():
        entry = json.dumps({name: meaning}, ensure_ascii=False)[1:-1]
        room -= len(entry) + len(", ")
        if room < 0:
            break
        kept.append(entry)
    return text(f"{{{', '.join(kept)}}}")


class Names:
    """One legal name for each name, in the order in which they come.

    Attributes:
        changed: The legal names that differ, with what they stand for.
    """

    def __init__(self) -> None:
        self._legal: dict[str, str] = {}
        self._taken: set[str] = set()
        self.changed: dict[str, str] = {}

    def legal(self, name: str, wanted: str | None = None) -> str:
        """Return the legal name of ``name``; another than all others have.

        Args:
            name: What it is for.
            wanted: What it should be called; default: ``name``.
        """
        known = self._legal.get(name)
        if known is not None:
            return known
        wanted = name if wanted is None else wanted
        legal = base = clean(wanted)
        number = 2
        while legal in self._taken:
            legal = f"{base}_{number}"
            number += 1
        self._legal[name] = legal
        self._taken.add(legal)
        if legal != wanted:
            self.changed[legal] = wanted
        return legal
