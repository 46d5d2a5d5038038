"""A real run under ``raytune-hpo chaos``: killed, failed, its driver killed, and nothing lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from raytune_hpo import journal
from raytune_hpo.chaos import witness
from raytune_hpo.chaos.verdict import judge
from tests.ray.conftest import driver_environment, folder, ray_address  # noqa: F401

pytestmark = [
    pytest.mark.ray,
    pytest.mark.faults,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

TRIALS = 8
FAULTS = ("--kill", "50%", "--fail", "50%", "--kill-driver", "1", "--every", "1.5s", "--seed", "1")
FIELDS = ("--trials", str(TRIALS), "--parallel", "2", "--set", "mlflow=false")


def test_nothing_is_lost_and_a_planted_loss_is_found(
    folder: Path,  # noqa: F811
    driver_environment: dict[str, str],  # noqa: F811
) -> None:
    figures_file = folder / "figures.json"
    words = ["chaos", *FAULTS, *FIELDS, "--name", "struck", "--json", str(figures_file)]
    done = subprocess.run(
        [sys.executable, "-m", "raytune_hpo", *words],
        cwd=folder,
        env=driver_environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Nothing was lost: {TRIALS} trials" in done.stdout
    figures = json.loads(figures_file.read_text())
    struck = {strike["kind"] for strike in figures["strikes"]}
    assert "kill-driver" in struck
    assert struck & {"kill", "fail"}
    assert figures["sessions"] == len(figures["driver_exit_codes"]) == 2
    assert figures["driver_exit_codes"][0] == -9
    assert figures["trials"] == figures["budget"] == TRIALS
    assert figures["interruptions"] > 0
    ordered = sum(len(s["trials"]) for s in figures["strikes"] if s["kind"] == "fail")
    assert sum(n for cause, n in figures["failed"].items() if witness.ORDERED in cause) <= ordered

    run_dir = folder / "raytune-results" / "struck"
    seen = journal.read(run_dir)
    observed = witness.observed(run_dir / witness.FOLDER)
    assert sum(line["what"] == witness.ACKNOWLEDGED for line in observed) > TRIALS
    assert judge(observed, seen, seen).nothing_lost
    reports = [record for record in seen if record["type"] == "report"]
    planted = [record for record in seen if record is not reports[-1]]
    found = {loss.what for loss in judge(observed, seen, planted).losses if loss.found}
    assert found == {"acknowledged reports lost", "journal records gone or changed"}
