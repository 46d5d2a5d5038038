"""One trial that goes through the configs of a schedule that population-based training found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from raytune_hpo.errors import Problem, SpaceError, SpecError
from raytune_hpo.objective import BadMetric, Objective
from raytune_hpo.schedulers.base import Decision, Fork, Move
from raytune_hpo.space import SearchSpace
from raytune_hpo.trial import Config, FailureKind, Outcome, Result, TrialState

_SETTING = "scheduler.settings.schedule"


class Stage(NamedTuple):
    """A config, and the number of reports after which it begins."""

    start: int
    config: Config


class PbtReplay:
    """Runs a trial through a schedule of configs.

    Where the schedule changes the trial ends, and a fork goes on from its checkpoint with the next
    config. The trial has to begin with the first config: name it in ``search.initial``.
    ``raytune_hpo.lineage.replay_fields`` makes all of this from a run.

    Args:
        space: That configs belong to.
        objective: Not looked at.
        seed: Nothing is drawn.
        schedule: A list of ``{"from": 0, "config": {...}}``, each with the number of reports with
            an objective value after which its config begins; the first one from 0.

    Raises:
        SpecError: When the schedule is none.

    Source: Jaderberg et al. 2017, arXiv:1711.09846, section 5 (schedules that were found, used
    again).

    Example:
        >>> from raytune_hpo.space import Float
        >>> space = SearchSpace({"lr": Float(0.001, 1.0)})
        >>> stages = [{"from": 0, "config": {"lr": 0.1}}, {"from": 9, "config": {"lr": 0.01}}]
        >>> replay = PbtReplay(space, Objective.of("loss"), seed=1, schedule=stages)
        >>> replay.on_trial(0, {"lr": 0.1}, None)
        >>> replay.on_result(Result(trial=0, step=9, values=(0.5,), checkpoint=True))
        <Decision.STOP: 'stop'>
        >>> replay.on_end(0, Outcome(TrialState.PRUNED, (0.5,), step=9))
        >>> replay.next_move([], more=False)
        Fork(parent=0, config={'lr': 0.01})
    """

    def __init__(
        self,
        space: SearchSpace,
        objective: Objective,
        seed: int,
        *,
        schedule: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        problems = _problems(space, schedule)
        if problems:
            raise SpecError(problems)
        self._stages = [Stage(int(stage["from"]), dict(stage["config"])) for stage in schedule]
        self._at: dict[int, int] = {}
        self._ended: list[int] = []

    def on_trial(self, trial: int, config: Config, parent: int | None) -> None:
        """Take note which stage the trial is in."""
        self._at[trial] = 0 if parent is None else self._at[parent] + 1
        if parent is not None:
            self._ended.remove(parent)
        elif config != self._stages[0].config:
            self._at[trial] = -1

    def on_result(self, result: Result) -> Decision:
        """Stop the trial where its stage ends.

        Raises:
            BadMetric: The trial did not begin with the first config, or has no checkpoint.
        """
        stage = self._at[result.trial]
        if stage < 0:
            text = (
                f"trial {result.trial} does not begin with the first config of the schedule: "
                f"give search.initial: [{self._stages[0].config}] and trials: 1"
            )
            raise BadMetric(FailureKind.NOT_STARTED, text)
        if stage + 1 >= len(self._stages) or result.step < self._stages[stage + 1].start:
            return Decision.CONTINUE
        if not result.checkpoint:
            text = (
                f"pbt_replay needs checkpoints, and trial {result.trial} has none: "
                "call report(..., checkpoint=path), and go on from get_checkpoint()"
            )
            raise BadMetric(FailureKind.NO_CHECKPOINT, text)
        return Decision.STOP

    def on_end(self, trial: int, outcome: Outcome) -> None:
        """Take note that the next stage may begin."""
        if outcome.state is TrialState.PRUNED:
            self._ended.append(trial)

    def next_move(self, paused: Sequence[int], *, more: bool) -> Move | None:
        """Return the next stage of a trial whose stage has ended."""
        if not self._ended:
            return None
        parent = self._ended[0]
        return Fork(parent, dict(self._stages[self._at[parent] + 1].config))


def _problems(space: SearchSpace, schedule: object) -> list[Problem]:
    """Return what is wrong with a schedule."""
    if not isinstance(schedule, list | tuple) or not schedule:
        return [Problem(_SETTING, 'has to be a list of {"from": 0, "config": {...}}')]
    problems = [problem for stage in schedule for problem in _wrong_stage(space, stage)]
    if problems:
        return problems
    starts = [stage["from"] for stage in schedule]
    if starts[0] != 0 or any(a >= b for a, b in pairwise(starts)):
        return [Problem(_SETTING, f"has to begin from 0 and to ascend, not {starts}")]
    return []


def _wrong_stage(space: SearchSpace, stage: object) -> list[Problem]:
    if not isinstance(stage, Mapping) or stage.keys() != {"from", "config"}:
        return [Problem(_SETTING, f"each entry has 'from' and 'config', not {stage!r}")]
    start, config = stage["from"], stage["config"]
    if isinstance(start, bool) or not isinstance(start, int) or not 0 <= start < math.inf:
        return [Problem(_SETTING, f"'from' has to be a whole number from 0 on, not {start!r}")]
    if not isinstance(config, Mapping):
        return [Problem(_SETTING, f"'config' has to name parameters, not {config!r}")]
    try:
        space.validate(config)
    except SpaceError as error:
        return [Problem(_SETTING, f"config from {start}: {error}")]
    return []
