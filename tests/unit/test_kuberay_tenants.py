"""Teams that share a cluster: how many trials their quotas let run, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from raytune_hpo import spec
from raytune_hpo.cluster.kuberay import files, manifest, quantities, room, tenants, tenants_file
from raytune_hpo.cluster.kuberay.demand import Container, Demand, PodNeed, of_rayjob
from raytune_hpo.cluster.kuberay.manifest import Place
from raytune_hpo.errors import SpecError
from raytune_hpo.kuberay_target import KubeRayTarget

EXAMPLE = Path(__file__).parents[2] / "examples" / "tenants"


@dataclass
class Quota:
    """A ResourceQuota that counts as Kubernetes' admission does."""

    spec: Mapping[str, Any]
    used: dict[str, Decimal] = field(default_factory=dict)

    def concerns(self, pod: PodNeed) -> bool:
        rules = self.spec.get("scopeSelector", {}).get("matchExpressions", [])
        return all((pod.priority in rule["values"]) == (rule["operator"] == "In") for rule in rules)

    def has_room(self, asked: Mapping[str, Decimal]) -> bool:
        hard = {name: quantities.parse(value) for name, value in self.spec["hard"].items()}
        return all(
            self.used.get(name, Decimal(0)) + asked.get(name, Decimal(0)) <= most
            for name, most in hard.items()
            if asked.get(name)
        )

    def take(self, asked: Mapping[str, Decimal]) -> None:
        for name, amount in asked.items():
            self.used[name] = self.used.get(name, Decimal(0)) + amount


def admitted(objects: Iterable[Mapping[str, Any]], pods: Sequence[PodNeed]) -> list[bool]:
    """Return which pods a namespace's quotas let in, one after the other."""
    quotas = [Quota(one["spec"]) for one in objects if one["kind"] == "ResourceQuota"]
    found = []
    for pod in pods:
        asked = {f"requests.{name}": amount for name, amount in pod.requests.items()}
        asked["pods"] = Decimal(1)
        concerned = [quota for quota in quotas if quota.concerns(pod)]
        found.append(all(quota.has_room(asked) for quota in concerned))
        if found[-1]:
            for quota in concerned:
                quota.take(asked)
    return found


def of(name: str, made: tenants_file.Tenants) -> list[dict[str, Any]]:
    return [one for one in tenants.render(made) if one["metadata"].get("namespace") == name]


def example(*settings: str) -> Demand:
    """Return what the example's run asks for, with some settings changed."""
    overrides = [f"targets.kuberay.{text}" for text in settings]
    experiment = spec.load(EXAMPLE / "experiment.yaml", overrides)
    target = experiment.targets.kuberay
    assert target is not None
    code = files.read(EXAMPLE, target)
    text = (EXAMPLE / "experiment.yaml").read_text()
    return of_rayjob(manifest.render(experiment, target, Place(text, "2.60.0", (), code))[1])


def pods_of(run: Demand, workers: Mapping[str, int]) -> list[PodNeed]:
    """Return all pods of a run, one by one, in the order in which they are made."""
    return [pod for pod, count in run.pods(workers) for _ in range(count)]


def at_once(objects: Iterable[Mapping[str, Any]], run: Demand) -> int:
    """Return how many trials of 2 CPUs, one a worker, run at once; the head has to be let in."""
    others = pods_of(run, {})
    found = admitted(objects, pods_of(run, run.most))
    assert all(found[: len(others)])
    return sum(found[len(others) :])


@pytest.mark.parametrize(("name", "trials"), [("user1", 9), ("user2", 3)])
def test_the_papers_quotas_hold_nine_and_three_trials(name: str, trials: int) -> None:
    made = tenants_file.load(EXAMPLE / "tenants.yaml")
    assert at_once(of(name, made), example()) == trials


@pytest.mark.parametrize(("name", "trials"), [("user1", 8), ("user2", 2)])
def test_in_one_quota_with_the_head_they_would_be_eight_and_two(name: str, trials: int) -> None:
    text = (EXAMPLE / "tenants.yaml").read_text().replace("users:", "own_heads: false, users:")
    made = tenants_file.loads(text)
    assert at_once(of(name, made), example()) == trials


@pytest.mark.parametrize(("name", "trials"), [("user1", 9), ("user2", 3)])
@pytest.mark.parametrize("mode", ["K8sJobMode", "HTTPMode"])
def test_a_head_that_asks_for_no_cpu_fits_beside_them(name: str, trials: int, mode: str) -> None:
    text = (EXAMPLE / "tenants.yaml").read_text()
    more = "own_heads: false, memory: 100Gi, users:"
    made = tenants_file.loads(text.replace("users:", more))
    run = example("head.cpus=0", f"submission_mode={mode}")
    assert at_once(of(name, made), run) == trials


@pytest.mark.parametrize(("name", "trials"), [("user1", 9), ("user2", 3)])
def test_what_is_said_before_submission_is_what_the_quotas_then_do(name: str, trials: int) -> None:
    made = of(name, tenants_file.load(EXAMPLE / "tenants.yaml"))
    quotas = [one for one in made if one["kind"] == "ResourceQuota"]
    run = example()
    fits = {one["metadata"]["name"]: room.within_quota(run, one) for one in quotas}
    assert fits.pop("others") is None
    over = sum(run.most.values()) - trials
    for quota, fit in fits.items():
        assert fit is not None
        assert fit.verdict == ("warn" if over and quota == "trials" else "ok"), fit.text
        assert (f"{over} worker" in fit.text) == (fit.verdict == "warn")


def test_together_all_trials_take_the_24_cpus_of_the_cluster() -> None:
    (group,) = example().groups
    assert (9 + 3) * group.pod.requests["cpu"] == 24


def test_pods_without_one_of_the_two_classes_do_not_get_past_the_quota() -> None:
    made = tenants_file.load(EXAMPLE / "tenants.yaml")
    asked = {"cpu": Decimal("0.1"), "memory": Decimal(1)}
    small = PodNeed((Container("small", asked, {}),))
    other = PodNeed(small.containers, "another-class")
    assert admitted(of("user1", made), [small, other]) == [False, False]
    open_ = tenants_file.loads("tenants: {a: {cpus: 1, others: true}}")
    assert admitted(of("a", open_), [small, other]) == [True, True]


def test_heads_have_room_for_as_many_runs_as_are_allowed() -> None:
    made = tenants_file.loads("tenants: {a: {cpus: 4, runs: 3}}")
    for mode in ("SidecarMode", "K8sJobMode"):
        heads = pods_of(example(f"submission_mode={mode}"), {})
        assert all(admitted(of("a", made), heads * 3))
        assert not all(admitted(of("a", made), heads * 4))
    (runs,) = (one for one in of("a", made) if one["metadata"]["name"] == "runs")
    assert runs["spec"]["hard"] == {"count/rayjobs.ray.io": "3"}


def test_a_tenants_users_see_its_namespace_only() -> None:
    made = tenants_file.load(EXAMPLE / "tenants.yaml")
    objects = tenants.render(made)
    assert not [one for one in objects if one["kind"].startswith("ClusterRole")]
    bound = {
        one["metadata"]["namespace"]: [subject["name"] for subject in one["subjects"]]
        for one in objects
        if one["kind"] == "RoleBinding"
    }
    assert bound == {"user1": ["user1"], "user2": ["user2"]}


def test_others_reach_no_pod_of_a_tenant() -> None:
    made = tenants_file.loads("operator_namespace: ray\ntenants: {a: {cpus: 1}}")
    (policy,) = (one for one in of("a", made) if one["kind"] == "NetworkPolicy")
    own, operator = policy["spec"]["ingress"]
    assert policy["spec"]["podSelector"] == {}
    assert own == {"from": [{"podSelector": {}}]}
    assert operator["ports"] == [{"protocol": "TCP", "port": 8265}]
    (origin,) = operator["from"]
    assert origin == {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ray"}}}


def test_with_queues_what_is_free_can_be_lent_and_no_quota_forbids_it() -> None:
    text = (EXAMPLE / "tenants.yaml").read_text() + "queues: {cohort: all}\n"
    objects = tenants.render(tenants_file.loads(text))
    quotas = [one for one in objects if one["kind"] == "ResourceQuota"]
    assert [one["metadata"]["name"] for one in quotas] == ["runs", "runs"]
    queues = {one["metadata"]["name"]: one for one in objects if one["kind"] == "ClusterQueue"}
    cpus = {
        name: queue["spec"]["resourceGroups"][0]["flavors"][0]["resources"][0]
        for name, queue in queues.items()
    }
    assert cpus["user1"] == {"name": "cpu", "nominalQuota": "20"}
    assert cpus["user2"] == {"name": "cpu", "nominalQuota": "8"}
    assert {queue["spec"]["cohortName"] for queue in queues.values()} == {"all"}


def test_gpus_are_counted_by_kubernetes_name_of_them() -> None:
    made = tenants_file.loads("tenants: {a: {cpus: 8, gpus: 2, gpu_resource: amd.com/gpu}}")
    (quota,) = (one for one in of("a", made) if one["metadata"]["name"] == "trials")
    assert quota["spec"]["hard"]["requests.amd.com/gpu"] == "2"
    assert quota["spec"]["hard"]["requests.memory"] == "32Gi"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tenants: {a: {cpu: 1}}", r"t.yaml:1:15: tenants.a.cpu: .*write cpus"),
        ("tenants: {a: {}}", r"t.yaml:1:14: tenants.a.cpus: is required"),
        ("tenants: {A_1: {cpus: 1}}", r"t.yaml:1:11: tenants.A_1: must be up to 63"),
        ("tenants: [a]", r"must be a mapping of names to what each gets, not a list"),
        ("tenant: {}", r"unknown key 'tenant' \(did you mean 'tenants'"),
        ("tenants: {a: {cpus: 1, quota: 3}}", r"write cpus, memory, gpus and runs"),
        (
            "tenants: {a: {cpus: 1, own_heads: false, head: {cpus: 1}}}",
            r"head: goes with own_heads",
        ),
        ("tenants: {a: {cpus: 1, users: me}}", r"must be a list of texts"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        tenants_file.loads(text, "t.yaml")


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"none.yaml: cannot be read"):
        tenants_file.load(tmp_path / "none.yaml")


def test_the_example_names_the_classes_that_tenants_have() -> None:
    made = tenants_file.load(EXAMPLE / "tenants.yaml")
    target = spec.load(EXAMPLE / "experiment.yaml").targets.kuberay
    assert isinstance(target, KubeRayTarget)
    assert target.head.priority_class == made.heads
    assert target.worker.priority_class == made.trials
    assert target.service_account == made.tenants["user1"].service_account


def test_the_examples_script_prints_what_is_collected() -> None:
    words = [sys.executable, str(EXAMPLE / "train.py"), "--lr", "0.1", "--momentum", "0.9"]
    done = subprocess.run([*words, "--seconds", "0.2"], capture_output=True, text=True, check=True)
    name, _, loss = done.stdout.strip().partition("=")
    assert (name, float(loss) < 0.4) == ("loss", True)
