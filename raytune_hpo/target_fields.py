"""What the sections of the places where an experiment can run have in common."""

from __future__ import annotations

import re
from typing import Any

from raytune_hpo import fields
from raytune_hpo.fields import wrong
from raytune_hpo.section import Section

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Written(Section):
    """A section of which only what was written counts: something else fills in the rest."""

    def to_json(self) -> dict[str, Any]:
        """Return what was written as JSON values, in the words of the file."""
        names = [name for name in type(self).model_fields if name in self.model_fields_set]
        told = super().to_json()
        aliases = [type(self).model_fields[name].alias or name for name in names]
        return {alias: told[alias] for alias in aliases if alias in told}


def line(value: Any) -> str:
    """Return one line of a shell script."""
    text = fields.text(value)
    if _CONTROL.search(text):
        raise wrong("must be one line without control characters; write a list of lines")
    return text


def path(value: Any) -> str:
    """Return a path."""
    text = fields.text(value)
    if _CONTROL.search(text):
        raise wrong("must be a path without control characters")
    return text
