"""Experiments on all nodes of a Slurm job, and what happens to them when something is lost."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from tests.slurm.lab import Lab
from tests.slurm.machine import wait_until
from tests.slurm.runs import EPOCHS, EXPERIMENT, TARGET, Run

pytestmark = [pytest.mark.ray, pytest.mark.faults]


def other_node(run: Run, job: str) -> str:
    """Return a node of the job on which its driver is not."""
    head = run.lab.show(job)["BatchHost"]
    return next(str(node) for node in run.state()["nodes"] if node != head)


def gcs(lab: Lab, job: str) -> str:
    """Return the address of the Ray of a job."""
    head = lab.show(job)["BatchHost"]
    options = [word for process in lab.processes(head) for word in process.words]
    port = next(word for word in options if word.startswith("--gcs_server_port="))
    return f"{lab.layout.addresses[head]}:{port.partition('=')[2]}"


def carries(words: tuple[str, ...]) -> bool:
    """Return whether a command line is that of a driver."""
    return "raytune_hpo" in words and "--resume" in words


def step_on(lab: Lab, job: str, node: str) -> str:
    """Return the step of a job that runs on a node."""
    lines = lab.command("squeue", "--steps", "-h", "-j", job, "-o", "%i %N").splitlines()
    return next(step for step, name in map(str.split, lines) if name == node)


@pytest.fixture
def run(lab: Lab, folder: Path) -> Run:
    return Run(lab, folder)


def test_an_experiment_runs_on_all_nodes(lab: Lab, folder: Path) -> None:
    run = Run(lab, folder, EXPERIMENT + TARGET.replace("nodes: 2", "nodes: 3"))
    run.set_pace(3.0)
    job = run.submit()
    run.wait_for("begin", 1, job)
    # Whoever has no token gets nothing of the job's Ray.
    words = [sys.executable, "-m", "ray.scripts.scripts", "status", "--address", gcs(lab, job)]
    stranger = lab.run_on("login", *words, check=False)
    assert stranger.returncode != 0
    assert "token" in (stranger.stdout + stranger.stderr).lower()

    run.wait_for_hosts(3)
    run.set_pace(0.1)
    run.wait_for_end(job)

    run.check_each_trial_finished_once()
    assert run.hosts() == set(lab.nodes)
    assert run.state()["state"] == "finished"
    run.check_nothing_is_left()


def test_the_signal_before_the_limit_requeues_the_job(lab: Lab, run: Run) -> None:
    job = run.submit()
    run.wait_for("end", 2, job)

    lab.cancel(job, "--batch", "--signal=USR1")

    lab.wait_for_restart(job, timeout_s=400)
    run.set_pace(0.1)
    run.wait_for_end(job)
    run.check_each_trial_finished_once()
    epochs = [(trial, epoch) for trial, epoch, _ in run.epochs()]
    assert sorted(epochs) == [(t, e) for t in range(12) for e in range(1, EPOCHS + 1)]
    run.check_nothing_is_left()


def test_a_killed_node_is_done_without(lab: Lab, run: Run) -> None:
    job = run.submit()
    run.wait_for("end", 2, job)

    lab.kill_node(other_node(run, job))

    run.wait_for_end(job, timeout_s=300)
    run.check_each_trial_finished_once()
    assert lab.show(job)["Restarts"] == "0"


def test_a_killed_slurmd_takes_nothing_away(lab: Lab, run: Run) -> None:
    run.set_pace(1.5)  # so that the trials take longer than Slurm takes to miss the node
    job = run.submit()
    run.wait_for("end", 2, job)
    node = other_node(run, job)

    lab.kill_slurmd(node)

    wait_until(lambda: "down" in lab.node_state(node), "Slurm does not miss the node", 90)
    assert lab.state(job) == "RUNNING"
    run.set_pace(0.1)
    run.wait_for_end(job, timeout_s=300)
    run.check_each_trial_finished_once()
    assert lab.show(job)["Restarts"] == "0"
    # It ends by itself; a slurmd that comes back sooner kills it before it has removed its files.
    wait_until(lambda: not lab.files(node), "Ray stays on a node without slurmd", 90)
    lab.start_slurmd(node)
    run.check_nothing_is_left()


def test_a_driver_that_slurm_has_lost_sight_of_does_no_harm(lab: Lab, run: Run) -> None:
    run.set_pace(1.0)  # so that the trials take longer than Slurm takes to begin the job anew
    job = run.submit("--nodes=1")
    run.wait_for("end", 2, job)
    head = lab.show(job)["BatchHost"]

    # The driver runs on, and Slurm starts the job once more on a node that it sees.
    lab.kill_slurmd(head)

    lab.wait_for_restart(job, timeout_s=400)
    assert lab.show(job)["BatchHost"] != head
    assert any(carries(process.words) for process in lab.processes(head))
    run.wait_for("session", 2, job)
    wait_until(
        lambda: not any(carries(process.words) for process in lab.processes(head)),
        "the driver that was given up does not end",
        60,
    )
    run.set_pace(0.1)
    run.wait_for_end(job, timeout_s=300)
    run.check_each_trial_finished_once()
    lab.start_slurmd(head)
    run.check_nothing_is_left()


@pytest.mark.parametrize("victim", ["driver", "gcs_server"])
def test_a_killed_driver_or_ray_begins_again_in_the_same_job(
    lab: Lab, run: Run, victim: str
) -> None:
    job = run.submit()
    run.wait_for("end", 2, job)
    head = lab.show(job)["BatchHost"]

    if victim == "driver":
        lab.signal(head, "raytune_hpo", signal.SIGKILL)
    else:
        assert lab.machines[head].end(victim)

    run.wait_for("session", 2, job)
    run.set_pace(0.1)
    run.wait_for_end(job)
    run.check_each_trial_finished_once()
    assert lab.show(job)["Restarts"] == "0"
    run.check_nothing_is_left()


@pytest.mark.parametrize("fault", ["supervisor killed", "node set down"])
def test_a_job_that_has_lost_its_head_can_be_gone_on_with(lab: Lab, run: Run, fault: str) -> None:
    job = run.submit()
    run.wait_for("end", 2, job)
    head = lab.show(job)["BatchHost"]

    if fault == "supervisor killed":
        lab.signal(head, "raytune_hpo.slurm.job", signal.SIGKILL)
    else:
        lab.set_node(head, "down")

    state = lab.wait(job, ("FAILED", "CANCELLED", "NODE_FAIL", "PENDING"), 400)
    if state == "PENDING":
        lab.wait_for_restart(job)
    else:
        assert "go on with: raytune-hpo resume" in run.call("status", "results/experiment")
        said = run.call("resume", "results/experiment")
        job = said.partition("job ")[2].split()[0]
    run.wait_for_end(job)
    run.check_each_trial_finished_once()
    run.check_nothing_is_left()


def test_a_job_waits_for_the_controller_to_be_requeued(lab: Lab, run: Run) -> None:
    job = run.submit()
    run.wait_for("end", 2, job)
    head = lab.show(job)["BatchHost"]

    lab.kill_control()
    lab.signal(head, "raytune_hpo.slurm.job", signal.SIGUSR1)
    wait_until(lambda: run.state()["state"] == "requeued", "the driver does not drain", 240)
    lab.start_control()

    lab.wait_for_restart(job, timeout_s=400)
    run.set_pace(0.1)
    run.wait_for_end(job)
    run.check_each_trial_finished_once()
    run.check_nothing_is_left()


def test_two_experiments_share_a_node(lab: Lab, run: Run) -> None:
    other = Run(lab, run.another_folder())
    node = ["--nodes=1", f"--nodelist={lab.nodes[0]}"]
    jobs = [each.submit(*node) for each in (run, other)]

    for each, job in zip((run, other), jobs, strict=True):
        each.wait_for("begin", 1, job)
    words = [word for process in lab.processes(lab.nodes[0]) for word in process.words]
    assert len({word for word in words if word.startswith("--gcs_server_port=")}) == 2
    unused = ("ray.util.client.server", "monitor.py")
    assert not [word for word in words if word.endswith(unused)]
    for each, job in zip((run, other), jobs, strict=True):
        each.wait_for_end(job)
        each.check_each_trial_finished_once()
        assert each.hosts() == {lab.nodes[0]}
    began = [min(r["t"] for r in each.records() if r["type"] == "begin") for each in (run, other)]
    ended = [max(r["t"] for r in each.records() if r["type"] == "end") for each in (run, other)]
    assert max(began) < min(ended), "they did not run at the same time"
    run.check_nothing_is_left()


def test_a_cancelled_step_starts_again(lab: Lab, run: Run) -> None:
    job = run.submit()
    run.wait_for("end", 2, job)
    node = other_node(run, job)

    lab.cancel(step_on(lab, job, node))

    run.wait_for_end(job, timeout_s=300)
    run.check_each_trial_finished_once()
    assert lab.show(job)["Restarts"] == "0"
    run.check_nothing_is_left()


def test_a_cancelled_job_leaves_nothing_and_can_go_on(lab: Lab, run: Run) -> None:
    job = run.submit()
    run.wait_for("end", 2, job)

    lab.cancel(job)

    lab.wait(job, "CANCELLED")
    run.check_nothing_is_left()
    assert run.state()["state"] == "terminated"
    run.wait_for_end(run.submit())
    run.check_each_trial_finished_once()


def test_a_node_set_down_is_done_without(lab: Lab, run: Run) -> None:
    job = run.submit()
    run.wait_for("end", 2, job)

    node = other_node(run, job)

    lab.set_node(node, "down")

    run.wait_for_end(job)
    run.check_each_trial_finished_once()
    assert lab.show(job)["Restarts"] == "0"
    # Slurm kills all of the job there at once; the next job removes the folder.
    assert not lab.processes(node)
    run.check_nothing_is_left(apart_from=lab.files(node))
    run.wait_for_end(Run(lab, run.another_folder()).submit())
    run.check_nothing_is_left()


def test_a_lost_head_node_has_the_job_requeued(lab: Lab, run: Run) -> None:
    job = run.submit()
    run.wait_for("end", 2, job)
    head = lab.show(job)["BatchHost"]

    lab.kill_node(head)

    # Without a batch script the job would stay on its other node until its time is over.
    lab.wait_for_restart(job, timeout_s=400)
    run.set_pace(0.1)
    run.wait_for_end(job)
    run.check_each_trial_finished_once()
    run.check_nothing_is_left(apart_from=lab.files(head))


def test_a_preempted_job_goes_on_later(lab: Lab, run: Run) -> None:
    job = run.submit("--partition=low")
    run.wait_for("end", 2, job)

    words = ["--partition=main", "--nodes=3", "--exclusive"]
    other = lab.submit("#!/bin/sh\nsleep 2\n", *words)

    lab.wait(other, "COMPLETED", timeout_s=400)
    lab.wait_for_restart(job, timeout_s=400)
    run.set_pace(0.1)
    run.wait_for_end(job)
    run.check_each_trial_finished_once()
    run.check_nothing_is_left()


def test_where_requeueing_is_refused_a_new_job_goes_on(lab: Lab, run: Run) -> None:
    job = run.submit("--no-requeue")
    run.wait_for("end", 2, job)

    lab.cancel(job, "--batch", "--signal=USR1")

    run.wait_for_end(job)
    following = run.state()["next_job"] or run.state()["job"]
    assert following != job
    run.wait_for_end(following)
    run.check_each_trial_finished_once()
    run.check_nothing_is_left()


def test_the_second_of_two_jobs_of_one_experiment_is_refused(lab: Lab, run: Run) -> None:
    job = run.submit("--nodes=2")
    run.wait_for("end", 1, job)
    run.set_pace(1.5)
    second = run.submit("--nodes=1")

    lab.wait(second, "FAILED", timeout_s=400)

    run.set_pace(0.1)
    assert f"job {job} carries this run already" in run.output(second)
    run.wait_for_end(job)
    run.check_each_trial_finished_once()
    assert run.state()["job"] == job
    run.check_nothing_is_left()
