"""The whole text of what KubeRay is sent, and of tenants' namespaces.

``UPDATE_GOLDEN=1 pytest tests/golden/test_kuberay_manifest.py`` writes the texts anew; read the
difference.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from raytune_hpo import spec
from raytune_hpo.cluster.kuberay import manifest, rules, tenants, tenants_file
from raytune_hpo.cluster.kuberay.manifest import Place, to_yaml
from raytune_hpo.kuberay_parts import KubeRayHead, KubeRayLimit, KubeRayPvc, KubeRayWorker
from raytune_hpo.kuberay_target import KubeRayTarget

FOLDER = Path(__file__).parent / "kuberay"
EXAMPLES = Path(__file__).parents[2] / "examples"
FILE = """\
name: digits
run: python train.py --lr ${lr}
objective: {metric: loss}
parameters:
  lr: {min: 1e-4, max: 0.3, log: true}
"""
IMAGE = "registry.example.com/team/tuning:1.4"
LEAST = {"image": IMAGE, "pvc": {"claim": "runs"}}
ALL = {
    "namespace": "team-a",
    "image": IMAGE,
    "pull_policy": "Always",
    "image_pull_secrets": ["registry", "mirror"],
    "ray_version": "2.61.0",
    "service_account": "tuning",
    "head": {
        "cpus": 1.5,
        "memory": "6Gi",
        "spot": False,
        "node_selector": {"pool": "system"},
        "tolerations": [{"key": "system", "operator": "Exists"}],
        "priority_class": "heads",
    },
    "worker": {
        "trials": 4,
        "cpus": 4,
        "memory": "24Gi",
        "gpus": 2,
        "gpu_resource": "amd.com/gpu",
        "node_selector": {"pool": "gpu"},
        "tolerations": [
            {"key": "gpu", "value": "yes", "effect": "NoExecute", "seconds": 300},
        ],
        "priority_class": "trials",
    },
    "min_workers": 1,
    "max_workers": 8,
    "limit": {"cpus": 24, "memory": "200Gi", "gpus": 8},
    "autoscaling": True,
    "idle": "2m",
    "node_selector": {"zone": "b"},
    "tolerations": [{"operator": "Exists", "effect": "NoSchedule"}],
    "priority_class": "usual",
    "pvc": {"claim": "runs", "path": "/data/runs", "below": "team-a/tuning"},
    "env": {"OMP_NUM_THREADS": "1", "GREETING": 'it\'s $(HOME), "$5"\nand `more`'},
    "env_from_secret": {"HF_TOKEN": {"secret": "hub", "key": "token"}},
    "env_from": [{"secret": "object-store"}, {"config_map": "sites", "prefix": "SITE_"}],
    "runtime_env": {"pip": ["lightgbm==4.6"], "env_vars": {"MODE": "fast"}},
    "code": ["train.py", "lib/data.bin"],
    "folder": "/app",
    "queue": "default",
    "deadline": "1d",
    "pending_limit": "15m",
    "ttl": "1h",
    "grace": "90s",
    "retries": 5,
    "submission_mode": "K8sJobMode",
    "token_auth": True,
    "labels": {"team": "a", "example.com/cost-center": "42"},
    "annotations": {"sidecar.istio.io/inject": "false"},
    "patches": {
        "rayjob": {"spec": {"preRunningDeadlineSeconds": None, "metadata": {"by": "a patch"}}},
        "config_map": {"immutable": True},
        "head": {"spec": {"hostNetwork": False}},
        "head_container": {"workingDir": "/app"},
        "worker": {"spec": {"schedulerName": "volcano"}},
        "worker_container": {"securityContext": {"privileged": False}},
    },
}
MANIFESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "least": ("", LEAST),
    "all-settings": ("resources: {cpu: 1, gpu: 0.5}\nparallel: 64\ntime_limit: 2h\n", ALL),
    "gpus-in-an-object-store": (
        "resources: {cpu: 4, gpu: 1, memory: 16Gi, custom: {license: 1}}\n"
        "parallel: 6\ntime_limit: 2h\n",
        {"image": IMAGE, "env_from": [{"secret": "object-store"}], "head": {"spot": True}},
    ),
    "fixed-over-http": (
        "parallel: 6\n",
        {**LEAST, "submission_mode": "HTTPMode", "autoscaling": False, "head": {"cpus": 0}},
    ),
}
IN_A_STORE = ("gpus-in-an-object-store",)
CODE = {"train.py": b"print('loss=1')\n", "lib/data.bin": b"\xff\x00\xfe"}


def objects(name: str) -> list[dict[str, Any]]:
    more, settings = MANIFESTS[name]
    experiment = spec.loads(FILE + more)
    if name in IN_A_STORE:
        experiment = experiment.model_copy(update={"storage": "s3://bucket/tuning"})
    target = KubeRayTarget.model_validate(settings)
    code = {path: CODE[path] for path in target.code}
    place = Place(FILE + more, "2.60.0", ("search.seed=3",) if more else (), code)
    return manifest.render(experiment, target, place)


def check(name: str, text: str) -> None:
    file = FOLDER / f"{name}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        FOLDER.mkdir(exist_ok=True)
        file.write_text(text, "utf-8")
    assert text == file.read_text("utf-8")


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_are_as_recorded(name: str) -> None:
    check(name, to_yaml(objects(name)))


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_text_says_what_the_objects_are(name: str) -> None:
    assert list(yaml.safe_load_all(to_yaml(objects(name)))) == objects(name)


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_operator_takes_them(name: str) -> None:
    assert rules.problems(objects(name)[1]) == []


def test_every_setting_is_in_the_manifest_with_all_settings() -> None:
    assert set(ALL) == set(KubeRayTarget.valid_keys())
    for key, section in (
        ("head", KubeRayHead),
        ("worker", KubeRayWorker),
        ("limit", KubeRayLimit),
        ("pvc", KubeRayPvc),
    ):
        assert set(ALL[key]) == set(section.valid_keys())  # type: ignore[call-overload]


@pytest.mark.parametrize("queued", [False, True], ids=["quotas", "queues"])
def test_tenants_are_as_recorded(queued: bool) -> None:
    text = (EXAMPLES / "tenants" / "tenants.yaml").read_text()
    made = tenants_file.loads(text + ("queues: {}\n" if queued else ""))
    objects = tenants.render(made)
    check("tenants-queues" if queued else "tenants", to_yaml(objects))
    assert list(yaml.safe_load_all(to_yaml(objects))) == objects
