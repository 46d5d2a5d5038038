"""Grid search."""

from __future__ import annotations

import numpy as np

from raytune_hpo.errors import Problem, SpecError
from raytune_hpo.objective import Objective
from raytune_hpo.searchers.untried import SequenceSearcher
from raytune_hpo.space import SearchSpace
from raytune_hpo.trial import Config

LARGEST_GRID = 100_000
"""Larger grids are refused: nobody evaluates them, and the whole grid is kept in memory."""


class GridSearcher(SequenceSearcher):
    """Proposes every point of a grid once.

    Args:
        space: What to search.
        objective: Not looked at.
        seed: Of the order.
        resolution: Points of a parameter that has infinitely many values.
        shuffle: Go through the grid in random order, so that a budget smaller than the grid still
            sees all of the space; otherwise the last parameter changes fastest.

    Raises:
        SpecError: When ``resolution`` is below 1 or the grid is larger than ``LARGEST_GRID``.

    Example:
        >>> from raytune_hpo.objective import Objective
        >>> from raytune_hpo.space import Choice, SearchSpace
        >>> space = SearchSpace({"x": Choice(("a", "b"))})
        >>> searcher = GridSearcher(space, Objective.of("loss"), seed=1, shuffle=False)
        >>> [searcher.suggest(trial) for trial in range(3)]
        [{'x': 'a'}, {'x': 'b'}, None]
    """

    def __init__(
        self,
        space: SearchSpace,
        objective: Objective,
        seed: int,
        *,
        resolution: int = 5,
        shuffle: bool = True,
    ) -> None:
        super().__init__(space, objective, seed)
        self.resolution = resolution
        self.shuffle = shuffle
        if resolution < 1:
            text = f"must be at least 1, not {resolution!r}"
            raise SpecError([Problem("search.settings.resolution", text)])
        size = space.grid_size(resolution)
        if size > LARGEST_GRID:
            text = (
                f"the grid has {size} points, more than {LARGEST_GRID}; lower "
                "search.settings.resolution, give parameters a step, or use sobol"
            )
            raise SpecError([Problem("search.algorithm", text)])

    def sequence(self) -> list[Config]:
        """Return all points of the grid in their order."""
        points = list(self.space.grid(self.resolution))
        if not self.shuffle:
            return points
        order = np.random.default_rng(self.seed).permutation(len(points))
        return [points[index] for index in order]
