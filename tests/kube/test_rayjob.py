"""The proof of the tests' own cluster: the KubeRay operator runs real Ray jobs on it."""

from __future__ import annotations

import pytest

from tests.kube import objects
from tests.kube.api import Json
from tests.kube.cluster import Cluster

PATIENCE_S = 300.0
SHOW = 'python -c "import ray; ray.init(); print(ray.cluster_resources())"'
SCALE = """python -c "
import ray
ray.init()
task = ray.remote(num_cpus=1)(eval('lambda: 42'))
print('answer', ray.get(task.remote()))
"
"""

pytestmark = pytest.mark.ray


def run(kube: Cluster, space: str, job: Json) -> str:
    """Run a RayJob to its success, and return what its entrypoint wrote."""
    kube.api.create(job, space)
    name = job["metadata"]["name"]

    def ended(thing: Json) -> bool:
        return thing.get("status", {}).get("jobStatus") in ("SUCCEEDED", "FAILED")

    done = kube.wait("rayjobs", name, space, ended, PATIENCE_S)
    heads = kube.api.list("pods", space, labels="ray.io/node-type=head")
    log = kube.api.log(heads[0]["metadata"]["name"], space, "ray-job-submitter")
    assert done["status"]["jobStatus"] == "SUCCEEDED", log
    return log


def test_a_rayjob_runs_on_a_head_and_a_worker(kube: Cluster, space: str) -> None:
    log = run(kube, space, objects.rayjob("plain", SHOW, workers=1))

    assert "'CPU': 1.0" in log
    assert log.count("'node:10.") >= 2 or log.count("'node:") >= 2


def test_the_autoscaler_brings_a_worker_when_a_task_waits(kube: Cluster, space: str) -> None:
    log = run(kube, space, objects.rayjob("elastic", SCALE, workers=0, autoscale_to=1))

    assert "answer 42" in log
    workers = kube.api.list("pods", space, labels="ray.io/node-type=worker")
    assert len(workers) == 1
