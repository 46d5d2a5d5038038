"""A slow searcher on a real Ray: nobody else waits for it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

import raytune_hpo as rh
from raytune_hpo import journal
from raytune_hpo.chaos.checked_suggestions import check_suggestions
from raytune_hpo.searchers.random import RandomSearcher
from raytune_hpo.trial import Config
from tests.ray.test_run import pytestmark as _marks
from tests.ray.test_run import tune

pytestmark = _marks

THINKS_S = 0.3


@pytest.fixture
def thoughts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """Have each random suggestion take a while; return when each began and ended."""
    found: list[tuple[float, float]] = []
    propose = RandomSearcher.propose

    def slow(self: RandomSearcher, trial: int) -> Config | None:
        began_t = time.time()
        time.sleep(THINKS_S)
        found.append((began_t, time.time()))
        return propose(self, trial)

    monkeypatch.setattr(RandomSearcher, "propose", slow)
    return found


def epochs(config: dict[str, Any]) -> None:
    for epoch in range(12):
        time.sleep(0.1)
        rh.report(loss=config["x"] / (epoch + 1))


def test_reports_go_on_while_the_searcher_thinks(
    folder: Path, thoughts: list[tuple[float, float]]
) -> None:
    result = tune(epochs, parallel=4, trials=12, resources={"cpu": 0.25})
    records = journal.read(result.path)
    assert len(thoughts) == 12
    reports = [r["t"] for r in records if r["type"] == "report"]
    meanwhile = [sum(a < t < b for t in reports) for a, b in thoughts]
    assert len([count for count in meanwhile if count]) >= 3, meanwhile
    assert check_suggestions(records) == []
    waits = [r["waited_s"] for r in records if r["type"] == "trial"]
    assert waits[0] >= THINKS_S / 2, "one cannot start without a config"


def test_one_at_a_time_the_next_trial_starts_as_soon_as_its_suggestion_is_there(
    folder: Path, thoughts: list[tuple[float, float]]
) -> None:
    result = tune(lambda config: config["x"], parallel=1, trials=6)
    records = journal.read(result.path)
    journaled = [r["t"] for r in records if r["type"] == "trial"]
    late = [t - end for t, (_, end) in zip(journaled, thoughts, strict=True)]
    # Ray Tune by itself asks again after a second.
    assert sorted(late)[len(late) // 2] < 0.5, late
    assert check_suggestions(records) == []
    waits = [r["waited_s"] for r in records if r["type"] == "trial"]
    assert min(waits) >= THINKS_S / 2
