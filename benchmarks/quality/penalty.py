"""A number for trials that have none, for peers that know neither failures nor constraints."""

from __future__ import annotations

from .tuners import Told


class WorstSeen:
    """Puts the worst value seen so far, infeasible ones included, in place of a bad result.

    Example:
        >>> worst = WorstSeen()
        >>> [worst.number(Told(value)) for value in (None, 2.0, 1.0, None)]
        [None, 2.0, 1.0, 2.0]
    """

    def __init__(self) -> None:
        self._worst: float | None = None

    def number(self, told: Told) -> float | None:
        """Return what to tell a peer, or None while no value has been seen at all."""
        if told.value is not None:
            self._worst = told.value if self._worst is None else max(self._worst, told.value)
        return told.value if told.feasible else self._worst
