"""Which trials are better than others when there are several goals and constraints."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from raytune_hpo.standing import Standing

Place = tuple[int, float]
"""Front and crowding distance, turned so that the lower place is the better one."""


def places(standings: Sequence[Standing]) -> list[Place]:
    """Return the place of each trial: its front, then how alone it is there.

    With one goal the fronts are the ranks.

    Source: Deb et al. 2002, doi:10.1109/4235.996017, sections III-A, III-B and VI.
    """
    found = [(0, 0.0)] * len(standings)
    for number, front in enumerate(_fronts(standings)):
        distances = _crowding([standings[i].values for i in front])
        for i, distance in zip(front, distances, strict=True):
            found[i] = (number, -distance)
    return found


def _fronts(standings: Sequence[Standing]) -> list[list[int]]:
    """Return the indices of each front, the best front first."""
    alike: dict[float, list[int]] = {}
    for i, standing in enumerate(standings):
        alike.setdefault(standing.violation, []).append(i)
    # Every trial dominates all those that violate more.
    return [
        [group[i] for i in front]
        for group in (alike[violation] for violation in sorted(alike))
        for front in _layers(np.array([standings[i].values for i in group], dtype=float))
    ]


def _layers(values: npt.NDArray[np.float64]) -> list[list[int]]:
    """Return the fronts of points by their values alone.

    Args:
        values: Shape (n, goals); lower is better.
    """
    beats = np.ones((len(values), len(values)), dtype=bool)
    for column in values.T:
        beats &= column[:, None] <= column
    # Points that are nowhere worse than one another are equal.
    beats &= ~beats.T
    beaten_by = beats.sum(axis=0)
    left = len(values)
    found = []
    while left:
        front = np.flatnonzero(beaten_by == 0)
        found.append(front.tolist())
        left -= len(front)
        beaten_by -= beats[front].sum(axis=0)
        beaten_by[front] = -1
    return found


def _crowding(front: Sequence[tuple[float, ...]]) -> npt.NDArray[np.float64]:
    """Return the distance of each point to its neighbours; infinity at the ends of the front."""
    values = np.array(front, dtype=float)
    distances = np.zeros(len(front))
    for column in values.T / max(1.0, float(np.abs(values).max(initial=0.0))):
        order = np.argsort(column, kind="stable")
        span = float(column[order[-1]] - column[order[0]])
        if span > 0:
            gaps = (column[order[2:]] - column[order[:-2]]) / span
            distances[order[1:-1]] += gaps
        distances[order[[0, -1]]] = math.inf
    return distances
