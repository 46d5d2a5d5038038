"""Hyperopt's TPE, driven as its own loop drives it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hyperopt import JOB_STATE_DONE, STATUS_FAIL, STATUS_OK, hp, space_eval, tpe
from hyperopt.base import Domain, Trials

from .spaces import Axis, Config, Space
from .tuners import Setting, Told

_VALUE = "value of the choice"


class Tpe:
    """``tpe.suggest`` at its defaults; conditions are nested choices.

    A trial that failed or violates a constraint has the status fail, which counts as an infinite
    loss.
    """

    def __init__(self, setting: Setting, **settings: Any) -> None:
        self._space = setting.space
        self._settings = settings
        self._rng = np.random.default_rng(setting.seed)
        self._domain = Domain(lambda config: 0.0, _expression(setting.space))
        self._trials = Trials()

    def ask(self) -> tuple[Any, Config]:
        """Return the document of a trial and its config."""
        (number,) = self._trials.new_trial_ids(1)
        self._trials.refresh()
        seed = int(self._rng.integers(2**31 - 1))
        documents = tpe.suggest(
            [number], self._domain, self._trials, seed, verbose=False, **self._settings
        )
        self._trials.insert_trial_docs(documents)
        self._trials.refresh()
        chosen = {name: v[0] for name, v in documents[0]["misc"]["vals"].items() if v}
        return number, _config(self._space, space_eval(self._domain.expr, chosen))

    def tell(self, handle: Any, told: Told) -> None:
        """End a trial."""
        document = next(d for d in self._trials._dynamic_trials if d["tid"] == handle)
        document["state"] = JOB_STATE_DONE
        good = {"status": STATUS_OK, "loss": told.value}
        document["result"] = good if told.feasible else {"status": STATUS_FAIL}
        self._trials.refresh()


def _expression(space: Space) -> dict[str, Any]:
    return {axis.name: _node(axis, axis.name, space) for axis in space.axes if not axis.parent}


def _node(axis: Axis, label: str, space: Space) -> Any:
    if axis.kind == "choice":
        return hp.choice(label, [_branch(axis, choice, space) for choice in axis.choices])
    if axis.kind == "int":
        # quniform rounds, so each bound needs the half step beyond it for its fair share.
        low, high = axis.low - 0.5, axis.high + 0.5
        if axis.log:
            return hp.qloguniform(label, math.log(low), math.log(high), 1)
        return hp.quniform(label, low, high, 1)
    if axis.log:
        return hp.loguniform(label, math.log(axis.low), math.log(axis.high))
    return hp.uniform(label, axis.low, axis.high)


def _branch(axis: Axis, choice: str, space: Space) -> Any:
    """Return a choice with the axes that are there because of it."""
    below = [a for a in space.axes if a.parent == axis.name and choice in a.values]
    if not any(a.parent == axis.name for a in space.axes):
        return choice
    return {_VALUE: choice, **{a.name: _node(a, f"{a.name} of {choice}", space) for a in below}}


def _config(space: Space, nested: dict[str, Any]) -> Config:
    flat: Config = {}
    for name, value in nested.items():
        if isinstance(value, dict):
            flat |= value
            flat[name] = flat.pop(_VALUE)
        else:
            flat[name] = value
    for axis in space.axes:
        if axis.kind != "choice" and axis.name in flat:
            flat[axis.name] = axis.clipped(float(flat[axis.name]))
    return flat
