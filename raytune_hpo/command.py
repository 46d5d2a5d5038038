"""From a command with placeholders to an argument list and an environment.

Values never become part of a shell's program text: in a shell command ``${name}`` is replaced by a
reference to an environment variable that holds the value, so no value can inject anything. Where a
second shell would read the value again, a value that it could take for more than text is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from raytune_hpo.errors import Problem, SpecError
from raytune_hpo.shell import PLACEHOLDER, ShellText, is_program
from raytune_hpo.trial import Config

_HARMLESS = re.compile(r"[\w@%+=:,./-]*", re.ASCII)
_NOT_IN_NAMES = re.compile(r"\W")


def word(value: Any) -> str:
    """Return a parameter's value as a command sees it.

    >>> word(True), word(None), word(1e-05), word([1, 2])
    ('true', '', '1e-05', '[1, 2]')
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return repr(value)
    return json.dumps(value)


def variable(name: str) -> str:
    """Return the environment variable that holds a parameter.

    >>> variable("model.hidden-size")
    'RAYTUNE_HPO_PARAM_MODEL_HIDDEN_SIZE'
    """
    return "RAYTUNE_HPO_PARAM_" + _NOT_IN_NAMES.sub("_", name.upper())


def environment(config: Config, names: Sequence[str]) -> dict[str, str]:
    """Return the variables that hold a trial's parameters; those not there are not set.

    Args:
        config: Flat parameter values.
        names: All parameters of the space.
    """
    own = {variable(name): word(value) for name, value in config.items()}
    references = {_reference(index): word(config.get(name)) for index, name in enumerate(names)}
    return {**own, **references}


def _reference(index: int) -> str:
    return f"RAYTUNE_HPO_VALUE_{index}"


def build_argv(
    run: str | Sequence[str], config: Config, names: Sequence[str], setup: str | None = None
) -> list[str]:
    """Return the argument list of a trial's command.

    Args:
        run: A text is a program for ``/bin/sh``; a list is run as it is, without a shell.
        config: Flat parameter values; a placeholder of a parameter that is not there becomes empty.
        names: All parameters of the space; other ``${...}`` are left alone.
        setup: Shell line to run before; the trial fails when it fails.

    Raises:
        SpecError: A value with a meaning in the shell's language stands where a second shell reads
            it, as in ``sh -c '... ${name}'``.
    """
    if isinstance(run, str):
        program = _shell(run, names)
        _refuse(program.inner, config)
        return [
            "/bin/sh",
            "-c",
            program.text if setup is None else f"{_before(setup)}{program.text}",
        ]
    _refuse(_inner(run, names), config)
    argv = [_filled(element, config, names) for element in run]
    if setup is None:
        return argv
    return ["/bin/sh", "-c", f'{_before(setup)}exec "$@"', "sh", *argv]


def _before(setup: str) -> str:
    """Return program text that ends with the setup's own exit code when that fails."""
    return f"{setup}\ncase $? in 0) ;; *) exit $? ;; esac\n"


def _filled(text: str, config: Config, names: Sequence[str]) -> str:
    return PLACEHOLDER.sub(lambda m: word(config.get(m[1])) if m[1] in names else m[0], text)


def _inner(run: Sequence[str], names: Sequence[str]) -> set[str]:
    """Return the parameters in elements that a shell among the elements reads."""
    programs = [text for index, text in enumerate(run) if is_program(run[:index])]
    return {m[1] for text in programs for m in PLACEHOLDER.finditer(text) if m[1] in names}


def _refuse(inner: Iterable[str], config: Config) -> None:
    problems = [
        Problem(
            "run",
            f"the value {word(config.get(name))!r} of '{name}' would be read as a program by a "
            f'second shell (sh -c, eval, ssh); write "${variable(name)}" there, or do without it',
        )
        for name in sorted(inner)
        if not _HARMLESS.fullmatch(word(config.get(name)))
    ]
    if problems:
        raise SpecError(problems)


def shell_text(run: str, names: Sequence[str]) -> str:
    r"""Return a shell program in which each ``${name}`` is one word, whatever its value.

    Outside of quotes it becomes a quoted reference; inside double quotes a bare one; single
    quotes are left for it and entered again.

    >>> shell_text("train --lr ${lr} --dir ${HOME} 'a ${lr}'", ["lr"]).replace("RAYTUNE_HPO_", "")
    'train --lr "${VALUE_0}" --dir ${HOME} \'a \'"${VALUE_0}"\'\''
    """
    return _shell(run, names).text


def _shell(run: str, names: Sequence[str]) -> ShellText:
    return ShellText(run, {name: _reference(index) for index, name in enumerate(names)})
