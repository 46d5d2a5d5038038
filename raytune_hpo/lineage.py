"""Where a trial comes from, and the schedule of configs that led to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from raytune_hpo.state import RunState, TrialRecord
from raytune_hpo.trial import Config


@dataclass(frozen=True)
class Stage:
    """A part of a schedule.

    Attributes:
        trial: Trial that ran it.
        config: That it ran with.
        from_step: Reports with an objective value before it, over all trials of the lineage.
        to_step: The same at its end.
    """

    trial: int
    config: Config
    from_step: int
    to_step: int


def lineage(state: RunState, trial: int) -> list[Stage]:
    """Return the stages that led to a trial, from the one that was no fork, its own as the last.

    Args:
        state: Built with ``keep_reports``, as that of a ``RunResult`` is.
        trial: Number of any trial, finished or not.

    Example:
        >>> import raytune_hpo as rh
        >>> from raytune_hpo.simulate import Simulation
        >>> experiment = rh.Experiment.from_python(
        ...     run="noop", parameters={"x": rh.Float(0, 1)}, metric="loss", trials=1,
        ...     search={"initial": [{"x": 0.25}]},
        ... )
        >>> simulation = Simulation(experiment, lambda config: [(1.0, {"loss": config["x"]})])
        >>> lineage(simulation.run(), 0)
        [Stage(trial=0, config={'x': 0.25}, from_step=0, to_step=1)]
    """
    stages: list[Stage] = []
    number: int | None = trial
    end = state.trials[trial].step
    while number is not None:
        record = state.trials[number]
        start = _first_step(state, record)
        stages.append(Stage(number, dict(record.config), start, end))
        number, end = record.parent, start
    return stages[::-1]


def replay_fields(state: RunState, trial: int) -> dict[str, Any]:
    """Return the fields of an experiment that runs the schedule of a trial again, as one trial.

    Args:
        state: Built with ``keep_reports``, as that of a ``RunResult`` is.
        trial: Number of the trial; the best one's schedule is worth it most.

    Returns:
        ``trials``, ``search`` and ``scheduler``, as JSON.

    Example::

        result = rh.load("raytune-results/digits-pbt")
        fields = replay_fields(result.state, result.best.number)
        rh.run(train, parameters, metric="val_loss", **fields)
    """
    # A fork that ran nothing before it was forked itself leaves no trace.
    stages = [s for s in lineage(state, trial) if s.to_step > s.from_step]
    schedule = [{"from": stage.from_step, "config": stage.config} for stage in stages]
    return {
        "trials": 1,
        "search": {"algorithm": "random", "initial": [stage.config for stage in stages[:1]]},
        "scheduler": {"algorithm": "pbt_replay", "settings": {"schedule": schedule}},
    }


def _first_step(state: RunState, record: TrialRecord) -> int:
    """Return the step that a trial's first attempt began at."""
    if record.parent is None:
        return 0
    if not record.reports:
        return next(iter(record.checkpoints.values()), 0)
    first = record.reports[0]
    advanced = first.values is not None and bool(state.objective.inputs & first.metrics.keys())
    return first.step - advanced
