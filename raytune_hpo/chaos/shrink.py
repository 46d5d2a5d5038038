"""Making a list of choices smaller while it still fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

MOST_TRIES = 5_000
"""Shrinking ends after so many tries; what was found by then is small enough to read."""


def shrink(
    choices: Sequence[int], fails: Callable[[list[int]], bool], tries: int = MOST_TRIES
) -> list[int]:
    """Return a smaller list of choices that fails too.

    Pieces are dropped, set to 0 and lowered for as long as something helps, so in the end no single
    number can be dropped or halved.

    Args:
        choices: A list that fails.
        fails: Whether a list fails; has to answer the same for the same list.
        tries: At most so often ``fails`` is asked.

    Source: Zeller and Hildebrandt 2002, IEEE Transactions on Software Engineering 28(2), 183-200.

    Example:
        >>> shrink([3, 9, 0, 7, 1], lambda choices: sum(choices) >= 9)
        [9]
    """
    search = _Search(fails, tries)
    smallest = list(choices)
    before: list[int] | None = None
    while smallest != before:
        before = smallest
        smallest = search.lower(search.zero(search.drop(smallest)))
    return smallest


class _Search:
    """Tries what is smaller, for as long as tries are left."""

    def __init__(self, fails: Callable[[list[int]], bool], tries: int) -> None:
        self._fails = fails
        self._left = tries

    def drop(self, choices: list[int]) -> list[int]:
        """Leave out what is not needed, large pieces first."""
        for start, end in _pieces(len(choices)):
            # Pieces come from the end to the beginning, so what was dropped moves none of them.
            if end <= len(choices):
                choices = self._try(choices[:start] + choices[end:], choices)
        return choices

    def zero(self, choices: list[int]) -> list[int]:
        """Set to 0 what has no part in it, large pieces first."""
        for start, end in _pieces(len(choices)):
            if any(choices[start:end]):
                zeros = [0] * (end - start)
                choices = self._try(choices[:start] + zeros + choices[end:], choices)
        return choices

    def lower(self, choices: list[int]) -> list[int]:
        """Make single numbers smaller."""
        for index in range(len(choices)):
            lowered: list[int] | None = None
            while choices != lowered:
                lowered = choices
                number = choices[index]
                for less in sorted({number // 2, number - 1} & set(range(number))):
                    if choices[index] == number:
                        smaller = [*choices[:index], less, *choices[index + 1 :]]
                        choices = self._try(smaller, choices)
        return choices

    def _try(self, smaller: list[int], choices: list[int]) -> list[int]:
        """Return the smaller list if it fails too, the other one if not."""
        if self._left <= 0:
            return choices
        self._left -= 1
        return smaller if self._fails(smaller) else choices


def _pieces(length: int) -> Iterator[tuple[int, int]]:
    """Yield begin and end of pieces of a list, larger ones first, those at the end first."""
    size = length
    while size:
        for end in range(length, 0, -size):
            yield max(0, end - size), end
        size //= 2
