"""Where a run is kept: in a folder, or in an object store with a copy of it in a folder here."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from raytune_hpo.errors import did_you_mean

MARKER = "storage.json"
"""In a folder that is a copy of what a store holds: the store's URL, and the id of the run."""
CACHE_ENV = "RAYTUNE_HPO_CACHE"
"""Folder for copies, in place of ``~/.cache/raytune-hpo``."""
SCHEMES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "file")
"""Stores that are known to create an object only if there is none, which keeps drivers apart."""
MEMORY = "memory"
"""One more, of one process only, for tests."""
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_AZURE = frozenset({"az", "abfs", "abfss"})
_KEYS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
_DIGITS = 16


def is_url(text: str | os.PathLike[str]) -> bool:
    """Return whether something is the URL of a store and no path.

    >>> is_url("s3://bucket/runs"), is_url("raytune-results"), is_url("/data/runs")
    (True, False, False)
    """
    return isinstance(text, str) and _SCHEME.match(text) is not None


def scheme_of(url: str) -> str:
    """Return what stands before ``://``, in small letters."""
    return url.partition("://")[0].lower()


def trouble(url: str) -> str | None:
    """Return what is wrong with the URL of a store, or None. The URL itself is not repeated.

    >>> trouble("s3://bucket/runs")
    >>> trouble("s3://")
    'needs the name of a bucket: s3://bucket/runs'
    """
    scheme = scheme_of(url)
    if scheme not in (*SCHEMES, MEMORY):
        near = did_you_mean(scheme, SCHEMES)
        return f"runs cannot be kept in {scheme}://{near}; valid: {', '.join(SCHEMES)}, or a folder"
    rest = url.partition("://")[2]
    bucket = rest.partition("/")[0]
    user, at, _ = bucket.rpartition("@")
    if at and (scheme not in _AZURE or ":" in user):
        names = _KEYS.get(_family(scheme), "variables of the environment")
        return f"must not hold a key or a password; set {names}, and write {scheme}://bucket/runs"
    if "?" in rest or "#" in rest:
        return f"must be a plain address such as {scheme}://bucket/runs, without ? and #"
    if scheme == "file":
        return None if rest.startswith("/") else "needs a whole path: file:///data/runs"
    if not bucket:
        return f"needs the name of a bucket: {scheme}://bucket/runs"
    if any(part in (".", "..") for part in rest.split("/")):
        return "must not have . or .. in it"
    return None


def tidy(url: str) -> str:
    """Return one form of a URL: small scheme, no slashes that are too many.

    >>> tidy("S3://bucket//runs/"), tidy("file:///data/"), tidy("gcs://b/x")
    ('s3://bucket/runs', 'file:///data', 'gs://b/x')
    """
    scheme, _, rest = url.partition("://")
    root = "/" if rest.startswith("/") else ""
    return f"{_usual(scheme.lower())}://{root}{'/'.join(part for part in rest.split('/') if part)}"


def _usual(scheme: str) -> str:
    """Return the usual one of the names of the same store."""
    return {"s3a": "s3", "gcs": "gs"}.get(scheme, scheme)


def _family(scheme: str) -> str:
    return "az" if scheme in _AZURE else _usual(scheme)


def join(url: str, name: str) -> str:
    """Return the URL of what is called ``name`` below another URL."""
    return f"{url.rstrip('/')}/{name}"


def cache_root() -> Path:
    """Return the folder of this user for copies of what stores hold."""
    named = os.environ.get(CACHE_ENV)
    if named:
        return Path(named).absolute()
    above = os.environ.get("XDG_CACHE_HOME")
    return (Path(above) if above else Path.home() / ".cache").absolute() / "raytune-hpo"


def working_copy(url: str) -> Path:
    """Return the folder here in which drivers and trials of a run work."""
    return _copy(url, "work")


def reading_copy(url: str) -> Path:
    """Return the folder here into which ``status``, ``logs`` and others bring what they read."""
    return _copy(url, "read")


def _copy(url: str, use: str) -> Path:
    url = tidy(url)
    digest = hashlib.sha256(url.encode()).hexdigest()[:_DIGITS]
    return cache_root() / use / digest / (url.rpartition("/")[2] or "run")


def mark(folder: Path, url: str, run_id: str | None = None) -> None:
    """Note in a copy which run of which store it is a copy of."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = folder / f".{MARKER}.{os.getpid()}"
    draft.write_text(json.dumps({"url": tidy(url), "id": run_id}) + "\n")
    draft.replace(folder / MARKER)


def url_of(folder: Path) -> str | None:
    """Return the URL of what a folder is a copy of, or None when it is none."""
    url = marked(folder).get("url")
    return str(url) if url else None


def marked(folder: Path) -> dict[str, Any]:
    """Return what ``mark`` has noted; nothing when it did not."""
    try:
        content = json.loads((folder / MARKER).read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def shown(folder: Path) -> str:
    """Return how a person names a run: by its URL, or by its folder."""
    return url_of(folder) or str(folder)
