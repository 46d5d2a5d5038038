"""Drivers that are killed while suggestions are prepared ahead: the searcher never knows of it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from raytune_hpo import exits, journal, plugins, spec
from raytune_hpo.chaos.checked_suggestions import check_suggestions
from raytune_hpo.cli import exit_code
from raytune_hpo.journal import Record
from raytune_hpo.searchers.random import RandomSearcher
from raytune_hpo.session import Surroundings, resume_run, run_experiment
from raytune_hpo.state import RunState
from raytune_hpo.testing.threads import Threads
from raytune_hpo.trial import Config, TrialState
from tests.faults import inline

pytestmark = pytest.mark.faults

TRIALS = 16
EXPERIMENT = """
run: |
  for step in 1 2; do
    sleep 0.0$(( (RAYTUNE_HPO_TRIAL * 7) % 9 ))
    printf '{{"metrics": {{"loss": %s}}}}\\n' ${{x}} >> "$RAYTUNE_HPO_REPORT_FILE"
  done
objective: {{metric: loss}}
parameters:
  x: {{min: 0.0, max: 1.0}}
  n: {{min: 1, max: 9, type: int}}
search: {{algorithm: {algorithm}, seed: 3, settings: {settings}}}
baseline: {{x: 0.5, n: 5}}
trials: {trials}
parallel: 4
mlflow: false
"""
KILLS = ("journal.written:33:kill", "journal.written:45:kill")
"""After so many records of a session."""


def settings_of(algorithm: str) -> str:
    """Return settings with which a searcher has something to learn from soon."""
    known = plugins.settings_of("searchers", algorithm) or {}
    wanted = {"startup_trials": 3, "resolution": 5}
    return str({name: value for name, value in wanted.items() if name in known})


def records_of(folder: Path) -> list[Record]:
    run_dir = folder / "raytune-results" / inline.NAME
    return journal.read(run_dir) if journal.exists(run_dir) else []


def finished(records: list[Record]) -> list[int]:
    return [r["trial"] for r in records if r["type"] == "end" and r["state"] == "completed"]


@pytest.mark.parametrize("algorithm", plugins.names("searchers"))
def test_kills_change_no_suggestion(tmp_path: Path, algorithm: str) -> None:
    text = EXPERIMENT.format(algorithm=algorithm, settings=settings_of(algorithm), trials=TRIALS)
    (tmp_path / "experiment.yaml").write_text(text)
    for kill in KILLS:
        code = inline.finish(inline.start(tmp_path, kill))
        assert code == -signal.SIGKILL, (tmp_path / "output").read_text()
    assert inline.finish(inline.start(tmp_path)) == 0, (tmp_path / "output").read_text()
    records = records_of(tmp_path)
    assert sorted(finished(records)) == list(range(TRIALS))
    assert sum(record["type"] == "session" for record in records) == 1 + len(KILLS)
    assert check_suggestions(records) == []


def test_a_searcher_that_raises_ends_the_run_in_good_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def propose(searcher: RandomSearcher, trial: int) -> Config | None:
        if trial == 6:
            raise ZeroDivisionError("of the model")
        return known(searcher, trial)

    known = RandomSearcher.propose
    text = EXPERIMENT.format(algorithm="random", settings="{}", trials=TRIALS)
    (tmp_path / "experiment.yaml").write_text(text)
    experiment = spec.load(tmp_path / "experiment.yaml", ())
    around = Surroundings(executor=Threads())
    monkeypatch.setattr(RandomSearcher, "propose", propose)
    run_dir = run_experiment(experiment, folder=tmp_path, surroundings=around)
    state = RunState.replay(journal.read(run_dir))
    assert state.finish is not None
    assert state.finish.reason == "searcher"
    assert exit_code(state) == exits.SPEC
    assert not [t for t in state.trials.values() if t.state is TrialState.RUNNING]
    log = (run_dir / "driver.log").read_text()
    assert "Traceback" in log
    assert "ZeroDivisionError: of the model" in log
    monkeypatch.undo()
    resume_run(run_dir, surroundings=around)
    records = journal.read(run_dir)
    assert sorted(finished(records)) == list(range(TRIALS))
    assert check_suggestions(records) == []
