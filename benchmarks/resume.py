"""How long a resume takes before the first new trial is suggested, for journals of several sizes.

Ray's start comes on top and is not measured here: it does not depend on the journal.

    python benchmarks/resume.py
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raytune_hpo import journal
from raytune_hpo.experiment import Experiment
from raytune_hpo.journal import Journal
from raytune_hpo.simulate import Simulation
from raytune_hpo.space import Float
from raytune_hpo.state import RunState
from raytune_hpo.trial import Config

REPORTS = 10


def curve(config: Config) -> Iterator[tuple[float, dict[str, Any]]]:
    for step in range(1, REPORTS + 1):
        yield 1.0, {"loss": config["x"] + config["y"] / step}


def experiment(trials: int, algorithm: str) -> Experiment:
    return Experiment.from_python(
        run="noop",
        parameters={"x": Float(0.0, 1.0), "y": Float(0.0, 1.0)},
        metric="loss",
        trials=trials,
        parallel=4,
        search={"algorithm": algorithm, "seed": 1},
    )


def journal_of(run_dir: Path, finished: int) -> None:
    """Write the journal of a run with so many finished trials, as a driver would."""
    records = Simulation(experiment(finished, "random"), curve)
    records.run()
    log = Journal(run_dir)
    for record in records.journal.records:
        fields = {name: value for name, value in record.items() if name not in ("n", "t", "type")}
        log.append(record["type"], **fields)
    log.sync()
    log.close()


def resume_s(run_dir: Path, finished: int, algorithm: str) -> float:
    """Return the seconds from opening the journal to the first new trial's config."""
    began_s = time.perf_counter()
    log = Journal(run_dir)
    records = log.records_at_open
    RunState.replay(records)
    # One record differs: which searcher goes on.
    header = {**records[0], "algorithm": algorithm}
    more = Simulation(experiment(finished + 4, algorithm), curve, records=[header, *records[1:]])
    start = more.engine.next_start()
    took_s = time.perf_counter() - began_s
    log.close()
    if start is None or start.trial != finished:
        raise SystemExit("the resumed run starts something else than a new trial")
    return took_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--trials", default="40,1000,10000")
    parser.add_argument("--searchers", default="random,tpe")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(
        f"{'finished trials':>16}{'journal MiB':>13}{'searcher':>10}"
        f"{'seconds (median [range])':>28}"
    )
    for finished in map(int, options.trials.split(",")):
        with tempfile.TemporaryDirectory(prefix="resume-") as folder:
            run_dir = Path(folder)
            journal_of(run_dir, finished)
            size = sum(path.stat().st_size for path in journal.segments(run_dir)) / 2**20
            for algorithm in options.searchers.split(","):
                took = [resume_s(run_dir, finished, algorithm) for _ in range(options.rounds)]
                text = f"{statistics.median(took):.2f} [{min(took):.2f}, {max(took):.2f}]"
                print(f"{finished:>16}{size:>13.1f}{algorithm:>10}{text:>28}")


if __name__ == "__main__":
    main()
