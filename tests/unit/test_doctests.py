"""The examples in docstrings do what they say."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "raytune_hpo"
MODULES = sorted(
    {
        ".".join(("raytune_hpo", *path.relative_to(ROOT).with_suffix("").parts))
        # A search does not follow the links to the folders at the top.
        for path in [*ROOT.rglob("*.py"), *ROOT.glob("*/*.py")]
        if ">>> " in path.read_text()
    }
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted
    assert not found.failed
