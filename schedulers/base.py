"""The protocol of a scheduler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from raytune_hpo.trial import Config, Outcome, Result


class Decision(StrEnum):
    """What a scheduler wants of a trial that has just reported."""

    CONTINUE = "continue"
    PAUSE = "pause"
    """Free its resources. When it is resumed it goes on from its last checkpoint; without any it
    begins anew, and reports the same steps again."""
    STOP = "stop"
    """Cut it short for good."""
    COMPLETE = "complete"
    """End it for good: it has used all that a trial may use."""


@dataclass(frozen=True)
class Resume:
    """Let a paused trial go on."""

    trial: int


@dataclass(frozen=True)
class Drop:
    """Cut a paused trial short for good."""

    trial: int


@dataclass(frozen=True)
class Fork:
    """Start a new trial from the last checkpoint of another, which may have ended.

    It is not proposed by the searcher and does not count against the budget of trials.

    Attributes:
        parent: Trial whose checkpoint it goes on from.
        config: Of the new trial.
    """

    parent: int
    config: Config


Move = Resume | Drop | Fork


class Scheduler(Protocol):
    """Cuts trials short. It is built with ``(space, objective, seed, **settings)``.

    Its whole state follows from the calls it gets, in their order: the engine replays the journal
    into a new instance to go on after a crash. So it must not look at the clock, and what it draws
    at random has to follow from the seed and the trials concerned.
    """

    def on_trial(self, trial: int, config: Config, parent: int | None) -> None:
        """Take note of a new trial, which is about to start.

        Args:
            trial: Its number; numbers are given in the order of these calls, from 0.
            config: Of the trial.
            parent: The trial that it was forked from, or None.
        """

    def on_result(self, result: Result) -> Decision:
        """Decide on a trial that has just reported.

        A trial that went on from an older checkpoint, or began anew, reports steps again that it
        has reported before.

        Raises:
            BadMetric: The report lacks what the scheduler needs; the trial fails.
        """

    def on_end(self, trial: int, outcome: Outcome) -> None:
        """Take note of a trial that will not report any more."""

    def next_move(self, paused: Sequence[int], *, more: bool) -> Move | None:
        """Return what to do before a new trial starts, or None; changes nothing.

        It is asked when resources for a trial are free, and again after each move. What was done
        shows in the calls that follow: a dropped trial ends, a forked one is a new trial, and a
        resumed one is no longer among the paused ones.

        Args:
            paused: Trials that stand paused now, in ascending order.
            more: Whether further trials of the searcher may follow. When there are none, nothing
                runs and the answer is None, the paused trials are ended.
        """
