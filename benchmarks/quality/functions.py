"""Functions of COCO's suite bbob, from the package coco-experiment."""

from __future__ import annotations

from collections.abc import Sequence

import cocoex

from .spaces import Axis, Config, Space
from .tasks import Evaluation, Problem


class Bbob(Problem):
    """A function on [-5, 5]^d.

    Source: Hansen et al. 2021, doi:10.1080/10556788.2020.1808977.

    Example:
        >>> Bbob(1, 2, 1).evaluate_many([{"x0": 0.0, "x1": 0.0}])[0].value > 79
        True
    """

    def __init__(self, function: int, dimension: int, instance: int) -> None:
        self._problem = cocoex.BareProblem("bbob", function, dimension, instance)
        self.space = Space([Axis(f"x{i}", "float", -5.0, 5.0) for i in range(dimension)])
        self.optimum = float(self._problem.best_value())

    def evaluate_many(self, configs: Sequence[Config]) -> list[Evaluation]:
        """Return what is true of each config."""
        names = [axis.name for axis in self.space.axes]
        return [Evaluation(float(self._problem([c[name] for name in names]))) for c in configs]
