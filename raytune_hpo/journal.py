"""The append-only record of a run: the one source of truth.

It lies in the folder ``journal`` of the run directory, in segments ``000001.jsonl``,
``000002.jsonl``, ...: each driver claims the next number, by making a file that was not there, and
writes to that one only. A driver that was given up and wakes up again therefore cannot harm what
its successor writes, on whatever file system: of a segment, the records before the first number of
the next one count.

One JSON object a line. Every record has ``n`` (its number from 0 over all segments), ``t`` (unix
time in seconds), ``type``, and as its last field ``crc``: the CRC-32 of the line up to it, in hex.
A float that JSON has no name for is written as ``{"$float": "nan"}``, ``"inf"`` or ``"-inf"``.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raytune_hpo import disk, failpoints
from raytune_hpo.errors import JournalError, RunLockedError

Record = dict[str, Any]

FOLDER = "journal"
CHAOS_ENV = "RAYTUNE_HPO_CHAOS"
DISK_FULL_ORDER = "chaos/orders/disk-full"
"""While a file of this name is in a run directory under ``raytune-hpo chaos``, the disk is full."""
_CRC_LENGTH = len(',"crc":"00000000"}')


# Records and lines


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
    try:
        record = json.loads(body + b"}", object_hook=_special_float)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("n"), int) else None


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


# Segments


@dataclass(frozen=True)
class Damage:
    """Where a journal can no longer be read.

    Attributes:
        path: The segment.
        offset: Byte of the first line that cannot be read.
        records: Good records before it, of all segments.
        tail: Whether it is no more than the last line, such as a kill leaves it.
    """

    path: Path
    offset: int
    records: int
    tail: bool = False


def segments(run_dir: Path) -> list[Path]:
    """Return the segments of a run's journal, oldest first."""
    return sorted(run_dir.joinpath(FOLDER).glob("*.jsonl"), key=_number)


def exists(run_dir: Path) -> bool:
    """Return whether there is a journal, be it an empty one."""
    return bool(segments(run_dir))


def changed_t(run_dir: Path) -> float:
    """Return the unix time in seconds of the last record."""
    return max(path.stat().st_mtime for path in segments(run_dir))


def read(run_dir: Path) -> list[Record]:
    """Return all records of a run's journal; a torn last line is left out.

    Raises:
        JournalError: There is no journal, or one that is damaged before its last line.
    """
    if not exists(run_dir):
        raise JournalError(f"{run_dir}: there is no journal")
    records, damage = _scan(run_dir)
    if damage is not None and not damage.tail:
        raise JournalError(_refusal(run_dir, damage))
    return records


def _number(segment: Path) -> int:
    return int(segment.stem)


def _segment(run_dir: Path, number: int) -> Path:
    return run_dir / FOLDER / f"{number:06d}.jsonl"


def _scan(run_dir: Path) -> tuple[list[Record], Damage | None]:
    """Return the good records from the beginning, and where they end before the journal does."""
    contents = [(path, path.read_bytes()) for path in segments(run_dir)]
    # A driver that was killed while it wrote its first record has left nothing.
    filled = [(path, data) for path, data in contents if b"\n" in data]
    records: list[Record] = []
    for index, (path, data) in enumerate(filled):
        following = filled[index + 1][1] if index + 1 < len(filled) else None
        end = None if following is None else _first_number(following)
        used = _scan_lines(data, records, end)
        if len(records) == end or (used == len(data) and end is None):
            continue
        tail = following is None and b"\n" not in data[used:].removesuffix(b"\n")
        return records, Damage(path, used, len(records), tail)
    return records, None


def _scan_lines(data: bytes, records: list[Record], end: int | None, first: int = 0) -> int:
    """Add the good records of some lines, up to number ``end``; return the bytes they fill.

    Args:
        data: From the beginning of a line.
        records: What comes before; the first of it has the number ``first``.
        end: Number of the first record that is not wanted, or None.
        first: See ``records``.
    """
    offset = 0
    while first + len(records) != end and (stop := data.find(b"\n", offset)) >= 0:
        record = decode(data[offset:stop])
        if record is None or record["n"] != first + len(records):
            break
        records.append(record)
        offset = stop + 1
    return offset


def _first_number(data: bytes) -> int | None:
    """Return the number of a segment's first record; None when its first line is damaged."""
    record = decode(data[: data.find(b"\n")])
    return None if record is None else int(record["n"])


def _refusal(run_dir: Path, damage: Damage) -> str:
    return (
        f"{damage.path}: damaged at byte {damage.offset}, after {damage.records} good records. "
        f"Nothing was changed. To go on with the records before it: raytune-hpo repair '{run_dir}'"
    )


class Follower:
    """Reads a journal as it grows.

    Args:
        run_dir: Directory of the run; the journal may not be there yet.
        piece: Bytes to read at a time at the least, or None for all there is; a line is read whole.

    Attributes:
        records: Records read so far.
    """

    def __init__(self, run_dir: Path, piece: int | None = None) -> None:
        self._run_dir = run_dir
        self._piece = piece
        self._path: Path | None = None
        self._offset = 0
        self.records = 0

    def poll(self) -> list[Record]:
        """Return the next records; none if nothing has come.

        Raises:
            JournalError: The journal is damaged, or another driver has taken the run over.
        """
        found: list[Record] = []
        while True:
            new = self._poll_segment()
            found += new
            if (new and self._piece is not None) or (not new and not self._move_on()):
                return found

    def unread(self) -> int:
        """Return the number of records that are still to be read."""
        ahead = Follower(self._run_dir)
        ahead._path, ahead._offset, ahead.records = self._path, self._offset, self.records
        return len(ahead.poll())

    def _poll_segment(self) -> list[Record]:
        if self._path is None:
            return []
        following = self._successor()
        end = None if following is None else following[1]
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read() if self._piece is None else file.read(self._piece)
            if self._piece is not None and not data.endswith(b"\n"):
                data += file.readline()
        found: list[Record] = []
        used = _scan_lines(data, found, end, self.records)
        self._offset += used
        self.records += len(found)
        if following is None and b"\n" in data[used:].removesuffix(b"\n"):
            raise JournalError(
                _refusal(self._run_dir, Damage(self._path, self._offset, self.records))
            )
        return found

    def _move_on(self) -> bool:
        """Turn to the next segment if there is one that begins where this one has been read to."""
        following = self._successor()
        if following is None:
            return False
        path, first = following
        if first < self.records:
            raise JournalError(f"{path}: another driver has taken this run over; read it anew")
        if first > self.records:
            damage = Damage(self._path or path, self._offset, self.records)
            raise JournalError(_refusal(self._run_dir, damage))
        self._path, self._offset = path, 0
        return True

    def _successor(self) -> tuple[Path, int] | None:
        """Return the next segment with a record, and that record's number."""
        for path in segments(self._run_dir):
            if self._path is None or _number(path) > _number(self._path):
                with path.open("rb") as file:
                    line = file.readline()
                first = _first_number(line) if line.endswith(b"\n") else None
                if first is not None:
                    return path, first
        return None


def repair(run_dir: Path) -> Repair | None:
    """Make a damaged journal readable up to its damage; a copy of it as it was is kept.

    Returns:
        What was done, or None when there is no damage.

    Raises:
        JournalError: There is no journal.
    """
    if not exists(run_dir):
        raise JournalError(f"{run_dir}: there is no journal")
    _, damage = _scan(run_dir)
    if damage is None:
        return None
    count = len(list(run_dir.glob(f"{FOLDER}.damaged-*")))
    backup = run_dir / f"{FOLDER}.damaged-{count + 1}"
    shutil.copytree(run_dir / FOLDER, backup)
    lines = 0
    for path in segments(run_dir):
        # Emptied and not deleted: their numbers stay taken.
        keep = damage.offset if path == damage.path else 0 if path > damage.path else None
        if keep is not None:
            lines += path.read_bytes()[keep:].count(b"\n")
            os.truncate(path, keep)
            disk.sync(path)
    return Repair(damage, lines, backup)


@dataclass(frozen=True)
class Repair:
    """What became of a damaged journal.

    Attributes:
        damage: Where it was.
        lines: Lines given up, the damaged ones among them.
        backup: Folder with the journal as it was.
    """

    damage: Damage
    lines: int
    backup: Path


def replace_first(run_dir: Path, fields: Record) -> None:
    """Write the first record of a journal anew, for a run directory that was copied or moved.

    Args:
        run_dir: Directory of the run, held by this process.
        fields: The whole record.
    """
    path = next(path for path in segments(run_dir) if path.stat().st_size)
    data = path.read_bytes()
    draft = path.with_suffix(".part")
    draft.write_bytes(encode(fields) + data[data.find(b"\n") + 1 :])
    disk.sync(draft)
    draft.replace(path)
    disk.sync(path.parent)


class Journal:
    """Appends records to a segment of its own, the next one of a run's journal.

    ``append`` returns when the operating system has the line, so a kill of this process loses
    nothing; ``sync`` returns when the disk has it, so a power cut does not either.

    Args:
        run_dir: Directory of the run.
        clock: Gives the unix time in seconds.

    Attributes:
        run_dir: See above.
        records_at_open: The records of the segments before.
        torn: What is said of a last line that was cut off, or None.

    Raises:
        JournalError: The journal is damaged, or there was one and it is gone.
        RunLockedError: Another driver claims the run at this very moment.
    """

    def __init__(self, run_dir: Path, clock: Callable[[], float] = time.time) -> None:
        self.run_dir = run_dir
        self._clock = clock
        run_dir.joinpath(FOLDER).mkdir(exist_ok=True)
        self._claimed = 1 + max((_number(path) for path in segments(run_dir)), default=0)
        self.path = _segment(run_dir, self._claimed)
        self._fd = _claim(self.path)
        failpoints.reach("journal.claimed")
        try:
            # What a dead driver had not brought to disk is what this one goes on from.
            for segment in segments(run_dir):
                disk.sync(segment)
            self.records_at_open, self.torn = _readable(run_dir)
        except (JournalError, OSError):
            os.close(self._fd)
            self.path.unlink()
            raise
        self._size = 0
        self._next = len(self.records_at_open)
        self._dirty = False
        self._broken: OSError | None = None
        self._full = run_dir / DISK_FULL_ORDER if os.environ.get(CHAOS_ENV) else None

    def start_over(self) -> None:
        """Forget the records of earlier segments: nothing of them was ever run."""
        for path in segments(self.run_dir):
            if path != self.path:
                path.unlink()
        self.records_at_open, self._next = [], 0

    def append(self, type: str, **fields: Any) -> Record:
        """Write one record and return it.

        Raises:
            JournalError: It could not be written; the journal is as it was before.
        """
        self._check_whole()
        record = {"n": self._next, "t": self._clock(), "type": type, **fields}
        line = encode(record)
        try:
            self._write(line)
        except OSError as error:
            self._cut(error)
            raise JournalError(
                f"{self.path}: cannot be written: {error.strerror}. What was there before is safe; "
                f"when it can be written again: raytune-hpo resume '{self.run_dir}'"
            ) from error
        self._size += len(line)
        self._next += 1
        self._dirty = True
        failpoints.reach("journal.written")
        return record

    def sync(self) -> None:
        """Bring all records to the disk, and make sure that this driver still holds the run.

        Only after it may anybody be told that what was appended is safe.

        Raises:
            JournalError: The disk does not take them.
            RunLockedError: Another driver has taken the run over.
        """
        self._check_whole()
        if self._dirty:
            try:
                os.fdatasync(self._fd)
            except OSError as error:
                # What the kernel could not write it may have dropped: nothing is sure any more.
                self._broken = error
                self._check_whole()
            self._dirty = False
            failpoints.reach("journal.synced")
        if self.superseded:
            raise RunLockedError(
                f"{self.run_dir}: another driver has taken this run over while this one did not "
                "answer; it goes on there, and this one ends"
            )

    @property
    def superseded(self) -> bool:
        """Whether another driver has claimed the next segment."""
        return _segment(self.run_dir, self._claimed + 1).exists()

    def close(self) -> None:
        """Bring everything to disk and close the file; a segment without a record is removed."""
        if self._fd < 0:
            return
        try:
            if self._broken is None:
                os.fsync(self._fd)
        finally:
            os.close(self._fd)
            self._fd = -1
            if not self._size and not self.superseded:
                self.path.unlink(missing_ok=True)

    def _check_whole(self) -> None:
        if self._broken is not None:
            raise JournalError(f"{self.path}: cannot be brought to disk: {self._broken}")

    def _write(self, line: bytes) -> None:
        failpoints.reach("journal.append")
        if self._full is not None and self._full.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = 0
        if failpoints.is_armed("journal.torn"):
            written = os.write(self._fd, line[: len(line) // 2])
            failpoints.reach("journal.torn")
        while written < len(line):
            written += os.write(self._fd, line[written:])

    def _cut(self, error: OSError) -> None:
        """Take back what was written of a line."""
        try:
            os.ftruncate(self._fd, self._size)
            os.lseek(self._fd, self._size, os.SEEK_SET)
        except OSError:
            self._broken = error


def _claim(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        raise RunLockedError(
            f"{path.parents[1]}: another driver claims this run at this moment"
        ) from None
    disk.sync(path.parent)
    disk.sync(path.parents[1])
    return descriptor


def _readable(run_dir: Path) -> tuple[list[Record], str | None]:
    """Return the records to go on from, and what is said of a torn last line.

    Raises:
        JournalError: There is damage before the last line, or nothing where there was something.
    """
    records, damage = _scan(run_dir)
    if damage is not None and not damage.tail:
        raise JournalError(_refusal(run_dir, damage))
    if not records and any(run_dir.joinpath("trials").glob("*")):
        raise JournalError(
            f"{run_dir / FOLDER}: holds no record, though trials ran here. Put the journal back "
            "from a backup, or give the new run another name: --name OTHER"
        )
    if damage is None:
        return records, None
    return records, (
        f"{damage.path}: the last line, at byte {damage.offset}, was cut short and is left out; "
        f"the {damage.records} records before it are good"
    )


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
