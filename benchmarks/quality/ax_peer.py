"""Ax's client, which tunes with BoTorch."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import torch
from ax.api.client import Client
from ax.api.configs import ChoiceParameterConfig, RangeParameterConfig
from ax.utils.common.logger import set_stderr_log_level

from .spaces import Axis, Config
from .tuners import Setting, Told

warnings.filterwarnings("ignore")
set_stderr_log_level(logging.CRITICAL)


class Ax:
    """The client at its defaults; inactive parameters are searched all the same."""

    def __init__(self, setting: Setting) -> None:
        torch.set_num_threads(1)
        self._space = setting.space
        self._names = {_name(axis): axis for axis in setting.space.axes}
        self._client = Client(random_seed=setting.seed)
        parameters = [_parameter(axis) for axis in setting.space.axes]
        self._client.configure_experiment(parameters=parameters)
        constraints = [f"c{i} <= 0" for i in range(setting.constraints)]
        self._client.configure_optimization("-value", outcome_constraints=constraints or None)

    def ask(self) -> tuple[Any, Config]:
        """Return the index of a trial and its config."""
        ((index, found),) = self._client.get_next_trials(1).items()
        pairs = ((self._names[name], value) for name, value in found.items())
        values = {a.name: str(v) if a.kind == "choice" else a.clipped(v) for a, v in pairs}
        return index, self._space.active(values)

    def tell(self, handle: Any, told: Told) -> None:
        """End a trial."""
        if told.value is None:
            self._client.mark_trial_failed(handle)
            return
        violations = {f"c{i}": violation for i, violation in enumerate(told.violations)}
        self._client.complete_trial(handle, raw_data={"value": told.value, **violations})


def _parameter(axis: Axis) -> Any:
    if axis.kind == "choice":
        return ChoiceParameterConfig(
            name=_name(axis), parameter_type="str", values=list(axis.choices), is_ordered=False
        )
    low, high = (int(axis.low), int(axis.high)) if axis.kind == "int" else (axis.low, axis.high)
    return RangeParameterConfig(
        name=_name(axis),
        parameter_type="int" if axis.kind == "int" else "float",
        bounds=(low, high),
        scaling="log" if axis.log else "linear",
    )


def _name(axis: Axis) -> str:
    return axis.name.replace(".", "_")
