"""The documents say what is so: links lead somewhere, and what they show works."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import raytune_hpo
from raytune_hpo import plugins, spec
from raytune_hpo.experiment import Experiment
from raytune_hpo.objective import Objective
from raytune_hpo.schedulers.base import Decision
from raytune_hpo.simulate import Simulation
from raytune_hpo.space import Float, SearchSpace
from raytune_hpo.testing.schedulers import SchedulerContract
from raytune_hpo.testing.searchers import SearcherContract
from raytune_hpo.trial import Result

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
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


@pytest.mark.parametrize("name", plugins.names("searchers"))
def test_every_searcher_has_a_page_that_is_in_the_index(name: str) -> None:
    page = ROOT / "docs" / "searchers" / f"{name}.md"
    assert "Source" in page.read_text()
    assert f"({name}.md)" in (page.parent / "README.md").read_text()


def _shown(kind: str, name: str) -> Any:
    """Return the plug-in that the how-to shows."""
    ((_, text),) = blocks(f"python {kind}")
    names: dict[str, Any] = {}
    exec(text, names)  # noqa: S102 (our own document)
    return names[name]


class TestSearcherOfTheHowTo(SearcherContract):
    """What the how-to shows passes the contract."""

    exhausts = False

    def make(self, space: SearchSpace, objective: Objective, seed: int) -> Any:
        return _shown("searcher", "HillClimber")(space, objective, seed)


class TestSchedulerOfTheHowTo(SchedulerContract):
    """What the how-to shows passes the contract."""

    def make(self, space: SearchSpace, objective: Objective) -> Any:
        return _shown("scheduler", "BelowMedian")(space, objective, 1)

    def test_it_stops_what_is_worse_than_most(self) -> None:
        scheduler = self.new()
        for trial in range(4):
            scheduler.on_result(Result(trial, 5, (float(trial),)))
        assert scheduler.on_result(Result(4, 4, (9.0,))) is Decision.CONTINUE
        assert scheduler.on_result(Result(4, 5, (9.0,))) is Decision.STOP
        assert scheduler.on_result(Result(5, 5, (0.5,))) is Decision.CONTINUE


def test_the_collector_of_the_how_to() -> None:
    collector = _shown("collector", "TableCollector")()
    assert collector.feed("epoch loss") == []
    assert collector.feed("1 0.5") == [{"epoch": 1.0, "loss": 0.5}]
    assert collector.finish() == []


def test_the_tracker_of_the_how_to(tmp_path: Path) -> None:
    experiment = Experiment.from_python("noop", {"x": Float(0, 1)}, metric="loss", trials=2)
    simulation = Simulation(experiment, lambda config: [(1.0, {"loss": 0.5})])
    simulation.run()
    tracker = _shown("tracker", "LineTracker")(tmp_path / "lines")
    tracker.apply(simulation.journal.records)
    tracker.end()
    tracker.close()
    assert tracker.applied == len(simulation.journal.records)
    assert (tmp_path / "lines").read_text() == "0 completed (0.5,)\n1 completed (0.5,)\n"


@pytest.mark.parametrize("number", range(3))
def test_the_api_page_runs(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    found = blocks("python run")
    assert len(found) == 3
    page, text = found[number]
    exec(compile(text, page, "exec"), {})  # noqa: S102 (our own document)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("language", ["python", r"python \w+"])
def test_every_python_block_is_python(language: str) -> None:
    found = blocks(language)
    assert found
    for page, text in found:
        compile(text, page, "exec")


def test_the_api_page_names_every_public_name() -> None:
    text = (ROOT / "docs" / "python-api.md").read_text()
    absent = [name for name in raytune_hpo.__all__ if not re.search(rf"\b{name}\b", text)]
    assert not absent
