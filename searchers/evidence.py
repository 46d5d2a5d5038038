"""What the table of trials says, as arrays for a model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raytune_hpo.objective import Objective
from raytune_hpo.standing import FAILED, standing
from raytune_hpo.trial import Config, Outcome, TrialState

Matrix = npt.NDArray[np.float64]

_LARGEST = 1e100
"""Values are cut here, so that their squares are finite."""


@dataclass(frozen=True)
class Evidence:
    """The trials of a table, each in the place that it has for a model.

    Attributes:
        valued: Cubes of the n trials with values, in the order in which they ended, shape (n, d).
        values: Lower is better, shape (n, goals).
        violations: Above 0 is violated, shape (n, constraints); infinite where it is not known.
        steps: Reports that each had made, infinity for those that completed, shape (n,).
        ended: Cubes of the trials that tell whether a config can run, shape (m, d): those with
            values, and those that failed.
        failed: Which of these failed, shape (m,).
        pending: Cubes of the trials without an outcome, shape (p, d).
    """

    valued: Matrix
    values: Matrix
    violations: Matrix
    steps: Matrix
    ended: Matrix
    failed: npt.NDArray[np.bool_]
    pending: Matrix

    @property
    def feasible(self) -> npt.NDArray[np.bool_]:
        """Which of the trials with values violate nothing, shape (n,)."""
        return np.asarray((self.violations <= 0).all(axis=1))


def collect(
    trials: Mapping[int, tuple[Config, Outcome | None]],
    ended: Sequence[int],
    cubes: Mapping[int, Matrix],
    objective: Objective,
) -> Evidence:
    """Return the evidence in a table of trials.

    Args:
        trials: Config and outcome of each.
        ended: Those that have ended, in that order.
        cubes: The point of the unit cube of each, NaN where a parameter is not there.
        objective: Says which values are better.
    """
    d = len(next(iter(cubes.values()), ()))
    valued, values, violations, steps, told, failed = [], [], [], [], [], []
    for number in ended:
        outcome = trials[number][1]
        found = None if outcome is None else standing(objective, outcome)
        if outcome is None or found is None:
            continue
        told.append(cubes[number])
        failed.append(found == FAILED)
        if found != FAILED:
            valued.append(cubes[number])
            values.append(found.values)
            violations.append(outcome.violations or (0.0,) * len(objective.constraints))
            steps.append(math.inf if outcome.state is TrialState.COMPLETED else outcome.step)
    pending = [cubes[number] for number, (_, outcome) in trials.items() if outcome is None]
    return Evidence(
        valued=np.array(valued).reshape(len(valued), d),
        values=np.clip(np.array(values), -_LARGEST, _LARGEST).reshape(
            len(valued), len(objective.goals)
        ),
        violations=np.array(violations, dtype=float).reshape(
            len(valued), len(objective.constraints)
        ),
        steps=np.array(steps, dtype=float),
        ended=np.array(told).reshape(len(told), d),
        failed=np.array(failed, dtype=bool),
        pending=np.array(pending).reshape(len(pending), d),
    )
