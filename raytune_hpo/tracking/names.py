"""Names that MLflow takes, made from names that people gave."""

from __future__ import annotations

import json
import re
import zlib

_FORBIDDEN = re.compile(r"[^/\w.\- :]")
_MAX_LENGTH = 240
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
    if len(legal) <= _MAX_LENGTH:
        return legal
    return f"{legal[: _MAX_LENGTH - 9]}-{zlib.crc32(name.encode()):08x}"


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

    def note(self, used: dict[str, str], limit: int = 4900) -> str:
        """Return ``used`` as JSON, without the last ones where it would be too long."""
        kept = dict(used)
        while len(text := json.dumps(kept, ensure_ascii=False)) > limit:
            kept.popitem()
        return text
