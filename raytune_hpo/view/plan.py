"""What an experiment would do, told without running it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from raytune_hpo import command, doctor, escape
from raytune_hpo.experiment import Experiment
from raytune_hpo.plugins import AUTO, auto_searcher, make_scheduler, make_searcher
from raytune_hpo.trial import Config
from raytune_hpo.view import text

_EXAMPLES = 3
_GIB = 2**30
_REFERENCE = re.compile(
    r'"\$\{RAYTUNE_HPO_VALUE_(?P<own>\d+)\}"|\$\{RAYTUNE_HPO_VALUE_(?P<quoted>\d+)\}'
)
_MAX_PROGRAM_LINE = 1 << 20
"""A command is shown in full, so that it can be copied."""
_IN_QUOTES = re.compile(r'[\\"$`]')
"""What has a meaning between double quotes."""


def outline(experiment: Experiment) -> str:
    """Return what was understood: objective, search, budget; one line each."""
    name, reason = searcher_of(experiment)
    space = experiment.search_space
    size = space.cardinality
    many = "" if size is None else f", {text.plural(size, 'config')}"
    trials = "until a limit ends it" if experiment.trials is None else str(experiment.trials)
    lines = [f"  objective   {line}" for line in _goals(experiment)]
    lines += [f"  constraint  {rule.text}" for rule in experiment.objectives.constraints]
    lines += [f"  parameters  {', '.join(space.dimensions)}{many}"]
    lines += [f"  trials      {trials}"]
    lines += [f"  searcher    {name} ({reason})"]
    lines += [f"  scheduler   {experiment.scheduler.algorithm}"]
    return escape.lines(lines)


def plan(experiment: Experiment) -> str:
    """Return ``outline`` and the first trials that would start.

    Raises:
        SpecError: The searcher or scheduler refuses its settings or this space.
    """
    seed = experiment.search.seed
    head = f"{experiment.name}: nothing is run (--dry-run)\n"
    note = "" if seed is not None else " (with seed 0; a run without one draws its own)"
    lines = [f"first trials{note}:"]
    for number, config in enumerate(first_configs(experiment, seed or 0)):
        lines.append(f"  {number}  {text.config_text(config)}")
        if not experiment.is_function:
            names = list(experiment.search_space.parameters)
            program = command_text(experiment.run, config, names).splitlines()
            lines += [f"{'' if index else '     '}{line}" for index, line in enumerate(program)]
    return head + outline(experiment) + escape.lines(lines, _MAX_PROGRAM_LINE)


def searcher_of(experiment: Experiment) -> tuple[str, str]:
    """Return the searcher that would be used, and why."""
    asked = experiment.search.algorithm
    if asked != AUTO:
        return asked, "asked for"
    return auto_searcher(
        experiment.search_space,
        experiment.objectives,
        experiment.trials,
        experiment.scheduler.algorithm,
    )


def first_configs(experiment: Experiment, seed: int) -> list[Config]:
    """Return the configs of the first trials: baseline, initial ones, then the searcher's."""
    make_scheduler(
        experiment.scheduler.algorithm,
        experiment.search_space,
        experiment.objectives,
        seed,
        experiment.scheduler.settings,
    )
    searcher = make_searcher(
        searcher_of(experiment)[0],
        experiment.search_space,
        experiment.objectives,
        seed,
        experiment.search.settings,
    )
    fixed = [] if experiment.baseline is None else [experiment.baseline]
    fixed = [*fixed, *experiment.search.initial]
    configs: list[Config] = []
    for number in range(min(_EXAMPLES, experiment.trials or _EXAMPLES)):
        config = dict(fixed[number]) if number < len(fixed) else searcher.suggest(number)
        if config is None:
            break
        if number < len(fixed):
            searcher.adopt(number, config)
        configs.append(config)
    return configs


def command_text(run: str | Sequence[str], config: Config, names: Sequence[str]) -> str:
    """Return a trial's command with its values in place, as a shell would take it.

    >>> command_text("train --lr ${lr} --tag ${tag}", {"lr": 0.1, "tag": "a b"}, ["lr", "tag"])
    "train --lr 0.1 --tag 'a b'"
    """
    if not isinstance(run, str):
        return shlex.join(command.build_argv(run, config, names))
    words = [command.word(config.get(name)) for name in names]

    def value(found: re.Match[str]) -> str:
        if found["own"]:
            return shlex.quote(words[int(found["own"])])
        return _IN_QUOTES.sub(r"\\\g<0>", words[int(found["quoted"])])

    return _REFERENCE.sub(value, command.shell_text(run, names))


def _goals(experiment: Experiment) -> list[str]:
    lines = []
    for goal in experiment.objectives.goals:
        formula = str(goal.expression)
        same = formula == goal.name
        target = "" if goal.target is None else f", target {text.number(goal.target)}"
        lines.append(f"{goal.mode} {formula if same else f'{goal.name} = {formula}'}{target}")
    return lines


def shortages(experiment: Experiment) -> list[str]:
    """Return what a trial asks for that this machine does not have, one sentence each."""
    asked = experiment.resources
    here = {"CPU": doctor.cpus(), "GPU": doctor.gpus()}
    wanted = {"CPU": asked.cpu, "GPU": asked.gpu}
    lines = [
        f"each trial asks for {text.number(wanted[kind])} {kind}; this machine has {here[kind]}. "
        f"Set resources.{kind.lower()}, or run it where there are more"
        for kind in here
        if wanted[kind] > here[kind]
    ]
    if asked.memory and asked.memory > doctor.memory():
        lines.append(
            f"each trial asks for {asked.memory / _GIB:.1f} GiB of memory; this machine has "
            f"{doctor.memory() / _GIB:.1f} GiB"
        )
    return lines
