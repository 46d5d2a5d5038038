"""The scheduler that lets every trial run to its own end."""

from __future__ import annotations

from collections.abc import Sequence

from raytune_hpo.objective import Objective
from raytune_hpo.schedulers.base import Decision, Move
from raytune_hpo.space import SearchSpace
from raytune_hpo.trial import Config, Outcome, Result


class NoScheduler:
    """Never cuts a trial short.

    Example:
        >>> from raytune_hpo.objective import Objective
        >>> from raytune_hpo.space import Float, SearchSpace
        >>> scheduler = NoScheduler(SearchSpace({"x": Float(0, 1)}), Objective.of("loss"), seed=1)
        >>> scheduler.on_result(Result(trial=0, step=1, values=(0.5,)))
        <Decision.CONTINUE: 'continue'>
    """

    def __init__(self, space: SearchSpace, objective: Objective, seed: int) -> None:
        self.objective = objective

    def on_trial(self, trial: int, config: Config, parent: int | None) -> None:
        """Take no note: nothing depends on it."""

    def on_result(self, result: Result) -> Decision:
        """Let the trial go on."""
        return Decision.CONTINUE

    def on_end(self, trial: int, outcome: Outcome) -> None:
        """Take no note: nothing depends on it."""

    def next_move(self, paused: Sequence[int], *, more: bool) -> Move | None:
        """Return None: nothing is ever paused."""
        return None
