"""Keeping secrets out of what is written."""

from __future__ import annotations

import re

_USER_INFO = re.compile(r"(?<=://)[^/@\s]+@")
_WORDS = "token|passw(?:or)?d|secret|api_?key|credential"
_ASSIGNED = re.compile(rf"(?i)\b([\w-]*(?:{_WORDS})[\w-]*[=:]\s*)\S+")


def redact(text: str) -> str:
    """Return ``text`` without passwords in addresses and without ``token=...`` values."""
    return _ASSIGNED.sub(r"\1***", _USER_INFO.sub("***@", text))
