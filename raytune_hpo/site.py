"""Settings of a place that hold for all experiments of a user: written once, in one file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raytune_hpo import document, fields, section
from raytune_hpo.errors import SpecError
from raytune_hpo.section import Section


def path_of(place: str, environ: Mapping[str, str] = os.environ) -> Path:
    """Return where the file of a place is, such as ``slurm``, or would be."""
    config = environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(config) / "raytune-hpo" / f"{place}.yaml"


def read(kind: type[Section], file: Path) -> dict[str, Any]:
    """Return what a file says, checked as a section; nothing when there is no file.

    Raises:
        SpecError: It is wrong, with the places.
    """
    try:
        text = file.read_text("utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{file}: cannot be read: {error}") from error
    found = document.read(text, str(file))
    if found.root.value is None:
        return {}
    problems = list(found.problems)
    data = found.root.data()
    _, findings = section.check(kind, data)
    for finding in findings:
        place = found.place(finding.path, key=finding.key, offset=finding.offset)
        problems.append(found.problem(fields.dotted(finding.path), finding.message, place))
    if problems:
        raise SpecError(problems, str(file))
    return dict(data)


def together(kind: type[Section], data: Mapping[str, Any], name: str, file: Path) -> Any:
    """Return the section that an experiment's settings and those of a file make together.

    Args:
        kind: What they are settings of.
        data: The settings, those of the experiment over those of the file.
        name: Of the section in an experiment file, such as ``targets.slurm``.
        file: For messages.

    Raises:
        SpecError: Each alone is right, and both together are not.
    """
    made, findings = section.check(kind, data)
    if findings or made is None:
        texts = "; ".join(f"{fields.dotted(f.path)}: {f.message}" for f in findings)
        raise SpecError(f"{name} together with {file}: {texts}")
    return made
