"""An experiment on a Slurm of three nodes, through a time limit and a killed node.

Run with: ./scripts/demo-slurm
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts import progress  # noqa: E402
from tests.slurm.lab import Lab, claim, missing  # noqa: E402
from tests.slurm.machine import wait_until  # noqa: E402

TRIALS = 250
SETTINGS = ("nodes=3", "cpus=2", "memory=2Gi", "time=3m", "margin=40s")


def main() -> None:
    """Run the demonstration; the exit code is 1 when a promise was not kept."""
    reason = missing()
    if reason is not None:
        sys.exit(f"there can be no Slurm here: {reason}")
    began_s = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began_s:5.0f} s] {text}", flush=True)

    with Lab(3, claim()) as lab:
        say("a Slurm with the nodes " + ", ".join(lab.nodes) + " is up")
        folder = lab.shared / "digits"
        shutil.copytree(ROOT / "examples" / "digits", folder)
        job = submit(lab, folder)
        say(f"submitted as job {job}: {TRIALS} trials, three minutes of time, which is too little")
        run_dir = folder / "raytune-results" / "digits"
        lab.wait_for_restart(job, timeout_s=300)
        before = progress.begun(run_dir)
        say(f"the time was over when {before} trials had begun; the job was requeued and runs")
        further = min(before + 30, TRIALS)
        wait_until(lambda: progress.begun(run_dir) >= further, "it makes no progress", 300)
        head = lab.show(job)["BatchHost"]
        node = next(name for name in lab.nodes if name != head)
        lab.kill_node(node)
        say(f"switched off node {node} when {progress.begun(run_dir)} trials had begun")
        wait_for_end(lab, job)
        say(f"job {job} is {lab.state(job)}")
        show(lab, job, run_dir)


def submit(lab: Lab, folder: Path) -> str:
    """Submit the example on the login node and return the job."""
    words = [sys.executable, "-m", "raytune_hpo", "run", "experiment.yaml", "--on", "slurm"]
    words += ["--trials", str(TRIALS), "--set", "resources.cpu=0.5"]
    words += [word for setting in SETTINGS for word in ("--set", f"targets.slurm.{setting}")]
    said = lab.run_on("login", *words, folder=folder).stdout
    return said.partition("job ")[2].split()[0]


def wait_for_end(lab: Lab, job: str) -> None:
    """Wait until a job is over; its time may be over more than once."""
    deadline_s = time.monotonic() + 900
    while time.monotonic() < deadline_s:
        about = lab.show(job)
        if about["JobState"] == "PENDING":
            # It asks for three nodes again.
            for name in lab.nodes:
                if "down" in lab.node_state(name):
                    lab.revive_node(name)
            lab.wait_for_restart(job, int(about["Restarts"]), timeout_s=120)
        elif about["JobState"] not in ("RUNNING", "COMPLETING"):
            return
        time.sleep(1)
    sys.exit(f"job {job} does not end: {lab.show(job)}")


def show(lab: Lab, job: str, run_dir: Path) -> None:
    """Show what became of the trials, and check it."""
    records = progress.records(run_dir)
    nodes = Counter(r["node"] for r in records if r["type"] == "begin")
    sessions = sum(r["type"] == "session" for r in records)
    counts = Counter(progress.finished(run_dir).values())
    print(f"\nsessions       {sessions}, the job was restarted {lab.show(job)['Restarts']} times")
    print(
        f"attempts       {', '.join(f'{count} on {node}' for node, count in sorted(nodes.items()))}"
    )
    print(
        f"trials         {counts[1]} finished once, {sum(counts.values()) - counts[1]} more often"
    )
    # What the job had no time to send is brought from the login node.
    words = [sys.executable, "-m", "raytune_hpo", "mlflow", "sync", str(run_dir)]
    print(lab.run_on("login", *words, folder=run_dir.parents[1]).stdout, end="")
    shown = [sys.executable, str(ROOT / "scripts" / "show_mlflow.py"), str(run_dir)]
    done = subprocess.run(shown, cwd=run_dir.parents[1], check=True, stdout=subprocess.PIPE)
    text = done.stdout.decode()
    print(text, end="")
    if f"{TRIALS} FINISHED" not in text:
        sys.exit("MLflow does not have each trial finished once")
    if counts != {1: TRIALS} or len(nodes) < 2 or sessions < 2:
        sys.exit("that is not what was promised")


if __name__ == "__main__":
    main()
