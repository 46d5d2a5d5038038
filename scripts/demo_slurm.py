"""An experiment on a Slurm of three nodes, through a time limit and a killed node.

Run with: ./scripts/demo-slurm
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from raytune_hpo import journal  # noqa: E402
from raytune_hpo.trial import TrialState  # noqa: E402
from tests.slurm.lab import Lab, claim, missing  # noqa: E402

TRIALS = 300
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
        say(f"the time was over after {finished(run_dir)} trials; the job was requeued and runs")
        target = finished(run_dir) + 30
        wait_until(lambda: finished(run_dir) >= target, 300)
        head = lab.show(job)["BatchHost"]
        node = next(name for name in lab.nodes if name != head)
        lab.kill_node(node)
        say(f"switched off node {node} after {finished(run_dir)} trials")
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
            if about["Reason"] == "Resources" and len(lab.nodes) > 1:
                # It asks for three nodes again.
                for name in lab.nodes:
                    if "down" in lab.node_state(name):
                        lab.revive_node(name)
            lab.wait_for_restart(job, int(about["Restarts"]), timeout_s=120)
        elif about["JobState"] not in ("RUNNING", "COMPLETING"):
            return
        time.sleep(1)
    sys.exit(f"job {job} does not end: {lab.show(job)}")


def finished(run_dir: Path) -> int:
    """Return how many trials of a run have finished."""
    return sum(ends(run_dir).values())


def ends(run_dir: Path) -> Counter[int]:
    """Return how often each trial of a run has finished."""
    if not journal.exists(run_dir):
        return Counter()
    records = (r for r in journal.read(run_dir) if r["type"] == "end")
    return Counter(r["trial"] for r in records if TrialState(r["state"]).finished)


def wait_until(there: Callable[[], bool], timeout_s: float) -> None:
    """Wait until something is so."""
    deadline_s = time.monotonic() + timeout_s
    while not there():
        if time.monotonic() > deadline_s:
            sys.exit("the run makes no progress")
        time.sleep(0.5)


def show(lab: Lab, job: str, run_dir: Path) -> None:
    """Show what became of the trials, and check it."""
    records = journal.read(run_dir)
    nodes = Counter(r["node"] for r in records if r["type"] == "begin")
    sessions = sum(r["type"] == "session" for r in records)
    counts = Counter(ends(run_dir).values())
    print(f"\nsessions       {sessions}, the job was restarted {lab.show(job)['Restarts']} times")
    print(
        f"attempts       {', '.join(f'{count} on {node}' for node, count in sorted(nodes.items()))}"
    )
    print(
        f"trials         {counts[1]} finished once, {sum(counts.values()) - counts[1]} more often"
    )
    shown = [sys.executable, str(ROOT / "scripts" / "show_mlflow.py"), str(run_dir)]
    subprocess.run(shown, cwd=run_dir.parents[1], check=True)
    if counts != {1: TRIALS} or len(nodes) < 2 or sessions < 2:
        sys.exit("that is not what was promised")


if __name__ == "__main__":
    main()
