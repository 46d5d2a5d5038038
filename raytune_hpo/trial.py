"""The plain data of a trial: its states, failures and outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Config = dict[str, Any]
"""One point of a search space: parameter name to plain Python value; inactive ones are absent."""


class TrialState(StrEnum):
    """Where a trial stands."""

    PENDING = "pending"
    """Suggested, or waiting for its next attempt."""
    RUNNING = "running"
    PAUSED = "paused"
    """Stopped by the scheduler with a checkpoint; may go on later."""
    COMPLETED = "completed"
    """Ran to its own end with a usable objective."""
    PRUNED = "pruned"
    """Stopped for good by the scheduler; its last value counts."""
    FAILED = "failed"
    STOPPED = "stopped"
    """Ended from outside: the goal was reached, the time was up, or the user stopped the run."""

    @property
    def finished(self) -> bool:
        """Whether the trial will never run again."""
        return self not in (TrialState.PENDING, TrialState.RUNNING, TrialState.PAUSED)


class FailureKind(StrEnum):
    """Why an attempt failed."""

    EXCEPTION = "exception"
    EXIT_CODE = "exit_code"
    SIGNAL = "signal"
    TIME_LIMIT = "time_limit"
    SILENT = "silent"
    METRIC_MISSING = "metric_missing"
    METRIC_NAN = "metric_nan"
    METRIC_INFINITE = "metric_infinite"
    METRIC_NOT_NUMBER = "metric_not_number"
    WORKER_DIED = "worker_died"
    NODE_LOST = "node_lost"
    """The machine that it ran on went away."""
    PREEMPTED = "preempted"
    """The machine that it ran on went away, as had been announced."""
    STORAGE = "storage"
    """The run directory cannot be written, such as on a full disk: no fault of the trial's."""
    NO_CHECKPOINT = "no_checkpoint"
    """The scheduler needs checkpoints, and the trial made none."""
    NOT_STARTED = "not_started"
    """The command or function could not even be started."""

    @property
    def retryable(self) -> bool:
        """Whether a second attempt of the same config can end otherwise."""
        return self in _RETRYABLE


_RETRYABLE = frozenset(
    {
        FailureKind.EXCEPTION,
        FailureKind.EXIT_CODE,
        FailureKind.SIGNAL,
        FailureKind.TIME_LIMIT,
        FailureKind.SILENT,
        FailureKind.WORKER_DIED,
        FailureKind.NODE_LOST,
        FailureKind.PREEMPTED,
    }
)


@dataclass(frozen=True)
class Failure:
    """Why an attempt ended badly.

    Attributes:
        kind: The class of failure.
        message: One sentence for a person.
        details: The user's own traceback frames, or the last lines of output; may be empty.
        exit_code: Of a command, else None; negative when a signal ended it.
    """

    kind: FailureKind
    message: str
    details: str = ""
    exit_code: int | None = None


@dataclass(frozen=True)
class Outcome:
    """How a trial ended, as a searcher is told.

    Attributes:
        state: A finished state.
        values: One value an objective, in the user's unit and direction; None when there is none.
        violations: One number a constraint: above 0 is violated, 0 or below is met.
        step: Reports with an objective value that the trial made.
    """

    state: TrialState
    values: tuple[float, ...] | None = None
    violations: tuple[float, ...] = ()
    step: int = 0

    @property
    def feasible(self) -> bool:
        """Whether there is a value and no constraint is violated."""
        return self.values is not None and all(v <= 0 for v in self.violations)


@dataclass(frozen=True)
class Result:
    """One report of a trial, as a scheduler is told.

    Attributes:
        trial: Number of the trial.
        step: 1 for the trial's first report with an objective value, then counted on, over
            attempts too; or the value of the scheduler's resource attribute.
        values: One value an objective, in the user's unit and direction.
        metrics: Everything reported, for schedulers with a resource attribute.
        violations: One number a constraint: above 0 is violated, 0 or below is met.
        checkpoint: Whether the trial could go on from a checkpoint if it were paused.
    """

    trial: int
    step: int
    values: tuple[float, ...]
    metrics: Mapping[str, Any] = field(default_factory=dict)
    violations: tuple[float, ...] = ()
    checkpoint: bool = False
