"""Test functions with constraints, the optimum of each being known.

Sources: Gardner et al. 2014, Bayesian Optimization with Inequality Constraints, section 4.1
(``gardner``); Michalewicz and Schoenauer 1996, doi:10.1162/evco.1996.4.1.1 (``g4``, ``g6``,
``g8``); Coello Coello 2000, doi:10.1016/S0166-3615(99)00046-9 (``vessel``, ``beam``, ``spring``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .spaces import Axis, Config, Space
from .tasks import Evaluation, Problem

Answer = tuple[float, tuple[float, ...]]
"""Value and violations."""


@dataclass(frozen=True)
class _Function:
    axes: tuple[Axis, ...]
    answer: Callable[..., Answer]
    constraints: int
    optimum: float


class Constrained(Problem):
    """One of the functions.

    Example:
        >>> make("g8").evaluate_many([{"x0": 1.2279713, "x1": 4.2453733}])[0].feasible
        True
    """

    def __init__(self, function: _Function) -> None:
        self._function = function
        self.space = Space(function.axes)
        self.constraints = function.constraints
        self.optimum = function.optimum

    def evaluate_many(self, configs: Sequence[Config]) -> list[Evaluation]:
        """Return what is true of each config."""
        names = [axis.name for axis in self.space.axes]
        answers = (self._function.answer(*(c[name] for name in names)) for c in configs)
        return [Evaluation(value, violations) for value, violations in answers]


def make(name: str) -> Constrained:
    """Return a function by its name.

    Raises:
        ValueError: There is no such function.
    """
    if name not in _FUNCTIONS:
        raise ValueError(f"unknown constrained function {name!r}; known: {sorted(_FUNCTIONS)}")
    return Constrained(_FUNCTIONS[name])


def _box(*bounds: tuple[float, float]) -> tuple[Axis, ...]:
    return tuple(Axis(f"x{i}", "float", low, high) for i, (low, high) in enumerate(bounds))


def _gardner(x: float, y: float) -> Answer:
    value = math.cos(2 * x) * math.cos(y) + math.sin(x)
    return value, (math.cos(x) * math.cos(y) - math.sin(x) * math.sin(y) + 0.5,)


def _g4(a: float, b: float, c: float, d: float, e: float) -> Answer:
    value = 5.3578547 * c**2 + 0.8356891 * a * e + 37.293239 * a - 40792.141
    u = 85.334407 + 0.0056858 * b * e + 0.0006262 * a * d - 0.0022053 * c * e
    v = 80.51249 + 0.0071317 * b * e + 0.0029955 * a * b + 0.0021813 * c**2
    w = 9.300961 + 0.0047026 * c * e + 0.0012547 * a * c + 0.0019085 * c * d
    return value, (u - 92, -u, v - 110, 90 - v, w - 25, 20 - w)


def _g6(a: float, b: float) -> Answer:
    value = (a - 10) ** 3 + (b - 20) ** 3
    inner = 100 - (a - 5) ** 2 - (b - 5) ** 2
    return value, (inner, (a - 6) ** 2 + (b - 5) ** 2 - 82.81)


def _g8(a: float, b: float) -> Answer:
    if a == 0 or a + b == 0:
        return 0.0, (a**2 - b + 1, 1 - a + (b - 4) ** 2)
    waves = math.sin(2 * math.pi * a) ** 3 * math.sin(2 * math.pi * b)
    return -waves / (a**3 * (a + b)), (a**2 - b + 1, 1 - a + (b - 4) ** 2)


def _vessel(shell: int, head: int, radius: float, length: float) -> Answer:
    """Return the cost of a pressure vessel; thicknesses are in sixteenths of an inch."""
    s, h = 0.0625 * shell, 0.0625 * head
    value = (
        0.6224 * s * radius * length
        + 1.7781 * h * radius**2
        + 3.1661 * s**2 * length
        + 19.84 * s**2 * radius
    )
    volume = math.pi * radius**2 * length + 4 / 3 * math.pi * radius**3
    return value, (0.0193 * radius - s, 0.00954 * radius - h, 1 - volume / 1_296_000)


def _beam(h: float, length: float, t: float, b: float) -> Answer:
    """Return the cost of a welded beam."""
    load, span, elastic, shear = 6000.0, 14.0, 30e6, 12e6
    primary = load / (math.sqrt(2) * h * length)
    arm = math.sqrt(length**2 / 4 + ((h + t) / 2) ** 2)
    inertia = 2 * math.sqrt(2) * h * length * (length**2 / 12 + ((h + t) / 2) ** 2)
    secondary = load * (span + length / 2) * arm / inertia
    tau = math.sqrt(primary**2 + primary * secondary * length / arm + secondary**2)
    sigma = 6 * load * span / (b * t**2)
    bend = 4 * load * span**3 / (elastic * t**3 * b)
    critical = 4.013 * elastic * t * b**3 / 6 / span**2
    buckling = critical * (1 - t / (2 * span) * math.sqrt(elastic / (4 * shear)))
    value = 1.10471 * h**2 * length + 0.04811 * t * b * (14 + length)
    limits = (tau / 13600 - 1, sigma / 30000 - 1, h - b, bend - 0.25, 1 - buckling / load)
    return value, limits


def _spring(coils: int, diameter: float, wire: float) -> Answer:
    """Return the weight of a spring under tension."""
    value = (coils + 2) * diameter * wire**2
    bend = 1 - diameter**3 * coils / (71785 * wire**4)
    stress = (
        (4 * diameter**2 - wire * diameter) / (12566 * (diameter * wire**3 - wire**4))
        + 1 / (5108 * wire**2)
        - 1
    )
    surge = 1 - 140.45 * wire / (diameter**2 * coils)
    return value, (bend, stress, surge, (wire + diameter) / 1.5 - 1)


_G4_BOX = ((78, 102), (33, 45), (27, 45), (27, 45), (27, 45))
_VESSEL_AXES = (
    Axis("shell", "int", 1, 99),
    Axis("head", "int", 1, 99),
    Axis("radius", "float", 10, 200),
    Axis("length", "float", 10, 200),
)
_SPRING_AXES = (
    Axis("coils", "int", 2, 15),
    Axis("diameter", "float", 0.25, 1.3),
    Axis("wire", "float", 0.05, 0.2),
)
_FUNCTIONS = {
    "gardner": _Function(_box((0, 6), (0, 6)), _gardner, 1, -1.8887513615),
    "g4": _Function(_box(*_G4_BOX), _g4, 6, -30665.538672),
    "g6": _Function(_box((13, 100), (0, 100)), _g6, 2, -6961.813876),
    "g8": _Function(_box((0, 10), (0, 10)), _g8, 2, -0.095825041),
    "vessel": _Function(_VESSEL_AXES, _vessel, 3, 6059.714335),
    "beam": _Function(_box((0.1, 2), (0.1, 10), (0.1, 10), (0.1, 2)), _beam, 5, 1.724852),
    "spring": _Function(_SPRING_AXES, _spring, 4, 0.01266602),
}
