"""A configuration in the form in which another program takes it."""

from __future__ import annotations

import json
import shlex
from typing import Literal

from raytune_hpo import command, escape
from raytune_hpo.errors import RunError
from raytune_hpo.state import RunState, TrialRecord
from raytune_hpo.view import text
from raytune_hpo.view.summary import result_lines

Format = Literal["yaml", "json", "env", "args"]


def chosen_trial(state: RunState, number: int | None = None) -> TrialRecord:
    """Return the trial to apply: the one asked for, or the best.

    Raises:
        RunError: There is no such trial, no best one, or a Pareto front to choose from.
    """
    if number is not None:
        if number not in state.trials:
            raise RunError(f"{state.name}: there is no trial {number}; it has {len(state.trials)}")
        return state.trials[number]
    best = state.best()
    if not best:
        raise RunError(_message([f"{state.name}:", *result_lines(state)]))
    if state.objective.multi and len(best) > 1:
        raise RunError(_message([f"{state.name}: choose one with --trial N", *result_lines(state)]))
    return state.trials[best[0]]


def applied(state: RunState, trial: TrialRecord, form: Format) -> str:
    """Return a trial's configuration as text that ends in a newline.

    ``yaml`` and ``json`` nest dotted names; ``env`` sets the variables that a trial finds, for
    ``eval`` or ``source`` in a shell, and ``args`` is for a command line; both are quoted.
    """
    words = {name: command.word(value) for name, value in trial.config.items()}
    if form == "env":
        pairs = ((command.variable(name), shlex.quote(word)) for name, word in words.items())
        return _comment(state, trial) + "".join(f"export {n}={word}\n" for n, word in pairs)
    if form == "args":
        flat = [part for name, word in words.items() for part in (f"--{name}", word)]
        return shlex.join(flat) + "\n"
    nested = state.experiment.search_space.nested(trial.config)
    if form == "json":
        return json.dumps(nested, indent=2) + "\n"
    import yaml

    content = yaml.safe_dump(nested, sort_keys=False, allow_unicode=True)
    return _comment(state, trial) + content


def _message(lines: list[str]) -> str:
    return escape.lines(lines).removesuffix("\n")


def _comment(state: RunState, trial: TrialRecord) -> str:
    values = text.values_text(state, trial.values) if trial.values else trial.state.value
    # One line for sure: the rest of a name with a newline would be read as a command.
    return escape.lines([f"# {state.name}, trial {trial.number}: {values}"])
