"""Runs in a Ray cluster that is already there: by ``ray job submit``, and from a script."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from raytune_hpo import journal
from raytune_hpo.storage import reading
from raytune_hpo.trial import TrialState
from tests.kube import objects
from tests.kube.api import Json
from tests.kube.cluster import KubeLab
from tests.storage.s3 import Server

pytestmark = [pytest.mark.ray]

TRIALS = 6
EXPERIMENT = f"""
name: by-file
run: trial:train
objective: {{metric: loss}}
parameters:
  x: {{min: 0.0, max: 1.0}}
trials: {TRIALS}
search: {{algorithm: random, seed: 1}}
resources: {{cpu: 0.5}}
mlflow: false
"""
TRIAL = """
import raytune_hpo as rh

def train(config):
    rh.report(loss=config["x"])
"""
SCRIPT = f"""
import sys
import raytune_hpo as rh
from trial import train

rh.run(
    train,
    {{"x": {{"min": 0.0, "max": 1.0}}}},
    metric="loss",
    trials={TRIALS},
    name="by-script",
    storage=sys.argv[1],
    resources={{"cpu": 0.5}},
    mlflow=False,
)
"""


@pytest.fixture
def head(lab: KubeLab, space: str) -> str:
    """Return the address of the head of a Ray cluster with a worker."""
    cluster: Json = objects.rayjob("ray", "", workers=1)["spec"]["rayClusterSpec"]
    about = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "ray"}}
    lab.api.create({**about, "spec": cluster}, space)

    def ready(found: Json) -> bool:
        status = found.get("status", {})
        return bool(status.get("state") == "ready" and status.get("readyWorkerReplicas"))

    found = lab.wait("rayclusters", "ray", space, ready, 240)
    return str(found["status"]["head"]["podIP"])


def submit(head: str, folder: Path, store: Server, *words: str) -> str:
    """Submit a job as Ray's own command does it, wait for its end, and return its output."""
    variables = [f'"{name}": "{value}"' for name, value in store.environment().items()]
    done = subprocess.run(
        [
            *(str(Path(sys.executable).with_name("ray")), "job", "submit"),
            *("--address", f"http://{head}:8265", "--working-dir", "."),
            *("--runtime-env-json", f'{{"env_vars": {{{", ".join(variables)}}}}}'),
            "--",
            *words,
        ],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_a_file_and_a_script(head: str, store: Server, tmp_path: Path) -> None:
    (tmp_path / "experiment.yaml").write_text(EXPERIMENT)
    (tmp_path / "trial.py").write_text(TRIAL)
    (tmp_path / "script.py").write_text(SCRIPT)
    runs = f"s3://{store.new_bucket()}/runs"

    words = ("raytune-hpo", "run", "experiment.yaml", "--storage", runs)
    assert f"all {TRIALS} trials are done" in submit(head, tmp_path, store, *words)
    submit(head, tmp_path, store, "python", "script.py", runs)

    for name in ("by-file", "by-script"):
        records = journal.read(reading.pull(f"{runs}/{name}"))
        ends = [r for r in records if r["type"] == "end" and TrialState(r["state"]).finished]
        assert Counter(end["trial"] for end in ends) == Counter(range(TRIALS))
