"""An experiment on Kubernetes with KubeRay, whose head pod is deleted in the middle.

Run with: ./scripts/demo-kuberay
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts import progress  # noqa: E402
from tests.kube import objects  # noqa: E402
from tests.kube.cluster import KubeLab, claim, missing  # noqa: E402
from tests.slurm.machine import wait_until  # noqa: E402

TRIALS = 120
BEGUN_BEFORE = 40
"""The head is deleted when so many trials have begun."""
SPACE = "tuning"
NAME = "digits"
SETTINGS = (
    f"namespace={SPACE}",
    f"image={objects.IMAGE}",
    "pvc={claim: runs}",
    "code=[train.py]",
    "head={cpus: 0.5, memory: 1Gi}",
    "worker={memory: 2Gi}",
    "max_workers=2",
    "idle=20s",
    "ttl=10m",
    "env={MLFLOW_TRACKING_URI: http://mlflow:5000}",
)


def main() -> None:
    """Run the demonstration; the exit code is 1 when a promise was not kept."""
    reason = missing()
    if reason is not None:
        sys.exit(f"there can be no Kubernetes here: {reason}")
    began_s = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began_s:5.0f} s] {text}", flush=True)

    say("starting Kubernetes, which is built the first time")
    with KubeLab(3, claim()) as lab, tempfile.TemporaryDirectory() as temp:
        say("a control plane, the KubeRay operator and the nodes " + ", ".join(lab.nodes))
        lab.namespace(SPACE)
        for made in (objects.claim("runs"), objects.claim("mlflow"), *mlflow_server()):
            lab.api.create(made, SPACE)
        lab.wait("deployments", "mlflow", SPACE, is_available, 120)
        say("an MLflow server runs in the cluster")
        demo = Demo(lab, Path(temp) / "digits")
        print(demo.call("run", "experiment.yaml", "--on", "kuberay", "--detach", *wanted()))
        demo.wait(lambda: progress.begun(demo.run_dir) >= BEGUN_BEFORE)
        head, workers = demo.pods("head"), demo.pods("worker")
        lab.api.delete("pods", head[0], SPACE, grace_s=0)
        begun, finished = progress.begun(demo.run_dir), len(progress.finished(demo.run_dir))
        say(
            f"deleted the head pod {head[0]}, which has {len(workers)} workers, when "
            f"{begun} trials had begun and {finished} had finished"
        )
        demo.wait(lambda: demo.status().get("failed") == 1)
        say("KubeRay noticed, and tries again: " + demo.call("status", NAME).splitlines()[0])
        demo.wait(lambda: demo.status().get("jobDeploymentStatus") in ("Complete", "Failed"))
        say(f"the RayJob is {demo.status()['jobDeploymentStatus']}")
        demo.show()


def wanted() -> list[str]:
    """Return the arguments that fit the example to this cluster."""
    chosen = [f"targets.kuberay.{setting}" for setting in SETTINGS]
    return ["--trials", str(TRIALS), *(word for one in chosen for word in ("--set", one))]


def mlflow_server() -> list[dict[str, Any]]:
    """Return the objects of an MLflow server."""
    options = "--host 0.0.0.0 --port 5000 --workers 1 --allowed-hosts '*' --serve-artifacts"
    where = "--backend-store-uri sqlite:////data/mlflow.db --artifacts-destination /data/artifacts"
    server = objects.pod(
        "mlflow",
        f"exec python -m mlflow server {options} {where}",
        policy="Always",
        volumes=[{"name": "data", "persistentVolumeClaim": {"claimName": "mlflow"}}],
        mounts=[{"name": "data", "mountPath": "/data"}],
        readinessProbe={"httpGet": {"path": "/health", "port": 5000}, "periodSeconds": 2},
    )
    labels = {"app": "mlflow"}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "mlflow"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": server["spec"]},
        },
    }
    return [deployment, objects.service("mlflow", labels, 5000, 5000)]


def is_available(deployment: dict[str, Any]) -> bool:
    """Return whether a deployment's pod is ready."""
    return bool(deployment.get("status", {}).get("availableReplicas"))


class Demo:
    """The experiment in the cluster.

    Args:
        lab: The cluster.
        folder: Where a copy of the example is made.
    """

    def __init__(self, lab: KubeLab, folder: Path) -> None:
        self.lab, self.folder = lab, folder
        shutil.copytree(ROOT / "examples" / "digits", folder)

    def call(self, *words: str) -> str:
        """Run raytune-hpo on this host and return what it prints."""
        done = subprocess.run(
            [sys.executable, "-m", "raytune_hpo", *words],
            cwd=self.folder,
            env={**os.environ, "KUBECONFIG": str(self.lab.config)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(done.stdout)
        return done.stdout.strip()

    @property
    def run_dir(self) -> Path:
        """Folder of the run on its volume."""
        volume = self.lab.api.get("persistentvolumeclaims", "runs", SPACE)["spec"].get("volumeName")
        return self.lab.layout.volumes / str(volume) / NAME

    def status(self) -> dict[str, Any]:
        """Return the status of the RayJob."""
        found: dict[str, Any] = self.lab.api.get("rayjobs", NAME, SPACE).get("status", {})
        return found

    def pods(self, kind: str) -> list[str]:
        """Return the names of the head or the workers."""
        found = self.lab.api.list("pods", SPACE, labels=f"ray.io/node-type={kind}")
        return [one["metadata"]["name"] for one in found]

    def wait(self, there: Any) -> None:
        """Wait until something is so, ten minutes at most."""
        try:
            wait_until(there, "the run makes no progress", 600)
        except TimeoutError as error:
            sys.exit(f"{error}\n{self.call('status', NAME)}")

    def show(self) -> None:
        """Show what became of the trials, and check it."""
        records = progress.records(self.run_dir)
        counts = Counter(progress.finished(self.run_dir).values())
        hosts = {record["node"] for record in records if record["type"] == "begin"}
        sessions = sum(record["type"] == "session" for record in records)
        print(f"\nsessions       {sessions}; workers: {len(hosts)}")
        print(f"trials         {counts[1]} finished once, {counts.total() - counts[1]} more often")
        (server,) = self.lab.api.list("pods", SPACE, labels="app=mlflow")
        done = subprocess.run(
            [sys.executable, str(ROOT / "scripts" / "show_mlflow.py"), str(self.run_dir)],
            env={**os.environ, "MLFLOW_TRACKING_URI": f"http://{server['status']['podIP']}:5000"},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        print(done.stdout, end="")
        if f"{TRIALS} FINISHED" not in done.stdout:
            sys.exit("MLflow does not have each trial finished once")
        if counts != {1: TRIALS} or sessions < 2:
            sys.exit("that is not what was promised")


if __name__ == "__main__":
    main()
