"""The examples, run as the documents say, with few trials."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from raytune_hpo import journal
from raytune_hpo.state import RunState
from raytune_hpo.trial import TrialState

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(words: list[str], folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["digits", "digits_script", "pbt", "sqlite_pragmas"])
def test_an_experiment_of_the_examples(
    name: str, folder: Path, driver_environment: dict[str, str]
) -> None:
    file = EXAMPLES / name / "experiment.yaml"
    words = ["-m", "raytune_hpo", "run", str(file), "--trials", "4", "--set", "mlflow=false"]
    output = run(words, folder, driver_environment)
    assert "all 4 trials are done" in output
    (path,) = (folder / "raytune-results").iterdir()
    state = RunState.replay(journal.read(path))
    assert state.best()
    assert state.counts()[TrialState.FAILED] == 0
    best = run(["-m", "raytune_hpo", "best", "--format", "json"], folder, driver_environment)
    assert best.startswith("{")


def test_the_python_example(folder: Path, driver_environment: dict[str, str]) -> None:
    output = run([str(EXAMPLES / "python_api.py")], folder, driver_environment)
    assert "'max_depth'" in output.splitlines()[-1]
