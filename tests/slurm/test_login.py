"""What a user does on the login node, from the experiment file to the result."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.slurm.lab import Lab
from tests.slurm.machine import wait_until
from tests.slurm.runs import EXPERIMENT, Run

pytestmark = [pytest.mark.ray]
TARGET = """
targets:
  slurm: {{{settings}, cpus: 1, memory: 1500Mi, margin: 1m}}
"""
DIRECT = """
import raytune_hpo as rh
from trial import train

if __name__ == "__main__":
    result = rh.run(train, parameters={"x": rh.Float(0, 1)}, metric="loss", trials=8,
                    name="experiment", storage="results", mlflow=False)
    print("best", result.best.number)
"""


def made(lab: Lab, folder: Path, settings: str, more: str = "") -> Run:
    return Run(lab, folder, EXPERIMENT + more + TARGET.format(settings=settings))


def call(lab: Lab, run: Run, *words: str) -> str:
    """Run raytune-hpo on the login node and return what it prints."""
    done: subprocess.CompletedProcess[str] = lab.run_on(
        "login", sys.executable, "-m", "raytune_hpo", *words, folder=run.folder
    )
    return done.stdout


def submitted(lab: Lab, run: Run, *words: str) -> str:
    """Submit an experiment by the command line and return the job."""
    said = call(lab, run, *words)
    assert "is in Slurm's queue" in said
    return said.split("job ")[1].split()[0]


START = ("run", "experiment.yaml", "--on", "slurm", "--storage", "results")


def test_the_command_and_the_printed_script_do_the_same(lab: Lab, folder: Path) -> None:
    run = made(lab, folder, "nodes: 3")
    script = call(lab, run, *START, "--dry-run")
    assert not run.run_dir.exists()

    job = submitted(lab, run, *START)

    assert (run.run_dir / "slurm" / "job.sh").read_text() == script
    run.wait_for("end", 2, job)
    assert f"Slurm job {job} runs on" in call(lab, run, "status", "results/experiment")
    run.wait_for_end(job)
    run.check_each_trial_finished_once()
    output = call(lab, run, "logs", "results/experiment", "--job", "-f")
    assert "all 12 trials are done" in output
    by_hand = run.folder / "by-hand.sh"
    by_hand.write_text(script)
    # There is nothing to do any more, and the same script says so.
    run.wait_for_end(lab.submit(by_hand, folder=run.folder))
    run.check_each_trial_finished_once()


def test_a_run_is_stopped_and_resumed_from_the_login_node(lab: Lab, folder: Path) -> None:
    run = made(lab, folder, "nodes: 2")
    job = submitted(lab, run, *START)
    run.wait_for("end", 2, job)

    assert "asked to stop" in call(lab, run, "stop", "results/experiment")

    lab.wait(job, ("COMPLETED", "FAILED"), 60)
    assert run.state()["state"] == "stopped"
    again = submitted(lab, run, "resume", "results/experiment")
    assert again != job
    run.wait_for_end(again)
    run.check_each_trial_finished_once()


def test_a_waiting_job_is_taken_out_of_the_queue(lab: Lab, folder: Path) -> None:
    run = made(lab, folder, "nodes: 3")
    other = lab.submit("#!/bin/sh\nsleep 60\n", "--nodes=3", "--exclusive")
    lab.wait(other, "RUNNING")
    job = submitted(lab, run, *START)

    assert f"Slurm job {job} waits in the queue" in call(lab, run, "status", "results/experiment")
    assert "taken out of Slurm's queue" in call(lab, run, "stop", "results/experiment")

    assert lab.state(job) == "CANCELLED"
    assert "was cancelled" in call(lab, run, "status", "results/experiment")


def test_the_time_limit_itself_is_survived(lab: Lab, folder: Path) -> None:
    run = made(lab, folder, "nodes: 3, time: 2m", "parallel: 3\n")
    job = submitted(lab, run, *START, "--trials", "45")

    lab.wait_for_restart(job, timeout_s=150)

    run.wait_for_end(job, timeout_s=240)
    run.check_each_trial_finished_once(45)
    assert set(Counter((trial, epoch) for trial, epoch, _ in run.epochs()).values()) == {1}
    run.check_nothing_is_left()


def test_workers_come_and_go(lab: Lab, folder: Path) -> None:
    run = made(lab, folder, "workers: 3, idle: 5s, head: {memory: 1500Mi}")
    job = submitted(lab, run, *START, "--trials", "30")
    run.wait_for("end", 6, job)
    names = [f"{line}" for line in lab.command("squeue", "-h", "-r", "-o", "%i").split()]
    workers = [name for name in names if "_" in name]
    assert len(workers) == 3
    assert "worker jobs: 3 running" in call(lab, run, "status", "results/experiment")

    lab.cancel(workers[0])

    run.wait_for_end(job, timeout_s=300)
    run.check_each_trial_finished_once(30)
    # Another one was submitted for the one that was lost.
    assert len(list((run.run_dir / "slurm").glob("worker-*.out"))) >= 4
    wait_until(lambda: not lab.command("squeue", "-h"), "worker jobs are left", 60)
    run.check_nothing_is_left()


def test_a_script_of_ones_own_uses_all_nodes_of_its_job(lab: Lab, folder: Path) -> None:
    run = Run(lab, folder)
    (folder / "direct.py").write_text(DIRECT)
    text = f"#!/bin/sh\nexec {sys.executable} direct.py\n"

    job = lab.submit(text, "--nodes=2", "--no-kill", "-n2", "--mem=1500", folder=folder)

    run.wait_for_end(job)
    run.check_each_trial_finished_once(8)
    assert len(run.hosts()) == 2
    run.check_nothing_is_left()
