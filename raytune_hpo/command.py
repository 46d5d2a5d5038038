"""From a command with placeholders to an argument list and an environment.

Values never become part of a shell's program text: in a shell command ``${name}`` is replaced by a
reference to an environment variable that holds the value, so no value can inject anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from raytune_hpo.trial import Config

_PLACEHOLDER = re.compile(r"\$\$|\$\{([A-Za-z_][\w.-]*)\}")
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
    return "RAYTUNE_HPO_PARAM_" + _NOT_IN_NAMES.sub("_", name).upper()


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
    """
    if isinstance(run, str):
        text = shell_text(run, names)
        if setup is not None:
            text = f"{setup}\n[ $? -eq 0 ] || exit\n{text}"
        return ["/bin/sh", "-c", text]
    argv = [_filled(element, config, names) for element in run]
    if setup is None:
        return argv
    return ["/bin/sh", "-c", f'{setup}\n[ $? -eq 0 ] || exit\nexec "$@"', "sh", *argv]


def _filled(text: str, config: Config, names: Sequence[str]) -> str:
    return _PLACEHOLDER.sub(lambda m: word(config.get(m[1])) if m[1] in names else m[0], text)


def shell_text(run: str, names: Sequence[str]) -> str:
    r"""Return a shell program in which each ``${name}`` is one word, whatever its value.

    Outside of quotes it becomes a quoted reference; inside double quotes a bare one; single
    quotes are left for it and entered again.

    >>> shell_text("train --lr ${lr} --dir ${HOME} 'a ${lr}'", ["lr"]).replace("RAYTUNE_HPO_", "")
    'train --lr "${VALUE_0}" --dir ${HOME} \'a \'"${VALUE_0}"\'\''
    """
    out: list[str] = []
    for piece, quote in _pieces(run):
        match = _PLACEHOLDER.fullmatch(piece)
        if match is None or match[1] not in names:
            out.append(piece)
            continue
        reference = "${" + _reference(list(names).index(match[1])) + "}"
        out.append({"": f'"{reference}"', '"': reference, "'": f"'\"{reference}\"'"}[quote])
    return "".join(out)


def _pieces(text: str) -> Iterator[tuple[str, str]]:
    """Return the pieces of a shell program, each with the quote it stands in."""
    quote = ""
    index = 0
    while index < len(text):
        piece = _piece(text, index, quote)
        yield piece, quote
        if piece in ("'", '"') and quote in ("", piece):
            quote = "" if quote else piece
        index += len(piece)


def _piece(text: str, index: int, quote: str) -> str:
    """Return a placeholder, an escaped character, or one character."""
    match = _PLACEHOLDER.match(text, index)
    if match is not None:
        return match[0]
    escaped = text[index] == "\\" and quote != "'"
    return text[index : index + 2] if escaped else text[index]
