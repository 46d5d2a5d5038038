"""What the commands and Python say of a run that is in a store, from a machine without its disk."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import raytune_hpo
from raytune_hpo.cli import cli
from raytune_hpo.errors import RunError, StoreError
from raytune_hpo.storage import objects, outputs, place, presence, segments
from raytune_hpo.storage.homes import InStore
from raytune_hpo.storage.probe import probe
from tests.golden import made_runs
from tests.golden.made_runs import MadeRun
from tests.storage.s3 import Server


@pytest.fixture
def url(bucket: str, tmp_path: Path) -> str:
    """Return the URL of a finished run, brought to a store batch by batch."""
    return keep(made_runs.minimize(), f"{bucket}/runs/demo", tmp_path)


def keep(made: MadeRun, url: str, folder: Path) -> str:
    with InStore(url, folder).held(lambda text: None) as log:
        for record in made.records:
            fields = {k: v for k, v in record.items() if k not in ("n", "t", "type", "folder")}
            more = {"folder": str(folder)} if record["type"] == "experiment" else {}
            log.append(record["type"], **fields, **more)
            log.sync()
        trial = log.run_dir / "trials" / "0003"
        trial.mkdir(parents=True)
        output = outputs.Uploader(
            objects.open_at(url), "0003", 1, trial, ["stdout.log", "stderr.log"]
        )
        (trial / "stdout.log").write_bytes(b"epoch 1\n\xff\n")
        (trial / "stderr.log").write_text("warning\n")
        output.close()
        (log.run_dir / "driver.log").write_text("ray says\n")
    shutil.rmtree(place.cache_root())
    return url


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be in another folder than the run was started in."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    yield
    assert list(Path.cwd().iterdir()) == []


def invoke(*words: str) -> Result:
    return CliRunner().invoke(cli, list(words))


def test_status(url: str) -> None:
    result = invoke("status", url)
    assert result.exit_code == 0, result.output
    assert result.output.startswith("demo: ended after")
    assert f"  run        {url}\n" in result.output
    assert f"raytune-hpo resume {url}" in result.output
    assert str(place.cache_root()) not in result.output


def test_best(url: str) -> None:
    result = invoke("best", url, "--format", "json")
    assert json.loads(result.stdout)["optimizer"] == "adam"


def test_logs(url: str) -> None:
    assert invoke("logs", url, "3").stdout_bytes == b"epoch 1\n\xff\n"
    assert invoke("logs", url, "3", "--stderr").stdout == "warning\n"
    assert invoke("logs", url).stdout == "ray says\n"
    assert invoke("logs", url, "3", "-f").stdout_bytes == b"epoch 1\n\xff\n"
    missing = invoke("logs", url, "4")
    assert missing.exit_code == 2
    assert "trial 4 has no stdout.log; trials with output: 3 to 3" in missing.output


def test_logs_of_a_trial_that_runs_are_followed(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raytune_hpo.storage.reading._EVERY_S", 0.2)
    made = made_runs.minimize()
    url = f"{bucket}/runs/demo"
    log = tmp_path / "stdout.log"
    with InStore(url, tmp_path).held(lambda text: None) as journal:
        for record in made.records[:2]:
            fields = {k: v for k, v in record.items() if k not in ("n", "t", "type", "folder")}
            more = {"folder": str(tmp_path)} if record["type"] == "experiment" else {}
            journal.append(record["type"], **fields, **more)
        journal.sync()
        monkeypatch.setattr(outputs, "_FIRST_WAIT_S", 0.1)
        uploader = outputs.Uploader(objects.open_at(url), "0000", 1, tmp_path, ["stdout.log"])
        log.write_text("one\n")
        while not outputs.owners(objects.open_at(url), "stdout.log"):
            time.sleep(0.05)
        seen: list[str] = []
        reader = threading.Thread(target=lambda: seen.append(invoke("logs", url, "0", "-f").stdout))
        reader.start()
        time.sleep(1.0)
        with log.open("a") as file:
            file.write("two\n")
        time.sleep(1.0)
        assert seen == []
        uploader.close()
    reader.join(120)
    assert seen == ["one\ntwo\n"]


def test_stop(url: str) -> None:
    assert "no driver is running" in invoke("stop", url).output
    there = objects.open_at(url)
    last = segments.session_key(segments.sessions(there)[-1])
    says = presence.content(there.get(last))
    there.put(last, json.dumps({**says, "released": False}).encode())
    result = invoke("stop", url)
    assert f"process {os.getpid()} on" in result.output
    assert there.get(presence.STOP_KEY) is not None


def test_python(url: str) -> None:
    result = raytune_hpo.load(url)
    assert result.best.number == 3
    assert len(result.trials) == len(result.state.trials)
    assert raytune_hpo.RunResult.load(f"{url}/").best.number == 3


def test_a_run_that_is_not_there(bucket: str, s3: Server) -> None:
    for words in (["status"], ["best"], ["logs"], ["stop"], ["resume"], ["mlflow", "sync"]):
        result = invoke(*words, f"{bucket}/runs/none")
        assert result.exit_code == 2
        assert f"{bucket}/runs/none: there is no run here" in result.output
    with pytest.raises(RunError):
        raytune_hpo.load(f"{bucket}/runs/none")


def test_a_store_that_is_away_is_told_within_seconds(
    s3: Server, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raytune_hpo.storage.reading.PATIENCE_S", 1.0)
    with s3.away():
        result = invoke("status", url)
    assert result.exit_code == 3
    assert f"{url}: the store does not answer" in result.output
    with s3.away(), pytest.raises(StoreError):
        raytune_hpo.load(url)


def test_a_key_in_a_url_is_refused_and_not_repeated() -> None:
    result = invoke("status", "s3://AKIA:hunter2@bucket/demo")
    assert result.exit_code == 3
    assert "must not hold a key or a password" in result.output
    assert "hunter2" not in result.output


def test_a_store_needs_no_repair(url: str) -> None:
    result = invoke("repair", url)
    assert result.exit_code == 2
    assert "a store keeps whole objects" in result.output


def test_a_run_that_is_there_is_not_started_again(url: str, tmp_path: Path) -> None:
    (tmp_path / "demo.yaml").write_text(made_runs.MINIMIZE)
    result = invoke("run", str(tmp_path / "demo.yaml"), "--storage", url.removesuffix("/demo"))
    assert result.exit_code == 2
    assert f"{url}: there is a run already" in result.output
    assert f"raytune-hpo resume {url}" in result.output


def test_slurm_needs_a_folder(url: str, tmp_path: Path) -> None:
    (tmp_path / "demo.yaml").write_text(made_runs.MINIMIZE)
    words = ["--storage", url.removesuffix("/demo"), "--on", "slurm"]
    result = invoke("run", str(tmp_path / "demo.yaml"), *words)
    assert result.exit_code == 2
    assert "jobs on Slurm need a folder that all nodes see" in result.output
    again = invoke("resume", url, "--on", "slurm")
    assert "jobs on Slurm need a folder that all nodes see" in again.output


# The doctor


def lines(*words: str) -> list[str]:
    output = invoke("doctor", *words).output
    return [line[:4] + line[21:] for line in output.splitlines() if line[6:13] == "storage"]


def test_the_doctor_tries_all_that_is_needed(bucket: str, tmp_path: Path) -> None:
    whats = ("create", "create only", "write", "read", "list", "delete")
    expected = [f"ok  {what}: {bucket}/runs" for what in whats]
    assert lines(f"{bucket}/runs") == expected
    assert objects.open_at(f"{bucket}/runs").list("") == []
    (tmp_path / "demo.yaml").write_text(
        f"{made_runs.MINIMIZE}storage: {bucket}/runs\nmlflow: false\n"
    )
    assert lines(str(tmp_path / "demo.yaml")) == expected


def test_the_doctor_names_what_is_missing(s3: Server, bucket: str) -> None:
    s3.refuse_writes = True
    (told,) = lines(f"{bucket}/runs")
    assert told.startswith("FAILcreate: ")
    assert "Access Denied" in told
    s3.calm()
    s3.ignore_conditions = True
    told = lines(f"{bucket}/runs")[1]
    assert told.startswith("FAILcreate only: it overwrites an object that is to be created only")
    s3.calm()
    assert "bucket" in lines("s3://no-such-bucket/runs")[0]
    assert "pip install 'raytune-hpo[gcs]'" in lines("gs://bucket/runs")[0]
    assert [tried.trouble for tried in probe("memory://x/y")] == [None] * 6
