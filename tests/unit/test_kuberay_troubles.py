"""What keeps pods from working: what no recording has, in the words of Kubernetes' sources."""

from __future__ import annotations

import re
from typing import Any

import pytest

from raytune_hpo.cluster.kuberay import denials, troubles
from raytune_hpo.cluster.kuberay.troubles import Trouble


def pod(phase: str = "Pending", **status: Any) -> dict[str, Any]:
    meta = {"name": "p", "namespace": "team-a", "uid": "1"}
    spec = {"containers": [{"name": "ray-head", "image": "registry.io/team/ray:1"}]}
    return {"metadata": meta, "spec": spec, "status": {"phase": phase, **status}}


def unscheduled(message: str, reason: str = "Unschedulable") -> dict[str, Any]:
    condition = {"type": "PodScheduled", "status": "False", "reason": reason, "message": message}
    return pod(conditions=[condition])


def container(**state: Any) -> dict[str, Any]:
    last = state.pop("last", {})
    one = {"name": "ray-head", "image": "registry.io/team/ray:1", "state": state, "lastState": last}
    return pod("Running", containerStatuses=[one])


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return container(waiting={"reason": reason, "message": message})


def said(reason: str, message: str) -> dict[str, Any]:
    return {"reason": reason, "message": message, "involvedObject": {"kind": "Pod", "uid": "1"}}


def told(one: dict[str, Any], *events: dict[str, Any]) -> Trouble:
    found = troubles.of_pod(one, events)
    assert found is not None
    return found


SCHEDULING = {
    "0/3 nodes are available: 1 node(s) had untolerated taint {node-role.kubernetes.io/"
    "control-plane: }, 2 Insufficient nvidia.com/gpu. preemption: 0/3 nodes are available: 1 "
    "Preemption is not helpful for scheduling, 2 No preemption victims found for incoming pod.": (
        "finds no node: no node has enough nvidia.com/gpu free; nodes have taints that the pod "
        "does not tolerate (node-role.kubernetes.io/control-plane) (of 3 nodes none fits)"
    ),
    "0/5 nodes are available: 3 Insufficient cpu, 5 Insufficient memory.": (
        "finds no node: no node has enough CPUs and memory free (of 5 nodes none fits)"
    ),
    "0/2 nodes are available: 2 node(s) had volume node affinity conflict.": (
        "finds no node: its volume is tied to another node or zone (of 2 nodes none fits)"
    ),
    "0/2 nodes are available: 1 Too many pods, 1 node(s) were unschedulable.": (
        "finds no node: nodes are closed for new pods (cordoned); nodes have as many pods as they "
        "may (of 2 nodes none fits)"
    ),
    "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found": (
        "waits for a volume that has not been made yet"
    ),
    "no nodes available to schedule pods": "finds no node: no nodes available to schedule pods",
}


@pytest.mark.parametrize("message", SCHEDULING)
def test_no_node_takes_it(message: str) -> None:
    assert told(unscheduled(message)).what == SCHEDULING[message]


def test_what_the_autoscaler_of_the_cluster_does() -> None:
    one = unscheduled("0/2 nodes are available: 2 Insufficient cpu.")
    assert "wait until" in told(one).step
    more = told(one, said("TriggeredScaleUp", "pod triggered scale-up: [{pool 1->2 (max: 5)}]"))
    assert more.what.endswith("a new node is on its way")
    none = told(one, said("NotTriggerScaleUp", "pod didn't trigger scale-up: 1 max node group"))
    assert none.what.endswith("the cluster cannot grow for it")
    assert none.stays


def test_a_gate_holds_it_back() -> None:
    one = unscheduled("Scheduling is blocked due to non-empty scheduling gates", "SchedulingGated")
    assert "scheduling gate" in told(one).what


@pytest.mark.parametrize(
    ("reason", "message", "words"),
    [
        ("ErrImagePull", "failed to authorize: 401 Unauthorized", "its registry refuses it"),
        ("ErrImagePull", "dial tcp: lookup registry.io: no such host", "registry does not answer"),
        ("ErrImagePull", "toomanyrequests: You have reached your pull rate limit", "fewer pulls"),
        ("ImagePullBackOff", 'Back-off pulling image "registry.io/team/ray:1"', "ray:1$"),
        ("InvalidImageName", "couldn't parse image name", "has an image name that is none"),
    ],
)
def test_no_image(reason: str, message: str, words: str) -> None:
    found = told(waiting(reason, message))
    assert re.search(words, found.what), found.what
    assert "targets.kuberay.image" in found.step
    assert found.stays


def test_keys_that_are_missing() -> None:
    message = "couldn't find key token in Secret team-a/mlflow"
    found = told(waiting("CreateContainerConfigError", message))
    assert found.what == "waits: secret mlflow has no key token"
    assert told(waiting("CreateContainerConfigError", "other")).what.endswith("configured: other")


def test_containers_that_cannot_be_started() -> None:
    message = 'exec: "raytune-hpo": executable file not found in $PATH'
    assert message in told(waiting("RunContainerError", message)).what


def test_containers_that_end() -> None:
    assert told(container(terminated={"exitCode": 137})).what.endswith("killed (exit code 137)")
    assert told(container(terminated={"exitCode": 127})).what.endswith("not there (exit code 127)")
    again = container(running={}, last={"terminated": {"reason": "OOMKilled", "exitCode": 137}})
    found = told(again)
    assert found.what.endswith("was killed (container ray-head), and was started again")
    assert "memory" in found.step
    assert troubles.of_pod(container(terminated={"exitCode": 0}), ()) is None


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (
            {"reason": "Evicted", "message": "The node was low on resource: memory."},
            "was evicted from its node (The node was low on resource: memory.)",
        ),
        ({"reason": "OutOfcpu"}, "was refused by its node: no cpu left there"),
        (
            {
                "conditions": [
                    {
                        "type": "DisruptionTarget",
                        "status": "True",
                        "reason": "PreemptionByScheduler",
                    }
                ]
            },
            "was preempted by a pod that goes first",
        ),
    ],
)
def test_pods_that_are_taken_away(status: dict[str, Any], words: str) -> None:
    assert told(pod("Failed", **status)).what == words


def test_the_last_event_counts_while_a_pod_begins() -> None:
    failed = said("FailedMount", "MountVolume.SetUp failed: mount.nfs: Connection timed out")
    assert told(pod(), failed).what.startswith("cannot mount a volume: MountVolume.SetUp")
    assert "image" in told(pod(), failed, said("Pulling", "Pulling image")).what
    assert troubles.of_pod(pod(), [failed, said("Pulled", "Successfully pulled")]) is None
    attach = said("FailedAttachVolume", 'Multi-Attach error for volume "pvc-1"')
    assert "ReadWriteMany" in told(pod(), attach).step
    claim = said("FailedMount", 'persistentvolumeclaim "results" not found')
    assert told(pod(), claim).what == "waits: there is no volume claim results"
    network = said("FailedCreatePodSandBox", "plugin type=calico failed")
    assert told(pod(), network).what.startswith("gets no network on its node")


def test_pods_that_have_the_same_trouble_are_told_once() -> None:
    alike = [unscheduled("0/2 nodes are available: 2 Insufficient cpu.") for _ in range(3)]
    other = waiting("InvalidImageName")
    found = list(troubles.of_pods([*alike, other], []))
    assert [one.who for one in found] == ["each of 3 workers", "a worker"]


def test_a_cluster_that_is_not_valid_and_one_that_got_on() -> None:
    bad = {"reason": "InvalidRayClusterSpec", "type": "Warning", "message": "x is\nwrong"}
    found = troubles.of_cluster({}, [bad])
    assert found is not None
    assert found.what == "is not valid: x is wrong"
    refused = {"reason": "FailedToCreateHeadPod", "type": "Warning", "message": "quota"}
    made = {"reason": "CreatedHeadPod", "type": "Normal", "message": ""}
    assert troubles.of_cluster({}, [made, refused]) is not None
    assert troubles.of_cluster({}, [refused, made]) is None


DENIALS = {
    'pods "x" is forbidden: exceeded quota: compute, requested: requests.cpu=2,'
    "requests.memory=4Gi, used: requests.cpu=3,requests.memory=6Gi, limited: requests.cpu=4,"
    "requests.memory=8Gi": "quota compute is used up: of 4 CPUs, 3 are in use and 2 more were "
    "asked; of 8Gi of memory, 6Gi are in use and 4Gi more were asked",
    'pods "x" is forbidden: failed quota: compute: must specify limits.cpu for: worker': (
        "quota compute wants each container to say its limits.cpu for: worker"
    ),
    'rayjobs.ray.io "x" is forbidden: status unknown for quota: q, resources: '
    "count/rayjobs.ray.io": "quota q is new, and Kubernetes has not counted yet what is in use",
    'pods "x" is forbidden: [minimum cpu usage per Container is 100m, but request is 50m, maximum '
    "memory usage per Container is 1Gi.  No limit is specified]": (
        "a LimitRange of the namespace allows at least 100m CPUs a container, and 50m is asked"
    ),
    'pods "x" is forbidden: maximum memory usage per Pod is 1Gi.  No limit is specified': (
        "a LimitRange of the namespace allows at most 1Gi of memory a pod, and no limit is set"
    ),
    'pods "x" is forbidden: memory max limit to request ratio per Container is 2, but provided '
    "ratio is 5.120000": "a LimitRange of the namespace allows limits of at most 2 times the "
    "request of memory a container",
    'admission webhook "vrayjob.kb.io" denied the request: spec.rayClusterSpec.'
    "enableInTreeAutoscaling: Invalid value: true": "the cluster's own check vrayjob.kb.io refuses "
    "it: spec.rayClusterSpec.enableInTreeAutoscaling: Invalid value: true",
    "rayjobs.ray.io \"x\" is forbidden: ValidatingAdmissionPolicy 'images' with binding 'all' "
    "denied request: only registry.io": "the cluster's own check images refuses it: only "
    "registry.io",
    'Internal error occurred: failed calling webhook "mrayjob.kb.io": Post "https://kueue": no '
    "endpoints": 'the cluster\'s own check mrayjob.kb.io could not be asked: Post "https://kueue": '
    "no endpoints",
    'configmaps "x" is forbidden: unable to create new content in namespace team-a because it is '
    "being terminated": "namespace team-a is being deleted",
    'pods "x" is forbidden: something new': "something new",
}


@pytest.mark.parametrize("message", DENIALS)
def test_refusals_in_plain_words(message: str) -> None:
    assert denials.plain(message).what == DENIALS[message]


def test_rights_in_the_whole_cluster_need_a_cluster_role() -> None:
    message = (
        'deployments.apps is forbidden: User "bob" cannot list resource "deployments" in API group '
        '"apps" at the cluster scope'
    )
    found = denials.plain(message)
    assert found.what == "bob may not list deployments.apps in the whole cluster"
    assert found.step.startswith("ask for a ClusterRole")
