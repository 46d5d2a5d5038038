"""Journals made by hand, for tests of what people see."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raytune_hpo import journal, spec
from raytune_hpo.journal import MemoryJournal, Record
from raytune_hpo.state import RunState

T0 = 1_800_000_000.0
MINIMIZE = """\
name: demo
run: python train.py --lr ${lr} --layers ${layers} --optimizer ${optimizer}
objective: {metric: val_loss, mode: min}
parameters:
  lr: {min: 1e-5, max: 1e-1, log: true}
  layers: {min: 2, max: 8}
  optimizer: {values: [sgd, adam]}
trials: 5
"""
BENCHMARK = """\
name: pg-tune
run: ./bench.sh
objective: {metric: tps, mode: max}
constraints: ["p99_ms <= 20"]
baseline: {shared_buffers_mb: 128, work_mem: 4MB}
parameters:
  shared_buffers_mb: {min: 64, max: 8192, log: true}
  work_mem: {values: [4MB, 16MB, 64MB]}
trials: 6
"""
SEVERAL = """\
name: front
run: ./bench.sh
objective:
  - {metric: tps, mode: max}
  - {metric: memory_mb, mode: min}
baseline: {threads: 4}
parameters:
  threads: {min: 1, max: 64}
trials: 4
"""


class MadeRun:
    """Writes a journal as an engine would, at times that the test sets.

    Args:
        text: The experiment file.
        algorithm: Of the searcher.
        reason: Why this one.
        parallel: Trials at once.
    """

    def __init__(
        self,
        text: str,
        *,
        algorithm: str = "tpe",
        reason: str = "it learns from finished trials",
        scheduler: str = "none",
        parallel: int = 2,
    ) -> None:
        self.now = T0
        self.experiment = spec.loads(text)
        self.journal = MemoryJournal(lambda: self.now)
        self.parallel = parallel
        self.journal.append(
            "experiment",
            version=1,
            id="0" * 32,
            name=self.experiment.name,
            spec=self.experiment.to_json(),
            seed=7,
            algorithm=algorithm,
            algorithm_reason=reason,
            scheduler=scheduler,
            source=text,
            folder="/home/ada",
            cwd="/home/ada",
            environment={},
        )
        self.session()

    @property
    def records(self) -> list[Record]:
        """All records so far."""
        return self.journal.records

    def state(self) -> RunState:
        """Return the state after all records."""
        return RunState.replay(self.records, keep_reports=True)

    def session(self, trials: int | None = None) -> None:
        count = sum(record["type"] == "session" for record in self.records)
        self.journal.append(
            "session",
            session=count + 1,
            host="node1",
            run_dir="/runs/demo",
            pid=4711,
            trials=trials or self.experiment.trials,
            parallel=self.parallel,
            resources={"CPU": 1.0},
        )
        self.now += 0.01

    def start(self, trial: int, config: Mapping[str, Any], origin: str = "search") -> None:
        self.journal.append("trial", trial=trial, config=dict(config), origin=origin)
        self.attempt(trial)

    def attempt(self, trial: int, attempt: int = 1) -> None:
        self.journal.append("start", trial=trial, attempt=attempt, checkpoint=None)

    def report(self, trial: int, metrics: Mapping[str, Any], step: int = 1) -> None:
        objective = self.experiment.objectives
        self.journal.append(
            "report",
            trial=trial,
            attempt=1,
            step=step,
            metrics=dict(metrics),
            values=list(objective.values(metrics)),
            violations=list(objective.violations(metrics)),
            checkpoint=None,
            advanced=True,
        )

    def end(
        self,
        trial: int,
        state: str = "completed",
        *,
        after: float = 1.0,
        message: str | None = None,
        details: str = "",
    ) -> None:
        self.now += after
        failure = None
        if message is not None:
            failure = {
                "kind": "exit_code",
                "message": message,
                "details": details,
                "exit_code": 1,
            }
        now = self.state().trials[trial]
        self.journal.append(
            "end",
            trial=trial,
            attempt=len(now.attempts),
            state=state,
            values=None if now.values is None else list(now.values),
            violations=list(now.violations),
            failure=failure,
            charged=failure is not None,
        )

    def finish(self, reason: str = "trials", message: str = "all trials are done") -> None:
        self.journal.append("finish", reason=reason, message=message)

    def write(self, run_dir: Path) -> Path:
        """Write the journal to a run directory and return that."""
        folder = run_dir / journal.FOLDER
        folder.mkdir(parents=True)
        data = b"".join(journal.encode(record) for record in map(_without_crc, self.records))
        (folder / "000001.jsonl").write_bytes(data)
        return run_dir


def _without_crc(record: Record) -> Record:
    return {key: value for key, value in record.items() if key != "crc"}


def minimize() -> MadeRun:
    """A run of five trials, of which one was pruned and one failed after a retry."""
    run = MadeRun(MINIMIZE)
    run.start(0, {"lr": 0.001, "layers": 3, "optimizer": "sgd"})
    run.report(0, {"val_loss": 0.5, "acc": 0.8})
    run.start(1, {"lr": 0.05, "layers": 8, "optimizer": "adam"})
    run.end(0, after=12.5)
    run.report(1, {"val_loss": 0.9, "acc": 0.2})
    run.end(1, "pruned", after=3)
    run.start(2, {"lr": 0.1, "layers": 2, "optimizer": "sgd"})
    run.end(2, "pending", after=2, message="the command ended with exit code 1: boom\nmore")
    run.attempt(2, 2)
    run.end(2, "failed", after=2, message="the command ended with exit code 1: boom\nmore")
    run.start(3, {"lr": 0.00123456789, "layers": 5, "optimizer": "adam"})
    run.report(3, {"val_loss": 0.20999, "acc": 0.95})
    run.end(3, after=61)
    run.start(4, {"lr": 0.002, "layers": 4, "optimizer": "adam"})
    run.report(4, {"val_loss": 0.3, "acc": 0.9})
    run.end(4, after=59)
    run.finish()
    return run


def benchmark() -> MadeRun:
    """A run with a baseline and a constraint, still going on."""
    run = MadeRun(BENCHMARK, scheduler="asha")
    run.start(0, {"shared_buffers_mb": 128, "work_mem": "4MB"}, "baseline")
    run.report(0, {"tps": 4240.0, "p99_ms": 18.1})
    run.end(0, after=61)
    run.start(1, {"shared_buffers_mb": 4096, "work_mem": "64MB"})
    run.start(2, {"shared_buffers_mb": 8192, "work_mem": "64MB"})
    run.report(1, {"tps": 8240.0, "p99_ms": 13.9})
    run.end(1, after=58)
    run.report(2, {"tps": 9000.0, "p99_ms": 27.0})
    run.end(2, after=2)
    run.start(3, {"shared_buffers_mb": 64, "work_mem": "4MB"})
    run.report(3, {"tps": 4100.0, "p99_ms": 19.0})
    run.start(4, {"shared_buffers_mb": 1024, "work_mem": "16MB"})
    run.now += 21
    return run


def several() -> MadeRun:
    """A finished run with two objectives."""
    run = MadeRun(SEVERAL, algorithm="random", reason="asked for")
    for trial, (threads, tps, memory) in enumerate(
        [(4, 1000.0, 200.0), (8, 1900.0, 300.0), (2, 500.0, 100.0), (64, 1800.0, 900.0)]
    ):
        run.start(trial, {"threads": threads}, "search" if trial else "baseline")
        run.report(trial, {"tps": tps, "memory_mb": memory})
        run.end(trial, after=10)
    run.finish()
    return run


def failed() -> MadeRun:
    """A run whose first three trials failed with the same error."""
    run = MadeRun(MINIMIZE)
    details = 'File "train.py", line 3, in main\n    model.fitt()\nAttributeError: fitt'
    for trial in range(3):
        run.start(trial, {"lr": 0.001, "layers": 3, "optimizer": "sgd"})
        run.end(trial, "failed", message="AttributeError: fitt", details=details)
    run.finish("same_error", "the first 3 trials failed with the same error: AttributeError: fitt")
    return run
