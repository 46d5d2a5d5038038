"""A search space that belongs to no tuner: each adapter turns it into its tuner's own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Config = dict[str, Any]


@dataclass(frozen=True)
class Axis:
    """A parameter.

    Attributes:
        low: Lower bound of a float or int, included.
        high: Upper bound, included.
        log: Uniform in the logarithm.
        choices: Values of a choice.
        parent: It is there only when this choice has one of ``values``; None for always.

    Example:
        >>> Axis("layers", "int", 1, 4).value(0.3)
        2
    """

    name: str
    kind: Literal["float", "int", "choice"]
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    choices: tuple[str, ...] = ()
    parent: str | None = None
    values: tuple[str, ...] = ()

    def value(self, u: float) -> Any:
        """Return the value at ``u`` in [0, 1]; ints and choices share it out evenly."""
        if self.kind == "choice":
            return self.choices[min(int(u * len(self.choices)), len(self.choices) - 1)]
        low, high = self._scaled_bounds()
        scaled = low + u * (high - low)
        return self.clipped(math.exp(scaled) if self.log else scaled)

    def unit(self, value: Any) -> float:
        """Return the place of a value in [0, 1]."""
        if self.kind == "choice":
            return (self.choices.index(value) + 0.5) / len(self.choices)
        low, high = self._scaled_bounds()
        return ((math.log(value) if self.log else value) - low) / (high - low)

    def clipped(self, value: float) -> float | int:
        """Return a number as one of the axis: within bounds, and whole when it is an int."""
        if self.kind == "int":
            return int(min(max(round(value), self.low), self.high))
        return float(min(max(value, self.low), self.high))

    def _scaled_bounds(self) -> tuple[float, float]:
        half = 0.5 if self.kind == "int" else 0.0
        low, high = self.low - half, self.high + half
        return (math.log(low), math.log(high)) if self.log else (low, high)


class Space:
    """Several axes, each after its parent.

    Example:
        >>> Space([Axis("x", "float", 0, 2)]).config([0.25])
        {'x': 0.5}
    """

    def __init__(self, axes: Sequence[Axis]) -> None:
        self.axes = tuple(axes)

    def active(self, values: Mapping[str, Any]) -> Config:
        """Return the values without those whose condition is not met."""
        config: Config = {}
        for axis in self.axes:
            if axis.parent is None or config.get(axis.parent) in axis.values:
                config[axis.name] = values[axis.name]
        return config

    def config(self, units: Sequence[float] | np.ndarray[Any, Any]) -> Config:
        """Return the config at a point of the unit cube."""
        pairs = zip(self.axes, units, strict=True)
        return self.active({axis.name: axis.value(float(u)) for axis, u in pairs})

    def sample(self, rng: np.random.Generator) -> Config:
        """Return a random config."""
        return self.config(rng.random(len(self.axes)))
