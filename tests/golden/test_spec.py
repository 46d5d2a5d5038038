"""The whole text of the errors for wrong experiment files.

``UPDATE_GOLDEN=1 pytest tests/golden/test_spec.py`` writes the texts anew; read the difference.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raytune_hpo import spec
from raytune_hpo.errors import SpecError

FOLDER = Path(__file__).parent / "spec"
FILES = sorted(FOLDER.glob("*.yaml"))


def error_of(file: Path) -> SpecError:
    with pytest.raises(SpecError) as caught:
        spec.loads(file.read_text("utf-8"), file.name)
    return caught.value


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_errors_are_told_as_recorded(file: Path) -> None:
    expected = file.with_suffix(".txt")
    text = f"{error_of(file)}\n"
    if os.environ.get("UPDATE_GOLDEN"):
        expected.write_text(text, "utf-8")
    assert text == expected.read_text("utf-8")


def test_five_mistakes_give_five_located_messages_in_file_order() -> None:
    error = error_of(FOLDER / "five-mistakes.yaml")
    places = [(problem.line, problem.column, problem.path) for problem in error.problems]
    assert places == [
        (2, 44, "run"),
        (3, 37, "objective.mode"),
        (7, 16, "parameters.batch_size.valus"),
        (8, 1, "trails"),
        (9, 13, "time_limit"),
    ]


def test_no_secret_is_shown() -> None:
    assert "hunter2" not in str(error_of(FOLDER / "secrets.yaml"))
