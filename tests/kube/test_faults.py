"""What becomes of a RayJob when something around it is lost, wrong, or somebody else's."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml

from tests.kube import objects
from tests.kube.api import ApiError
from tests.kube.client import OURS
from tests.kube.cluster import KubeLab
from tests.kube.runs import MOUNT, Run
from tests.slurm.machine import wait_until
from tests.storage.s3 import Server

pytestmark = [pytest.mark.ray, pytest.mark.faults]

TENANTS = """
tenants:
  user1: {cpus: 18, users: [alice]}
  user2: {cpus: 6, users: [bob]}
"""
TEAM = (
    "head.priority_class=raytune-hpo-heads",
    "worker.priority_class=raytune-hpo-trials",
    # Three trials in a pod: here fewer pods with a Ray are started the same way.
    "worker.trials=3",
)
UNTIL_TOLD = f"""
import time
from pathlib import Path
import raytune_hpo as rh

def train(config):
    while not Path("{MOUNT}/go").exists():
        time.sleep(0.5)
        rh.report(loss=config["x"])
    rh.report(loss=config["x"])
"""
AWAY_S = 60.0


def test_a_killed_worker_and_a_lost_node_while_the_operator_is_away(
    lab: KubeLab, space: str, tmp_path: Path
) -> None:
    run = Run(lab, space, tmp_path / "experiment", trials=40)
    run.submit()
    run.wait_for("end", 2)
    killed = run.pods("worker")[0]

    lab.kill_pod(killed, space)

    def replaced() -> bool:
        workers = run.pods("worker")
        return len(workers) == 2 and killed not in workers

    wait_until(replaced, "the worker is not replaced", 400)
    (head,) = (run.node_of(pod) for pod in run.pods("head"))
    node = next(node for pod in run.pods("worker") if (node := run.node_of(pod)) != head)

    lab.stop("ray-operator")
    lab.stop(node)

    # The other worker goes on meanwhile.
    run.wait_for("end", run.count("end") + 3)
    lab.start("ray-operator")
    status = run.wait_for_end()
    assert not status.get("failed")
    run.check_each_trial_finished_once()
    assert not [r for r in run.records() if r["type"] == "end" and r["charged"]]


def test_a_store_that_is_away_for_a_minute(
    store: Server, lab: KubeLab, space: str, tmp_path: Path
) -> None:
    lab.api.create(objects.data("Secret", "store", store.environment()), space)
    run = Run(
        lab,
        space,
        tmp_path / "experiment",
        more="env_from: [{secret: store}]",
        storage=f"s3://{store.new_bucket()}/runs",
    )
    run.submit()
    run.wait_for("end", 2)

    store.stop()
    time.sleep(AWAY_S)
    store.start()

    status = run.wait_for_end()
    assert not status.get("failed")
    run.check_each_trial_finished_once()
    assert run.count("session") == 1
    # Read from the store by its address, as somebody does when the cluster is gone.
    assert "all 12 trials are done" in run.call("status", f"{run.url}")


def test_two_teams_have_9_and_3_trials_at_once(lab: KubeLab, tmp_path: Path) -> None:
    """The experiment of the Katib paper, section 5.1.2."""
    (tmp_path / "tenants.yaml").write_text(TENANTS)
    teams = {"user1": ("alice", 9), "user2": ("bob", 3)}
    runs = {}
    for name in teams:
        lab.namespace(name)
    for made in yaml.safe_load_all(tenants_of(lab, tmp_path)):
        made["metadata"].setdefault("labels", {})[OURS] = "true"
        lab.api.apply(made, made["metadata"].get("namespace"))
    for name, (user, _) in teams.items():
        runs[name] = Run(
            lab,
            name,
            tmp_path / name,
            trials=12,
            parallel=12,
            more="service_account: tuning",
            trial=UNTIL_TOLD,
            user=user,
        )
        settings = ("resources.cpu=2", *(f"targets.kuberay.{setting}" for setting in TEAM))
        runs[name].submit(*(word for setting in settings for word in ("--set", setting)))

    for name, (_, trials) in teams.items():
        runs[name].wait_for("begin", trials)
    time.sleep(15)  # as many as there may be, and no more
    assert {name: run.count("begin") for name, run in runs.items()} == {"user1": 9, "user2": 3}

    others = lab.api.like("bob", "team-b")
    with pytest.raises(ApiError, match="forbidden"):
        others.list("rayjobs", "user1")
    assert "fit" in runs["user2"].call("status", "fit")
    for run in runs.values():
        (run.kept / "go").touch()
    for run in runs.values():
        run.wait_for_end()
        run.check_each_trial_finished_once()


def tenants_of(lab: KubeLab, folder: Path) -> str:
    """Return the namespaces of two teams."""
    return Run(lab, "user1", folder / "rendering").call("tenants", str(folder / "tenants.yaml"))


def test_without_rights_nothing_is_submitted(lab: KubeLab, space: str, tmp_path: Path) -> None:
    run = Run(lab, space, tmp_path / "experiment", user="bob")

    said = run.call("run", "experiment.yaml", "--on", "kuberay", "--detach", check=False)

    assert "nothing was submitted" in said
    assert "you may not create rayjobs" in said
    assert lab.api.list("rayjobs", space) == []


def test_a_lost_token_costs_a_retry(lab: KubeLab, space: str, tmp_path: Path) -> None:
    """The operator makes another one, which the head does not know, and cannot ask it any more."""
    run = Run(lab, space, tmp_path / "experiment", idle="60s")
    run.submit()
    run.wait_for_workers(2)
    (token,) = lab.api.list("secrets", space, labels="ray.io/cluster")

    lab.api.delete("secrets", token["metadata"]["name"], space)
    lab.kill_pod(run.pods("worker")[0], space)

    assert run.wait_for_end()["failed"] == 1
    run.check_each_trial_finished_once()
