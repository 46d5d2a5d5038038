"""The scheduler that lets every trial run to its own end."""

from __future__ import annotations

from collections.abc import Sequence

from raytune_hpo.objective import Objective
from raytune_hpo.schedulers.base import Decision
from raytune_hpo.trial import Outcome, Result


class NoScheduler:
    """Never cuts a trial short.

    Example:
        >>> from raytune_hpo.objective import Objective
        >>> scheduler = NoScheduler(Objective.of("loss"))
        >>> scheduler.on_result(Result(trial=0, step=1, values=(0.5,)))
        <Decision.CONTINUE: 'continue'>
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    def on_result(self, result: Result) -> Decision:
        """Let the trial go on."""
        return Decision.CONTINUE

    def on_end(self, trial: int, outcome: Outcome) -> None:
        """Take no note: nothing depends on it."""

    def next_resume(self, paused: Sequence[int]) -> int | None:
        """Return None: nothing is ever paused."""
        return None
