"""The steps of a Slurm job that keep Ray up, with a program in the place of ``srun``."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from raytune_hpo.slurm import allocation
from raytune_hpo.slurm.allocation import Step
from raytune_hpo.slurm.node import Spec

SPEC = Spec(name="rts-1", token="c0ffee", seed=1)
UP = 'echo called >> "$0.calls"; read line; echo "noise"; echo \'{"ready": "10.0.0.1:6379"}\'; cat'


@pytest.fixture
def bin_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(allocation, "STEP_WAIT_S", 0.2)
    return folder


def srun(folder: Path, script: str) -> Path:
    """Write a program that stands for ``srun``, and return the file with its calls."""
    file = folder / "srun"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return folder / "srun.calls"


def step(tmp_path: Path, tries: int = 1) -> Step:
    return Step("n1", 2, SPEC, tmp_path / "n1.log", tries)


def wait_until(there: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_step_says_where_ray_is_and_ends_when_it_is_closed(bin_dir: Path, tmp_path: Path) -> None:
    srun(bin_dir, UP)
    made = step(tmp_path)
    wait_until(lambda: made.address == "10.0.0.1:6379")
    assert made.is_alive()

    made.close()
    made.wait(time.monotonic() + 20)

    made.join(20)
    assert not made.is_alive()
    assert made.failure is None


def test_a_step_that_ends_by_itself_is_started_again(bin_dir: Path, tmp_path: Path) -> None:
    calls = srun(bin_dir, 'echo called >> "$0.calls"; read line; echo "no room" >&2; exit 1')
    made = step(tmp_path, tries=3)
    made.join(20)
    assert calls.read_text().count("called") == 3
    assert made.failure == "its step ended with exit code 1: no room"
    assert made.address is None


def test_what_the_node_says_of_its_failure_comes_first(bin_dir: Path, tmp_path: Path) -> None:
    srun(bin_dir, 'read line; echo \'{"failed": "no free ports"}\'; exit 1')
    made = step(tmp_path)
    made.join(20)
    assert made.failure == "no free ports"


def test_a_step_that_cannot_be_started_is_no_riddle(bin_dir: Path, tmp_path: Path) -> None:
    made = step(tmp_path)
    made.join(20)
    assert made.failure is not None
    assert "srun" in made.failure


def test_a_step_that_was_closed_is_not_started_again(
    bin_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(allocation, "STEP_WAIT_S", 60.0)
    calls = srun(bin_dir, 'echo called >> "$0.calls"; exit 1')
    made = step(tmp_path, tries=3)
    wait_until(calls.exists)
    made.close()
    made.join(20)
    assert not made.is_alive()
    assert calls.read_text().count("called") == 1
