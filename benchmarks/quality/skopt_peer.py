"""scikit-optimize's Optimizer."""

from __future__ import annotations

import warnings
from typing import Any

from skopt import Optimizer
from skopt.space import Categorical, Integer, Real

from .penalty import WorstSeen
from .spaces import Axis, Config
from .tuners import Setting, Told

warnings.filterwarnings("ignore", module="skopt")


class Gp:
    """A Gaussian process at its defaults: gp_hedge, 10 random configs first.

    Inactive parameters are searched all the same. With trials pending, a config comes from its
    constant liar, which is made for batches.
    """

    def __init__(self, setting: Setting, **settings: Any) -> None:
        self._space = setting.space
        dimensions = [_dimension(axis) for axis in setting.space.axes]
        self._optimizer = Optimizer(dimensions, "GP", random_state=setting.seed, **settings)
        self._worst = WorstSeen()
        self._pending = 0

    def ask(self) -> tuple[Any, Config]:
        """Return a point and its config."""
        if self._pending:
            point = self._optimizer.ask(n_points=self._pending + 1)[-1]
        else:
            point = self._optimizer.ask()
        self._pending += 1
        pairs = zip(self._space.axes, point, strict=True)
        values = {a.name: str(v) if a.kind == "choice" else a.clipped(v) for a, v in pairs}
        return point, self._space.active(values)

    def tell(self, handle: Any, told: Told) -> None:
        """Take note of a result; a bad one gets the worst value seen."""
        self._pending -= 1
        number = self._worst.number(told)
        if number is not None:
            self._optimizer.tell(handle, number)


def _dimension(axis: Axis) -> Any:
    if axis.kind == "choice":
        return Categorical(list(axis.choices), name=axis.name)
    prior = "log-uniform" if axis.log else "uniform"
    if axis.kind == "int":
        return Integer(int(axis.low), int(axis.high), prior=prior, name=axis.name)
    return Real(axis.low, axis.high, prior=prior, name=axis.name)
