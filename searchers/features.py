"""The coordinates in which a Gaussian process sees configs."""

from __future__ import annotations

import math
from itertools import islice

import numpy as np
import numpy.typing as npt

from raytune_hpo.axes import Axis, Choice, Ordinal
from raytune_hpo.space import SearchSpace

Matrix = npt.NDArray[np.float64]

_MOST_CELLS = 512
"""Parameters with more values are treated as continuous until a config is decoded."""
_ABSENT = 0.5
"""How far apart a parameter that is there and one that is not are, beside its value."""


class Features:
    """Turns points of the unit cube into coordinates whose Euclidean distance is meaningful.

    A number has one coordinate. A choice has one for each value, so that any two values are one
    apart. A conditional parameter has one more that tells whether it is there; where it is not, its
    value counts as the middle, so that configs without it are alike in it. Distances in such
    coordinates make a valid kernel for every mix of parameters.

    Args:
        space: Its ``dimensions`` are the columns of all cubes here.

    Attributes:
        group: Shape (columns,); the dimension that each coordinate belongs to.
        cells: By dimension: the places of its values on the unit interval, or None if continuous.
        unordered: By dimension: whether it is a choice.
        smooth: Dimensions that are continuous, and their columns among the coordinates.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        axes = list(space.axes.values())
        self.unordered = [_is_unordered(axis) for axis in axes]
        self.cells = [_cells(axis) for axis in axes]
        self._conditional = [axis.when is not None for axis in axes]
        widths = [
            (len(cells) if free and cells is not None else 1) + conditional
            for free, cells, conditional in zip(
                self.unordered, self.cells, self._conditional, strict=True
            )
        ]
        self.group = np.repeat(np.arange(len(axes)), widths)
        self._first = np.cumsum([0, *widths])
        self.smooth = [d for d, cells in enumerate(self.cells) if cells is None]
        self.smooth_columns = [int(self._first[d]) for d in self.smooth]
        names = space.dimensions
        self._deciding = [names.index(name) for name in space.deciding() if name in names]
        self._active: dict[bytes, npt.NDArray[np.bool_]] = {}

    def embed(self, cubes: Matrix) -> Matrix:
        """Return coordinates.

        Args:
            cubes: Shape (n, d), NaN where a parameter is not there.

        Returns:
            Shape (n, columns).
        """
        found = np.zeros((len(cubes), len(self.group)))
        for dimension, free in enumerate(self.unordered):
            u, first = cubes[:, dimension], self._first[dimension]
            there = ~np.isnan(u)
            cells = self.cells[dimension]
            if free and cells is not None:
                at = np.clip((u[there] * len(cells)).astype(int), 0, len(cells) - 1)
                found[np.flatnonzero(there), first + at] = math.sqrt(0.5)
            else:
                found[:, first] = np.where(there, u, 0.5)
            if self._conditional[dimension]:
                found[:, self._first[dimension + 1] - 1] = _ABSENT * there
        return found

    def snap(self, cubes: Matrix) -> Matrix:
        """Return the nearest points that are configs: values in cells, NaN for what is not there.

        Args:
            cubes: Shape (n, d), without NaN.
        """
        snapped = np.clip(cubes, 0.0, 1.0)
        for dimension, cells in enumerate(self.cells):
            if cells is not None:
                snapped[:, dimension] = _nearest(snapped[:, dimension], cells)
        if any(self._conditional):
            snapped[~self._there(snapped)] = math.nan
        return snapped

    def _there(self, cubes: Matrix) -> npt.NDArray[np.bool_]:
        """Return which parameters are there, shape (n, d)."""
        return np.array([self._pattern(row) for row in cubes], dtype=bool).reshape(cubes.shape)

    def _pattern(self, row: Matrix) -> npt.NDArray[np.bool_]:
        key = row[self._deciding].tobytes()
        if key not in self._active:
            config = self.space.decode(row)
            self._active[key] = np.array([name in config for name in self.space.dimensions])
        return self._active[key]


def _is_unordered(axis: Axis) -> bool:
    return isinstance(axis, Choice) and not isinstance(axis, Ordinal) and axis.size > 2


def _cells(axis: Axis) -> Matrix | None:
    if axis.size is None or axis.size > _MOST_CELLS:
        return None
    return np.array([axis.encode(value) for value in islice(axis.points(None), _MOST_CELLS)])


def _nearest(u: Matrix, cells: Matrix) -> Matrix:
    edges = (cells[1:] + cells[:-1]) / 2
    return cells[np.searchsorted(edges, u)]
