"""The proof of the tests' own cluster: the KubeRay operator runs real Ray jobs on it."""

from __future__ import annotations

from tests.kube import objects
from tests.kube.api import Json
from tests.kube.client import Cluster

PATIENCE_S = 400.0
ENTRYPOINT = """python -c "
import ray
ray.init()
answer = ray.remote(num_cpus=1)(eval('lambda: 42'))
print('answer', ray.get(answer.remote()))
print(ray.cluster_resources())
"
"""
"""The job begins before workers are there, so it has a task that waits for one."""


def written(kube: Cluster, space: str, **query: str) -> str:
    """Return what the job's entrypoint wrote, by way of the container that submitted it."""
    head = kube.api.list("pods", space, labels="ray.io/node-type=head")[0]
    return kube.api.log(head["metadata"]["name"], space, "ray-job-submitter", **query)


def run(kube: Cluster, space: str, job: Json) -> str:
    """Run a RayJob to its success, and return what its entrypoint wrote."""
    kube.api.create(job, space)
    name = job["metadata"]["name"]

    def ended(thing: Json) -> bool:
        return thing.get("status", {}).get("jobStatus") in ("SUCCEEDED", "FAILED")

    try:
        done = kube.wait("rayjobs", name, space, ended, PATIENCE_S)
    except TimeoutError as error:
        raise TimeoutError(f"{error}\n{written(kube, space)}") from None
    # The job may have ended before all that it wrote is here.
    log = written(kube, space, follow="true")
    assert done["status"]["jobStatus"] == "SUCCEEDED", log
    return log


def test_a_rayjob_runs_on_a_head_and_a_worker(kube: Cluster, space: str) -> None:
    log = run(kube, space, objects.rayjob("plain", ENTRYPOINT, workers=1))

    assert "answer 42" in log
    assert "'CPU': 1.0" in log


def test_the_autoscaler_brings_a_worker_when_a_task_waits(kube: Cluster, space: str) -> None:
    log = run(kube, space, objects.rayjob("elastic", ENTRYPOINT, workers=0, autoscale_to=1))

    assert "answer 42" in log
    workers = kube.api.list("pods", space, labels="ray.io/node-type=worker")
    assert len(workers) == 1
