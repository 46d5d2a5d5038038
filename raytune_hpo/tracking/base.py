"""What a tracker is, and how its store can fail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from raytune_hpo.errors import RaytuneHpoError
from raytune_hpo.journal import Record


class Unreachable(RaytuneHpoError):
    """The store cannot take anything now; what was not taken is kept, and can be tried again."""


class Refused(RaytuneHpoError):
    """The store answered, and will never take this."""


class Tracker(Protocol):
    """Takes the records of one journal, in order, each once."""

    @property
    def applied(self) -> int:
        """Records of the journal that the store has."""
        ...

    @property
    def refused(self) -> int:
        """Writes that the store did not take, and what came with them did."""
        ...

    def apply(self, records: Sequence[Record]) -> None:
        """Take in records and bring them to the store, with all that waited before.

        Raises:
            Unreachable: The records are kept; call again, without records, to try again.
        """

    def end(self) -> None:
        """Bring what is known of a run whose driver is no more, at the end of the journal.

        Raises:
            Unreachable: As ``apply`` does; call again to try again.
        """

    def close(self) -> None:
        """Free what is held; nothing more is brought to the store."""
