"""Settings for Slurm: what is refused, and the file that holds for all experiments."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from raytune_hpo import spec
from raytune_hpo.errors import InfrastructureError, SpecError
from raytune_hpo.experiment import Experiment
from raytune_hpo.slurm import launcher, site
from raytune_hpo.slurm.script import Place
from raytune_hpo.targets import SlurmTarget

FILE = """name: x
run: python t.py ${lr}
objective: {metric: loss}
parameters: {lr: {min: 0, max: 1}}
targets:
  slurm:
"""


def load(*lines: str) -> Experiment:
    return spec.loads(FILE + "".join(f"    {line}\n" for line in lines), "e.yaml")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["partion: main"], r"e.yaml:7:5: targets.slurm.partion: unknown key .*'partition'"),
        (["nodes: 2", "workers: 2"], r"e.yaml:8:5: .*either nodes or workers"),
        (["head: {cpus: 1}"], r"goes with workers"),
        (["gres: gpu:1", "gpus: 1"], r"either gres or gpus"),
        (["nodes: 2", "min_nodes: 3"], r"at most nodes: 2"),
        (["time: 10m", "margin: 6m"], r"margin \(360 s\) must be at most half of time \(600 s\)"),
        (["time: 3m"], r"margin \(120 s\) must be at most half"),
        (["temp: /a/very/long/folder/name"], r"at most 20 characters"),
        (["temp: tmp"], r"whole path"),
        (['sbatch: ["--output=x"]'], r"--output is set by raytune-hpo itself"),
        (['sbatch: ["--time=5"]'], r"use the setting time"),
        (['sbatch: ["--part=x"]'], r"use the setting partition"),
        (['sbatch: ["-N 3"]'], r"use the setting nodes"),
        (['sbatch: ["mail"]'], r"must be an option of sbatch"),
        (["sbatch: --mail-type=END"], r"write \[.--mail-type=END.\]"),
        (["mem: 4Gi"], r"write memory"),
        (["walltime: 4h"], r"write time"),
    ],
)
def test_what_is_refused(lines: list[str], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load(*lines)


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("2h", 7200), ("1-12:00:00", 129600), ("90:00", 5400), ("04:00:00", 14400), ("1-0", 86400)],
)
def test_times_in_our_and_in_slurms_words(time: str, seconds: float) -> None:
    target = load(f'time: "{time}"').targets.slurm
    assert target is not None
    assert target.time_s == seconds


def test_only_what_was_written_goes_into_the_journal() -> None:
    experiment = load("workers: 4", "head: {memory: 2Gi}")
    told = experiment.to_json()["targets"]["slurm"]
    assert told == {"workers": 4, "head": {"memory": 2**31}}
    assert Experiment.from_json(experiment.to_json()).to_json() == experiment.to_json()


def test_an_experiments_own_settings_win_over_those_of_the_user(tmp_path: Path) -> None:
    file = tmp_path / "slurm.yaml"
    usual = "partition: main\naccount: physics\nnodes: 4\nmargin: 5m\nmodules: [python]\n"
    file.write_text(usual)
    target = site.target_of(load("partition: gpu", "workers: 8"), file)
    assert (target.partition, target.account, target.workers, target.nodes) == (
        "gpu",
        "physics",
        8,
        None,
    )
    assert (target.margin_s, target.modules) == (300.0, ("python",))
    # Also after a resume, when the experiment comes out of the journal.
    again = Experiment.from_json(load("partition: gpu", "workers: 8").to_json())
    assert site.target_of(again, file) == target


def test_without_a_file_the_experiments_settings_are_all(tmp_path: Path) -> None:
    assert site.target_of(load("nodes: 2"), tmp_path / "none.yaml") == SlurmTarget(nodes=2)


def test_mistakes_in_the_users_file_are_located(tmp_path: Path) -> None:
    file = tmp_path / "slurm.yaml"
    file.write_text("account: physics\npartiton: main\n")
    with pytest.raises(SpecError, match=r"slurm.yaml:2:1: partiton: unknown key"):
        site.target_of(load("nodes: 2"), file)


def test_settings_that_only_together_are_wrong_name_both(tmp_path: Path) -> None:
    file = tmp_path / "slurm.yaml"
    file.write_text("margin: 30m\n")
    with pytest.raises(SpecError, match=r"together with .*slurm.yaml.*half of time"):
        site.target_of(load("time: 50m"), file)


def test_the_starter_is_valid_as_it_is_and_uncommented(tmp_path: Path) -> None:
    file = tmp_path / "config" / "slurm.yaml"
    site.write_starter(file)
    assert site.target_of(load("nodes: 2"), file) == SlurmTarget(nodes=2)
    lines = [line.removeprefix("# ") for line in file.read_text().splitlines()]
    settings = [line for line in lines if line.partition(":")[0].isalpha()]
    file.write_text("\n".join(line for line in settings if not line.startswith("partition main")))
    assert site.target_of(load("nodes: 2"), file).account == "my-project"
    with pytest.raises(FileExistsError):
        site.write_starter(file)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put commands of a Slurm on PATH that answer as a real one does; return their folder."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    command(folder, "sinfo", 'echo "main*|1-00:00:00"; echo "short|5:00"')
    command(folder, "sbatch", f'echo "$@" >> {folder}/calls; echo 4711')
    return folder


def command(folder: Path, name: str, text: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)


def place(tmp_path: Path) -> Place:
    return Place(
        file=tmp_path / "e.yaml",
        run_dir=tmp_path / "results" / "x",
        python=Path("/usr/bin/python3"),
        folder=tmp_path,
        arguments=("run", "e.yaml"),
    )


def test_submitting_writes_the_script_and_the_job(tmp_path: Path, slurm: Path) -> None:
    there = place(tmp_path)
    assert launcher.submit(load("nodes: 2"), there, SlurmTarget(nodes=2)) == "4711"
    folder = there.run_dir / "slurm"
    assert "#SBATCH --nodes=2" in (folder / "job.sh").read_text()
    assert "4711" in (folder / "submitted.json").read_text()
    called = (slurm / "calls").read_text()
    assert f"--output={folder}/%j.out {folder}/job.sh" in called


def test_more_time_than_the_partition_allows_is_refused(tmp_path: Path, slurm: Path) -> None:
    target: Any = SlurmTarget.model_validate({"time": "2d"})
    with pytest.raises(InfrastructureError, match=r"172800 s.*allows 86400 s at most"):
        launcher.submit(load("nodes: 2"), place(tmp_path), target)
    assert not (slurm / "calls").exists()


def test_what_sbatch_says_is_passed_on(tmp_path: Path, slurm: Path) -> None:
    said = "sbatch: error: Batch job submission failed: Invalid account or account/partition"
    command(slurm, "sbatch", f'echo "{said}" >&2; exit 1')
    with pytest.raises(InfrastructureError, match="Invalid account"):
        launcher.submit(load("nodes: 2"), place(tmp_path), SlurmTarget(nodes=2))


def test_without_slurm_it_is_said_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InfrastructureError, match="--dry-run"):
        launcher.submit(load("nodes: 2"), place(tmp_path), SlurmTarget(nodes=2))
