"""Whether a store can hold runs: each thing that is needed is tried once."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from raytune_hpo.errors import StoreError
from raytune_hpo.storage import objects

PATIENCE_S = 5.0
_NO_CONDITIONS = (
    "it overwrites an object that is to be created only (If-None-Match), so two drivers could "
    "write at once: use a newer version of the store, or a folder that all machines see"
)


@dataclass(frozen=True)
class Tried:
    """What was tried, and why it failed, or None.

    Attributes:
        what: In one word or two.
        trouble: In one sentence.
    """

    what: str
    trouble: str | None


def probe(url: str) -> Iterator[Tried]:
    """Try what a run needs, with an object of its own that is deleted again.

    Args:
        url: Of the store, or of a run in it.
    """
    try:
        there = objects.open_at(url, patience=PATIENCE_S)
    except StoreError as error:
        yield Tried("reach", str(error))
        return
    folder, content = f"probe-{secrets.token_hex(6)}", secrets.token_hex(16).encode()
    key = f"{folder}/object"
    steps: dict[str, Callable[[], str | None]] = {
        "create": lambda: None if there.create(key, content) else "another object is in the way",
        "create only": lambda: _NO_CONDITIONS if there.create(key, b"other") else None,
        "write": lambda: there.put(key, content),
        "read": lambda: None if there.get(key) == content else "it gives another content back",
        "list": lambda: None if there.list(folder) else "a new object is not listed at once",
        "delete": lambda: there.delete([key]),
    }
    for what, step in steps.items():
        trouble = _tried(step)
        yield Tried(what, trouble)
        if trouble is not None and what in ("create", "read"):
            return


def _tried(step: Callable[[], str | None]) -> str | None:
    try:
        return step()
    except StoreError as error:
        return str(error)
