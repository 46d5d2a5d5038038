"""Results on disk: a JSON line a run, written as it ends."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from .runs import Run


class Key(NamedTuple):
    """Which run it is; a run whose key is on file is not run again."""

    tuner: str
    task: str
    workers: int
    seed: int
    budget: float


def append(path: Path, key: Key, run: Run) -> None:
    """Add a run to a file."""
    fields = asdict(run)
    fields["incumbents"] = [[_short(at), _short(value)] for at, value in run.incumbents]
    fields["tell_ms"] = round(run.tell_ms, 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    torn = path.exists() and not path.read_bytes().endswith(b"\n")
    with path.open("a") as file:
        file.write("\n" * torn + json.dumps({**key._asdict(), **fields}) + "\n")


def load(paths: Iterable[Path]) -> dict[Key, Run]:
    """Return the runs in some files; the last one of a key counts, and a torn line does not."""
    runs = {}
    for path in paths:
        for line in path.read_text().splitlines():
            try:
                fields = json.loads(line)
            except json.JSONDecodeError:
                continue
            key = Key(*(fields.pop(name) for name in Key._fields))
            fields["incumbents"] = [(at, value) for at, value in fields["incumbents"]]
            runs[key] = Run(**fields)
    return runs


def _short(number: float) -> float:
    return float(f"{number:.8g}")
