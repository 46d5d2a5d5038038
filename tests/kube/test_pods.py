"""The tests' own nodes: pods run on them as on real ones."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kube import objects
from tests.kube.api import ApiError, Json
from tests.kube.client import Cluster
from tests.kube.cluster import KubeLab
from tests.kube.settings import ROOT
from tests.slurm.machine import wait_until

OFFICIAL = """
import sys
from kubernetes import client, config, stream

api = client.CoreV1Api(config.new_client_from_config(sys.argv[1]))
one = ("one", sys.argv[2])
words = ["sh", "-c", "hostname; echo to-stderr >&2; exit 3"]
more = dict(command=words, stdout=True, stderr=True, _preload_content=False)
said = stream.stream(api.connect_get_namespaced_pod_exec, *one, **more)
said.run_forever(timeout=120)
print(said.read_stdout(), said.read_stderr(), said.returncode)
ports = stream.portforward(api.connect_get_namespaced_pod_portforward, *one, ports="8000")
connection = ports.socket(8000)
connection.settimeout(120)
connection.sendall(b"GET /page HTTP/1.0\\r\\n\\r\\n")
answer = b""
while piece := connection.recv(1024):
    answer += piece
print(answer.decode().splitlines()[-1])
"""
"""In a process of its own, as this client leaves its connections open."""
FOR_EVER = "sleep infinity & trap 'kill $!' TERM; wait"


def run(kube: Cluster, space: str, thing: Json, phase: str = "Succeeded") -> str:
    """Make a pod, wait for its phase, and return its log."""
    kube.api.create(thing, space)
    name = thing["metadata"]["name"]
    kube.wait_for_pod(name, space, phase)
    return kube.api.log(name, space)


def start(kube: Cluster, space: str, thing: Json) -> Json:
    """Make a pod, and return it when it is ready."""
    kube.api.create(thing, space)
    return kube.wait("pods", thing["metadata"]["name"], space, ready)


def ready(pod: Json) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def waits_for(reason: str) -> Callable[[Json], bool]:
    """Return what says whether a pod's only container waits for a reason."""

    def waits(pod: Json) -> bool:
        return any(
            one["state"].get("waiting", {}).get("reason") == reason
            for one in pod["status"].get("containerStatuses", [])
        )

    return waits


def events(kube: Cluster, space: str, pod: str) -> list[tuple[str, str]]:
    """Return reason and message of the events of a pod."""
    return [
        (event["reason"], event["message"])
        for event in kube.api.list("events", space)
        if event["involvedObject"]["name"] == pod
    ]


def test_a_pod_has_a_name_an_address_and_files_of_its_own(lab: KubeLab, space: str) -> None:
    script = """
    hostname; ip -4 -brief address show eth0; ls -A /tmp
    touch /tmp/left /etc/left /dev/shm/left; cd; pwd; touch left
    python -c 'import raytune_hpo; print(raytune_hpo.__name__)'
    """
    lines = run(lab, space, objects.pod("one", script)).splitlines()

    pod = lab.api.get("pods", "one", space)
    assert lines[0] == "one"
    assert pod["status"]["podIP"] in lines[1]
    # Nothing is in /tmp but the project, when that is where it was cloned.
    image = [ROOT.relative_to("/tmp").parts[0]] if ROOT.is_relative_to("/tmp") else []
    assert lines[2:] == [*image, "/home/ray", "raytune_hpo"]
    for path in ("/tmp/left", "/etc/left", "/dev/shm/left", "/home/ray/left"):
        assert not Path(path).exists()


def test_a_pod_cannot_see_the_processes_of_others(kube: Cluster, space: str) -> None:
    start(kube, space, objects.pod("other", FOR_EVER))

    numbers = run(kube, space, objects.pod("one", "echo /proc/[0-9]*")).split()

    assert numbers == ["/proc/1"]


def test_configuration_reaches_a_container(kube: Cluster, space: str) -> None:
    kube.api.create(
        objects.data("ConfigMap", "config", {"PLAIN": "map", "file.txt": "text"}), space
    )
    kube.api.create(objects.data("Secret", "hidden", {"key": "secret"}), space)
    downward = [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]
    thing = objects.pod(
        "one",
        'echo $PLAIN $SECRET $NAME $CPU "$WORDS" "$(cat /config/file.txt) $(cat /hidden/key)";'
        "cat /facts/labels; echo; stat -c %A /hidden/key; pwd; touch /config/no || echo read-only",
        labels={"team": "a"},
        volumes=[
            {"name": "config", "configMap": {"name": "config"}},
            {"name": "hidden", "secret": {"secretName": "hidden", "defaultMode": 0o400}},
            {"name": "facts", "downwardAPI": {"items": downward}},
        ],
        mounts=[{"name": name, "mountPath": f"/{name}"} for name in ("config", "hidden", "facts")],
        workingDir="/opt/work",
        resources={"limits": {"cpu": "1500m"}},
        envFrom=[{"configMapRef": {"name": "config"}}],
        env=[
            {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "hidden", "key": "key"}}},
            {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
            {"name": "WORDS", "value": "$(NAME) $(UNKNOWN) $$(NAME)"},
        ],
    )

    lines = run(kube, space, thing).splitlines()

    assert lines[0] == "map secret one 2 one $(UNKNOWN) $(NAME) text secret"
    assert lines[1] == 'team="a"'
    assert lines[2:4] == ["-r--------", "/opt/work"]
    assert lines[-1] == "read-only"


def test_a_claimed_volume_is_seen_on_all_nodes_and_outlives_pods(kube: Cluster, space: str) -> None:
    kube.api.create(objects.claim("data"), space)
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]
    nodes = [node["metadata"]["name"] for node in kube.api.list("nodes")]
    seen = []
    for name, node in (("first", nodes[0]), ("second", nodes[-1])):
        thing = objects.pod(
            name,
            "cat /data/* 2>/dev/null; hostname >/data/$(hostname)",
            volumes=volumes,
            mounts=[{"name": "data", "mountPath": "/data"}],
            spec={"nodeSelector": {"kubernetes.io/hostname": node}},
        )
        seen.append(run(kube, space, thing))

    assert seen == ["", "first\n"]


def test_the_folder_of_a_claim_goes_with_it(lab: KubeLab, space: str) -> None:
    lab.api.create(objects.claim("data"), space)
    bound = lab.wait(
        "persistentvolumeclaims", "data", space, lambda one: one["spec"].get("volumeName")
    )
    folder = lab.layout.volumes / bound["spec"]["volumeName"]
    assert folder.is_dir()

    lab.api.delete("persistentvolumeclaims", "data", space)

    wait_until(lambda: not folder.exists(), "the folder stays")


def test_a_failed_container_is_restarted_as_the_policy_says(kube: Cluster, space: str) -> None:
    kube.api.create(objects.pod("again", "exit 3", policy="OnFailure"), space)
    kube.api.create(objects.pod("never", "exit 3", policy="Never"), space)

    never = kube.wait_for_pod("never", space, "Failed")
    again = kube.wait(
        "pods",
        "again",
        space,
        lambda pod: pod["status"].get("containerStatuses", [{}])[0].get("restartCount", 0) >= 2,
    )

    assert never["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 3
    assert again["status"]["phase"] == "Running"
    assert again["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"] == 3


def test_a_deleted_pod_has_its_grace(kube: Cluster, space: str) -> None:
    kube.api.create(objects.claim("data"), space)
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]
    mounts = [{"name": "data", "mountPath": "/data"}]
    quick = "sleep infinity & trap 'echo ended >/data/quick; exit' TERM; wait"
    slow = "trap 'echo told >/data/slow' TERM; while true; do sleep 0.1; done"
    for name, script in (("quick", quick), ("slow", slow)):
        start(kube, space, objects.pod(name, script, volumes=volumes, mounts=mounts))

    began_s = time.monotonic()
    for name in ("quick", "slow"):
        kube.api.delete("pods", name, space, grace_s=8)
    kube.wait_until_gone("pods", "quick", space)
    assert time.monotonic() - began_s < 8
    kube.wait_until_gone("pods", "slow", space)
    assert time.monotonic() - began_s >= 8

    show = objects.pod("show", "cat /data/quick /data/slow", volumes=volumes, mounts=mounts)
    assert run(kube, space, show) == "ended\ntold\n"


def test_services_are_reached_by_their_names(kube: Cluster, space: str) -> None:
    server = "cd /tmp; echo hello >page; exec python -m http.server 8000"
    labels = {"app": "web"}
    kube.api.create(objects.service("web", labels, 80, 8000), space)
    kube.api.create(objects.service("direct", labels, 8000, 8000, headless=True), space)
    start(kube, space, objects.pod("server", server, labels=labels))
    urls = [
        "http://web/page",
        f"http://web.{space}.svc.cluster.local/page",
        f"http://direct.{space}:8000/page",
    ]
    script = "\n".join(f"until curl -sf --noproxy '*' {url}; do sleep 0.2; done" for url in urls)

    assert run(kube, space, objects.pod("client", script)) == "hello\n" * 3


def test_init_containers_run_in_order_and_sidecars_beside_the_others(
    kube: Cluster, space: str
) -> None:
    volumes = [{"name": "shared", "emptyDir": {}}]
    mounts = [{"name": "shared", "mountPath": "/shared"}]
    common = {"image": objects.IMAGE, "volumeMounts": mounts}

    def container(name: str, script: str, **more: str) -> Json:
        return {"name": name, "command": ["bash", "-c", script], **common, **more}

    first = [
        container("one", "sleep 0.3; echo one >>/shared/log"),
        container("beside", "echo beside >>/shared/log; sleep infinity", restartPolicy="Always"),
        container("two", "echo two >>/shared/log"),
    ]
    thing = objects.pod(
        "pod",
        "cat /shared/log",
        volumes=volumes,
        mounts=mounts,
        spec={"initContainers": first, "terminationGracePeriodSeconds": 1},
    )

    lines = run(kube, space, thing).split()

    assert lines[0] == "one"
    assert sorted(lines[1:]) == ["beside", "two"]


def test_probes_decide_who_is_ready_and_who_lives(kube: Cluster, space: str) -> None:
    probe = {"periodSeconds": 1, "failureThreshold": 2}
    exists = {"exec": {"command": ["test", "-e", "/tmp/ready"]}, **probe}
    listens = {"tcpSocket": {"port": 9}, **probe}
    late = objects.pod("late", f"sleep 10; touch /tmp/ready; {FOR_EVER}", readinessProbe=exists)
    dead = objects.pod("dead", FOR_EVER, policy="Always", livenessProbe=listens)
    kube.api.create(late, space)
    kube.api.create(dead, space)

    running = kube.wait_for_pod("late", space, "Running")
    assert not ready(running)
    kube.wait("pods", "late", space, ready)
    kube.wait(
        "pods", "dead", space, lambda pod: pod["status"]["containerStatuses"][0]["restartCount"]
    )
    assert any(reason == "Unhealthy" for reason, _ in events(kube, space, "dead"))


def test_what_is_missing_is_said(kube: Cluster, space: str) -> None:
    kube.api.create(objects.pod("image", "true", image="example/does-not-exist:1"), space)
    reference = {"secretKeyRef": {"name": "absent", "key": "key"}}
    variable = [{"name": "A", "valueFrom": reference}]
    kube.api.create(objects.pod("secret", "true", env=variable), space)
    volume = [{"name": "v", "configMap": {"name": "absent"}}]
    kube.api.create(objects.pod("volume", "true", volumes=volume), space)

    kube.wait("pods", "image", space, waits_for("ImagePullBackOff"))
    kube.wait("pods", "secret", space, waits_for("CreateContainerConfigError"))
    wait_until(
        lambda: any(reason == "FailedMount" for reason, _ in events(kube, space, "volume")),
        "no event of the volume",
    )
    kube.api.create(objects.data("Secret", "absent", {"key": "now"}), space)
    kube.wait_for_pod("secret", space, "Succeeded")


def test_a_program_that_does_not_exist_fails_the_pod(kube: Cluster, space: str) -> None:
    kube.api.create(objects.pod("one", "", command=["no-such-program"]), space)

    pod = kube.wait_for_pod("one", space, "Failed")

    end = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    assert "no-such-program" in end["message"]


def test_a_log_is_followed_from_a_time_on(kube: Cluster, space: str) -> None:
    start(kube, space, objects.pod("one", f"echo early; sleep 2; echo late; {FOR_EVER}"))
    wait_until(lambda: "late" in kube.api.log("one", space), "no late line")
    lines = kube.api.log("one", space, timestamps="true").splitlines()
    since = lines[1].split()[0]

    assert [line.split()[1] for line in lines] == ["early", "late"]
    assert kube.api.log("one", space, sinceTime=since) == "late\n"
    assert kube.api.log("one", space, tailLines="1") == "late\n"
    kube.api.delete("pods", "one", space)
    assert kube.api.log("one", space, follow="true") == "early\nlate\n"  # until it has ended


def test_a_container_reads_the_api_with_its_own_token(kube: Cluster, space: str) -> None:
    script = """
    here=/var/run/secrets/kubernetes.io/serviceaccount
    server=https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT
    curl -s --noproxy '*' --cacert $here/ca.crt -H "Authorization: Bearer $(cat $here/token)" \\
        $server/api/v1/namespaces/$(cat $here/namespace)/pods
    """

    answer = run(kube, space, objects.pod("one", script))

    assert f"system:serviceaccount:{space}:default" in answer
    assert "Forbidden" in answer


def test_the_official_client_can_execute_and_forward_ports(kube: Cluster, space: str) -> None:
    pytest.importorskip("kubernetes")
    server = "cd /tmp; echo hello >page; exec python -m http.server 8000"
    probe = {"tcpSocket": {"port": 8000}, "periodSeconds": 1}
    start(kube, space, objects.pod("one", server, readinessProbe=probe))

    words = [sys.executable, "-c", OFFICIAL, str(kube.config), space]
    said = subprocess.run(words, capture_output=True, text=True, timeout=240)

    assert said.stdout.split() == ["one", "to-stderr", "3", "hello"], said.stderr


def test_an_object_that_the_server_does_not_take_is_an_error(kube: Cluster, space: str) -> None:
    wrong = objects.pod("one", "true", spec={"restartPolicy": "Sometimes"})

    with pytest.raises(ApiError, match="Sometimes"):
        kube.api.create(wrong, space)
    with pytest.raises(ApiError, match="strict decoding error"):
        kube.api.create(objects.pod("one", "true", commands=[]), space, dry_run=True)
    assert kube.api.list("pods", space) == []
