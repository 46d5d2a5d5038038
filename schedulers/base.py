"""The protocol of a scheduler."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

from raytune_hpo.trial import Outcome, Result


class Decision(StrEnum):
    """What a scheduler wants of a trial that has just reported."""

    CONTINUE = "continue"
    PAUSE = "pause"
    """Free its resources but keep its checkpoint: the scheduler may resume it."""
    STOP = "stop"
    """Cut it short for good."""
    COMPLETE = "complete"
    """End it for good: it has used all that a trial may use."""


class Scheduler(Protocol):
    """Cuts trials short. It is built with ``(objective, **settings)``.

    Its whole state follows from the calls it gets, in their order: the engine replays the journal
    into a new instance to go on after a crash. It must not look at the clock or draw at random.
    """

    def on_result(self, result: Result) -> Decision:
        """Decide on a trial that has just reported."""

    def on_end(self, trial: int, outcome: Outcome) -> None:
        """Take note of a trial that will not report any more."""

    def next_resume(self, paused: Sequence[int]) -> int | None:
        """Return which of the paused trials to resume now, or None; changes nothing.

        It is asked before a new trial starts, and at the end: paused trials that are not resumed
        when no new trial can start are ended.
        """
