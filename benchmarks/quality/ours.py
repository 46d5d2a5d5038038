"""The searchers of raytune-hpo, called as its runner calls them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raytune_hpo.axes import Choice, Float, Int, Parameter
from raytune_hpo.objective import Constraint, Goal, Objective
from raytune_hpo.plugins import AUTO, auto_searcher, make_searcher
from raytune_hpo.space import SearchSpace
from raytune_hpo.trial import Outcome, TrialState

from .spaces import Axis, Config, Space
from .tuners import Setting, Told


class Ours:
    """A searcher of raytune-hpo; ``auto`` is resolved as an experiment would."""

    def __init__(self, name: str, setting: Setting, settings: Mapping[str, Any]) -> None:
        space = search_space(setting.space)
        goals: tuple[Goal, ...] = Objective.of("value").goals
        constraints = [Constraint.parse(f"c{i} <= 0") for i in range(setting.constraints)]
        objective = Objective(goals, constraints)
        if name == AUTO:
            name, _ = auto_searcher(space, objective, setting.budget)
        self._searcher = make_searcher(name, space, objective, setting.seed, settings)
        self._trials = 0

    def ask(self) -> tuple[int, Config] | None:
        """Return the number of a trial and its config."""
        trial = self._trials
        config = self._searcher.suggest(trial)
        if config is None:
            return None
        self._trials += 1
        return trial, config

    def tell(self, handle: int, told: Told) -> None:
        """Report and end a trial."""
        if told.value is None:
            self._searcher.observe(handle, Outcome(TrialState.FAILED))
            return
        values = (told.value,)
        self._searcher.report(handle, 1, values, told.violations)
        outcome = Outcome(TrialState.COMPLETED, values, told.violations, step=1)
        self._searcher.observe(handle, outcome)


def search_space(space: Space) -> SearchSpace:
    """Return a space as raytune-hpo has it."""
    return SearchSpace({axis.name: _parameter(axis) for axis in space.axes})


def _parameter(axis: Axis) -> Parameter:
    when = None if axis.parent is None else f"{axis.parent} in [{', '.join(axis.values)}]"
    if axis.kind == "choice":
        return Choice(axis.choices, when=when)
    if axis.kind == "int":
        return Int(int(axis.low), int(axis.high), log=axis.log, when=when)
    return Float(axis.low, axis.high, log=axis.log, when=when)
