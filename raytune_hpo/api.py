"""The Python API: ``run`` and ``resume`` for scripts and notebooks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raytune_hpo.experiment import Experiment
from raytune_hpo.objective import Mode
from raytune_hpo.results import RunResult
from raytune_hpo.session import (
    Limits,
    Surroundings,
    home_of,
    resume_run,
    run_experiment,
)
from raytune_hpo.view.live import LiveView

_STEM_LENGTH = 56
"""Of a name, so that a number fits behind it."""


def run(
    run: Callable[..., Any] | str | list[str],
    parameters: Mapping[str, Any],
    metric: str | None = None,
    mode: Mode = "min",
    *,
    resume: bool = False,
    quiet: bool = False,
    **fields: Any,
) -> RunResult:
    """Tune a function or a command on this machine and return what was found.

    Args:
        run: A function that takes a config (a dict) and reports or returns metrics;
            ``module:function``; or a command.
        parameters: ``Float``, ``Int``, ``Choice``, ... by name; nested mappings are groups.
        metric: What is to become small or large; or give ``objective``.
        mode: ``min`` or ``max``.
        resume: Go on with the run of this name where it was; it starts when there is none.
        quiet: Show nothing while it runs.
        **fields: Any field of the experiment file: ``trials=50``, ``scheduler={...}``,
            ``name="mnist"``, ... Without a name, each call is a run of its own.

    Raises:
        SpecError: What was given is wrong; says everything that is.
        InfrastructureError: Ray did not start, or no machine can meet what a trial asks for.

    Example::

        import raytune_hpo as rh

        def train(config):
            for step in range(10):
                rh.report(loss=(config["lr"] - 0.1) ** 2 / (step + 1))

        result = rh.run(train, {"lr": rh.Float(1e-4, 1.0, log=True)}, "loss", trials=20)
        print(result.best.config)
    """
    experiment = Experiment.from_python(run, parameters, metric, mode, **fields)
    if "name" not in fields:
        experiment = experiment.model_copy(update={"name": _new_name(experiment)})
        experiment = experiment.with_function(run) if callable(run) else experiment
    home = home_of(experiment, Path.cwd())
    with _surroundings(home.run_dir, quiet) as around:
        if resume and home.exists():
            resume_run(
                home.url or home.run_dir,
                limits=Limits(trials=experiment.trials, parallel=experiment.parallel),
                function=experiment.function,
                folder=Path.cwd(),
                surroundings=around,
            )
        else:
            run_experiment(experiment, surroundings=around)
    return RunResult.load(home.run_dir)


def load(path: str | os.PathLike[str]) -> RunResult:
    """Return the result of a run, finished or not, from its directory or its URL in a store."""
    return RunResult.load(path)


def _new_name(experiment: Experiment) -> str:
    """Return a name that no run in the storage has yet."""
    number = 1
    while True:
        name = f"{experiment.name[:_STEM_LENGTH]}-{number}"
        named = experiment.model_copy(update={"name": name})
        if not home_of(named, Path.cwd()).is_taken():
            return name
        number += 1


@contextmanager
def _surroundings(run_dir: Path, quiet: bool) -> Iterator[Surroundings]:
    if quiet:
        yield Surroundings()
        return
    with LiveView(run_dir) as view:
        yield Surroundings(view, view.note)
