"""Manifests for KubeRay: hostile words, sizes that follow from trials, files, and secrets."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from raytune_hpo import spec
from raytune_hpo.cluster.kuberay import (
    files,
    inside,
    manifest,
    names,
    pods,
    quantities,
    room,
    rules,
)
from raytune_hpo.cluster.kuberay.demand import Demand, of_rayjob
from raytune_hpo.cluster.kuberay.manifest import Place, to_yaml
from raytune_hpo.errors import SpecError
from raytune_hpo.experiment import Experiment
from raytune_hpo.kuberay_target import KubeRayTarget
from raytune_hpo.tracking.process import END_WAIT_ENV

FILE = """\
name: {name}
run: python train.py --lr ${{lr}}
objective: {{metric: loss}}
parameters: {{lr: {{min: 0, max: 1}}}}
"""
LEAST = {"image": "i", "pvc": {"claim": "runs"}}
PLACE = Place(FILE, "2.60.0")
HOSTILE = "a b'c\"d$(touch x)`touch y`;#&|\\ $HOME $$(HOME) $(RAY_ADDRESS) !x *\n- y: {z"
MODES = ("SidecarMode", "K8sJobMode", "HTTPMode")


def experiment(more: str = "", name: str = "x") -> Experiment:
    return spec.loads(FILE.format(name=name) + more)


def rendered(
    more: str = "", settings: dict[str, Any] | None = None, place: Place = PLACE
) -> list[dict[str, Any]]:
    target = KubeRayTarget.model_validate({**LEAST, **(settings or {})})
    return manifest.render(experiment(more), target, place)


def job(more: str = "", settings: dict[str, Any] | None = None) -> dict[str, Any]:
    found: dict[str, Any] = rendered(more, settings)[1]["spec"]
    return found


def group(more: str = "", settings: dict[str, Any] | None = None) -> dict[str, Any]:
    (found,) = job(more, settings)["rayClusterSpec"]["workerGroupSpecs"]
    made: dict[str, Any] = found
    return made


def container(kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    cluster = job("", settings)["rayClusterSpec"]
    of = cluster["headGroupSpec"] if kind == "head" else cluster["workerGroupSpecs"][0]
    found: dict[str, Any] = of["template"]["spec"]["containers"][0]
    return found


# What KubeRay and Kubernetes make of texts


def expanded(text: str, variables: dict[str, str]) -> str:
    """Return what Kubernetes makes of a text among a container's arguments and variables."""

    def put(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return variables.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", put, text)


RAY = """#!{python}
import shlex, subprocess, sys
words = sys.argv[sys.argv.index("--") + 1 :]
raise SystemExit(subprocess.run(shlex.join(words), shell=True).returncode)
"""
DRIVER = """#!{python}
import json, sys
print(json.dumps(sys.argv[1:]))
"""


def arrived(entrypoint: str, mode: str, folder: Path) -> list[str]:
    """Return the words that the driver gets, by way of the submitter's shell or without it."""
    for name, text in (("ray", RAY), ("python", DRIVER)):
        file = folder / name
        file.write_text(text.format(python=sys.executable))
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    words = ["sh", "-c", entrypoint]
    if mode != "HTTPMode":
        script = f"ray job submit --address http://127.0.0.1:8265 -- {entrypoint.strip()} ;"
        variables = {"RAY_ADDRESS": "replaced", "HOME": "replaced"}
        words = ["bash", "-ce", "--", expanded(script, variables)]
    path = f"{folder}:{os.environ['PATH']}"
    env = {"PATH": path, "HOME": "replaced", "RAY_ADDRESS": "replaced"}
    done = subprocess.run(words, env=env, cwd=folder, capture_output=True, text=True, check=True)
    found: list[str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("mode", MODES)
def test_hostile_words_arrive_as_they_are(mode: str, tmp_path: Path) -> None:
    place = replace(PLACE, overrides=(f"description={json.dumps(HOSTILE)}", HOSTILE))
    objects = rendered(settings={"submission_mode": mode}, place=place)
    # As a server reads it out of the text that is printed.
    entrypoint = list(yaml.safe_load_all(to_yaml(objects)))[1]["spec"]["entrypoint"]
    words = arrived(entrypoint, mode, tmp_path)
    assert words[words.index("--set") :] == ["--set", place.overrides[0], "--set", HOSTILE]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["python", "ray"]


@pytest.mark.parametrize("mode", MODES)
def test_usual_words_stay_readable(mode: str) -> None:
    told = job(settings={"submission_mode": mode})["entrypoint"]
    place = "/mnt/raytune-hpo"
    file = "/etc/raytune-hpo/experiment.yaml"
    driver = "python -m raytune_hpo.cluster.kuberay.drive"
    assert told == f"{driver} run {file} --resume --name x --storage {place}"


@settings(max_examples=50)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_every_text_is_the_same_after_yaml_and_kubernetes(text: str) -> None:
    objects = rendered(settings={"env": {"A": text}})
    read = list(yaml.safe_load_all(to_yaml(objects)))
    assert read == objects
    spec_ = read[1]["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]
    (value,) = [v["value"] for v in spec_["containers"][0]["env"] if v["name"] == "A"]
    assert expanded(value, {"A": "replaced"}) == text


@pytest.mark.parametrize(
    "text", ["y", "No", "on", "1e5", "0x1f", "1_000", "12:30", "null", "~", "", "- a", "=", "<<"]
)
def test_words_that_yaml_would_take_for_something_else_are_quoted(text: str) -> None:
    assert to_yaml([{"a": text}]) == f'---\na: "{text}"\n'


def test_a_text_of_lines_stays_one_that_a_person_reads() -> None:
    assert to_yaml([{"a": "x: 1\ny: 2\n"}]) == "---\na: |\n  x: 1\n  y: 2\n"


# Names


@given(st.from_regex(r"[a-z0-9][a-z0-9_-]{0,62}", fullmatch=True))
def test_every_name_of_an_experiment_makes_one_that_kubernetes_takes(name: str) -> None:
    made = names.rayjob(name)
    assert names.RAYJOB_NAME.fullmatch(made)
    assert rules.problems({"metadata": {"name": made}, "spec": {}}) == rules.problems(
        {"metadata": {"name": "x"}, "spec": {}}
    )
    if re.fullmatch(r"[a-z]([-a-z0-9]{0,45}[a-z0-9])?", name):
        assert made == name


def test_names_that_differ_stay_apart() -> None:
    alike = ["my-exp", "my_exp", "my-exp-", "my--exp", "a" * 47, "a" * 48, "a" * 49, "1", "-1"]
    assert len({names.rayjob(name) for name in alike}) == len(alike)


# Sizes


@pytest.mark.parametrize(
    ("more", "settings", "params", "limits", "most"),
    [
        ("", {}, ("1", "0"), {"cpu": "1", "memory": "4Gi"}, 4),
        ("parallel: 12\nresources: {cpu: 2}\n", {}, ("2", "0"), {"cpu": "2", "memory": "4Gi"}, 12),
        ("parallel: 12\nresources: {cpu: 8}\n", {}, ("8", "0"), {"cpu": "8", "memory": "16Gi"}, 12),
        ("parallel: 8\nresources: {cpu: 0.5}\n", {}, ("1", "0"), {"cpu": "1", "memory": "4Gi"}, 4),
        ("parallel: 7\nresources: {cpu: 0.3}\n", {}, ("1", "0"), {"cpu": "1", "memory": "4Gi"}, 3),
        (
            "parallel: 8\nresources: {cpu: 1, gpu: 0.25}\n",
            {},
            ("4", "1"),
            {"cpu": "4", "memory": "8Gi", "nvidia.com/gpu": "1"},
            2,
        ),
        (
            "parallel: 8\nresources: {cpu: 2}\n",
            {"worker": {"trials": 3}},
            ("6", "0"),
            {"cpu": "6", "memory": "12Gi"},
            3,
        ),
        (
            "parallel: 8\nresources: {cpu: 2}\n",
            {"worker": {"cpus": 7.5, "memory": "30Gi"}},
            ("6", "0"),
            {"cpu": "7500m", "memory": "30Gi"},
            3,
        ),
        (
            "parallel: 8\nresources: {cpu: 0.5, gpu: 1}\n",
            {},
            ("1", "1"),
            {"cpu": "1", "memory": "4Gi", "nvidia.com/gpu": "1"},
            8,
        ),
        ("trials: 3\n", {}, ("1", "0"), {"cpu": "1", "memory": "4Gi"}, 3),
        ("parallel: 12\n", {"max_workers": 5}, ("1", "0"), {"cpu": "1", "memory": "4Gi"}, 5),
        ("", {"max_workers": 9}, ("1", "0"), {"cpu": "1", "memory": "4Gi"}, 9),
    ],
)
def test_sizes_follow_from_what_trials_need(
    more: str, settings: dict[str, Any], params: tuple[str, str], limits: Any, most: int
) -> None:
    found = group(more, settings)
    told = found["rayStartParams"]
    assert (told["num-cpus"], told["num-gpus"]) == params
    resources = found["template"]["spec"]["containers"][0]["resources"]
    assert resources == {"requests": limits, "limits": limits}
    assert (found["minReplicas"], found["maxReplicas"]) == (0, most)


def test_the_memory_of_trials_is_theirs_beside_what_ray_takes() -> None:
    found = group("resources: {cpu: 1, memory: 2Gi}\n", {"worker": {"trials": 4}})
    told = found["rayStartParams"]
    whole = found["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"]
    own = 500 * 2**20
    assert int(told["memory"]) == 4 * 2 * 2**30
    rest = quantities.parse(whole) - int(told["memory"]) - int(told["object-store-memory"])
    assert own <= rest <= own + 2**20


def test_a_worker_takes_as_many_trials_as_its_memory_has_room_for() -> None:
    told = "resources: {cpu: 1, memory: 2Gi}\n"
    assert group(told, {"worker": {"memory": "8Gi"}})["rayStartParams"]["num-cpus"] == "3"


@pytest.mark.parametrize(
    ("more", "settings", "message"),
    [
        ("resources: {cpu: 4}\n", {"cpus": 2}, r"worker.cpus: 1 trial needs 4, not 2"),
        ("resources: {cpu: 4}\n", {"cpus": 6, "trials": 2}, r"worker.cpus: 2 trials need 8"),
        ("resources: {cpu: 1, gpu: 2}\n", {"gpus": 1}, r"worker.gpus: 1 trial needs 2, not 1"),
        ("resources: {memory: 4Gi}\n", {"memory": "4Gi"}, r"worker.memory: 1 trial needs \d+Mi"),
        ("resources: {cpu: 0.5}\n", {"trials": 1}, r"worker.trials: there is room for 2 trials"),
        ("", {"memory": "256Mi"}, r"worker.memory: 1 trial needs 580Mi with Ray's own, not 256Mi"),
    ],
)
def test_workers_on_which_no_trial_fits_are_refused(
    more: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError, match=rf"targets.kuberay.{message}"):
        group(more, {"worker": settings})


def test_the_driver_is_told_which_machines_may_come() -> None:
    more = "parallel: 12\nresources: {cpu: 2, gpu: 1, memory: 1Gi, custom: {license: 0.5}}\n"
    cluster = job(more)["rayClusterSpec"]
    env = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["env"]
    told = {v["name"]: v["value"] for v in env if "value" in v}
    found = inside.current({**told, inside.POD_ENV: "p", inside.CLUSTER_ENV: "x-1"})
    assert found is not None
    assert (found.rayjob, found.pod, found.cluster) == ("x", "p", "x-1")
    assert found.room.machines == 12
    assert found.room.machine == {"CPU": 2.0, "GPU": 1.0, "memory": 2.0**30, "license": 1.0}
    assert told["TUNE_MAX_PENDING_TRIALS_PG"] == "12"
    assert inside.current({}) is None
    assert told[END_WAIT_ENV] == "600"


# Demand and limits


def asked(more: str = "", settings: dict[str, Any] | None = None) -> Demand:
    return of_rayjob(rendered(more, settings)[1])


def test_the_head_is_counted_with_what_kuberay_adds_to_it() -> None:
    found = asked("parallel: 12\nresources: {cpu: 2}\n")
    (group_,) = found.groups
    assert found.head.requests == {"cpu": 2, "memory": (4096 + 512 + 200) * 2**20}
    assert group_.pod.requests == {"cpu": 2, "memory": 4 * 2**30}
    assert (found.submitter, found.least, found.most) == (None, {pods.GROUP: 0}, {pods.GROUP: 12})
    assert found.total(found.most)["cpu"] == 26
    assert found.total({}, "limits")["cpu"] == Decimal("2.5")


def test_the_submitter_of_k8s_job_mode_is_a_pod_of_its_own() -> None:
    found = asked(settings={"submission_mode": "K8sJobMode", "priority_class": "low"})
    assert found.submitter is not None
    assert found.total({})["cpu"] == found.head.requests["cpu"] + Decimal("0.5") == 2
    assert [count for _, count in found.pods({pods.GROUP: 3})] == [1, 1, 3]
    assert {pod.priority for pod in found.kinds.values()} == {"low"}


@pytest.mark.parametrize("mode", ["K8sJobMode", "HTTPMode"])
def test_a_head_can_ask_for_no_cpu_at_all(mode: str) -> None:
    found = asked(settings={"submission_mode": mode, "head": {"cpus": 0}})
    assert found.total({})["cpu"] == 0
    assert found.head.unset("limits.cpu") == ("ray-head", "autoscaler")
    for resource in ("requests.cpu", "cpu", "requests.memory", "limits.memory"):
        assert found.head.unset(resource) == ()


def test_what_runs_before_a_worker_counts_where_it_is_larger() -> None:
    patch = {"worker_container": {"resources": {"requests": {"cpu": "100m", "memory": "1Gi"}}}}
    found = asked(settings={"patches": patch})
    # KubeRay's own container that waits for the head asks for 200m.
    assert found.groups[0].pod.requests == {"cpu": Decimal("0.2"), "memory": 2**30}


def test_fixed_workers_are_all_wanted() -> None:
    found = asked("parallel: 3\n", {"autoscaling": False})
    assert found.least == found.most == {pods.GROUP: 3}
    assert found.head.requests["cpu"] == Decimal("1.5")


def quota(
    hard: dict[str, str], used: dict[str, str] | None = None, *, of: str = ""
) -> dict[str, Any]:
    """Return a quota, of all pods or of those of a priority class."""
    rule = {"scopeName": "PriorityClass", "operator": "In", "values": [of]}
    scope = {"scopeSelector": {"matchExpressions": [rule]}} if of else {}
    status = {"hard": hard, "used": used or {}}
    return {"metadata": {"name": "q"}, "spec": {"hard": hard, **scope}, "status": status}


@pytest.mark.parametrize(
    ("made", "verdict", "text"),
    [
        (quota({"requests.cpu": "26"}), "ok", "has room for the head and 12 workers"),
        (quota({"requests.cpu": "28"}, {"cpu": "9"}), "ok", "has room for the head"),
        (
            quota({"requests.cpu": "18"}, {"requests.cpu": "4"}),
            "warn",
            "allows 18 CPUs, 4 are in use; head 2 [+] 12 workers of 2 ask for 26: 6 workers too m",
        ),
        (quota({"cpu": "3"}), "fail", "not even one worker fits"),
        (quota({"limits.memory": "4Gi"}), "fail", "; head 5.5Gi asks for 5.5Gi: it cannot start"),
        (quota({"pods": "8"}), "warn", "head 1 [+] 12 workers of 1 ask for 13: 5 workers too many"),
        (quota({"count/rayjobs.ray.io": "2"}, {"count/rayjobs.ray.io": "2"}), "fail", "needs 1"),
        (quota({"pods": "12"}, of="trials"), "ok", "has room for 12 workers"),
        (quota({"pods": "1", "cpu": "2"}, of="heads"), "ok", "has room for the head$"),
    ],
)
def test_a_run_is_held_against_the_quotas_of_its_namespace(
    made: dict[str, Any], verdict: str, text: str
) -> None:
    classes = {"head": {"priority_class": "heads"}, "worker": {"priority_class": "trials"}}
    fit = room.within_quota(asked("parallel: 12\nresources: {cpu: 2}\n", classes), made)
    assert fit is not None
    assert fit.verdict == verdict
    assert re.search(text, fit.text)


def test_a_quota_of_another_class_does_not_concern_a_run() -> None:
    assert room.within_quota(asked(), quota({"pods": "0"}, of="others")) is None


def test_a_quota_of_cpu_limits_wants_them_of_the_head_too() -> None:
    found = asked(settings={"head": {"cpus": 0}, "submission_mode": "K8sJobMode"})
    fit = room.within_quota(found, quota({"limits.cpu": "100", "limits.ephemeral-storage": "1"}))
    assert fit is not None
    assert fit.verdict == "fail"
    for part in ("ray-head of the head", "autoscaler of the head", "ray-job-submitter of the sub"):
        assert f"limits.cpu of container {part}" in fit.text
    assert "ephemeral-storage" not in fit.text


@pytest.mark.parametrize(
    ("limit", "most"),
    [
        ({"cpus": 18}, 8),
        ({"cpus": 18.5}, 8),
        ({"cpus": 100}, 12),
        ({"memory": "32Gi"}, 6),
        ({"cpus": 18, "memory": "20Gi"}, 3),
    ],
)
def test_a_run_keeps_to_its_own_limit(limit: dict[str, Any], most: int) -> None:
    more = "parallel: 12\nresources: {cpu: 2}\n"
    found = asked(more, {"limit": limit, "min_workers": 5})
    assert (found.least, found.most) == ({pods.GROUP: min(5, most)}, {pods.GROUP: most})
    assert found.total(found.most)["cpu"] <= limit.get("cpus", 100)


def test_a_limit_without_room_for_a_worker_is_refused() -> None:
    with pytest.raises(SpecError, match=r"limit: leaves no room.*ask for 4 CPUs, 8.7Gi of memory"):
        asked("resources: {cpu: 2}\n", {"limit": {"cpus": 3}})


def test_gpus_count_towards_the_limit() -> None:
    more = "parallel: 12\nresources: {cpu: 1, gpu: 1}\n"
    assert asked(more, {"limit": {"gpus": 4}}).most == {pods.GROUP: 4}


# What has to be said, files, secrets


def test_image_and_storage_have_to_be_said_and_all_is_said_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        manifest.render(experiment(), KubeRayTarget(), PLACE)
    told = [problem.path for problem in caught.value.problems]
    assert told == ["targets.kuberay.image", "targets.kuberay.pvc"]


@pytest.mark.parametrize(
    ("storage", "pvc", "where"),
    [
        (None, "/data", "/data"),
        ("results", "/data", "/data"),
        ("/scratch/me", "/data", "/data"),
        ("/data/team", "/data", "/data/team"),
        ("/database", "/data", "/data"),
        ("s3://bucket/x", "/data", "s3://bucket/x"),
        ("gs://bucket/x", None, "gs://bucket/x"),
        ("results", None, None),
    ],
)
def test_where_runs_go(storage: str | None, pvc: str | None, where: str | None) -> None:
    made = experiment().model_copy(update={"storage": storage})
    volume = {} if pvc is None else {"pvc": {"claim": "c", "path": pvc}}
    target = KubeRayTarget.model_validate({"image": "i", **volume})
    assert manifest.storage_of(made, target) == where


def test_code_goes_along_and_is_found_beside_the_experiment(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "train.py").write_text("x")
    (tmp_path / "lib" / "data.bin").write_bytes(b"\xff")
    target = KubeRayTarget.model_validate({**LEAST, "code": ["train.py", "lib/data.bin"]})
    place = replace(PLACE, code=files.read(tmp_path, target))
    config_map, made = manifest.render(experiment(), target, place)
    assert config_map["data"]["train.py"] == "x"
    assert config_map["binaryData"] == {"lib__data.bin": "/w=="}
    for of in ("headGroupSpec", "workerGroupSpecs"):
        part = made["spec"]["rayClusterSpec"][of]
        pod = (part[0] if isinstance(part, list) else part)["template"]["spec"]
        items = {one["key"]: one["path"] for one in pod["volumes"][0]["configMap"]["items"]}
        assert items["lib__data.bin"] == "lib/data.bin"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.py", r"code\[0\]: .*absent.py: no such file"),
        ("outside.py", r"leads out of the experiment's folder"),
    ],
)
def test_code_that_cannot_go_along_is_refused(name: str, message: str, tmp_path: Path) -> None:
    folder = tmp_path / "experiment"
    folder.mkdir()
    (tmp_path / "secret.py").write_text("x")
    (folder / "outside.py").symlink_to(tmp_path / "secret.py")
    target = KubeRayTarget.model_validate({**LEAST, "code": [name]})
    with pytest.raises(SpecError, match=message):
        files.read(folder, target)


@pytest.mark.parametrize("content", [b"a" * 930_000, b"\xff" * 700_000], ids=["text", "bytes"])
def test_code_that_is_too_large_is_refused(content: bytes) -> None:
    place = replace(PLACE, code={"a.bin": content})
    with pytest.raises(SpecError, match=r"9\d\d KiB, and 900 KiB is the most; put it into"):
        rendered(place=place)


@pytest.mark.parametrize("paths", [("a/b", "a__b"), ("experiment.yaml",)])
def test_files_that_would_have_one_name_are_refused(paths: Sequence[str]) -> None:
    place = replace(PLACE, code=dict.fromkeys(paths, b"x"))
    with pytest.raises(SpecError, match="two of the files would have one name"):
        rendered(place=place)


def test_files_in_a_folder_of_the_image_leave_the_others_there() -> None:
    mounts = container("worker", {"folder": "/app"})["volumeMounts"]
    assert [one["mountPath"] for one in mounts] == ["/app/experiment.yaml", "/mnt/raytune-hpo"]
    assert mounts[0]["subPath"] == "experiment.yaml"


def test_a_secret_in_the_text_or_in_an_override_is_refused() -> None:
    more = "env: {API_KEY: s3cr3t}\n"
    given_ = {"env_from_secret": {"API_KEY": {"secret": "s", "key": "k"}}}
    hidden = Place(spec.redacted(FILE.format(name="x") + more), "2.60.0")
    assert "s3cr3t" not in to_yaml(rendered(more, given_, hidden))
    for place in (
        replace(hidden, source=FILE.format(name="x") + more),
        replace(hidden, overrides=("env.API_KEY=s3cr3t",)),
    ):
        with pytest.raises(SpecError, match=r"env.API_KEY: its value must not stand") as caught:
            rendered(more, given_, place)
        assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize("more", ["env: {A: {from_env: TOKEN}}\n", "env: {TOKEN: '***'}\n"])
def test_a_secret_that_pods_would_not_have_is_asked_for(more: str) -> None:
    with pytest.raises(SpecError, match=r"env_from_secret: \{TOKEN: \{secret: NAME, key: KEY\}\}"):
        rendered(more)
    one = {"env_from_secret": {"TOKEN": {"secret": "s", "key": "k"}}}
    assert rendered(more, one)
    assert rendered(more, {"env_from": [{"secret": "s"}]})


def test_resources_whose_names_a_shell_would_read_are_refused() -> None:
    with pytest.raises(SpecError, match=r"resources.custom.a'b: must be of letters, digits"):
        rendered('resources: {custom: {"a\'b": 1}}\n')


def test_the_users_variables_come_once_and_win() -> None:
    env = container("head", {"env": {"RAY_USAGE_STATS_ENABLED": "1"}})["env"]
    told = [one.get("value") for one in env if one["name"] == "RAY_USAGE_STATS_ENABLED"]
    assert told == ["1"]


# Details


def test_the_head_stays_where_it_is_and_off_machines_that_are_taken_away() -> None:
    head = job()["rayClusterSpec"]["headGroupSpec"]["template"]
    assert head["metadata"]["annotations"]["karpenter.sh/do-not-disrupt"] == "true"
    assert "affinity" in head["spec"]
    spot = job("", {"head": {"spot": True}})["rayClusterSpec"]["headGroupSpec"]["template"]
    assert "affinity" not in spot["spec"]
    assert "annotations" not in group()["template"]["metadata"]


def test_a_queue_of_kueue_is_named_and_told_of_autoscaling() -> None:
    elastic = rendered(settings={"queue": "tuning"})[1]["metadata"]
    assert elastic["labels"]["kueue.x-k8s.io/queue-name"] == "tuning"
    assert elastic["annotations"]["kueue.x-k8s.io/elastic-job"] == "true"
    fixed = rendered(settings={"queue": "tuning", "autoscaling": False})[1]["metadata"]
    assert "kueue.x-k8s.io/elastic-job" not in fixed["annotations"]
    assert "kueue.x-k8s.io/queue-name" not in rendered()[0]["metadata"]["labels"]


def test_deadlines_leave_time_to_start_and_to_end() -> None:
    assert "activeDeadlineSeconds" not in job()
    assert job("time_limit: 1h\n")["activeDeadlineSeconds"] == 1800 + 3600 + 600
    told = job("time_limit: 1h\n", {"deadline": "30m", "pending_limit": "5m"})
    assert (told["activeDeadlineSeconds"], told["preRunningDeadlineSeconds"]) == (1800, 300)


def test_without_the_token_nothing_is_said_of_it() -> None:
    assert job()["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert "authOptions" not in job("", {"token_auth": False})["rayClusterSpec"]


def test_the_objects_bear_the_experiments_name_also_where_theirs_had_to_change() -> None:
    target = KubeRayTarget.model_validate(LEAST)
    for made in manifest.render(experiment(name="my_run-"), target, PLACE):
        assert made["metadata"]["name"] == names.rayjob("my_run-")
        assert made["metadata"]["labels"]["raytune-hpo/experiment"] == "my_run"
        assert made["metadata"]["annotations"]["raytune-hpo/experiment"] == "my_run-"
