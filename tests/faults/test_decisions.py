"""Drivers that are killed while schedulers pause, promote and fork: no decision changes by it."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from raytune_hpo import journal, plugins
from raytune_hpo.chaos.checked_decisions import check_decisions
from raytune_hpo.chaos.checked_suggestions import check_suggestions
from raytune_hpo.journal import Record
from raytune_hpo.state import RunState
from tests.faults import inline

pytestmark = pytest.mark.faults

STEPS = 9
TRIALS = 12
EXPERIMENT = """
run: |
  step=0
  if [ -n "$RAYTUNE_HPO_CHECKPOINT" ]; then step=$(cat "$RAYTUNE_HPO_CHECKPOINT/step"); fi
  while [ $step -lt 9 ]; do
    step=$((step + 1))
    sleep 0.0$(( (RAYTUNE_HPO_TRIAL * 7) % 5 ))
    at=$(printf '%s/checkpoints/%03d-%06d' "$RAYTUNE_HPO_TRIAL_DIR" $RAYTUNE_HPO_ATTEMPT $step)
    mkdir -p "$at" && echo $step > "$at/step"
    loss=$(awk "BEGIN { print ${x} + 1 / $step }")
    printf '{"metrics": {"loss": %s, "seen": %s}, "checkpoint": "%s"}\\n' \\
      "$loss" $step "$at" >> "$RAYTUNE_HPO_REPORT_FILE"
  done
objective: {metric: loss}
parameters: {x: {min: 0.0, max: 1.0}, y: {min: 0.0, max: 1.0}}
search: {algorithm: random, seed: 3}
scheduler: SCHEDULER
trials: 12
parallel: 4
retries: 1
mlflow: false
"""
SETTINGS: dict[str, dict[str, Any]] = {
    "asha": {"max_resource": STEPS},
    "bohb": {"max_resource": STEPS},
    "hyperband": {"max_resource": STEPS},
    "irace": {"instances": STEPS, "first_test": 3},
    "pb2": {"interval": 2, "max_resource": STEPS},
    "pbt": {"interval": 2, "max_resource": STEPS},
    "sha": {"max_resource": STEPS},
    "threshold": {"worst": 0.9, "min_resource": 2},
    "patient": {"patience": 2},
}
NAMES = [name for name in plugins.names("schedulers") if name not in ("none", "pbt_replay")]
"""A replay has a schedule for one trial: tests/unit/test_lineage.py."""
KILLS = ("journal.written:45:kill", "journal.written:70:kill", "journal.written:60:kill")
"""After so many records of a session."""


def records_of(folder: Path) -> list[Record]:
    run_dir = folder / "raytune-results" / inline.NAME
    return journal.read(run_dir) if journal.exists(run_dir) else []


@pytest.mark.parametrize("algorithm", NAMES)
def test_kills_change_no_decision(tmp_path: Path, algorithm: str) -> None:
    scheduler = {"algorithm": algorithm, "settings": SETTINGS.get(algorithm, {})}
    (tmp_path / "experiment.yaml").write_text(
        EXPERIMENT.replace("SCHEDULER", json.dumps(scheduler))
    )
    for kill in KILLS:
        code = inline.finish(inline.start(tmp_path, kill))
        if code == 0:
            break
        assert code == -signal.SIGKILL, (tmp_path / "output").read_text()
    assert inline.finish(inline.start(tmp_path)) == 0, (tmp_path / "output").read_text()
    records = records_of(tmp_path)
    state = RunState.replay(records)
    assert state.finish is not None
    assert state.finish.reason == "trials"
    assert state.proposed == TRIALS
    assert not state.unfinished
    assert len(state.sessions) >= 2
    assert max(trial.step for trial in state.trials.values()) == STEPS
    assert check_decisions(records) == []
    assert check_suggestions(records) == []
