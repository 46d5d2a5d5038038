"""What one report costs the driver in CPU time: the engine's decision and the journal, without Ray.

MLflow costs the driver nothing: a process of its own reads the journal.

Example:
    python benchmarks/report_cost.py --trials 100 --reports 100 --rounds 5
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from raytune_hpo.engine import Engine
from raytune_hpo.experiment import Experiment
from raytune_hpo.journal import Journal
from raytune_hpo.plugins import make_scheduler, make_searcher
from raytune_hpo.simulate import header
from raytune_hpo.space import Float


class Clock:
    """The real one."""

    def monotonic(self) -> float:
        """Return monotonic seconds."""
        return time.monotonic()


def measure(trials: int, reports: int) -> float:
    """Return CPU milliseconds a report, trials one after the other, ASHA looking on."""
    experiment = Experiment.from_python(
        run="noop",
        parameters={"x": Float(0.0, 1.0)},
        metric="loss",
        trials=trials,
        search={"algorithm": "random", "seed": 1},
        scheduler={"algorithm": "asha", "settings": {"min_resource": 1000}},
    )
    with tempfile.TemporaryDirectory() as folder:
        log = Journal(Path(folder))
        session = {"session": 1, "host": "", "pid": 0, "run_dir": "", "trials": trials}
        records = [
            log.append("experiment", **header(experiment)),
            log.append("session", **session, parallel=1, resources={}),
        ]
        objective = experiment.objectives
        engine = Engine(
            experiment,
            records,
            make_searcher("random", experiment.search_space, objective, 1),
            make_scheduler(
                "asha", experiment.search_space, objective, 1, experiment.scheduler.settings
            ),
            log,
            Clock(),
        )
        began_s = time.process_time()
        while (start := engine.next_start()) is not None:
            for step in range(reports):
                metrics = {"loss": start.config["x"] / (step + 1), "acc": 0.5, "epoch": step}
                engine.on_report(start.trial, start.attempt, metrics)
                log.sync()
            engine.on_end(start.trial, start.attempt)
        took_s = time.process_time() - began_s
        log.close()
    return 1000 * took_s / (trials * reports)


def main() -> None:
    """Print median and range over some rounds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--reports", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    figures = [measure(options.trials, options.reports) for _ in range(options.rounds)]
    low, high = min(figures), max(figures)
    print(
        f"{options.trials} trials, {options.reports} reports each, n = {options.rounds}: "
        f"{statistics.median(figures):.3f} ms CPU a report [{low:.3f}, {high:.3f}]"
    )


if __name__ == "__main__":
    main()
