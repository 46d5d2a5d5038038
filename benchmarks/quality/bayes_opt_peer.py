"""The package bayesian-optimization as it comes."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from bayes_opt import BayesianOptimization, acquisition
from bayes_opt.exception import NoValidPointRegisteredError
from scipy.optimize import NonlinearConstraint

from .penalty import WorstSeen
from .spaces import Axis, Config
from .tuners import Setting, Told

warnings.filterwarnings("ignore", module="sklearn")
warnings.filterwarnings("ignore", message="Non-float parameters are experimental")

_STARTUP = 5
"""What ``maximize`` draws at random by default."""


class BayesOpt:
    """The default acquisition; its constant liar when there are several workers, if it can.

    It has no logarithmic parameters, so it searches logarithms, whole numbers then as floats that
    are rounded; inactive parameters are searched all the same. Its own constraint models are used.
    """

    def __init__(self, setting: Setting) -> None:
        self._space = setting.space
        constraint = None
        if setting.constraints:
            upper = np.zeros(setting.constraints)
            constraint = NonlinearConstraint(None, upper - np.inf, upper)
        self._optimizer = BayesianOptimization(
            None,
            {axis.name: _bounds(axis) for axis in setting.space.axes},
            acquisition_function=_acquisition(setting),
            constraint=constraint,
            random_state=setting.seed,
            verbose=0,
            allow_duplicate_points=True,
        )
        self._constrained = constraint is not None
        self._startup = max(_STARTUP, setting.workers)
        self._asked = 0
        self._worst = WorstSeen()

    def ask(self) -> tuple[Any, Config]:
        """Return a point and its config."""
        self._asked += 1
        point = self._point()
        values = {axis.name: _value(axis, point[axis.name]) for axis in self._space.axes}
        return point, self._space.active(values)

    def _point(self) -> Any:
        if self._asked > self._startup:
            try:
                return self._optimizer.suggest()
            except NoValidPointRegisteredError:  # its advice then is to go on at random
                pass
        return self._optimizer.random_sample(1)[0]

    def tell(self, handle: Any, told: Told) -> None:
        """Register a result; a failed trial gets the worst value seen."""
        if self._constrained and told.value is not None:
            # One constraint has to be a number for it, several an array.
            violations = np.squeeze(np.array(told.violations))
            self._optimizer.register(handle, -told.value, violations)
            return
        number = self._worst.number(told)
        if number is not None:
            self._optimizer.register(handle, -number)


def _acquisition(setting: Setting) -> Any:
    """Return None for the default; the constant liar takes no constraints."""
    if setting.workers == 1 or setting.constraints:
        return None
    return acquisition.ConstantLiar(acquisition.UpperConfidenceBound())


def _bounds(axis: Axis) -> Any:
    if axis.kind == "choice":
        return axis.choices
    if axis.log:
        return math.log10(axis.low), math.log10(axis.high)
    return (int(axis.low), int(axis.high), int) if axis.kind == "int" else (axis.low, axis.high)


def _value(axis: Axis, value: Any) -> Any:
    if axis.kind == "choice":
        return str(value)
    return axis.clipped(10 ** float(value) if axis.log else float(value))
