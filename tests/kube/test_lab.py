"""The tests' own cluster: its rules, its faults, and that nothing of it stays."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kube import objects
from tests.kube.api import Api, ApiError, Json, read_kubeconfig
from tests.kube.client import Cluster
from tests.kube.cluster import CLAIMS, KubeLab, claim
from tests.kube.layout import Size
from tests.kube.test_pods import FOR_EVER, start
from tests.slurm.machine import wait_until


def processes_of(lab: KubeLab) -> list[str]:
    """Return the command lines on this host in which the cluster's folder is named."""
    lines = subprocess.run(["ps", "-wweo", "args"], capture_output=True, text=True, check=True)
    return [line for line in lines.stdout.splitlines() if f"{lab.layout.folder}/" in line]


def check_all_is_gone(lab: KubeLab) -> None:
    assert not processes_of(lab)
    assert not lab.layout.folder.exists()
    assert not list(Path("/sys/class/net").glob(f"{lab.layout.bridge}*"))
    assert str(lab.layout.folder) not in Path("/proc/mounts").read_text()


def role(name: str, group: str) -> list[Json]:
    """Return a role that may make RayJobs, and give it to a group."""
    kind = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": name}}
    rules = [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "get"]}]
    server = "rbac.authorization.k8s.io"
    return [
        {**kind, "kind": "Role", "rules": rules},
        {
            **kind,
            "kind": "RoleBinding",
            "roleRef": {"apiGroup": server, "kind": "Role", "name": name},
            "subjects": [{"apiGroup": server, "kind": "Group", "name": group}],
        },
    ]


def test_a_quota_refuses_what_is_too_much(kube: Cluster, space: str) -> None:
    kube.api.create(objects.quota("few", {"pods": "1", "count/rayjobs.ray.io": "1"}), space)
    kube.wait("resourcequotas", "few", space, lambda one: one.get("status", {}).get("hard"))
    kube.api.create(objects.pod("one", FOR_EVER), space)
    job = objects.rayjob("one", "true", workers=0)
    job["spec"]["suspend"] = True
    job["spec"]["shutdownAfterJobFinishes"] = True
    kube.api.create(job, space)

    with pytest.raises(ApiError, match="exceeded quota: few") as refused:
        kube.api.create(objects.pod("two", FOR_EVER), space)
    assert refused.value.code == 403
    job["metadata"]["name"] = "two"
    with pytest.raises(ApiError, match=r"exceeded quota: few, requested: count/rayjobs\.ray\.io=1"):
        kube.api.create(job, space)


def test_rights_follow_from_groups(kube: Cluster, space: str) -> None:
    for thing in role("tuner", "team-a"):
        kube.api.create(thing, space)
    alice = kube.api.like("alice", "team-a")
    bob = kube.api.like("bob", "team-b")

    assert alice.may("create", "rayjobs", space)
    assert not alice.may("create", "rayjobs", "default")
    assert not alice.may("list", "secrets", space)
    assert not bob.may("create", "rayjobs", space)
    with pytest.raises(ApiError, match="forbidden"):
        bob.create(objects.rayjob("one", "true", workers=0), space)


def test_users_have_tokens(lab: KubeLab, space: str) -> None:
    for thing in role("tuner", "team-a"):
        lab.api.create(thing, space)
    alice, bob = (Api(read_kubeconfig(lab.kubeconfig_of(name))) for name in ("alice", "bob"))

    assert alice.may("create", "rayjobs", space)
    assert not bob.may("create", "rayjobs", space)


def test_a_killed_pod_is_treated_by_its_policy(lab: KubeLab, space: str) -> None:
    for name, policy in (("never", "Never"), ("always", "Always")):
        start(lab, space, objects.pod(name, FOR_EVER, policy=policy))

        lab.kill_pod(name, space)

    never = lab.wait_for_pod("never", space, "Failed")
    end = never["status"]["containerStatuses"][0]["state"]["terminated"]
    assert end["exitCode"] == 137
    lab.wait(
        "pods",
        "always",
        space,
        lambda pod: (
            pod["status"]["containerStatuses"][0]["restartCount"] == 1
            and "running" in pod["status"]["containerStatuses"][0]["state"]
        ),
    )


def test_a_killed_node_loses_its_pods_and_comes_back(lab: KubeLab, space: str) -> None:
    node = lab.nodes[1]
    here = {"nodeSelector": {"kubernetes.io/hostname": node}}
    server = "exec python -m http.server 8000"
    probe = {"tcpSocket": {"port": 8000}, "periodSeconds": 1}
    pod = start(lab, space, objects.pod("one", server, readinessProbe=probe, spec=here))
    address = (pod["status"]["podIP"], 8000)
    socket.create_connection(address, timeout=5).close()

    lab.stop(node)

    with pytest.raises(OSError, match=r"timed out|No route"):
        socket.create_connection(address, timeout=1)
    lab.wait_for_node(node, "Unknown")
    lab.wait("pods", "one", space, lambda one: one["metadata"].get("deletionTimestamp"))
    lab.start(node)
    lab.wait_for_node(node, "True")
    lab.wait_until_gone("pods", "one", space)


def test_a_node_that_was_away_for_a_moment_says_that_its_pods_ended(
    lab: KubeLab, space: str
) -> None:
    node = lab.nodes[0]
    here = {"nodeSelector": {"kubernetes.io/hostname": node}}
    start(lab, space, objects.pod("never", FOR_EVER, spec=here))
    start(lab, space, objects.pod("always", FOR_EVER, policy="Always", spec=here))

    lab.stop(node)
    lab.start(node)

    lab.wait_for_pod("never", space, "Failed")
    lab.wait(
        "pods", "always", space, lambda one: one["status"]["containerStatuses"][0]["restartCount"]
    )


def test_pods_go_on_while_the_api_server_is_away(lab: KubeLab, space: str) -> None:
    lab.api.create(objects.claim("data"), space)
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]
    mounts = [{"name": "data", "mountPath": "/data"}]
    script = "until [ -e /data/away ]; do sleep 0.1; done; echo went on; touch /data/done"
    start(lab, space, objects.pod("one", script, volumes=volumes, mounts=mounts))
    claimed = lab.api.get("persistentvolumeclaims", "data", space)
    folder = lab.layout.volumes / claimed["spec"]["volumeName"]

    lab.stop("kube-apiserver")
    with pytest.raises(OSError, match="refused"):
        lab.api.list("pods", space)
    (folder / "away").touch()
    wait_until((folder / "done").exists, "the pod does not go on")
    lab.start("kube-apiserver")

    lab.wait_for_pod("one", space, "Succeeded")
    assert lab.api.log("one", space) == "went on\n"


def test_the_operator_goes_on_where_it_was(lab: KubeLab, space: str) -> None:
    lab.stop("ray-operator")
    job = objects.rayjob("one", "true", workers=0)
    job["spec"].update(suspend=True, shutdownAfterJobFinishes=True)
    lab.api.create(job, space)
    assert lab.api.get("rayjobs", "one", space).get("status") is None

    lab.start("ray-operator")

    lab.wait("rayjobs", "one", space, lambda one: one.get("status", {}).get("jobDeploymentStatus"))


def test_what_a_test_leaves_is_removed(kube: Cluster, space: str) -> None:
    start(kube, space, objects.pod("one", FOR_EVER))

    kube.restore()

    assert kube.api.list("pods", space) == []
    found = kube.api.find("namespaces", space)
    assert found is None or found["metadata"]["deletionTimestamp"]


def test_labels_and_taints_of_nodes_are_removed(lab: KubeLab, space: str) -> None:
    node = lab.nodes[0]
    taint = {"key": "spot", "value": "yes", "effect": "NoSchedule"}
    change = {"metadata": {"labels": {"pool": "spot"}}, "spec": {"taints": [taint]}}
    lab.api.patch("nodes", node, change)
    here = {"nodeSelector": {"pool": "spot"}}
    lab.api.create(objects.pod("refused", "true", spec=here), space)
    tolerated = {**here, "tolerations": [{"key": "spot", "operator": "Exists"}]}
    lab.api.create(objects.pod("taken", "true", spec=tolerated), space)

    taken = lab.wait_for_pod("taken", space, "Succeeded")
    assert taken["spec"]["nodeName"] == node
    assert lab.api.get("pods", "refused", space)["status"]["phase"] == "Pending"
    lab.restore()

    about = lab.api.get("nodes", node)
    assert "pool" not in about["metadata"]["labels"]
    assert "taints" not in about["spec"]


def test_a_node_that_ends_by_itself_is_an_error(lab: KubeLab) -> None:
    pid = lab._daemons.pid(lab.nodes[2])
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: lab._daemons.pid(lab.nodes[2]) is None, "the node does not end")

    with pytest.raises(RuntimeError, match="n3 ended by itself"):
        lab.restore()
    lab.start(lab.nodes[2])


def test_an_error_of_a_wait_says_what_is_known(kube: Cluster, space: str) -> None:
    kube.api.create(objects.pod("one", "exit 5"), space)
    kube.wait_for_pod("one", space, "Failed")

    with pytest.raises(TimeoutError, match=r'(?s)pods one is not as wanted.*"exitCode": 5'):
        kube.wait_for_pod("one", space, "Running", timeout_s=0.5)


def test_a_cluster_beside_another_one_by_the_command_line(lab: KubeLab) -> None:
    other = KubeLab(1, claim(), Size(cpus=2, gpus=1))

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-m", "tests.kube.lab", f"--number={other.layout.number}"]
        return subprocess.run([*program, *words], capture_output=True, text=True)

    try:
        assert call("run", "true").returncode == 1
        assert f"KUBECONFIG={other.config}" in call("up", "1", "--cpus=2", "--gpus=1").stdout
        assert call("up", "1").returncode == 0  # it is up already
        capacity = other.api.get("nodes", "n1")["status"]["capacity"]
        assert (capacity["cpu"], capacity["nvidia.com/gpu"]) == ("2", "1")
        assert call("run", "sh", "-c", f"test $KUBECONFIG = {other.config}").returncode == 0
        assert call("run", "sh", "-c", "exit 7").returncode == 7
        assert lab.api.access.server != other.api.access.server
    finally:
        call("down")
    check_all_is_gone(other)
    assert call("down").returncode == 0


def test_a_cluster_of_a_killed_process_is_removed_by_the_next(lab: KubeLab) -> None:
    program = (
        "import os\nfrom tests.kube.cluster import KubeLab, claim\nnumber = claim()\n"
        "lab = KubeLab(1, number)\nfrom tests.kube import build, settings\n"
        "settings.write(lab.layout, lab._sizes)\nlab._build_bridge()\n"
        "for name in ('etcd', 'n1'): lab._start(build.folder() / 'bin', name)\n"
        "print(number)\nos.kill(os.getpid(), 9)\n"
    )
    words = [sys.executable, "-u", "-c", program]
    number = int(subprocess.run(words, capture_output=True, text=True).stdout)
    left = KubeLab(1, number)
    assert len(processes_of(left)) >= 2

    assert claim() == number

    check_all_is_gone(left)
    CLAIMS.release(number)
    wait_until(lambda: not CLAIMS.folder(number).exists(), "its folder stays")
