"""Experiments on the tests' Kubernetes: submit, wait for progress, check what is promised."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raytune_hpo import journal
from raytune_hpo.errors import RunError
from raytune_hpo.storage import reading
from raytune_hpo.trial import TrialState
from tests.kube import objects
from tests.kube.api import Json
from tests.kube.cluster import KubeLab
from tests.slurm.machine import wait_until

EPOCHS = 8
MOUNT = "/mnt/raytune-hpo"
EXPERIMENT = """
name: fit
run: trial:train
objective: {{metric: loss}}
parameters:
  x: {{min: 0.0, max: 1.0}}
trials: {trials}
parallel: {parallel}
resources: {{cpu: 1}}
search: {{algorithm: random, seed: 1}}
mlflow: false
{storage}
targets:
  kuberay:
    namespace: {space}
    image: {image}
    code: [trial.py]
    head: {{cpus: 0.5, memory: 1Gi}}
    worker: {{memory: 1Gi}}
    idle: {idle}
    grace: 5s
    ttl: 60s
{more}"""
TRIAL = f"""
import os
import tempfile
import time
from pathlib import Path
import raytune_hpo as rh

KEPT = Path("{MOUNT}")
if not KEPT.exists():
    KEPT = Path(tempfile.mkdtemp())

def train(config):
    before = rh.get_checkpoint()
    first = 1 + (int((before / "epoch").read_text()) if before else 0)
    for epoch in range(first, {EPOCHS} + 1):
        time.sleep(0.4)
        with open(KEPT / "epochs.txt", "a") as file:
            file.write(f"{{rh.trial_number()}} {{epoch}} {{os.uname().nodename}}\\n")
        own = KEPT / f"epoch-{{rh.trial_number()}}" / "epoch"
        own.parent.mkdir(exist_ok=True)
        own.write_text(str(epoch))
        rh.report(loss=config["x"] + 1 / epoch, epoch=epoch, checkpoint=own.parent)
"""


class Run:
    """One experiment in a namespace of its own.

    Args:
        lab: Where it runs.
        space: Its namespace.
        folder: On this host, of the experiment file.
        trials: How many.
        parallel: How many at once.
        idle: How long a worker without a trial stays.
        more: Further settings of ``targets.kuberay``, as YAML.
        storage: URL of an object store for runs; None: a volume.
        trial: Text of the trial's module.
        user: Who submits it.
    """

    def __init__(
        self,
        lab: KubeLab,
        space: str,
        folder: Path,
        *,
        trials: int = 12,
        parallel: int = 2,
        idle: str = "5s",
        more: str = "",
        storage: str | None = None,
        trial: str = TRIAL,
        user: str = "admin",
    ) -> None:
        self.lab, self.space, self.folder, self.trials = lab, space, folder, trials
        self.url = None if storage is None else f"{storage}/fit"
        self._config = lab.kubeconfig_of(user)
        folder.mkdir(exist_ok=True)
        if storage is None:
            more += f"\npvc: {{claim: runs, path: {MOUNT}}}"
        lines = "".join(f"    {line}\n" for line in more.splitlines())
        text = EXPERIMENT.format(
            trials=trials,
            parallel=parallel,
            idle=idle,
            space=space,
            image=objects.IMAGE,
            storage="" if storage is None else f"storage: {storage}",
            more=lines,
        )
        (folder / "experiment.yaml").write_text(text)
        (folder / "trial.py").write_text(trial)
        if storage is None and lab.api.find("persistentvolumeclaims", "runs", space) is None:
            lab.api.create(objects.claim("runs"), space)

    def call(self, *words: str, check: bool = True) -> str:
        """Run raytune-hpo on this host and return what it prints."""
        done = subprocess.run(
            [sys.executable, "-m", "raytune_hpo", *words],
            cwd=self.folder,
            env={**os.environ, "KUBECONFIG": str(self._config)},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        said = done.stdout + done.stderr
        assert done.returncode == 0 or not check, said
        return said

    def submit(self, *words: str) -> str:
        """Submit it by the command line and return what that prints."""
        return self.call("run", "experiment.yaml", "--on", "kuberay", "--detach", *words)

    @property
    def kept(self) -> Path:
        """The volume with the runs, as a folder of this host."""
        claim = self.lab.api.find("persistentvolumeclaims", "runs", self.space)
        assert claim is not None
        return self.lab.layout.volumes / str(claim["spec"]["volumeName"])

    @property
    def run_dir(self) -> Path:
        """Folder of the run on its volume."""
        return self.kept / "fit"

    def job(self) -> Json:
        """Return the RayJob as it is now."""
        found = self.lab.api.find("rayjobs", "fit", self.space)
        assert found is not None, "there is no RayJob"
        return found

    def pods(self, kind: str) -> list[str]:
        """Return the names of the heads or workers that have a node and are not ending."""
        found = self.lab.api.list("pods", self.space, labels=f"ray.io/node-type={kind}")
        there = [one for one in found if "deletionTimestamp" not in one["metadata"]]
        return [one["metadata"]["name"] for one in there if one["spec"].get("nodeName")]

    def node_of(self, pod: str) -> str:
        """Return the node that a pod runs on."""
        return str(self.lab.api.get("pods", pod, self.space)["spec"]["nodeName"])

    def records(self) -> list[dict[str, Any]]:
        """Return the journal as it is now."""
        if self.url is not None:
            try:
                return journal.read(reading.pull(self.url))
            except RunError:
                return []
        claim = self.lab.api.find("persistentvolumeclaims", "runs", self.space)
        if claim is None or not claim["spec"].get("volumeName"):
            return []
        return journal.read(self.run_dir) if journal.exists(self.run_dir) else []

    def count(self, type: str) -> int:
        """Return how many records of a type the journal has."""
        return [record["type"] for record in self.records()].count(type)

    def wait_for(self, type: str, count: int, timeout_s: float = 400.0) -> None:
        """Wait until the journal has so many records of a type."""
        self._wait(lambda: self.count(type) >= count, f"no {count} records: {type}", timeout_s)

    def wait_for_workers(self, count: int, timeout_s: float = 400.0) -> None:
        """Wait until so many workers are ready."""

        def there() -> bool:
            name = self.job().get("status", {}).get("rayClusterName")
            found = self.lab.api.find("rayclusters", name, self.space) if name else None
            status = found.get("status", {}) if found is not None else {}
            return bool(status.get("readyWorkerReplicas", 0) >= count)

        self._wait(there, f"there are no {count} workers", timeout_s)

    def wait_for_end(self, status: str = "SUCCEEDED", timeout_s: float = 400.0) -> Json:
        """Wait until the job has ended and return its status."""

        def over() -> bool:
            return self.job().get("status", {}).get("jobDeploymentStatus") in (
                "Complete",
                "Failed",
                "ValidationFailed",
            )

        self._wait(over, "the RayJob does not end", timeout_s)
        found: Json = self.job()["status"]
        assert found.get("jobStatus") == status, self.about()
        return found

    def _wait(self, holds: Callable[[], bool], what: str, timeout_s: float) -> None:
        try:
            wait_until(holds, what, timeout_s)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.about()}") from None

    def about(self) -> str:
        """Return what helps to see why it does not get on."""
        said = [
            self.call("status", "fit", check=False),
            self.call("logs", "fit", "--job", check=False),
        ]
        pods = self.lab.api.list("pods", self.space)
        said += [f"{one['metadata']['name']}: {one['status'].get('phase')}" for one in pods]
        return "\n".join(said)[-6000:]

    def epochs(self) -> list[tuple[int, int, str]]:
        """Return trial, epoch and host of every epoch that was computed, in that order."""
        lines = (self.kept / "epochs.txt").read_text().splitlines()
        return [(int(t), int(e), host) for t, e, host in (line.split() for line in lines)]

    def check_each_trial_finished_once(self) -> None:
        """Check the promise on the journal's records, without the project's own fold."""
        finished: Counter[int] = Counter()
        for record in self.records():
            if record["type"] in ("start", "report"):
                assert not finished[record["trial"]], f"trial {record['trial']} went on"
            if record["type"] == "end" and TrialState(record["state"]).finished:
                finished[record["trial"]] += 1
        assert finished == Counter(range(self.trials))

    def check_all_gone(self, timeout_s: float = 240.0) -> None:
        """Check that no pod of the run is left, now or soon."""
        deadline = time.monotonic() + timeout_s
        while left := self.lab.api.list("pods", self.space):
            assert time.monotonic() < deadline, [one["metadata"]["name"] for one in left]
            time.sleep(0.5)
