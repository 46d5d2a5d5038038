"""Population-based training on a real Ray against the best fixed setting.

Runs examples/pbt as it is, and then as many trials with fixed settings, drawn at random and trained
to their end, as have the same number of epochs in total. Compares the lowest validation losses,
seed by seed, and draws the best schedule of the first seed beside its best fixed setting.

Examples:
    python benchmarks/pbt_on_ray.py --seeds 3 --plot pbt.png
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from raytune_hpo import journal
from raytune_hpo.lineage import lineage
from raytune_hpo.state import RunState
from raytune_hpo.trial import Config

EXPERIMENT = Path(__file__).resolve().parent.parent / "examples" / "pbt" / "experiment.yaml"
EPOCHS = 20
RESAMPLES = 10_000


class Best(NamedTuple):
    """What a run found.

    Attributes:
        epochs: Trained in total, over all trials.
        losses: After each epoch of the best trial and those that it goes back to.
        configs: In force in each of these epochs.
    """

    epochs: int
    losses: list[float]
    configs: list[Config]


def run(folder: Path, name: str, **changes: object) -> Best:
    """Run the example with some fields changed."""
    fields = {"name": name, "storage": folder, "mlflow": "false", **changes}
    words = [word for key, value in fields.items() for word in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "raytune_hpo", "run", str(EXPERIMENT), *words]
    subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL)
    state = RunState.replay(journal.read(folder / name), keep_reports=True)
    epochs = sum(len(trial.reports) for trial in state.trials.values())
    losses: list[float] = []
    configs: list[Config] = []
    for stage in lineage(state, state.best()[0]):
        for report in state.trials[stage.trial].reports:
            if stage.from_step < report.step <= stage.to_step:
                losses.append(float(report.metrics["val_loss"]))
                configs.append(stage.config)
    return Best(epochs, losses, configs)


def compare(folder: Path, seed: int) -> tuple[Best, Best]:
    """Return what the population and what fixed settings found."""
    schedule = run(folder, f"pbt-{seed}", **{"search.seed": seed})
    fixed = {"search.algorithm": "random", "search.seed": seed}
    trials = math.ceil(schedule.epochs / EPOCHS)
    none = "{algorithm: none}"
    return schedule, run(folder, f"fixed-{seed}", trials=trials, scheduler=none, **fixed)


def interval(ratios: list[float]) -> tuple[float, float, float]:
    """Return the geometric mean and its 95 % bootstrap interval."""
    logs = np.log(ratios)
    means = np.random.default_rng(0).choice(logs, (RESAMPLES, len(logs))).mean(axis=1)
    low, high = np.exp(np.quantile(means, [0.025, 0.975]))
    return float(np.exp(logs.mean())), float(low), float(high)


def plot(schedule: Best, fixed: Best, path: Path) -> None:
    """Draw the losses and the learning rates of both."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
    for label, best in (("schedule of pbt", schedule), ("best fixed setting", fixed)):
        epochs = range(1, len(best.losses) + 1)
        left.plot(epochs, best.losses, label=label)
        right.step(epochs, [config["lr"] for config in best.configs], where="mid", label=label)
    left.set(xlabel="epoch", ylabel="validation loss", yscale="log")
    right.set(xlabel="epoch", ylabel="learning rate", yscale="log")
    left.legend()
    figure.savefig(path, dpi=100)


def main() -> None:
    """Compare for some seeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--plot", type=Path, help="picture of the first seed")
    options = parser.parse_args()
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            schedule, fixed = compare(Path(folder), seed)
            ratios.append(min(schedule.losses) / min(fixed.losses))
            print(
                f"seed {seed}: schedule {min(schedule.losses):.4f} after {schedule.epochs} epochs, "
                f"best fixed {min(fixed.losses):.4f} after {fixed.epochs}, ratio {ratios[-1]:.3f}",
                flush=True,
            )
            if seed == 0 and options.plot is not None:
                plot(schedule, fixed, options.plot)
    mean, low, high = interval(ratios)
    found = f"{mean:.3f} [{low:.3f}, {high:.3f}], n = {len(ratios)}"
    print(f"loss of the schedule / of the best fixed: {found}")


if __name__ == "__main__":
    main()
