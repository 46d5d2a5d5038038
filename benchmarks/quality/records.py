"""Results on disk: a JSON line a run, written as it ends."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from .simulation import Run


class Key(NamedTuple):
    """Which run it is; a run whose key is on file is not run again."""

    searcher: str
    task: str
    seed: int
    workers: int
    budget: int


@dataclass(frozen=True)
class Record:
    """A run and its key."""

    key: Key
    run: Run


def append(path: Path, record: Record) -> None:
    """Add a run to a file."""
    run = {name: _short(values) for name, values in asdict(record.run).items()}
    if run["observed"] == run["values"]:
        del run["observed"]
    if run["feasible"] == [value is not None for value in record.run.values]:
        del run["feasible"]
    path.parent.mkdir(parents=True, exist_ok=True)
    torn = path.exists() and not path.read_bytes().endswith(b"\n")
    with path.open("a") as file:
        file.write("\n" * torn + json.dumps({**record.key._asdict(), **run}) + "\n")


def load(paths: Iterable[Path]) -> dict[Key, Record]:
    """Return the runs in some files; the last one of a key counts, and a torn line does not."""
    records = {}
    for path in paths:
        for line in path.read_text().splitlines():
            try:
                fields = json.loads(line)
            except json.JSONDecodeError:
                continue
            record = _record(fields)
            records[record.key] = record
    return records


def _record(fields: dict[str, Any]) -> Record:
    key = Key(*(fields.pop(name) for name in Key._fields))
    fields.setdefault("observed", fields["values"])
    fields.setdefault("feasible", [value is not None for value in fields["values"]])
    return Record(key, Run(**fields))


def _short(values: list[Any]) -> list[Any]:
    return [float(f"{v:.8g}") if isinstance(v, float) else v for v in values]
