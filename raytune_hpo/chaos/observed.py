"""What somebody who executes trials sees of a run: the log that the checker goes by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

RETURNED = "returned"
"""How an attempt ended that came to its own end."""
STOP = "stop"
"""Answer to a report whose trial is not to go on."""


@dataclass(frozen=True, slots=True)
class SessionStarted:
    """A driver came up.

    Attributes:
        session: From 1.
        at_s: Virtual time in seconds that never goes back.
        trials: Budget of this session.
        parallel: Trials that may run at once in this session.
        time_limit_s: Of this session, or None.
    """

    session: int
    at_s: float
    trials: int
    parallel: int
    time_limit_s: float | None


@dataclass(frozen=True, slots=True)
class SessionReady:
    """The driver has read its journal and told searcher and scheduler of it."""

    session: int


@dataclass(frozen=True, slots=True)
class Adopted:
    """The searcher was told of a config that it need not propose any more."""

    session: int
    trial: int
    config: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Suggested:
    """The searcher was asked for a config."""

    session: int
    trial: int
    config: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Told:
    """The searcher was told how a trial ended."""

    session: int
    trial: int
    state: str
    values: tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class AttemptStarted:
    """An attempt was given to a worker.

    Attributes:
        step: Step of the trial's own at which the checkpoint was made that it goes on from, or 0.
        checkpoint: That checkpoint, or None.
    """

    session: int
    trial: int
    attempt: int
    config: Mapping[str, Any]
    step: int
    checkpoint: str | None


@dataclass(frozen=True, slots=True)
class AttemptBegan:
    """The worker began."""

    session: int
    trial: int
    attempt: int


@dataclass(frozen=True, slots=True)
class ReportMade:
    """A trial executed a step, and its report was passed on.

    Attributes:
        step: Of the trial's own, from 1.
        again: Whether this is the same report passed on a second time.
    """

    session: int
    trial: int
    attempt: int
    step: int
    metrics: Mapping[str, Any]
    checkpoint: str | None
    again: bool = False


@dataclass(frozen=True, slots=True)
class ReportAcknowledged:
    """The trial was told that its report is safe.

    Attributes:
        answer: ``continue``, ``pause``, ``stop`` or ``complete``.
    """

    session: int
    trial: int
    attempt: int
    step: int
    answer: str


@dataclass(frozen=True, slots=True)
class AttemptEnded:
    """An attempt was over by itself, and that was passed on.

    Attributes:
        how: ``returned``, or a kind of failure.
        begun: Whether it had begun.
    """

    session: int
    trial: int
    attempt: int
    how: str
    begun: bool


@dataclass(frozen=True, slots=True)
class EndAcknowledged:
    """What was passed on of an attempt's end is safe."""

    session: int
    trial: int
    attempt: int


@dataclass(frozen=True, slots=True)
class ToldToStop:
    """An attempt that others had made pointless was ended."""

    session: int
    trial: int
    attempt: int


@dataclass(frozen=True, slots=True)
class StalePassedOn:
    """Something of an attempt that was over came late.

    Attributes:
        what: ``begin``, ``report`` or ``end``.
        answer: To a report; None otherwise.
    """

    session: int
    trial: int
    attempt: int
    what: str
    answer: str | None


@dataclass(frozen=True, slots=True)
class ClockJumped:
    """The wall clock was set."""

    by_s: float


@dataclass(frozen=True, slots=True)
class StopAsked:
    """Somebody asked for a graceful stop."""

    session: int
    reason: str


@dataclass(frozen=True, slots=True)
class DriverKilled:
    """The driver died.

    Attributes:
        lost: Records that no disk had, and that are gone.
    """

    session: int
    lost: int


@dataclass(frozen=True, slots=True)
class DriverFailed:
    """The driver raised an error of its own, or waits for nothing."""

    session: int
    error: str


@dataclass(frozen=True, slots=True)
class SessionFinished:
    """The engine ended the session.

    Attributes:
        at_s: Virtual time in seconds that never goes back.
    """

    session: int
    at_s: float
    reason: str


Observation = (
    SessionStarted
    | SessionReady
    | Adopted
    | Suggested
    | Told
    | AttemptStarted
    | AttemptBegan
    | ReportMade
    | ReportAcknowledged
    | AttemptEnded
    | EndAcknowledged
    | ToldToStop
    | StalePassedOn
    | ClockJumped
    | StopAsked
    | DriverKilled
    | DriverFailed
    | SessionFinished
)


def readable(observed: Sequence[Observation]) -> str:
    """Return the log as text, one observation a line."""
    return "\n".join(_line(item) for item in observed)


def _line(item: Observation) -> str:
    values = ((field.name, getattr(item, field.name)) for field in fields(item))
    shown = " ".join(f"{name}={_cut(repr(value))}" for name, value in values)
    indent = "" if isinstance(item, (SessionStarted, DriverKilled, SessionFinished)) else "  "
    return f"{indent}{type(item).__name__:<19}{shown}"


def _cut(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
