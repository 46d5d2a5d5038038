"""What is said of a run before it is submitted to a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from raytune_hpo import on_kuberay, spec

FILE = """name: x
run: python t.py ${lr}
objective: {metric: loss}
parameters: {lr: {min: 0, max: 1}}
"""
FROM_SECRET = "{MLFLOW_TRACKING_URI: {secret: mlflow, key: uri}}"


@pytest.mark.parametrize(
    ("lines", "warned"),
    [
        ("", True),
        ("mlflow: {experiment: digits}", True),
        ("targets: {kuberay: {env: {OTHER: x}}}", True),
        ("mlflow: false", False),
        ("mlflow: {uri: 'http://mlflow:5000'}", False),
        ("targets: {kuberay: {env: {MLFLOW_TRACKING_URI: 'http://mlflow:5000'}}}", False),
        (f"targets: {{kuberay: {{env_from_secret: {FROM_SECRET}}}}}", False),
        ("targets: {kuberay: {env_from: [{secret: mlflow}]}}", False),
    ],
)
def test_a_store_that_goes_with_the_head_is_warned_of(
    lines: str, warned: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))

    found = list(on_kuberay.untracked(spec.loads(FILE + lines, "e.yaml")))

    assert [(one.subject, one.verdict) for one in found] == [("mlflow", "warn")] * warned
