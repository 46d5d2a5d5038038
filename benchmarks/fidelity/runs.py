"""A run of a tuner on a task, in the engine's own simulation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.quality.ours import search_space
from raytune_hpo.experiment import Experiment
from raytune_hpo.journal import Record
from raytune_hpo.searchers.base import Searcher
from raytune_hpo.simulate import Simulation
from raytune_hpo.suggestions import Suggestions
from raytune_hpo.trial import Config

from .tasks import Point, Task
from .tuners import Setting, Tuner


@dataclass
class Run:
    """What happened.

    Attributes:
        unit_s: Virtual seconds of a full job.
        incumbents: Each time that the config which the tuner would return changed: full-job
            equivalents, that is seconds times workers by ``unit_s``, and its value at full
            fidelity.
        trials: Started.
        full: Trials that got to full fidelity.
        suggest_ms: CPU time of each suggestion, in their order.
        tell_ms: CPU time of all that the searcher was told, over the number of trials.
    """

    unit_s: float
    incumbents: list[tuple[float, float]]
    trials: int
    full: int
    suggest_ms: list[float] = field(default_factory=list)
    tell_ms: float = 0.0


def simulate(tuner: Tuner, task: Task, setting: Setting, budget: float) -> Run:
    """Return what a tuner did with a budget.

    Args:
        tuner: New.
        task: What it solves.
        setting: What the tuner was made for.
        budget: Full-job equivalents, over all workers.
    """
    job = tuner.job or task.job
    costs = _Costs()
    experiment = Experiment.from_python(
        run="none",
        parameters=search_space(task.space).parameters,
        metric="value",
        trials=1_000_000,
        parallel=setting.workers,
        time_limit=budget * task.unit_s / setting.workers,
        search={"algorithm": "random", "seed": setting.seed},
    )
    simulation = Simulation(
        experiment,
        lambda config: _steps(job, config),
        searcher=tuner.searcher,
        scheduler=tuner.scheduler,
        checkpoints=True,
        # A first report may take hours, and the others would wait for it.
        hold_s=0.0,
        suggestions=lambda searcher: _Timed(searcher, costs, late=tuner.late),
    )
    state = simulation.run()
    reports = [r for r in simulation.journal.records if r["type"] == "report"]
    names = {axis.name for axis in task.space.axes}
    configs = {
        number: {name: value for name, value in trial.config.items() if name in names}
        for number, trial in state.trials.items()
    }
    return Run(
        unit_s=task.unit_s,
        incumbents=_incumbents(reports, configs, task, setting.workers),
        trials=len(configs),
        full=len({r["trial"] for r in reports if r["metrics"]["used"] >= task.full}),
        suggest_ms=costs.suggest_ms,
        tell_ms=costs.tell_ms / max(1, len(configs)),
    )


def _steps(
    job: Callable[[Config], list[Point]], config: Config
) -> Iterator[tuple[float, dict[str, Any]]]:
    for point in job(config):
        yield point.seconds, {"used": point.used, "value": point.value}


def _incumbents(
    reports: Iterable[Record], configs: dict[int, Config], task: Task, workers: int
) -> list[tuple[float, float]]:
    """Return when the best at the highest milestone changed, and its value at full fidelity."""
    found: list[tuple[float, float]] = []
    latest: dict[int, tuple[int, float]] = {}
    held = None
    for report in reports:
        at = task.milestone(report["metrics"]["used"])
        if at == 0:
            continue
        latest[report["trial"]] = -at, report["metrics"]["value"]
        best = min(latest, key=lambda trial: latest[trial])
        if best != held:
            held = best
            value = task.full_job(configs[best])[-1].value
            found.append((report["t"] * workers / task.unit_s, value))
    return found


@dataclass
class _Costs:
    suggest_ms: list[float] = field(default_factory=list)
    tell_ms: float = 0.0


class _Timed(Suggestions):
    """Suggestions whose CPU time is counted.

    Args:
        searcher: Makes them.
        costs: Where the time is noted.
        late: Ask for a suggestion when it is needed and no earlier, whatever the engine would do.
    """

    def __init__(self, searcher: Searcher, costs: _Costs, *, late: bool) -> None:
        super().__init__(searcher)
        self._costs = costs
        self._late = late

    def request(self, trial: int) -> None:
        """Have a config suggested now, unless that is to be late."""
        if not self._late:
            super().request(trial)

    def take(self, trial: int) -> Any:
        """Return the config."""
        if self._late:
            super().request(trial)
        return super().take(trial)

    def _call(self, call: Callable[..., None], *args: Any) -> None:
        began = time.process_time()
        call(*args)
        took_ms = 1000 * (time.process_time() - began)
        if call == self._make:
            self._costs.suggest_ms.append(round(took_ms, 2))
        else:
            self._costs.tell_ms += took_ms


def value_at(incumbents: Sequence[tuple[float, float]], equivalents: float) -> float:
    """Return the value of the config held at a time; infinity before there is one."""
    return next((value for at, value in reversed(incumbents) if at <= equivalents), float("inf"))
