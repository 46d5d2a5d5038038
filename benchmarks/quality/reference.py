"""The scale of each task's regret: the best known value and the median of random configs.

``reference.json`` keeps what ``compute`` found, since a search takes minutes. The best of a
surrogate is what a long random and local search found, so it is not proven, and it may lie in a
place where the surrogate is wrong about the learner.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .tasks import Task, make_task

PATH = Path(__file__).with_name("reference.json")
_SEED = 12345
_STARTS, _ROUNDS, _NEIGHBOURS = 8, 150, 64

Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Reference:
    """The two ends of a scale.

    Attributes:
        best: Regret 0.
        median: Regret 1.
        how: Where ``best`` is from.
    """

    best: float
    median: float
    how: str


def base_name(task: str) -> str:
    """Return the task's name without noise, which changes no true value."""
    return ":".join(part for part in task.split(":") if not part.startswith("noise"))


def read(path: Path = PATH) -> dict[str, Reference]:
    """Return all that are on file."""
    if not path.exists():
        return {}
    return {name: Reference(**fields) for name, fields in json.loads(path.read_text()).items()}


def write(references: dict[str, Reference], path: Path = PATH) -> None:
    """Put them on file, sorted by name."""
    plain = {name: asdict(references[name]) for name in sorted(references)}
    path.write_text(json.dumps(plain, indent=1) + "\n")


def compute(name: str, data: Path | None, samples: int = 10_000) -> Reference:
    """Return the reference of a task, by search unless its optimum is known."""
    task = make_task(name, data)
    rng = np.random.default_rng(_SEED)
    points = rng.random((samples, len(task.space.axes)))
    values = _values(task, points)
    median = float(np.median(values[np.isfinite(values)]))
    if task.problem.optimum is not None and not task.fails:
        return Reference(task.problem.optimum, median, "known")
    order = np.argsort(values)[:_STARTS]
    best = min(_improve(task, points[i], float(values[i]), rng) for i in order)
    return Reference(best, median, "search")


def _values(task: Task, points: Points) -> npt.NDArray[np.float64]:
    """Return true values; infinity where a config is infeasible or fails."""
    configs = [task.space.config(point) for point in points]
    truths = task.problem.evaluate_many(configs)
    good = [
        truth.feasible and not task.in_corner(config)
        for truth, config in zip(truths, configs, strict=True)
    ]
    return np.where(good, [truth.value for truth in truths], np.inf)


def _improve(task: Task, point: Points, value: float, rng: np.random.Generator) -> float:
    """Return the best value of a local search with shrinking steps."""
    step = 0.2
    for _ in range(_ROUNDS):
        points = np.array([_neighbour(point, step, rng) for _ in range(_NEIGHBOURS)])
        values = _values(task, points)
        first = int(np.argmin(values))
        if values[first] < value:
            point, value = points[first], float(values[first])
        else:
            step = max(step * 0.8, 1e-5)
    return value


def _neighbour(point: Points, step: float, rng: np.random.Generator) -> Points:
    moved = point.copy()
    chosen = rng.random(len(point)) < max(0.25, 1.5 / len(point))
    chosen[rng.integers(len(point))] = True
    near = np.clip(point + rng.normal(0, step, len(point)), 0, 1)
    anywhere = rng.random(len(point)) < 0.1
    moved[chosen] = np.where(anywhere, rng.random(len(point)), near)[chosen]
    return moved
