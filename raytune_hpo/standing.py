"""How good an outcome is, for those that compare trials by rank."""

from __future__ import annotations

import math
from typing import NamedTuple

from raytune_hpo.objective import Objective
from raytune_hpo.trial import Outcome, TrialState


class Standing(NamedTuple):
    """How good a trial is; of two, with one goal, the lower one is better.

    Attributes:
        violation: Total of the violated constraints, 0 for a feasible trial and infinity for one
            that failed.
        values: One number a goal, lower being better; empty for a trial that failed.

    Source: Deb et al. 2002, doi:10.1109/4235.996017, section VI (infeasible trials rank behind
    all feasible ones, by violation).
    """

    violation: float
    values: tuple[float, ...]


FAILED = Standing(math.inf, ())


def standing(objective: Objective, outcome: Outcome) -> Standing | None:
    """Return how good a trial is, whatever the state that its value came with.

    Returns:
        None for a trial that was stopped or pruned without a value: it is no evidence of anything.
    """
    if outcome.state is TrialState.FAILED:
        return FAILED
    if outcome.values is None:
        return FAILED if outcome.state is TrialState.COMPLETED else None
    violation = math.fsum(over for over in outcome.violations if over > 0)
    return Standing(min(violation, _MOST), objective.minimized(outcome.values))


_MOST = 1e308
"""Violations from here on are alike, and still less than a failure."""
