"""A driver with a Ray, its run in a real S3 server: killed, its disk lost, resumed by URL."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from raytune_hpo import journal
from raytune_hpo.errors import RunError
from raytune_hpo.journal import Record
from raytune_hpo.storage import objects, place, reading
from raytune_hpo.tracking.process import END_WAIT_ENV
from raytune_hpo.trial import TrialState
from tests.storage.s3 import Server

pytestmark = [pytest.mark.ray, pytest.mark.mlflow, pytest.mark.faults]

EXPERIMENT = """
run: trial:train
objective: {metric: loss}
parameters:
  x: {min: 0.0, max: 1.0}
trials: 6
parallel: 2
search: {algorithm: random, seed: 1}
scheduler: {algorithm: asha, settings: {max_resource: 4}}
resources: {cpu: 0.5}
mlflow: {uri: "sqlite:///results.db"}
"""
TRIAL = """
import time
from pathlib import Path
import raytune_hpo as rh

def train(config):
    before = rh.get_checkpoint()
    first = 1 + (int((before / "epoch").read_text()) if before else 0)
    print(f"trial {rh.trial_number()} begins with {first}", flush=True)
    for epoch in range(first, 5):
        time.sleep(0.2)
        own = Path(f"epoch-{rh.trial_number()}") / "epoch"
        own.parent.mkdir(exist_ok=True)
        own.write_text(str(epoch))
        rh.report(loss=config["x"] + 1 / epoch, epoch=epoch, checkpoint=own.parent)
"""


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "raytune_hpo", *words]
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.Popen(
        command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(driver: subprocess.Popen[str]) -> str:
    output, _ = driver.communicate(timeout=600)
    return output


def records_of(url: str) -> list[Record]:
    try:
        return journal.read(reading.pull(url))
    except RunError:
        return []


def test_a_run_survives_its_driver_and_its_disk(
    s3: Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{bucket}/runs/experiment"
    (tmp_path / "experiment.yaml").write_text(f"{EXPERIMENT}storage: {bucket}/runs\n")
    (tmp_path / "trial.py").write_text(TRIAL)
    monkeypatch.setenv(place.CACHE_ENV, str(tmp_path / "disk-1"))
    monkeypatch.setenv(END_WAIT_ENV, "240")
    driver = start(tmp_path, "run", "experiment.yaml")
    deadline_s = time.monotonic() + 180
    while sum(record["type"] == "report" for record in records_of(url)) < 5:
        assert time.monotonic() < deadline_s
        assert driver.poll() is None, finish(driver)
        time.sleep(0.3)
    driver.kill()
    finish(driver)
    before = records_of(url)
    shutil.rmtree(tmp_path / "disk-1", ignore_errors=True)
    monkeypatch.setenv(place.CACHE_ENV, str(tmp_path / "disk-2"))
    again = start(tmp_path, "resume", url)
    output = finish(again)
    assert again.returncode == 0, output
    assert f"raytune-hpo best {url}" in output
    records = records_of(url)
    assert records[: len(before)] == before
    ends = [r for r in records if r["type"] == "end" and TrialState(r["state"]).finished]
    assert Counter(record["trial"] for record in ends) == Counter(range(6))
    assert any(r["checkpoint"] for r in records if r["type"] == "start" and r["attempt"] > 1)
    # All has come to the store, output and checkpoints too, and MLflow has each trial once.
    monkeypatch.setenv(place.CACHE_ENV, str(tmp_path / "disk-3"))
    logs = start(tmp_path, "logs", url, "0")
    assert "trial 0 begins with 1" in finish(logs)
    manifests = [key for key in objects.open_at(url).list("trials") if key.count("/") == 3]
    assert len({key.split("/")[1] for key in manifests}) == 6
    synced = finish(start(tmp_path, "mlflow", "sync", url))
    assert f"has all {len(records)} records of experiment; 0 runs made" in synced
