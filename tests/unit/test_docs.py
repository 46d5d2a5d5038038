"""The documents say what is so: links lead somewhere, and what they show works."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raytune_hpo import spec
from raytune_hpo.objective import Objective
from raytune_hpo.space import SearchSpace
from raytune_hpo.testing.searchers import SearcherContract

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")])
_LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")


def blocks(language: str) -> list[tuple[str, str]]:
    """Return the code blocks of one language, each with the page it is on."""
    pattern = re.compile(rf"^```{language}\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return [(page.name, text) for page in PAGES for text in pattern.findall(page.read_text())]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_experiments_in_the_documents_load() -> None:
    found = blocks("yaml experiment")
    assert len(found) >= 4
    for page, text in found:
        assert spec.loads(text, source=page).trials


@pytest.mark.parametrize("path", sorted(ROOT.glob("examples/*/experiment.yaml")), ids=str)
def test_experiments_of_the_examples_load(path: Path) -> None:
    assert spec.load(path).trials


def test_the_reference_is_current() -> None:
    script = ROOT / "scripts" / "make_reference.py"
    done = subprocess.run([sys.executable, str(script), "--check"], check=False)
    assert done.returncode == 0


def _hill_climber() -> Any:
    """Return the searcher that the how-to shows."""
    ((_, text),) = blocks("python searcher")
    names: dict[str, Any] = {}
    exec(text, names)  # noqa: S102 (our own document)
    return names["HillClimber"]


class TestSearcherOfTheHowTo(SearcherContract):
    """What the how-to shows passes the contract."""

    exhausts = False

    def make(self, space: SearchSpace, objective: Objective, seed: int) -> Any:
        return _hill_climber()(space, objective, seed)
