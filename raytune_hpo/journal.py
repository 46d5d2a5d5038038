"""The append-only record of a run: the one source of truth.

One JSON object a line. Every record has ``n`` (its number from 0), ``t`` (unix time in seconds),
``type``, and as its last field ``crc``: the CRC-32 of the line up to it, in hex. A float that JSON
has no name for is written as ``{"$float": "nan"}``, ``"inf"`` or ``"-inf"``.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from raytune_hpo.errors import JournalError

Record = dict[str, Any]

FILE_NAME = "journal.jsonl"
_SYNC_INTERVAL_S = 0.05
_CRC_LENGTH = len(',"crc":"00000000"}')


def encode(record: Record) -> bytes:
    """Return the line of a record, with its check sum and newline."""
    try:
        text = json.dumps(record, allow_nan=False, separators=(",", ":"))
    except ValueError:
        text = json.dumps(_finite(record), allow_nan=False, separators=(",", ":"))
    body = text[:-1].encode()
    return body + b',"crc":"%08x"}\n' % zlib.crc32(body)


def decode(line: bytes) -> Record | None:
    """Return the record of a line without its newline, or None when the line is damaged."""
    body, tail = line[:-_CRC_LENGTH], line[-_CRC_LENGTH:]
    if tail != b',"crc":"%08x"}' % zlib.crc32(body):
        return None
    record: Record = json.loads(body + b"}", object_hook=_special_float)
    return record


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(value)}
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _special_float(value: dict[str, Any]) -> Any:
    return float(value["$float"]) if value.keys() == {"$float"} else value


def scan(data: bytes, first: int = 0, *, path: Path | str = FILE_NAME) -> tuple[list[Record], int]:
    """Return the records in ``data`` and the number of bytes they fill.

    A last line that is torn (no newline, or a newline after a line cut short) is left out.

    Args:
        data: Bytes of the journal, from the beginning of a line.
        first: Number that the first record must have.
        path: Shown in the error.

    Raises:
        JournalError: A line that is not the last is damaged or out of sequence.
    """
    records: list[Record] = []
    offset = 0
    while (end := data.find(b"\n", offset)) >= 0:
        record = decode(data[offset:end])
        if record is None or record["n"] != first + len(records):
            if end + 1 == len(data):
                break
            raise JournalError(_damage(path, offset, len(records)))
        records.append(record)
        offset = end + 1
    return records, offset


def _damage(path: Path | str, offset: int, good: int) -> str:
    return (
        f"{path}: damaged at byte {offset}, after {good} good records. Nothing was changed. "
        f"To go on with what is before the damage: cp '{path}' '{path}.damaged' && "
        f"truncate -s {offset} '{path}'"
    )


def read(path: Path) -> list[Record]:
    """Return all records of a journal; a torn last line is left out.

    Raises:
        JournalError: There is no journal, or one that is damaged before its last line.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise JournalError(f"{path}: there is no journal") from None
    return scan(data, path=path)[0]


def follow(path: Path, offset: int = 0, first: int = 0) -> tuple[list[Record], int]:
    """Return the records that came since ``offset``, and the offset to ask from next.

    Args:
        path: The journal; it may not be there yet.
        offset: Byte to read from, as returned by the call before.
        first: Number of the next record expected.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return [], offset
    records, used = scan(data, first, path=path)
    return records, offset + used


class Journal:
    """Appends records to the journal of a run; one writer at a time, held apart by the run's lock.

    ``append`` returns when the operating system has the line, so a kill of this process loses
    nothing; a thread brings it to the disk within 50 ms, so a power cut loses no more than that.

    Args:
        path: File to append to. A torn last line is cut off.
        clock: Gives the unix time in seconds.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self._clock = clock
        data = path.read_bytes() if path.exists() else b""
        self.records_at_open, self._size = scan(data, path=path)
        self._next = len(self.records_at_open)
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        if self._size < len(data):
            os.ftruncate(self._fd, self._size)
        os.lseek(self._fd, self._size, os.SEEK_SET)
        self._sync_error: OSError | None = None
        self._dirty = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._sync_loop, name="journal-sync", daemon=True)
        self._thread.start()

    def append(self, type: str, **fields: Any) -> Record:
        """Write one record and return it.

        Raises:
            JournalError: It could not be written; the journal is as it was before.
        """
        if self._sync_error is not None:
            raise JournalError(f"{self.path}: cannot be brought to disk: {self._sync_error}")
        record = {"n": self._next, "t": self._clock(), "type": type, **fields}
        line = encode(record)
        try:
            self._write(line)
        except OSError as error:
            os.ftruncate(self._fd, self._size)
            os.lseek(self._fd, self._size, os.SEEK_SET)
            raise JournalError(f"{self.path}: cannot be written: {error}") from error
        self._size += len(line)
        self._next += 1
        self._dirty.set()
        return record

    def _write(self, line: bytes) -> None:
        written = 0
        while written < len(line):
            written += os.write(self._fd, line[written:])

    def _sync_loop(self) -> None:
        while not self._closed:
            self._dirty.wait()
            self._dirty.clear()
            try:
                os.fdatasync(self._fd)
            except OSError as error:
                self._sync_error = error
            time.sleep(_SYNC_INTERVAL_S)

    def close(self) -> None:
        """Bring everything to disk and close the file."""
        if self._closed:
            return
        self._closed = True
        self._dirty.set()
        self._thread.join()
        os.fsync(self._fd)
        os.close(self._fd)


class MemoryJournal:
    """A journal that lives in a list, for simulation and tests."""

    def __init__(self, clock: Callable[[], float], records: Sequence[Record] = ()) -> None:
        self.records: list[Record] = list(records)
        self._clock = clock

    def append(self, type: str, **fields: Any) -> Record:
        """Keep one record, in the form a file would give it back, and return it."""
        raw = {"n": len(self.records), "t": self._clock(), "type": type, **fields}
        record = decode(encode(raw).rstrip(b"\n"))
        if record is None:
            raise JournalError("a record does not survive its own encoding")
        self.records.append(record)
        return record
