"""Where a run stands, by what the API server and KubeRay's operator were recorded to say.

The files in ``kuberay_recorded`` come from a real control plane (Kubernetes 1.36, KubeRay 1.7) on
which these things were made to happen.
"""

from __future__ import annotations

import copy
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from raytune_hpo.cluster.kuberay.reasons import Standing, stand

FOLDER = Path(__file__).parent / "kuberay_recorded"
NOW = datetime(2026, 11, 26, 18, tzinfo=UTC)


def recorded(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return found


def standing(seen: dict[str, Any]) -> Standing:
    return stand(seen["job"], seen["cluster"], seen["pods"], seen["events"])


@pytest.mark.parametrize(
    ("name", "state", "words", "step"),
    [
        ("new", "starting", "has been taken by the cluster and is about to start", ""),
        ("head_starting", "starting", r"its head lost-\w+-head-\w+ is not ready yet", ""),
        ("handed_over", "starting", "is being handed to the head", ""),
        ("running", "running", "runs", ""),
        ("head_silent", "running", "runs, but the head container ray-head ended: exit code 1", ""),
        ("node_lost", "running", "the head was taken off a node that is not usable any more", ""),
        ("head_lost", "retrying", "its head was lost; a new Ray cluster is made: retry 1 of 1", ""),
        ("second_try_new", "starting", r"about to start \(retry 1 of 1\)", ""),
        ("second_try", "running", r"runs \(retry 1 of 1\)", ""),
        ("head_lost_for_good", "failed", "failed after 2 tries: its head was lost", "resume"),
        ("suspending", "suspending", "its pods are ending", ""),
        ("suspended", "suspended", "it has no pods, its results stay", "resume it"),
        ("succeeded", "succeeded", "has succeeded", ""),
        ("job_mode", "succeeded", "has succeeded", ""),
        ("stopped", "stopped", "was stopped", "resume it"),
        ("driver_failed", "failed", "the driver failed, or could not be started", "logs"),
        ("submission_failed", "failed", "the driver failed, or could not be started", "logs"),
        ("deadline", "failed", "its time limit is over .15 s", "targets.kuberay.deadline"),
        (
            "pre_running_deadline",
            "failed",
            "its head was not ready in 5 s: a worker finds no node: no node has enough CPUs free",
            "resume",
        ),
        ("validation_failed", "failed", "SidecarMode doesn't support SubmitterConfig", "correct"),
        ("bogus_mode", "waiting", "submissionMode Bogus is none that KubeRay knows", "SidecarMode"),
        ("ended_early", "ending", "is stuck: its driver has ended .exit code 0", "stop it"),
        (
            "quota",
            "waiting",
            "a worker could not be made: quota compute is used up: of 1 CPUs, 0.7 are in use and "
            "0.5 more were asked",
            "larger quota",
        ),
        ("limit_range", "waiting", "allows at most 2 CPUs a container, and 4 is asked", "bounds"),
        ("pod_security", "waiting", "enforces the Pod Security level restricted", "K8sJobMode"),
        ("account_missing", "waiting", "there is no service account tuner", "serviceaccount tuner"),
        ("priority_missing", "waiting", "there is no priority class high", "priorityclasses"),
        (
            "image",
            "waiting",
            "cannot get its image registry.local/.*: there is none of that",
            "image",
        ),
        (
            "image_backoff",
            "waiting",
            "cannot get its image .*: there is none of that name",
            "image",
        ),
        (
            "unschedulable",
            "waiting",
            "each of 2 workers finds no node: no node has enough CPUs free .of 2 nodes none fits",
            "ask for less",
        ),
        ("node_selector", "waiting", "nodes do not match its node selector", "node_selector"),
        ("claim_missing", "waiting", "the head waits: there is no volume claim results", "pvc"),
        ("secret_missing", "waiting", "the head waits: there is no secret none", "create it"),
        ("mount_missing", "waiting", "there is no config map not-there to mount", "create it"),
        ("crash_loop", "waiting", "the head ends again and again: .*exit code 7", "--previous"),
    ],
)
def test_what_was_recorded_in_plain_words(name: str, state: str, words: str, step: str) -> None:
    told = standing(recorded(name))
    assert told.state == state
    assert re.search(words, told.text), told.text
    assert step in told.step
    assert told.over == (state in ("succeeded", "stopped", "failed"))


def test_every_recording_is_looked_at() -> None:
    marks = test_what_was_recorded_in_plain_words.pytestmark  # type: ignore[attr-defined]
    names = {case[0] for mark in marks for case in mark.args[1]}
    assert names == {file.stem for file in FOLDER.glob("*.json")} - {"quota_object"}


def test_tries_are_counted() -> None:
    tries = {
        name: (standing(recorded(name)).attempt, standing(recorded(name)).attempts)
        for name in ("running", "head_lost", "second_try", "head_lost_for_good", "succeeded")
    }
    assert tries == {
        "running": (1, 2),
        "head_lost": (1, 2),
        "second_try": (2, 2),
        "head_lost_for_good": (2, 2),
        "succeeded": (1, 2),
    }


def test_cluster_and_head_of_the_present_try() -> None:
    told = standing(recorded("running"))
    assert told.head.startswith(f"{told.cluster}-head-")
    assert told.cluster.startswith("lost-")


def failed(reason: str, message: str = "", **spec: Any) -> Standing:
    seen = recorded("driver_failed")
    seen["job"]["status"] |= {"reason": reason, "message": message, "jobStatus": "FAILED"}
    seen["job"]["spec"] |= spec
    seen["pods"] = []
    return stand(seen["job"], None)


ENDED = (
    "Job entrypoint command failed with exit code {}, last available logs "
    "(truncated to 20,000 chars):\n"
)


@pytest.mark.parametrize(
    ("reason", "message", "words", "step"),
    [
        (
            "AppFailed",
            ENDED.format(1) + "a\nno trial\n\n",
            "no trial succeeded .exit code 1.; its last line: no trial",
            "logs",
        ),
        (
            "AppFailed",
            ENDED.format(2) + "a\nbad\n",
            "the experiment file is wrong",
            "submit it again",
        ),
        ("AppFailed", ENDED.format(3), "Ray or the storage could not be used", "logs"),
        ("AppFailed", ENDED.format(130), "it was asked to stop", "resume"),
        ("AppFailed", ENDED.format(137) + "a\nb\n", "exit code 137; its last line: b$", "logs"),
        ("AppFailed", "", "KubeRay does not say how", "logs"),
        ("AppFailed", "Ray head pod not found.", "its head was lost", "resume"),
        (
            "AppFailed",
            "Submitter completed but Ray job not found in RayCluster.",
            "its head lost the job",
            "resume",
        ),
        (
            "JobDeploymentStatusTransitionGracePeriodExceeded",
            "The RayJob submitter finished at 2026-11-26 17:00:00 but the ray job did not reach "
            "terminal state within 30s",
            "the connection of its submitter to the driver ended",
            "resume",
        ),
        (
            "JobDeploymentStatusTransitionGracePeriodExceeded",
            "JobDeploymentStatus does not transition to Complete or Failed within the grace period "
            "after JobStatus reaches a terminal state.",
            "its submitter did not end",
            "resume",
        ),
        (
            "JobStatusCheckTimeoutExceeded",
            "Job status checks have been failing since 2026-11-26 17:00:00; exceeded timeout of "
            "300s",
            "its head did not answer the operator for 300 s",
            "memory",
        ),
        ("SubmissionFailed", "Job submission has failed.", "could not be started", "logs"),
        ("SomethingNew", "", "SomethingNew", "logs"),
        ("", "", "a reason that KubeRay does not say", "logs"),
    ],
)
def test_reasons_of_failures(reason: str, message: str, words: str, step: str) -> None:
    told = failed(reason, message)
    assert told.state == "failed"
    assert re.search(words, told.text), told.text
    assert step in told.step


def test_a_lost_head_of_which_nothing_is_left() -> None:
    seen = recorded("head_lost_for_good")
    assert stand(seen["job"], None).text.startswith(
        "has failed after 2 tries: its head was lost, or the driver failed: Ray head pod container"
    )


def test_long_logs_in_a_message_are_left_out() -> None:
    message = ENDED.format(9) + "x" * 20_000
    assert len(failed("AppFailed", message).text) < 700


def test_an_old_failure_is_not_remembered_in_the_next_try() -> None:
    seen = recorded("second_try")
    assert seen["job"]["status"]["failed"] == 1
    assert "failed" not in standing(seen).text


def test_a_head_that_is_out_of_memory() -> None:
    seen = recorded("driver_failed")
    seen["job"]["status"] |= {"reason": "AppFailed", "jobStatus": "FAILED"}
    state = seen["pods"][0]["status"]["containerStatuses"]
    state[0]["state"] = {"terminated": {"reason": "OOMKilled", "exitCode": 137}}
    told = standing(seen)
    assert "the head used more memory than its limit" in told.text
    assert "targets.kuberay.head.memory" in told.step


def test_a_run_that_is_not_there() -> None:
    told = stand(None)
    assert (told.state, told.over) == ("absent", True)
    assert "storage" in told.step


def test_a_run_that_nobody_takes_up() -> None:
    seen = recorded("new")
    seen["job"].pop("status", None)
    created = seen["job"]["metadata"]["creationTimestamp"]
    soon = datetime.fromisoformat(created).replace(microsecond=1)
    assert stand(seen["job"], now=soon).state == "starting"
    told = stand(seen["job"], now=NOW)
    assert told.text == "has not been taken up by KubeRay's operator"
    assert "kubectl get pods -A" in told.step


def test_a_run_that_does_not_go_away() -> None:
    seen = recorded("running")
    seen["job"]["metadata"]["deletionTimestamp"] = "2026-11-26T17:59:50Z"
    assert stand(seen["job"], now=NOW).text == "is being deleted"
    seen["job"]["metadata"]["deletionTimestamp"] = "2026-11-26T17:50:00Z"
    assert "operator running" in stand(seen["job"], now=NOW).step


def test_a_run_in_a_queue() -> None:
    seen = recorded("suspended")
    seen["job"]["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "small"
    said = (
        "couldn't assign flavors to pod set main: insufficient unused quota for cpu, 2 more needed"
    )
    seen["events"] = [
        {
            "involvedObject": {"kind": "Workload", "name": "rayjob-lost-1234"},
            "reason": "Pending",
            "message": said,
        }
    ]
    told = standing(seen)
    assert told.state == "waiting"
    assert told.text == f"waits in Kueue's queue small: {said}"
    for phase in ("", "Suspended"):
        seen["job"]["status"]["jobDeploymentStatus"] = phase
        assert standing(seen).state == "waiting"


def test_other_phases() -> None:
    seen = recorded("running")
    status = seen["job"]["status"]
    status["jobDeploymentStatus"] = "Waiting"
    assert "InteractiveMode" in standing(seen).text
    status["jobDeploymentStatus"] = "Unheard"
    assert standing(seen).state == "unknown"
    status |= {"jobDeploymentStatus": "Running", "jobStatus": "SUCCEEDED"}
    assert standing(seen).text == "has ended (succeeded) and is being wound up"
    status |= {"jobStatus": "PENDING"}
    assert standing(seen).text == "is being prepared on the head"
    status |= {"jobStatus": "RUNNING", "jobStatusCheckFailureStartTime": "2026-11-26T17:00:00Z"}
    assert "has not answered the operator since 2026-11-26T17:00:00Z" in standing(seen).text


def test_workers_are_counted_and_their_troubles_told_while_a_run_goes_on() -> None:
    seen = recorded("running")
    seen["cluster"]["status"] |= {"desiredWorkerReplicas": 4, "readyWorkerReplicas": 3}
    other = recorded("unschedulable")
    seen["pods"] += [
        copy.deepcopy(pod) for pod in other["pods"] if "worker" in pod["metadata"]["name"]
    ]
    told = standing(seen)
    assert told.state == "running"
    assert told.text.startswith("runs, 3 of 4 workers are ready; each of 2 workers finds no node")
    assert (told.workers, told.wanted) == (3, 4)


def test_workers_that_do_not_get_through_to_the_head() -> None:
    seen = recorded("running")
    (head,) = seen["pods"]
    running = {"startedAt": "2026-11-26T17:58:30Z"}
    state = {"name": "wait-gcs-ready", "state": {"running": running}}
    worker = {
        "metadata": {
            "name": "fit-worker-x",
            "namespace": "team-a",
            "labels": {"ray.io/node-type": "worker"},
        },
        "status": {"phase": "Pending", "initContainerStatuses": [state]},
    }
    seen["pods"] = [head, worker]

    told = stand(seen["job"], seen["cluster"], seen["pods"], seen["events"], NOW)

    assert told.text.endswith("; a worker does not get through to the head")
    assert "if the secret with Ray's token was made anew" in told.step
    assert told.step.endswith("kubectl logs -n team-a fit-worker-x -c wait-gcs-ready")
    running["startedAt"] = "2026-11-26T17:59:30Z"
    told = stand(seen["job"], seen["cluster"], seen["pods"], seen["events"], NOW)
    assert "get through" not in told.text
