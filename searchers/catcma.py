"""One descent of CMA-ES with margin over a search space, computed by the package cmaes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import astuple, dataclass

import numpy as np
import numpy.typing as npt
from cmaes import CatCMAwM

from raytune_hpo.axes import Axis, Choice, Ordinal
from raytune_hpo.space import Cube, SearchSpace
from raytune_hpo.standing import FAILED, Standing

_MOST_STEPS = 32
"""Parameters with more values, if these have an order, count as continuous."""
_NARROW = 1e-5
"""A descent is over when its generation is no wider than this share of each parameter's range."""
_DRAWS = 5
"""So many draws for each axis of numbers, and 20 more, tell the mean and the covariance."""
_LEAST = 1e-7
"""Standard deviation that each axis has at least, as a share of the range."""
_FLAT = 3
"""A descent is over after so many generations in which all trials were equally good."""


class Coordinates:
    """Places of the unit cube as CatCMAwM has them: continuous, stepped and categorical.

    Attributes:
        count: How many there are; a parameter with one value has none.
        numbers: How many of them are continuous or stepped.
    """

    def __init__(self, space: SearchSpace) -> None:
        axes = list(space.axes.values())
        kinds = [_kind(axis) for axis in axes]
        self._dimensions = len(axes)
        self._x = [i for i, kind in enumerate(kinds) if kind == "continuous"]
        self._z = [i for i, kind in enumerate(kinds) if kind == "stepped"]
        self._c = [i for i, kind in enumerate(kinds) if kind == "categorical"]
        self._places = {i: _places(axes[i]) for i in (*self._z, *self._c)}
        self.numbers = len(self._x) + len(self._z)
        self.count = self.numbers + len(self._c)

    def optimizer(self, start: Cube, sigma: float, population: int) -> CatCMAwM:
        """Return a new optimizer around a point of the cube; categories are equally likely.

        Args:
            start: Shape (d,).
            sigma: Standard deviation; where steps are wider, it is half a step at least.
            population: Trials a generation.
        """
        deviations = np.array(
            [sigma] * len(self._x) + [max(sigma, 0.5 / len(self._places[i])) for i in self._z]
        )
        numeric = [*self._x, *self._z]
        return CatCMAwM(
            x_space=[(0.0, 1.0)] * len(self._x) or None,
            z_space=[self._places[i] for i in self._z] or None,
            c_space=[len(self._places[i]) for i in self._c] or None,
            population_size=population,
            mean=start[numeric] if numeric else None,
            sigma=1.0,
            cov=np.diag(deviations**2) if numeric else None,
        )

    def cube(self, sample: CatCMAwM.Solution) -> Cube:
        """Return the point of the cube that a sample stands for, shape (d,)."""
        u = np.full(self._dimensions, 0.5)
        if sample.x is not None:
            u[self._x] = sample.x
        if sample.z is not None:
            u[self._z] = sample.z
        if sample.c is not None:
            for i, one_hot in zip(self._c, sample.c, strict=True):
                u[i] = self._places[i][int(np.argmax(one_hot))]
        return u

    def moved(self, sample: CatCMAwM.Solution, u: Cube) -> CatCMAwM.Solution:
        """Return a sample at another point of the cube; where that is NaN it stays."""
        u = np.where(np.isnan(u), self.cube(sample), u)
        numeric = [*self._x, *self._z]
        return CatCMAwM.Solution(
            u[self._x] if self._x else None,
            u[self._z] if self._z else None,
            self._one_hot(u) if self._c else None,
            u[numeric] if numeric else None,
        )

    def _one_hot(self, u: Cube) -> npt.NDArray[np.bool_]:
        """Return which category each of the categorical parameters has, one a row."""
        widest = max(len(self._places[i]) for i in self._c)
        rows = np.zeros((len(self._c), widest), dtype=bool)
        for row, i in enumerate(self._c):
            rows[row, int(np.argmin(np.abs(np.subtract(self._places[i], u[i]))))] = True
        return rows

    def width(self, samples: list[CatCMAwM.Solution]) -> float:
        """Return the largest distance between samples along any axis of numbers; 1 without one."""
        numeric = [*self._x, *self._z]
        if not numeric:
            return 1.0
        points = np.array([self.cube(sample) for sample in samples])
        return float(np.ptp(points[:, numeric], axis=0).max())


@dataclass(frozen=True)
class Member:
    """A trial of a descent.

    Attributes:
        sample: What its config is made of.
        generation: In which it was drawn, or None when it was not.
    """

    sample: CatCMAwM.Solution
    generation: int | None


class Descent:
    """CMA-ES from a start until it has converged.

    A generation is made of the trials that end first, those drawn before the last update of the
    distribution and those that were not drawn from it at all among them. So no trial is wasted and
    none is waited for. How far such a trial may move the distribution is limited.

    Args:
        coordinates: Of the space.
        start: Where it begins, shape (d,) in the unit cube.
        sigma: Standard deviation in the beginning.
        population: Trials a generation.

    Attributes:
        population: Trials a generation.
        members: The trials that are to count, by number.
        drawn: Whether a trial was drawn from the distribution.
        over: Whether it has converged, or found nothing but failures.

    Source: Hansen 2011, arXiv:1110.4181 (trials from elsewhere).
    """

    def __init__(
        self, coordinates: Coordinates, start: Cube, *, sigma: float, population: int
    ) -> None:
        self.population = population
        self.members: dict[int, Member] = {}
        self.drawn = False
        self.over = False
        self._coordinates = coordinates
        self._optimizer = coordinates.optimizer(start, sigma, population)
        self._generation: list[tuple[Member, Standing]] = []
        self._flat = 0

    def ask(self, seed: int) -> CatCMAwM.Solution:
        """Return a sample, the same for the same seed until the next generation is complete.

        What lies outside of the cube is moved to its edge, and counts as having been drawn there:
        many parameters are best at an end of their range.
        """
        self._optimizer.reseed_rng(seed)
        x, z, c, raw = astuple(self._optimizer.ask())
        if x is not None:
            raw[: len(x)] = x
        return CatCMAwM.Solution(x, z, c, raw)

    def join(self, trial: int, sample: CatCMAwM.Solution, *, drawn: bool) -> None:
        """Make a trial a member.

        Args:
            trial: Its number.
            sample: What its config is made of.
            drawn: Whether ``ask`` has just given that.
        """
        self.members[trial] = Member(sample, self._optimizer.generation if drawn else None)
        self.drawn |= drawn

    def end(self, trial: int, standing: Standing) -> None:
        """Take note of how good a trial is; one that is no member is not looked at."""
        member = self.members.pop(trial, None)
        if member is None:
            return
        self._generation.append((member, standing))
        if len(self._generation) == self.population:
            self._update()
            self._generation = []

    def _update(self) -> None:
        """Move the distribution; only the order of the trials counts."""
        ranked = sorted(self._generation, key=lambda pair: pair[1])
        best, worst = ranked[0][1], ranked[-1][1]
        self._flat = self._flat + 1 if best == worst else 0
        if best != worst:
            samples = self._limited([member for member, _ in ranked])
            self._optimizer.tell([(sample, float(rank)) for rank, sample in enumerate(samples)])
        width = self._coordinates.width([member.sample for member, _ in ranked])
        self.over = best == FAILED or self._flat == _FLAT or width < _NARROW

    def _limited(self, members: list[Member]) -> list[CatCMAwM.Solution]:
        """Return the samples, those that were not drawn just now no further than draws may be."""
        samples = [member.sample for member in members]
        foreign = [i for i, m in enumerate(members) if m.generation != self._optimizer.generation]
        if foreign and (near := self._near()) is not None:
            for i in foreign:
                x, z, c, raw = astuple(samples[i])
                samples[i] = CatCMAwM.Solution(x, z, c, near(raw))
        return samples

    def _near(self) -> Callable[[Cube], Cube] | None:
        """Return what moves a place towards the mean until it is no further than draws may be.

        The distance is that of Mahalanobis, by the mean and the covariance of many draws, as those
        of the distribution are not public. None when there are no numbers.
        """
        n = self._coordinates.numbers
        if not n:
            return None
        draws = range(20 + _DRAWS * n)
        places = np.array([astuple(self.ask(seed))[3] for seed in draws])
        mean = places.mean(axis=0)
        spread = np.cov(places, rowvar=False).reshape(n, n) + _LEAST**2 * np.eye(n)
        most = math.sqrt(n) + 2 * n / (n + 2)  # Hansen 2011, the default of c_y

        def near(place: Cube) -> Cube:
            step = place - mean
            length = math.sqrt(float(step @ np.linalg.solve(spread, step)))
            return mean + step * min(1.0, most / length) if length else place

        return near


def _kind(axis: Axis) -> str:
    """Return how an axis is searched; of two values none is between others."""
    if axis.size == 1:
        return "fixed"
    if axis.size == 2 or (isinstance(axis, Choice) and not isinstance(axis, Ordinal)):
        return "categorical"
    return "stepped" if axis.size is not None and axis.size <= _MOST_STEPS else "continuous"


def _places(axis: Axis) -> list[float]:
    return [axis.encode(value) for value in axis.points(None)]
