"""What is to go wrong, how often and for whom: a plan, and its strikes from one seed."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from raytune_hpo.errors import SpecError


class FaultKind(StrEnum):
    """What goes wrong."""

    FAIL = "fail"
    """Running trials fail for good, as with an image that does not exist."""
    KILL = "kill"
    """Workers of running trials get SIGKILL."""
    SLOW = "slow"
    """Workers stand still for a while."""
    HANG = "hang"
    """Workers stand still until the driver gives them up."""
    KILL_DRIVER = "kill-driver"
    """The driver gets SIGKILL, and is started again."""
    STOP_DRIVER = "stop-driver"
    """The driver gets SIGTERM, and is started again."""
    DISK_FULL = "disk-full"
    """The journal finds no space; the driver is started again when there is some."""
    MLFLOW_OUTAGE = "mlflow-outage"
    """The MLflow store does not answer for a while."""

    @property
    def hits_trials(self) -> bool:
        """Whether it picks some of the running trials."""
        return self in (FaultKind.FAIL, FaultKind.KILL, FaultKind.SLOW, FaultKind.HANG)

    @property
    def ends_driver(self) -> bool:
        """Whether the driver has to be started again."""
        return self in (FaultKind.KILL_DRIVER, FaultKind.STOP_DRIVER, FaultKind.DISK_FULL)


@dataclass(frozen=True)
class Every:
    """The distance of two strikes: in seconds, or in trials that have finished.

    Attributes:
        amount: Of that unit, above 0.
        in_trials: Whether the unit is a finished trial.
    """

    amount: float
    in_trials: bool = False

    @classmethod
    def parse(cls, text: str) -> Every:
        """Return what ``20s``, ``20`` (seconds) or ``36t`` (finished trials) says.

        Raises:
            SpecError: It is none of them, or not above 0.
        """
        in_trials = text.endswith("t")
        amount = _number(text.removesuffix("t").removesuffix("s"))
        if amount is None or amount <= 0:
            raise SpecError(f"{text!r} is no interval such as 20s, or 36t for 36 finished trials")
        return cls(amount, in_trials)

    def __str__(self) -> str:
        return f"{self.amount:g} finished trials" if self.in_trials else f"{self.amount:g} s"


@dataclass(frozen=True)
class Fault:
    """One line of a plan.

    Attributes:
        kind: What goes wrong.
        every: How far apart its strikes are; the first comes that long after the start.
        share: Of the running trials, from 0 to 1, rounded up; for faults that hit trials.
        for_s: How long it lasts in seconds, where it ends by itself.
        times: How often at the most, or None for as long as the run goes on.
    """

    kind: FaultKind
    every: Every
    share: float = 0.0
    for_s: float = 5.0
    times: int | None = None

    def __str__(self) -> str:
        if self.kind.hits_trials:
            return f"{self.kind} {100 * self.share:g} % of the running trials every {self.every}"
        return f"{self.kind}, {self.times} times, every {self.every}"


@dataclass(frozen=True)
class Strike:
    """A fault at its moment.

    Attributes:
        fault: The line of the plan.
        trials: Numbers of the trials that it hits; empty when it hits something else.
    """

    fault: Fault
    trials: tuple[int, ...] = ()


class Strikes:
    """Says what strikes when: the same for the same seed and the same course of the run.

    Args:
        plan: The faults.
        seed: Each fault draws from a stream of its own.
    """

    def __init__(self, plan: Sequence[Fault], seed: int) -> None:
        counted = [fault for fault in plan if fault.times is not None]
        self._faults = [
            # Those that stop the whole run take turns, so that each of them is met.
            _Pending(fault, _stream(seed, i, fault), counted.index(fault), len(counted))
            if fault in counted
            else _Pending(fault, _stream(seed, i, fault))
            for i, fault in enumerate(plan)
        ]

    def due(self, now_s: float, finished: int, running: Sequence[int]) -> list[Strike]:
        """Return the strikes of this moment; one that finds no trial running waits for one.

        At most one of them ends the driver; the next such one waits for the next call.

        Args:
            now_s: Seconds since the strikes may begin; never goes back.
            finished: Trials that have finished.
            running: Numbers of the trials that really run; their order does not matter.
        """
        if not running:
            return []
        strikes: list[Strike] = []
        for pending in self._faults:
            if pending.ends_driver and any(strike.fault.kind.ends_driver for strike in strikes):
                continue
            strike = pending.strike(now_s, finished, sorted(running))
            if strike is not None:
                strikes.append(strike)
        return strikes


class _Pending:
    """The next strike of one fault.

    Args:
        fault: The fault.
        stream: Picks the trials.
        turn: Intervals to let pass before the first one.
        turns: Intervals from one strike to the next.
    """

    def __init__(self, fault: Fault, stream: random.Random, turn: int = 0, turns: int = 1) -> None:
        self._fault = fault
        self._stream = stream
        self._turn = turn
        self._turns = turns
        self._count = 0

    @property
    def ends_driver(self) -> bool:
        """Whether the driver does not survive it."""
        return self._fault.kind.ends_driver

    def strike(self, now_s: float, finished: int, running: Sequence[int]) -> Strike | None:
        every = self._fault.every
        passed = math.floor((finished if every.in_trials else now_s) / every.amount)
        due = self._count * self._turns + self._turn + 1
        if self._count == self._fault.times or passed < due:
            return None
        # One that was held up does not bring those that it held up with it.
        self._count = passed if self._fault.times is None else self._count + 1
        if not self._fault.kind.hits_trials:
            return Strike(self._fault)
        return Strike(self._fault, self._victims(running))

    def _victims(self, running: Sequence[int]) -> tuple[int, ...]:
        """Draw a share of the running trials, rounded up."""
        # What is above a whole number by rounding only is that number.
        number = math.ceil(len(running) * self._fault.share - 1e-9)
        return tuple(sorted(self._stream.sample(running, number)))


def _stream(seed: int, index: int, fault: Fault) -> random.Random:
    return random.Random(f"{seed}/{index}/{fault.kind}")


def share(text: str) -> float:
    """Return what ``50%`` or ``0.5`` says, from 0 to 1.

    Raises:
        SpecError: It is neither.
    """
    number = _number(text.removesuffix("%"))
    if number is not None and text.endswith("%"):
        number /= 100
    if number is None or not 0 <= number <= 1:
        raise SpecError(f"{text!r} is no share of the running trials such as 50% or 0.5")
    return number


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
