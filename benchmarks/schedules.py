"""What is lost in many simulated runs whose driver is killed at any point.

Each schedule is one run of an experiment to its end on a virtual clock, under faults drawn from its
seed; what was seen is checked against the promises of docs/reliability.md.

Example:
    python benchmarks/schedules.py --schedules 10000 --processes 2
"""

from __future__ import annotations

import argparse
import sys

from raytune_hpo.chaos.nemesis import Summary, run_schedules


def show(summary: Summary) -> None:
    last_seed = summary.first_seed + summary.schedules - 1
    rows = {
        "schedules": f"{summary.schedules} (seeds {summary.first_seed} to {last_seed})",
        "driver sessions": str(summary.sessions),
        "driver kills": f"{summary.kills}, {summary.power_cuts} of them with loss of unsynced data",
        "reports acknowledged": str(summary.acknowledged),
        "of these lost": str(summary.lost),
        "trials finished": str(summary.finished),
        "of these run again": str(summary.ran_again),
        "trials cut short by a kill": f"{summary.cut_short}, with a checkpoint at each report",
        "steps executed again": (
            f"{summary.executed_again}, at most {summary.most_executed_again} by a trial and kill"
        ),
        "schedules with violations": str(len(summary.failing)),
        "seconds": f"{summary.seconds:.1f} in all, median {summary.median_s * 1000:.1f} ms each",
    }
    for name, value in rows.items():
        print(f"{name:<28}{value}")
    for failing in summary.failing[:5]:
        print(f"seed {failing.seed}: {failing.violations[0]}")


def main() -> None:
    """Run the schedules and print what came of them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--schedules", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    summary = run_schedules(options.seed, options.schedules, options.processes)
    show(summary)
    sys.exit(1 if summary.failing else 0)


if __name__ == "__main__":
    main()
