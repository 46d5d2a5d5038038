"""Each searcher by name on a real Ray, with four trials at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import raytune_hpo as rh
from raytune_hpo import journal, plugins
from raytune_hpo.chaos.checked_suggestions import check_suggestions
from raytune_hpo.trial import TrialState
from tests.ray.test_run import pytestmark as _marks
from tests.ray.test_run import tune

pytestmark = _marks

SPACE = {
    "lr": rh.Float(1e-5, 1e-1, log=True),
    "layers": rh.Int(1, 8),
    "optimizer": rh.Choice(("sgd", "adam")),
}
SETTINGS = {"grid": {"resolution": 3}}


def loss(config: dict[str, Any]) -> float:
    return float(abs(config["lr"] - 1e-3) + config["layers"] + (config["optimizer"] == "sgd"))


@pytest.mark.parametrize("algorithm", plugins.names("searchers"))
def test_each_searcher_by_name(folder: Path, algorithm: str) -> None:
    result = tune(
        loss,
        parameters=SPACE,
        search={"algorithm": algorithm, "seed": 4, "settings": SETTINGS.get(algorithm, {})},
        trials=14,
        parallel=4,
        resources={"cpu": 0.25},
    )
    states = [trial.state for trial in result.state.trials.values()]
    assert states == [TrialState.COMPLETED] * 14
    assert result.state.algorithm == algorithm or algorithm == "auto"
    assert check_suggestions(journal.read(result.path)) == []
