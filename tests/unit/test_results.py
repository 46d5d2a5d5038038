from __future__ import annotations

import math
from html.parser import HTMLParser
from pathlib import Path

import pytest

from raytune_hpo.errors import JournalError, RunError
from raytune_hpo.results import RunResult
from raytune_hpo.view.notebook import best_so_far_svg
from tests.golden import made_runs
from tests.golden.made_runs import MadeRun


@pytest.fixture
def result(tmp_path: Path) -> RunResult:
    return RunResult.load(made_runs.minimize().write(tmp_path / "demo"))


def test_best_has_number_config_values_and_metrics(result: RunResult) -> None:
    best = result.best
    assert (best.number, best.values) == (3, (0.20999,))
    assert best.config == {"lr": 0.00123456789, "layers": 5, "optimizer": "adam"}
    assert best.metrics["acc"] == 0.95


def test_trials_is_a_table_of_all(result: RunResult) -> None:
    table = result.trials
    assert list(table.columns) == [
        *("number", "state", "origin", "feasible", "val_loss"),
        *("config.lr", "config.layers", "config.optimizer", "metrics.val_loss", "metrics.acc"),
        *("duration_s", "attempts", "parent"),
    ]
    assert list(table["state"]) == ["completed", "pruned", "failed", "completed", "completed"]
    assert math.isnan(table["val_loss"][2])
    assert table["duration_s"][3] == 61
    assert list(table["attempts"]) == [1, 1, 2, 1, 1]


def test_empty_run_has_an_empty_table(tmp_path: Path) -> None:
    result = RunResult.load(MadeRun(made_runs.MINIMIZE).write(tmp_path / "demo"))
    assert len(result.trials) == 0
    assert "val_loss" in result.trials.columns
    assert result.pareto == []
    with pytest.raises(RunError, match="no trial has finished with a value"):
        _ = result.best


def test_failed_run_says_why_when_asked_for_its_best(tmp_path: Path) -> None:
    result = RunResult.load(made_runs.failed().write(tmp_path / "demo"))
    with pytest.raises(RunError, match=r"(?s)3 of 3 failed trials: Attr.*model\.fitt"):
        _ = result.best


def test_several_objectives_have_a_front(tmp_path: Path) -> None:
    result = RunResult.load(made_runs.several().write(tmp_path / "front"))
    assert [trial.number for trial in result.pareto] == [0, 1, 2]
    with pytest.raises(RunError, match=r"use \.pareto"):
        _ = result.best


def test_objective_named_like_a_column_gets_a_prefix(tmp_path: Path) -> None:
    run = MadeRun(made_runs.MINIMIZE.replace("val_loss", "state"))
    run.start(0, {"lr": 0.001, "layers": 3, "optimizer": "sgd"})
    run.report(0, {"state": 0.5})
    run.end(0)
    table = RunResult.load(run.write(tmp_path / "demo")).trials
    assert table["objective.state"][0] == 0.5
    assert table["state"][0] == "completed"


def test_load_needs_a_journal(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="there is no journal"):
        RunResult.load(tmp_path)


def test_repr_is_one_line(result: RunResult) -> None:
    assert repr(result).startswith(
        "RunResult(demo: 5/5 done, 1 pruned, 1 failed; best 0.20999 (trial 3); "
    )


class Page(HTMLParser):
    """Collects tags and addresses, and checks that tags are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_notebook_form_is_whole_and_needs_nothing_from_outside(result: RunResult) -> None:
    page = Page(result._repr_html_())
    assert page.open == []
    assert page.addresses == []
    assert page.tags.count("svg") == 1
    assert page.tags.count("tr") == 5  # the head and four trials with a value
    assert page.tags.count("circle") == 4


def test_notebook_form_escapes_what_users_wrote(tmp_path: Path) -> None:
    text = made_runs.MINIMIZE.replace("[sgd, adam]", "['<script>', adam]")
    run = MadeRun(text)
    run.start(0, {"lr": 0.001, "layers": 3, "optimizer": "<script>"})
    run.report(0, {"val_loss": 0.5})
    run.end(0)
    html = RunResult.load(run.write(tmp_path / "demo"))._repr_html_()
    assert "&lt;script&gt;" in html
    assert "<script>" not in html


def test_chart_shows_the_best_so_far_never_rising() -> None:
    svg = best_so_far_svg(made_runs.minimize().state())
    points = svg.split('points="')[1].split('"')[0].split()
    heights = [float(point.split(",")[1]) for point in points]
    assert heights == sorted(heights)  # the y axis of SVG points down and the goal is min
    assert len(set(heights)) == 2
