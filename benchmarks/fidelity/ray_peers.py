"""Ray Tune's own schedulers, called as Tune's controller calls them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ray.tune.experiment import Trial as RayTrial
from ray.tune.schedulers import AsyncHyperBandScheduler, HyperBandScheduler, TrialScheduler

from benchmarks.quality.ours import search_space
from raytune_hpo.plugins import make_searcher
from raytune_hpo.schedulers.base import Decision, Drop, Move, Resume
from raytune_hpo.searchers.base import Searcher
from raytune_hpo.trial import Config, Outcome, Result

from .tuners import OBJECTIVE, Setting, Tuner

logging.getLogger("ray.tune").setLevel(logging.ERROR)

_AHEAD = 200
"""Trials that Tune has ready before they run, with its own random search and up to 200 CPUs."""
_DECISIONS = {
    TrialScheduler.CONTINUE: Decision.CONTINUE,
    TrialScheduler.PAUSE: Decision.PAUSE,
    TrialScheduler.STOP: Decision.STOP,
}


def asha(setting: Setting, searcher: Searcher | None = None, **settings: Any) -> Tuner:
    """Return AsyncHyperBandScheduler; a rung further apart than ours unless told otherwise."""
    np.random.seed(setting.seed)  # it draws brackets
    made = AsyncHyperBandScheduler(
        time_attr="used",
        metric="value",
        mode="min",
        max_t=setting.task.full,
        grace_period=setting.task.first,
        **settings,
    )
    return Tuner(searcher or _random(setting), _Ray(made))


def hyperband(setting: Setting, **settings: Any) -> Tuner:
    """Return HyperBandScheduler, which has no least resource."""
    made = HyperBandScheduler(
        time_attr="used", metric="value", mode="min", max_t=setting.task.full, **settings
    )
    return Tuner(_random(setting), _RayInTurn(made), late=True)


def _random(setting: Setting) -> Searcher:
    return make_searcher("random", search_space(setting.task.space), OBJECTIVE, setting.seed)


@dataclass(eq=False)
class _Trial:
    """What a scheduler of Ray looks at in a trial."""

    trial_id: str
    status: str = RayTrial.PENDING
    is_saving: bool = False
    last_result: dict[str, Any] = field(default_factory=dict)


class _Ray:
    """A scheduler that decides when a trial reports, and on nothing else."""

    def __init__(self, ray: Any) -> None:
        self.ray = ray
        self.trials: dict[int, _Trial] = {}

    def on_trial(self, trial: int, config: Config, parent: int | None) -> None:
        """Add the trial."""
        self.trials[trial] = _Trial(str(trial), RayTrial.RUNNING)
        self.ray.on_trial_add(None, self.trials[trial])

    def on_result(self, result: Result) -> Decision:
        """Pass the report on."""
        trial = self.trials[result.trial]
        trial.status = RayTrial.RUNNING
        trial.last_result = {"used": result.metrics["used"], "value": result.values[0]}
        decision = _DECISIONS[self.ray.on_trial_result(self, trial, trial.last_result)]
        if decision is Decision.PAUSE:
            trial.status = RayTrial.PAUSED
        return decision

    def on_end(self, trial: int, outcome: Outcome) -> None:
        """Take the trial out."""
        self.stop_trial(self.trials[trial])

    def stop_trial(self, trial: _Trial) -> None:
        """Take a trial out, as Tune's controller does."""
        if trial.status == RayTrial.TERMINATED:
            return
        if trial.status == RayTrial.RUNNING:
            self.ray.on_trial_complete(self, trial, trial.last_result)
        else:
            self.ray.on_trial_remove(self, trial)
        trial.status = RayTrial.TERMINATED

    def next_move(self, paused: Sequence[int], *, more: bool) -> Move | None:
        """Return None: nothing is ever paused."""
        return None


class _RayInTurn(_Ray):
    """A scheduler that also chooses what runs next, from trials that were added before they run.

    Without those HyperBand would halve brackets that are not full yet.
    """

    def __init__(self, ray: Any) -> None:
        super().__init__(ray)
        self._numbers: dict[_Trial, int] = {}
        self._ready: set[_Trial] = set()
        self._added = 0

    def on_trial(self, trial: int, config: Config, parent: int | None) -> None:
        """Take note that the trial which was chosen starts."""
        chosen = self._chosen()
        chosen.status = RayTrial.RUNNING
        self._ready.discard(chosen)
        self.trials[trial] = chosen
        self._numbers[chosen] = trial

    def next_move(self, paused: Sequence[int], *, more: bool) -> Move | None:
        """Return the paused trial that is to go on, or to be cut short."""
        for number, trial in self.trials.items():
            if number in paused and trial.status == RayTrial.TERMINATED:
                return Drop(number)
            if number not in paused and trial.status == RayTrial.PAUSED:
                trial.status = RayTrial.RUNNING  # it was resumed
        chosen = self._chosen()
        return Resume(self._numbers[chosen]) if chosen.status == RayTrial.PAUSED else None

    def _chosen(self) -> _Trial:
        while len(self._ready) < _AHEAD:
            trial = _Trial(f"ray {self._added}")
            self._added += 1
            self._ready.add(trial)
            self.ray.on_trial_add(self, trial)
        chosen: _Trial = self.ray.choose_trial_to_run(self)
        return chosen
