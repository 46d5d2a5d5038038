"""Keeping secrets out of what is written."""

from __future__ import annotations

import re

HIDDEN = "***"

# All parts have a most length, or a long text of a stranger's would take minutes.
# A password may hold any sign but a blank, so all up to the last @ goes, unless it is a port.
_USER_INFO = re.compile(
    r"(?<=://)(?:[^\s/?#@:]{0,256}:(?!\d+(?:[/?#]|$))\S{0,4096}@|[^\s/?#]{0,4096}@)"
)
_WORDS = (
    r"token|passw(?:or)?d|passwd|passphrase|secret|credential|"
    r"(?:api|access|account|auth|private)[_-]?key|signature"
)
_VALUE = r"""(?:"[^"\n]*"|'[^'\n]*'|(?:(?i:bearer|basic)\s+)?[^\s&]+)"""
_ASSIGNED = re.compile(rf"""(?i)((?:{_WORDS})[\w-]{{0,64}}["']?\s{{0,8}}[=:]\s{{0,8}}){_VALUE}""")
_HEADER = re.compile(r"(?i)\b(authorization\s{0,8}[=:]\s{0,8}(?:(?:bearer|basic)\s{1,8})?)\S+")


def redact(text: str) -> str:
    """Return a text without passwords in addresses and without the values of secrets.

    A secret is what stands after a name that says so, such as ``token=...``. What has no such name
    before it cannot be told from other text.

    >>> redact("http://me:p@ss/w@host:5000/x?api_key=1&b=2")
    'http://***@host:5000/x?api_key=***&b=2'
    >>> redact("sqlite:////home/me@work/mlflow.db")
    'sqlite:////home/me@work/mlflow.db'
    """
    text = _USER_INFO.sub(f"{HIDDEN}@", text)
    return _HEADER.sub(rf"\1{HIDDEN}", _ASSIGNED.sub(rf"\1{HIDDEN}", text))
