"""A program: runs trials on a second machine of a private Ray, and kills that machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import raytune_hpo as rh
from raytune_hpo import journal
from raytune_hpo.cluster.local import LocalRay

RUN_DIR = Path("raytune-results/lost")
DOOMED = "THIS_MACHINE_WILL_BE_LOST"
EPOCHS = 10


def train(config: dict[str, Any]) -> None:
    for epoch in range(EPOCHS):
        time.sleep(0.3)
        rh.report(loss=config["x"] + 1 / (epoch + 1))
        if epoch == EPOCHS // 2 and DOOMED in os.environ:
            # Workers outlive their machine's daemon by seconds, and no trial is to end there.
            time.sleep(120)


def start_node(address: str, **env: str) -> subprocess.Popen[bytes]:
    ray = Path(sys.executable).with_name("ray")
    options = ["--num-cpus", "2", "--resources", '{"second": 2}', "--disable-usage-stats"]
    return subprocess.Popen(
        [str(ray), "start", "--address", address, "--block", *options],
        env={**os.environ, "RAY_AUTH_MODE": "token", **env},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def wait_for_node() -> None:
    import ray

    while not any("second" in node["Resources"] and node["Alive"] for node in ray.nodes()):
        time.sleep(0.2)


def lose(node: subprocess.Popen[bytes], address: str) -> None:
    """Kill the machine when some reports have come, and bring another one."""
    while not journal.exists(RUN_DIR) or reports() < 3:
        time.sleep(0.1)
    os.killpg(node.pid, signal.SIGKILL)
    start_node(address)


def reports() -> int:
    return sum(record["type"] == "report" for record in journal.read(RUN_DIR))


def main() -> None:
    connection = LocalRay()
    connection.connect(Path("driver.log"))
    import ray

    address = ray.get_runtime_context().gcs_address
    node = start_node(address, **{DOOMED: "1"})
    wait_for_node()
    threading.Thread(target=lose, args=(node, address), daemon=True).start()
    rh.run(
        train,
        {"x": rh.Float(0.0, 1.0)},
        "loss",
        name="lost",
        trials=2,
        parallel=2,
        mlflow=False,
        quiet=True,
        resources={"cpu": 0.5, "custom": {"second": 1}},
    )
    connection.close()


if __name__ == "__main__":
    main()
