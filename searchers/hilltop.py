"""The search for the config of the highest acquisition value."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from raytune_hpo.searchers.acquisition import Hill
from raytune_hpo.searchers.features import Features

Matrix = npt.NDArray[np.float64]

_POOL = 1000
"""Random candidates."""
_AROUND = 100
"""Candidates around each of the best configs."""
_WIDTHS = (0.3, 0.1, 0.03, 0.01)
"""Spread of the candidates around a config."""
_CLIMBERS = 6
"""Candidates that are improved further."""
_CLIMB_STEPS = 25
_FLIP_ROUNDS = 6


def climb(hill: Hill, features: Features, centres: Matrix, rng: np.random.Generator) -> Matrix:
    """Return points of the unit cube in falling order of height, the first being a hilltop.

    Random candidates and some around good configs are compared; the best are improved by gradient
    in continuous parameters and by trying all single changes in the others, in turns.

    Args:
        hill: What to climb.
        features: Of the space.
        centres: Good configs, shape (k, d), NaN where a parameter is not there.
        rng: Draws the candidates.

    Returns:
        Shape (m, d), NaN where a parameter is not there.
    """
    pool = features.snap(_candidates(features, centres, rng))
    heights = hill.height(features.embed(pool))
    order = np.argsort(-heights, kind="stable")
    top = pool[order[:_CLIMBERS]]
    top = _ascend(hill, features, top)
    for _ in range(_FLIP_ROUNDS):
        flipped, moved = _flip(hill, features, top, rng)
        if not moved:
            break
        top = _ascend(hill, features, flipped)
    tops = hill.height(features.embed(top))
    top = top[np.argsort(-tops, kind="stable")]
    return np.concatenate([top, pool[order]])


def mutations(features: Features, parents: Matrix, rng: np.random.Generator) -> Matrix:
    """Return random changes of random parents, shape (m, d), NaN for what is not there.

    Args:
        features: Of the space.
        parents: Shape (k, d), NaN where a parameter is not there.
        rng: Draws parents and changes.
    """
    parent = parents[int(rng.integers(len(parents)))]
    return features.snap(_around(features, parent, rng))


def _candidates(features: Features, centres: Matrix, rng: np.random.Generator) -> Matrix:
    found = [rng.random((_POOL, len(features.cells)))]
    return np.concatenate([*found, *(_around(features, centre, rng) for centre in centres)])


def _around(features: Features, centre: Matrix, rng: np.random.Generator) -> Matrix:
    """Return changes of a config: from one parameter to all of them, by little or much."""
    shape = (_AROUND, len(centre))
    base = np.where(np.isnan(centre), rng.random(shape), centre)
    moved = base + rng.choice(_WIDTHS, (_AROUND, 1)) * rng.standard_normal(shape)
    # A choice has no neighbours: another value is drawn.
    new = np.where(features.unordered, rng.random(shape), _folded(moved))
    share = np.minimum(1.0, rng.choice([1.0, 2.0, 4.0, shape[1]], (_AROUND, 1)) / shape[1])
    change = rng.random(shape) < share
    change[np.arange(_AROUND), rng.integers(shape[1], size=_AROUND)] = True
    return np.where(change, new, base)


def _folded(u: Matrix) -> Matrix:
    """Return places outside of the unit interval mirrored at its ends."""
    u = np.abs(u)
    return np.clip(np.where(u > 1, 2 - u, u), 0.0, 1.0)


def _ascend(hill: Hill, features: Features, points: Matrix) -> Matrix:
    """Return points moved uphill in their continuous parameters, all at once."""
    smooth = features.smooth
    if not smooth:
        return points
    columns = features.smooth_columns
    start = points[:, smooth]
    there = ~np.isnan(start)
    if not there.any():
        return points
    base = features.embed(points)
    shape = start.shape

    def downhill(flat: Matrix) -> tuple[float, Matrix]:
        x = base.copy()
        x[:, columns] = np.where(there, flat.reshape(shape), 0.5)
        height, slope = hill.slope(x)
        return -float(height.sum()), -np.where(there, slope[:, columns], 0.0).ravel()

    before = hill.height(base)
    found = minimize(
        downhill,
        np.where(there, start, 0.5).ravel(),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, 1.0)] * start.size,
        options={"maxiter": _CLIMB_STEPS, "maxfun": 2 * _CLIMB_STEPS},
    )
    moved = points.copy()
    moved[:, smooth] = np.where(there, found.x.reshape(shape), np.nan)
    better = hill.height(features.embed(moved)) > before
    return np.where(better[:, None], moved, points)


def _flip(
    hill: Hill, features: Features, points: Matrix, rng: np.random.Generator
) -> tuple[Matrix, bool]:
    """Return each point or its best neighbour by a single change, and whether any moved."""
    moved = points.copy()
    near = [_neighbours(features, point, rng) for point in points]
    if not any(len(group) for group in near):
        return points, False
    before = hill.height(features.embed(points))
    heights = hill.height(features.embed(np.concatenate(near)))
    at, any_moved = 0, False
    for index, group in enumerate(near):
        own = heights[at : at + len(group)]
        at += len(group)
        if len(group) and own.max() > before[index] + 1e-9:
            moved[index] = group[int(np.argmax(own))]
            any_moved = True
    return moved, any_moved


def _neighbours(features: Features, point: Matrix, rng: np.random.Generator) -> Matrix:
    """Return the configs that differ in one parameter that has few values."""
    base = np.where(np.isnan(point), rng.random(len(point)), point)
    found = []
    for dimension, cells in enumerate(features.cells):
        if cells is None or np.isnan(point[dimension]):
            continue
        for value in _others(cells, point[dimension], unordered=features.unordered[dimension]):
            near = base.copy()
            near[dimension] = value
            found.append(near)
    if not found:
        return np.empty((0, len(point)))
    return features.snap(np.array(found))


def _others(cells: Matrix, value: float, *, unordered: bool) -> Matrix:
    """Return the other values of a parameter: all of a choice, near ones of a number."""
    at = int(np.argmin(np.abs(cells - value)))
    if unordered:
        return np.delete(cells, at)
    steps = [s for s in (1, 2, 4, 8, 16, 32, 64, 128, 256) if s < len(cells)]
    near = [at + sign * s for s in steps for sign in (-1, 1)]
    return cells[[i for i in near if 0 <= i < len(cells)]]
