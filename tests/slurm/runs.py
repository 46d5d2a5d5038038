"""Experiments in jobs of the tests' Slurm: submit, wait for progress, check what is promised."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from raytune_hpo import journal
from raytune_hpo.trial import TrialState
from tests.slurm.lab import Lab
from tests.slurm.machine import wait_until

EPOCHS = 8
EXPERIMENT = """
run: trial:train
objective: {metric: loss}
parameters:
  x: {min: 0.0, max: 1.0}
trials: 12
search: {algorithm: random, seed: 1}
mlflow: false
"""
TRIAL = f"""
import os
import socket
import time
from pathlib import Path
import raytune_hpo as rh

def train(config):
    before = rh.get_checkpoint()
    first = 1 + (int((before / "epoch").read_text()) if before else 0)
    for epoch in range(first, {EPOCHS} + 1):
        time.sleep(float(Path("pace_s").read_text()))
        with open("epochs.txt", "a") as file:
            file.write(f"{{rh.trial_number()}} {{epoch}} {{socket.gethostname()}}\\n")
        own = Path(f"epoch-{{rh.trial_number()}}") / "epoch"
        own.parent.mkdir(exist_ok=True)
        own.write_text(str(epoch))
        rh.report(loss=config["x"] + 1 / epoch, epoch=epoch, checkpoint=own.parent)
"""
TARGET = """
targets:
  slurm: {nodes: 2, cpus: 1, memory: 1500Mi, time: 20m, margin: 1m}
"""


START = ("run", "experiment.yaml", "--on", "slurm", "--storage", "results")


class Run:
    """One experiment in its folder on the shared file system.

    Args:
        lab: Where it runs.
        folder: Its own.
        experiment: Text of its file.
    """

    def __init__(self, lab: Lab, folder: Path, experiment: str = EXPERIMENT) -> None:
        self.lab = lab
        self.folder = folder
        self.run_dir = folder / "results" / "experiment"
        if "targets:" not in experiment:
            experiment += TARGET
        (folder / "experiment.yaml").write_text(experiment)
        (folder / "trial.py").write_text(TRIAL)
        self.set_pace(0.3)

    def set_pace(self, pace_s: float) -> None:
        """Set how long an epoch takes from now on."""
        draft = self.folder / "pace_s.new"
        draft.write_text(str(pace_s))
        draft.replace(self.folder / "pace_s")

    def call(self, *words: str) -> str:
        """Run raytune-hpo on the login node and return what it prints."""
        done = self.lab.run_on(
            "login", sys.executable, "-m", "raytune_hpo", *words, folder=self.folder
        )
        return done.stdout

    def submit(self, *options: str) -> str:
        """Submit the printed script by hand and return the job."""
        script = self.folder / "job.sh"
        script.write_text(self.call(*START, "--dry-run"))
        return self.lab.submit(script, *options, folder=self.folder)

    def wait_for(self, type: str, count: int, job: str, timeout_s: float = 400.0) -> None:
        """Wait until the journal has so many records of a type; a job that ends is no use."""

        def there() -> bool:
            state = self.lab.state(job)
            assert state in ("PENDING", "RUNNING"), f"{state}:\n{self.output(job)}"
            return self.count(type) >= count

        try:
            wait_until(there, f"the journal has no {count} records of type {type}", timeout_s)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.output(job)}") from None

    def wait_for_end(self, job: str, timeout_s: float = 500.0) -> None:
        """Wait until the job has ended by itself, and well."""
        ends = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED")
        state = self.lab.wait(job, ends, timeout_s)
        assert state == "COMPLETED", f"{state}:\n{self.output(job)}"

    def wait_through_restarts(self, job: str, timeout_s: float = 600.0) -> None:
        """Wait until the job has ended well, however often its time is over before."""
        deadline = time.monotonic() + timeout_s
        while (state := self.lab.state(job)) in ("PENDING", "RUNNING", "COMPLETING"):
            assert time.monotonic() < deadline, f"{state}:\n{self.output(job)}"
            if state == "PENDING":
                self.lab.wait_for_restart(job, int(self.lab.show(job)["Restarts"]))
            time.sleep(0.5)
        self.wait_for_end(job)

    def output(self, job: str) -> str:
        """Return what the job has said so far."""
        path = self.folder / f"slurm-{job}.out"
        return path.read_text(errors="replace") if path.exists() else ""

    def records(self) -> list[dict[str, Any]]:
        """Return the journal as it is now."""
        return journal.read(self.run_dir) if journal.exists(self.run_dir) else []

    def count(self, type: str) -> int:
        """Return how many records of a type the journal has."""
        return [record["type"] for record in self.records()].count(type)

    def state(self) -> dict[str, Any]:
        """Return what the supervisor wrote for `status`."""
        content: dict[str, Any] = json.loads((self.run_dir / "slurm" / "state.json").read_text())
        return content

    def epochs(self) -> list[tuple[int, int, str]]:
        """Return trial, epoch and host of every epoch that was computed, in that order."""
        file = self.folder / "epochs.txt"
        lines = file.read_text().splitlines() if file.exists() else []
        return [(int(t), int(e), host) for t, e, host in (line.split() for line in lines)]

    def hosts(self) -> set[str]:
        """Return where trials ran."""
        return {host for _, _, host in self.epochs()}

    def wait_for_hosts(self, count: int, timeout_s: float = 200.0) -> None:
        """Wait until trials have run on so many nodes."""
        wait_until(lambda: len(self.hosts()) >= count, f"not on {count} nodes", timeout_s)

    def check_each_trial_finished_once(self, trials: int = 12) -> None:
        """Check the promise on the journal's records, without the project's own fold."""
        finished: Counter[int] = Counter()
        for record in self.records():
            if record["type"] in ("start", "report"):
                assert not finished[record["trial"]], f"trial {record['trial']} went on"
            if record["type"] == "end" and TrialState(record["state"]).finished:
                finished[record["trial"]] += 1
        assert finished == Counter(range(trials))
        computed = Counter(trial for trial, epoch, _ in self.epochs() if epoch == EPOCHS)
        assert set(computed) == set(range(trials))

    def check_nothing_is_left(
        self, timeout_s: float = 90.0, apart_from: Collection[str] = ()
    ) -> None:
        """Check that no node has a process or a file of the job, now or soon.

        Ray's agents try to tell a dead head for a minute that their node died, before they end.
        """
        deadline = time.monotonic() + timeout_s
        while left := {
            node: found
            for node in self.lab.nodes
            if (found := [thing for thing in self.left(node) if thing not in apart_from])
        }:
            assert time.monotonic() < deadline, f"left after {timeout_s:g} s: {left}"
            time.sleep(0.5)

    def another_folder(self) -> Path:
        """Return a new folder beside this run's."""
        path = self.folder.with_name(f"{self.folder.name}-another")
        path.mkdir()
        return path

    def left(self, node: str) -> list[str]:
        """Return the processes and files of a node."""
        running = [" ".join(process.words) for process in self.lab.processes(node)]
        return running + self.lab.files(node)
