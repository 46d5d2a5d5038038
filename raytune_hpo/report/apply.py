"""A configuration in the form in which another program takes it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any, Literal

from raytune_hpo.errors import RunError
from raytune_hpo.report import text
from raytune_hpo.report.summary import result_lines
from raytune_hpo.state import RunState, TrialRecord

Format = Literal["yaml", "json", "env", "args"]
FORMATS: tuple[Format, ...] = ("yaml", "json", "env", "args")


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
        raise RunError("\n".join([f"{state.name}:", *result_lines(state)]))
    if state.objective.multi and len(best) > 1:
        lines = [f"{state.name}: choose one with --trial N", *result_lines(state)]
        raise RunError("\n".join(lines))
    return state.trials[best[0]]


def applied(state: RunState, trial: TrialRecord, form: Format) -> str:
    """Return a trial's configuration as text that ends in a newline.

    ``yaml`` and ``json`` nest dotted names; ``env`` is for ``eval`` or ``source`` in a shell, and
    ``args`` for a command line: both are quoted for a shell.
    """
    if form == "env":
        return _comment(state, trial) + _env(trial.config)
    if form == "args":
        words = [word for name, value in trial.config.items() for word in (f"--{name}", value)]
        return " ".join(shlex.quote(plain(word)) for word in words) + "\n"
    nested = state.experiment.search_space.nested(trial.config)
    if form == "json":
        return json.dumps(nested, indent=2) + "\n"
    import yaml

    content = yaml.safe_dump(nested, sort_keys=False, allow_unicode=True)
    return _comment(state, trial) + content


def plain(value: Any) -> str:
    """Return a value as programs read it: texts as they are, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def _env(config: Mapping[str, Any]) -> str:
    lines = [f"export {_variable(name)}={shlex.quote(plain(v))}\n" for name, v in config.items()]
    return "".join(lines)


def _variable(name: str) -> str:
    return re.sub(r"\W", "_", name, flags=re.ASCII)


def _comment(state: RunState, trial: TrialRecord) -> str:
    values = text.values_text(state, trial.values) if trial.values else trial.state.value
    return f"# {state.name}, trial {trial.number}: {values}\n"
