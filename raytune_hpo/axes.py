"""The parameters of a search space, and how each maps to the unit interval and back."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from scipy.special import ndtr, ndtri

DIGITS = 12
"""Digits of a float: few enough that a place on the unit interval can tell them all."""
_NEAR = 64


@dataclass(frozen=True)
class Normal:
    """A normal prior, cut off at the parameter's bounds: mean and standard deviation (above 0).

    Example:
        >>> Float(-2.0, 2.0, prior=Normal(0.0, 0.5)).decode(0.5)
        0.0
    """

    mean: float
    sd: float


@dataclass(frozen=True)
class LogNormal:
    """A prior whose logarithm is normal, cut off at the parameter's bounds.

    Attributes:
        mean: Of the natural logarithm.
        sd: Of the natural logarithm, above 0.

    Example:
        >>> Float(0.01, 100.0, prior=LogNormal(0.0, 1.0)).decode(0.5)
        1.0
    """

    mean: float
    sd: float


Prior = Normal | LogNormal


@dataclass(frozen=True)
class Float:
    """A real number between two bounds, both included.

    Attributes:
        low: Lower bound.
        high: Upper bound.
        log: Uniform in the logarithm; needs ``low > 0``.
        step: Only ``low``, ``low + step``, ... are tried; None for all.
        prior: Where good values are expected; None for uniform.
        when: Condition on other parameters under which it is there.

    Example:
        >>> Float(1e-4, 1.0, log=True).decode(0.25)
        0.001
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    prior: Prior | None = None
    when: str | None = None

    @property
    def size(self) -> int | None:
        """Number of values, or None for infinitely many."""
        return None if self.step is None else _steps(self.low, self.high, self.step)

    def holds(self, value: Any) -> bool:
        """Return whether a value is one of this parameter's."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if not self.low <= value <= self.high:
            return False
        return self.step is None or _at(self.low, self.step, self._index(value)) == value

    def decode(self, u: float) -> float:
        """Return the value at ``u`` in [0, 1]."""
        if self.step is not None:
            edges = self._edges()
            index = _bin(u, edges, self)
            return float(_at(self.low, self.step, index))
        if 0 < u < 1:
            value = _rounded(_quantile(u, self), self)
            return float(min(max(value, self.low), self.high))
        return float(self.low if u <= 0 else self.high)

    def encode(self, value: Any) -> float:
        """Return the place of a value in [0, 1].

        ``decode`` gives back exactly what it gave, and every value of up to ``DIGITS`` digits
        unless a prior leaves it next to no room.
        """
        if self.step is not None:
            return _bin_centre(self._index(value), self._edges(), self)
        u = _cumulative(float(value), self)
        near = (step * math.ulp(u) for step in range(_NEAR))
        return next((v for d in near for v in (u - d, u + d) if self.decode(v) == value), u)

    def points(self, resolution: int | None) -> Iterator[float]:
        """Return the values of a grid: the bounds are among them when there is no prior."""
        if self.step is not None:
            for index in range(_steps(self.low, self.high, self.step)):
                yield float(_at(self.low, self.step, index))
            return
        count = resolution or 1
        for index in range(count):
            inner = count == 1 or self.prior is not None
            yield self.decode((index + 0.5) / count if inner else index / (count - 1))

    def _index(self, value: float) -> int:
        return round((value - self.low) / (self.step or 1.0))

    def _edges(self) -> tuple[int, float]:
        return _steps(self.low, self.high, self.step or 1.0), self.step or 1.0


@dataclass(frozen=True)
class Int:
    """A whole number between two bounds, both included; the fields are those of ``Float``.

    Example:
        >>> [Int(1, 4).decode(u) for u in (0.0, 0.3, 1.0)]
        [1, 2, 4]
    """

    low: int
    high: int
    log: bool = False
    step: int | None = None
    prior: Prior | None = None
    when: str | None = None

    @property
    def size(self) -> int:
        """Number of values."""
        return (self.high - self.low) // (self.step or 1) + 1

    def holds(self, value: Any) -> bool:
        """Return whether a value is one of this parameter's."""
        if isinstance(value, bool) or not isinstance(value, int):
            return False
        return self.low <= value <= self.high and (value - self.low) % (self.step or 1) == 0

    def decode(self, u: float) -> int:
        """Return the value at ``u`` in [0, 1]."""
        return self.low + (self.step or 1) * _bin(u, self._edges(), self)

    def encode(self, value: Any) -> float:
        """Return the middle of the part of [0, 1] that decodes to the value."""
        return _bin_centre((value - self.low) // (self.step or 1), self._edges(), self)

    def points(self, resolution: int | None) -> Iterator[int]:
        """Return the values of a grid: all, or ``resolution`` of them spread over [0, 1]."""
        if resolution is None or resolution >= self.size:
            yield from range(self.low, self.high + 1, self.step or 1)
            return
        count = max(resolution, 1)
        found = [self.decode(0.5 if count == 1 else i / (count - 1)) for i in range(count)]
        yield from dict.fromkeys(found)

    def _edges(self) -> tuple[int, float]:
        return self.size, float(self.step or 1)


@dataclass(frozen=True)
class Choice:
    """One of several values without an order.

    Attributes:
        values: Texts, numbers, truth values, None, or lists of them.
        when: Condition on other parameters under which it is there.

    Example:
        >>> Choice(("sgd", "adam")).decode(0.9)
        'adam'
    """

    values: tuple[Any, ...]
    when: str | None = None

    @property
    def size(self) -> int:
        """Number of values."""
        return len(self.values)

    def holds(self, value: Any) -> bool:
        """Return whether a value is one of this parameter's."""
        return any(same(value, mine) for mine in self.values)

    def decode(self, u: float) -> Any:
        """Return the value at ``u`` in [0, 1]."""
        return self.values[min(int(u * len(self.values)), len(self.values) - 1)]

    def encode(self, value: Any) -> float:
        """Return the middle of the part of [0, 1] that decodes to the value."""
        index = next(i for i, mine in enumerate(self.values) if same(value, mine))
        return (index + 0.5) / len(self.values)

    def points(self, resolution: int | None) -> Iterator[Any]:
        """Return all values."""
        yield from self.values


@dataclass(frozen=True)
class Ordinal(Choice):
    """One of several values in an order, neighbours being alike; the fields are ``Choice``'s.

    Example:
        >>> Ordinal((16, 32, 64)).encode(32)
        0.5
    """


@dataclass(frozen=True)
class Constant:
    """A value that every trial gets.

    Attributes:
        value: The value.
        when: Condition on other parameters under which it is there.

    Example:
        >>> Constant("digits").holds("digits")
        True
    """

    value: Any
    when: str | None = None

    def holds(self, value: Any) -> bool:
        """Return whether a value is this one."""
        return same(value, self.value)


Axis = Float | Int | Choice | Ordinal
Parameter = Axis | Constant


def same(a: Any, b: Any) -> bool:
    """Return whether two values are equal and of one type: 1, 1.0 and True differ."""
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and bool(a == b)


def mass(parameter: Float | Int) -> float:
    """Return how much of a parameter's prior lies within its bounds; 1 without a prior."""
    if parameter.prior is None:
        return 1.0
    low, high = _tails(parameter)
    return high - low


def _steps(low: float, high: float, step: float) -> int:
    return int((Decimal(repr(high)) - Decimal(repr(low))) / Decimal(repr(step))) + 1


def _at(low: float, step: float, index: int) -> float:
    """Return ``low + index * step`` as a person would compute it: 0.1 + 2 * 0.1 is 0.3."""
    return float(Decimal(repr(low)) + index * Decimal(repr(step)))


# The unit interval: first through the prior (or not), then the scale


def _scale(value: float, parameter: Float | Int) -> float:
    return math.log(value) if parameter.log else value


def _tails(parameter: Float | Int) -> tuple[float, float]:
    """Return the prior's cumulative probability at the bounds."""
    return _prior_cdf(parameter.low, parameter), _prior_cdf(parameter.high, parameter)


def _prior_cdf(value: float, parameter: Float | Int) -> float:
    prior = parameter.prior
    if isinstance(prior, LogNormal):
        if value <= 0:
            return 0.0
        return float(ndtr((math.log(value) - prior.mean) / prior.sd))
    if isinstance(prior, Normal):
        return float(ndtr((value - prior.mean) / prior.sd))
    return 0.0


def _quantile(u: float, parameter: Float) -> float:
    prior = parameter.prior
    if u <= 0:
        return float(parameter.low)
    if u >= 1:
        return float(parameter.high)
    if prior is not None:
        low, high = _tails(parameter)
        z = prior.mean + prior.sd * float(ndtri(low + u * (high - low)))
        return math.exp(min(z, 700.0)) if isinstance(prior, LogNormal) else z
    if parameter.log:
        low, high = math.log(parameter.low), math.log(parameter.high)
        return math.exp(low + u * (high - low))
    return parameter.low + u * (parameter.high - parameter.low)


def _rounded(value: float, parameter: Float) -> float:
    """Return a value to ``DIGITS`` digits: of the range, or of the value itself in logarithm."""
    if parameter.log or isinstance(parameter.prior, LogNormal):
        return float(f"{value:.{DIGITS}g}")
    return round(value, DIGITS - math.ceil(math.log10(parameter.high - parameter.low)))


def _cumulative(value: float, parameter: Float) -> float:
    if parameter.prior is not None:
        low, high = _tails(parameter)
        u = (_prior_cdf(value, parameter) - low) / (high - low)
    else:
        low, high = _scale(parameter.low, parameter), _scale(parameter.high, parameter)
        u = (_scale(value, parameter) - low) / (high - low)
    return min(max(u, 0.0), 1.0)


# Bins: parameters with finitely many values share the unit interval out among them


def _edge(k: float, edges: tuple[int, float], parameter: Float | Int) -> float:
    """Return the cumulative share of all bins before the one with number ``k``."""
    count, step = edges
    if k <= 0:
        return 0.0
    if k >= count:
        return 1.0
    if parameter.prior is None and not parameter.log:
        return k / count
    first = _mark(-0.5, step, parameter)
    last = _mark(count - 0.5, step, parameter)
    return (_mark(k - 0.5, step, parameter) - first) / (last - first)


def _mark(k: float, step: float, parameter: Float | Int) -> float:
    value = parameter.low + k * step
    if parameter.prior is not None:
        return _prior_cdf(value, parameter)
    return math.log(max(value, parameter.low / 2))


def _bin(u: float, edges: tuple[int, float], parameter: Float | Int) -> int:
    """Return the number of the bin that ``u`` lies in."""
    count, _ = edges
    if parameter.prior is None and not parameter.log:
        return min(max(int(u * count), 0), count - 1)
    low, high = 0, count - 1
    while low < high:
        middle = (low + high + 1) // 2
        if _edge(middle, edges, parameter) <= u:
            low = middle
        else:
            high = middle - 1
    return low


def _bin_centre(k: int, edges: tuple[int, float], parameter: Float | Int) -> float:
    return (_edge(k, edges, parameter) + _edge(k + 1, edges, parameter)) / 2
