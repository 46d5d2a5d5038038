"""Experiments as RayJobs, and what becomes of them when something is lost."""

from __future__ import annotations

from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from tests.kube import objects
from tests.kube.cluster import KubeLab
from tests.kube.runs import Run
from tests.slurm.machine import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.faults]


@pytest.fixture
def run(lab: KubeLab, space: str, tmp_path: Path) -> Run:
    return Run(lab, space, tmp_path / "experiment")


def test_an_experiment_runs_on_workers_that_come_and_go(run: Run) -> None:
    said = run.submit()

    assert "RayJob fit was made" in said
    run.wait_for("end", 2)
    assert "RayJob fit" in run.call("status", "fit")
    assert answer_without_token(run) == 401
    status = run.wait_for_end()
    assert not status.get("failed")
    run.check_each_trial_finished_once()
    assert "all 12 trials are done" in run.call("logs", "fit", "--job")
    assert all("worker" in host for _, _, host in run.epochs())
    assert "loss" in read_in_a_pod(run)
    # It was submitted before, and goes on only when that is asked for.
    assert "was submitted before" in run.call(
        "run", "experiment.yaml", "--on", "kuberay", check=False
    )


def read_in_a_pod(run: Run) -> str:
    """Return what a pod with the volume says of the run."""
    volume = {"name": "runs", "persistentVolumeClaim": {"claimName": "runs"}}
    mount = {"name": "runs", "mountPath": "/runs"}
    script = "raytune-hpo best /runs/fit"
    run.lab.api.create(objects.pod("look", script, volumes=[volume], mounts=[mount]), run.space)
    run.lab.wait_for_pod("look", run.space, "Succeeded", 240)
    return run.lab.api.log("look", run.space)


def answer_without_token(run: Run) -> int:
    """Return how Ray's head answers a stranger."""
    (head,) = run.pods("head")
    address = run.lab.api.get("pods", head, run.space)["status"]["podIP"]
    with pytest.raises(HTTPError) as refused:
        urlopen(f"http://{address}:8265/api/jobs/", timeout=30)
    with refused.value as answer:
        return answer.code


def test_a_deleted_head_has_the_job_retried_from_the_journal(run: Run) -> None:
    run.submit()
    run.wait_for("end", 3)
    (head,) = run.pods("head")

    run.lab.api.delete("pods", head, run.space, grace_s=0)

    run.wait_for("session", 2)
    status = run.wait_for_end()
    assert status["failed"] == 1
    run.check_each_trial_finished_once()


def test_a_run_is_suspended_and_goes_on(run: Run) -> None:
    run.submit()
    run.wait_for("end", 2)

    assert "pods are taken away" in run.call("suspend", "fit")

    run.check_all_gone()
    assert "suspended" in run.call("status", "fit")
    assert "goes on" in run.call("resume", "fit")
    run.wait_for("session", 2)
    run.wait_for_end()
    run.check_each_trial_finished_once()


def test_a_quota_that_is_too_small_is_named_before_anything_is_made(run: Run) -> None:
    run.lab.api.create(objects.quota("small", {"requests.cpu": "1"}), run.space)
    wait_until(
        lambda: (run.lab.api.find("resourcequotas", "small", run.space) or {}).get("status"),
        "the quota is not known",
        60,
    )

    said = run.call("run", "experiment.yaml", "--on", "kuberay", "--detach", check=False)

    assert "nothing was submitted" in said
    assert "quota small" in said
    assert run.lab.api.find("rayjobs", "fit", run.space) is None


def test_an_image_that_is_not_there_is_named(lab: KubeLab, space: str, tmp_path: Path) -> None:
    run = Run(lab, space, tmp_path / "experiment")
    run.submit("--set", "targets.kuberay.image=example.com/does-not-exist:1")

    wait_until(lambda: "image" in run.call("status", "fit"), "the image is not named", 240)


def test_two_submits_of_one_experiment_make_one_job(run: Run) -> None:
    run.submit()

    said = run.call(
        "run", "experiment.yaml", "--on", "kuberay", "--detach", "--resume", check=False
    )

    assert "fit" in said
    assert "not over" in said or "is there" in said or "already" in said, said
    assert len(run.lab.api.list("rayjobs", run.space)) == 1
