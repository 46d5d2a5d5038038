"""What the benchmark asks of a tuner, and all tuners by name."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from .spaces import Config, Space


@dataclass(frozen=True)
class Setting:
    """What a tuner is told before it begins.

    Attributes:
        constraints: How many violations come with each result.
        budget: How many trials there will be.
        workers: How many of them run at a time.
    """

    space: Space
    constraints: int
    seed: int
    budget: int
    workers: int


@dataclass(frozen=True)
class Told:
    """How a trial ended.

    Attributes:
        value: To be made small; None when the trial failed.
        violations: Above 0 is violated.
    """

    value: float | None
    violations: tuple[float, ...] = ()

    @property
    def feasible(self) -> bool:
        """Whether there is a value and no constraint is violated."""
        return self.value is not None and all(violation <= 0 for violation in self.violations)


class Tuner(Protocol):
    """Proposes configs one at a time; several may be out."""

    def ask(self) -> tuple[Any, Config] | None:
        """Return a handle and a config, or None when there is nothing left to try."""

    def tell(self, handle: Any, told: Told) -> None:
        """Take note of how the trial of a handle ended."""


_PEERS = {
    "optuna-tpe": "optuna_peers:Tpe",
    "optuna-gp": "optuna_peers:Gp",
    "optuna-cmaes": "optuna_peers:CmaEs",
    "hyperopt-tpe": "hyperopt_peer:Tpe",
    "bayes-opt": "bayes_opt_peer:BayesOpt",
    "smac3": "smac_peer:Smac",
    "skopt-gp": "skopt_peer:Gp",
    "ax": "ax_peer:Ax",
}
"""Modules of this folder, imported when a run needs them: not every peer is installed."""


def make_tuner(name: str, setting: Setting) -> Tuner:
    """Return a new tuner.

    Args:
        name: A peer's, or that of a searcher of raytune-hpo, which may have a label and settings:
            ``bo@before?acquisition=ucb&restarts=3``. The label only tells results apart.
        setting: What the tuner is told.
    """
    plain, settings = parse(name)
    if plain in _PEERS:
        module, _, attribute = _PEERS[plain].partition(":")
        factory: Callable[..., Tuner] = getattr(import_module(f".{module}", __package__), attribute)
        return factory(setting, **settings)
    from .ours import Ours

    return Ours(plain, setting, settings)


def parse(name: str) -> tuple[str, Mapping[str, Any]]:
    """Return the plain name and the settings in a tuner's name.

    Example:
        >>> parse("bo@v2?xi=0.5&acquisition=ucb")
        ('bo', {'xi': 0.5, 'acquisition': 'ucb'})
    """
    front, _, query = name.partition("?")
    pairs = (part.partition("=") for part in query.split("&") if part)
    return front.partition("@")[0], {key: _value(text) for key, _, text in pairs}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
