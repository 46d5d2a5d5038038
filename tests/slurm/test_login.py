"""What a user does on the login node, from the experiment file to the result."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.slurm.lab import Lab
from tests.slurm.machine import wait_until
from tests.slurm.runs import EXPERIMENT, START, Run

pytestmark = [pytest.mark.ray]
TARGET = """
targets:
  slurm: {{{settings}, cpus: 1, memory: 1500Mi, margin: 1m}}
"""
GPUS = """
run: |
  echo "$(hostname) $CUDA_VISIBLE_DEVICES" >> gpus.txt
  until [ $(sort -u gpus.txt | wc -l) -ge 4 ]; do sleep 0.5; done
  echo loss=${x}
objective: {metric: loss}
parameters:
  x: {min: 0.0, max: 1.0}
trials: 12
resources: {cpu: 0.5, gpu: 1}
trial_time_limit: 3m
search: {algorithm: random, seed: 1}
mlflow: false
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


def submitted(run: Run, *words: str) -> str:
    """Submit an experiment by the command line and return the job."""
    said = run.call(*words)
    assert "is in Slurm's queue" in said
    return said.split("job ")[1].split()[0]


def workers(lab: Lab) -> list[str]:
    """Return the worker jobs that wait or run, by Slurm's names."""
    names = lab.command("squeue", "-h", "-r", "-o", "%i").split()
    return [name for name in names if "_" in name]


def test_the_command_and_the_printed_script_do_the_same(lab: Lab, folder: Path) -> None:
    run = made(lab, folder, "nodes: 2")
    script = run.call(*START, "--dry-run")
    assert not run.run_dir.exists()

    job = submitted(run, *START)

    assert (run.run_dir / "slurm" / "job.sh").read_text() == script
    run.wait_for("end", 2, job)
    assert f"Slurm job {job} runs on" in run.call("status", "results/experiment")
    run.wait_for_end(job)
    run.check_each_trial_finished_once()
    output = run.call("logs", "results/experiment", "--job", "-f")
    assert "all 12 trials are done" in output
    by_hand = run.folder / "by-hand.sh"
    by_hand.write_text(script)
    # There is nothing to do any more, and the same script says so.
    run.wait_for_end(lab.submit(by_hand, folder=run.folder))
    run.check_each_trial_finished_once()


def test_a_run_is_stopped_and_resumed_from_the_login_node(lab: Lab, folder: Path) -> None:
    run = made(lab, folder, "nodes: 2")
    job = submitted(run, *START)
    run.wait_for("end", 2, job)

    assert "asked to stop" in run.call("stop", "results/experiment")

    lab.wait(job, ("COMPLETED", "FAILED"), 240)
    assert run.state()["state"] == "stopped"
    again = submitted(run, "resume", "results/experiment")
    assert again != job
    run.wait_for_end(again)
    run.check_each_trial_finished_once()


def test_a_waiting_job_is_taken_out_of_the_queue(lab: Lab, folder: Path) -> None:
    run = made(lab, folder, "nodes: 3")
    other = lab.submit("#!/bin/sh\nsleep 60\n", "--nodes=3", "--exclusive")
    lab.wait(other, "RUNNING")
    job = submitted(run, *START)

    assert f"Slurm job {job} waits in the queue" in run.call("status", "results/experiment")
    assert "taken out of Slurm's queue" in run.call("stop", "results/experiment")

    assert lab.state(job) == "CANCELLED"
    assert "was cancelled" in run.call("status", "results/experiment")


def test_the_time_limit_itself_is_survived(lab: Lab, folder: Path) -> None:
    run = made(lab, folder, "nodes: 2, time: 3m", "parallel: 2\n")
    run.set_pace(4.5)  # so that the trials take longer than the limit
    job = submitted(run, *START)

    lab.wait_for_restart(job, timeout_s=400)
    run.set_pace(0.1)

    run.wait_through_restarts(job)
    run.check_each_trial_finished_once()
    assert set(Counter((trial, epoch) for trial, epoch, _ in run.epochs()).values()) == {1}
    run.check_nothing_is_left()


def test_workers_come_and_go(lab: Lab, folder: Path) -> None:
    run = made(lab, folder, "workers: 3, idle: 5s, head: {memory: 1500Mi}")
    run.set_pace(1.0)  # so that there is work for the worker that takes the place of a lost one
    job = submitted(run, *START, "--trials", "30")
    run.wait_for("end", 6, job)
    at_first = workers(lab)
    assert len(at_first) == 3
    assert "worker jobs: 3 running" in run.call("status", "results/experiment")

    lab.cancel(at_first[0])

    outputs = run.run_dir / "slurm"
    wait_until(lambda: len(list(outputs.glob("worker-*.out"))) >= 4, "no other worker comes", 240)
    run.set_pace(0.1)
    run.wait_for_end(job, timeout_s=300)
    run.check_each_trial_finished_once(30)
    wait_until(lambda: not lab.command("squeue", "-h"), "worker jobs are left", 240)
    run.check_nothing_is_left()


def test_workers_leave_at_their_limit_and_the_head_at_its_own(lab: Lab, folder: Path) -> None:
    run = made(lab, folder, "workers: 2, idle: 5s, head: {memory: 1500Mi}")
    run.set_pace(1.0)  # so that there is work when both have left
    job = submitted(run, *START, "--trials", "24")
    run.wait_for("end", 4, job)
    first = workers(lab)
    leaving = first[0]

    lab.cancel(leaving, "--batch", "--signal=USR1")

    lab.wait(leaving, "COMPLETED", timeout_s=400)
    wait_until(lambda: set(workers(lab)) - set(first), "no other worker comes", 240)
    lab.cancel(job, "--batch", "--signal=USR1")
    lab.wait_for_restart(job, timeout_s=400)
    run.set_pace(0.1)
    run.wait_for_end(job, timeout_s=300)
    run.check_each_trial_finished_once(24)
    assert set(Counter((trial, epoch) for trial, epoch, _ in run.epochs()).values()) == {1}
    wait_until(lambda: not lab.command("squeue", "-h"), "worker jobs are left", 240)
    run.check_nothing_is_left()


def test_preempted_workers_are_replaced(lab: Lab, folder: Path) -> None:
    settings = "workers: 2, partition: low, head: {memory: 1500Mi, partition: main}"
    run = made(lab, folder, settings)
    job = submitted(run, *START, "--trials", "16")
    run.wait_for("end", 2, job)
    head = lab.show(job)["BatchHost"]
    others = [node for node in lab.nodes if node != head]

    words = [f"--nodelist={','.join(others)}", "--nodes=2", "--exclusive", "--partition=main"]
    other = lab.submit("#!/bin/sh\nsleep 5\n", *words)

    lab.wait(other, "COMPLETED", timeout_s=400)
    run.wait_for_end(job, timeout_s=300)
    run.check_each_trial_finished_once(16)


def test_trials_have_gpus_of_their_own(lab: Lab, folder: Path) -> None:
    run = Run(lab, folder, GPUS + TARGET.format(settings="nodes: 2, gpus: 2"))

    run.wait_for_end(submitted(run, *START))

    seen = {tuple(line.split()) for line in (folder / "gpus.txt").read_text().splitlines()}
    hosts = {host for host, _ in seen}
    assert len(hosts) == 2
    assert seen == {(host, device) for host in hosts for device in ("0", "1")}


def test_a_script_of_ones_own_uses_all_nodes_of_its_job(lab: Lab, folder: Path) -> None:
    run = Run(lab, folder)
    (folder / "direct.py").write_text(DIRECT)
    text = f"#!/bin/sh\nexec {sys.executable} direct.py\n"

    run.set_pace(1.0)
    job = lab.submit(text, "--nodes=2", "--no-kill", "-n2", "--mem=1500", folder=folder)

    run.wait_for_hosts(2)
    run.set_pace(0.1)
    run.wait_for_end(job)
    run.check_each_trial_finished_once(8)
    assert len(run.hosts()) == 2
    run.check_nothing_is_left()
