"""Lines of a log that is read again after a break: each once, none left out."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta

_BACK = timedelta(seconds=1)
"""The times of two streams of a container may be a little out of order."""
_FORM = "%Y-%m-%dT%H:%M:%SZ"


class Once:
    """Remembers what was read of one container's log, as far as it may come again.

    Kubernetes gives a log again from a whole second on. So the lines of the last seconds are
    remembered, and those among them that come again are left out.
    """

    def __init__(self) -> None:
        self._seen: dict[datetime, Counter[bytes]] = {}
        self._again: Counter[bytes] = Counter()

    @property
    def since(self) -> str | None:
        """The second to read again from; None for the beginning."""
        return min(self._seen).strftime(_FORM) if self._seen else None

    def text(self, lines: Iterable[bytes], *, last: bool = False) -> Iterator[bytes]:
        """Yield the new ones of some lines, without the times before them.

        Args:
            lines: What was read from ``since`` on, each with its time and a blank before it.
            last: Whether no more can come, so that a line without an end is a whole one.
        """
        self._again = sum(self._seen.values(), Counter())
        for line in lines:
            if not line.endswith(b"\n") and not last:
                continue
            time, _, text = line.partition(b" ")
            mark = hashlib.blake2b(line.rstrip(b"\n"), digest_size=12).digest()
            if self._again[mark]:
                self._again[mark] -= 1
                continue
            self._remember(_second(time), mark)
            yield text

    def _remember(self, second: datetime | None, mark: bytes) -> None:
        if second is None:
            # Not a line with a time, as an error that the server puts among them.
            return
        self._seen.setdefault(second, Counter())[mark] += 1
        old = [known for known in self._seen if known < max(self._seen) - _BACK]
        for known in old:
            del self._seen[known]


def _second(time: bytes) -> datetime | None:
    """Return the second of a time as 2026-01-31T12:00:00.123456789Z."""
    try:
        found = datetime.fromisoformat(time.decode("ascii"))
    except ValueError:
        return None
    return None if found.tzinfo is None else found.replace(microsecond=0).astimezone(UTC)
