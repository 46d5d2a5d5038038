"""The best schedule of population-based training against the best fixed setting.

A real network on scikit-learn's handwritten digits is trained by gradient descent with momentum.
Learning rate, weight decay, dropout and noise on the images are searched: by a population, whose
trials are forked, and by random search, whose trials are trained to their end, both with the same
number of epochs in total. Then the best schedule and the best fixed setting are trained anew from
other initial weights, and the images that neither has seen decide. No Ray is needed: the engine
runs on a virtual clock, with real training inside.

Examples:
    python benchmarks/pbt_schedule.py --seeds 2 --population 8 --epochs 20
    python benchmarks/pbt_schedule.py --seeds 20 --plot pbt_schedule.png
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits

from raytune_hpo.engine import Start
from raytune_hpo.experiment import Experiment
from raytune_hpo.lineage import Stage, lineage
from raytune_hpo.schedulers.base import Scheduler
from raytune_hpo.schedulers.none import NoScheduler
from raytune_hpo.schedulers.pb2 import Pb2
from raytune_hpo.schedulers.pbt import Pbt
from raytune_hpo.simulate import Simulation
from raytune_hpo.space import Float, SearchSpace
from raytune_hpo.state import RunState
from raytune_hpo.trial import Config

Array = npt.NDArray[np.float64]
Data = tuple[Array, npt.NDArray[np.int_]]

SPACE = SearchSpace(
    {
        "lr": Float(1e-3, 1.0, log=True),
        "decay": Float(1e-6, 1e-1, log=True),
        "dropout": Float(0.0, 0.8),
        "noise": Float(0.0, 1.0),
    }
)
SCHEDULERS: dict[str, Callable[..., Scheduler]] = {"none": NoScheduler, "pb2": Pb2, "pbt": Pbt}
UNITS = 64
BATCH = 32
MOMENTUM = 0.9
WORKERS = 4
RETRAINED = 5
"""Initial weights that a schedule is trained from anew."""


@dataclass
class Network:
    """One hidden layer: weights and offsets, the velocity of each, and the epochs trained."""

    weights: list[Array]
    velocity: list[Array]
    epoch: int = 0

    @classmethod
    def new(cls, rng: np.random.Generator) -> Network:
        """Return an untrained network."""
        first = rng.normal(0.0, 64**-0.5, (64, UNITS))
        second = rng.normal(0.0, UNITS**-0.5, (UNITS, 10))
        weights = [first, np.zeros(UNITS), second, np.zeros(10)]
        return cls(weights, [np.zeros_like(w) for w in weights])

    def copy(self) -> Network:
        """Return a network that may be trained without changing this one."""
        weights, velocity = ([w.copy() for w in parts] for parts in (self.weights, self.velocity))
        return Network(weights, velocity, self.epoch)

    def train(self, data: Data, config: Config, rng: np.random.Generator) -> None:
        """Train for one epoch."""
        x, y = data
        for rows in np.array_split(rng.permutation(len(x)), len(x) // BATCH):
            noisy = x[rows] + config["noise"] * rng.standard_normal((len(rows), 64))
            kept = (rng.random((len(rows), UNITS)) >= config["dropout"]) / (1 - config["dropout"])
            for weight, velocity, slope in zip(
                self.weights, self.velocity, self._slopes(noisy, y[rows], kept), strict=True
            ):
                velocity *= MOMENTUM
                velocity -= config["lr"] * (slope + config["decay"] * weight)
                weight += velocity
        self.epoch += 1

    def loss(self, data: Data) -> float:
        """Return the mean cross-entropy in nats; 100 for weights that have overflown."""
        x, y = data
        chances = self._forward(x, np.ones(UNITS))[1][np.arange(len(y)), y]
        loss = float(-np.log(np.maximum(chances, 1e-12)).mean())
        return loss if math.isfinite(loss) else 100.0

    def _forward(self, x: Array, kept: Array) -> tuple[Array, Array]:
        w1, b1, w2, b2 = self.weights
        hidden = np.maximum(x @ w1 + b1, 0.0) * kept
        scores = hidden @ w2 + b2
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return hidden, powers / powers.sum(axis=1, keepdims=True)

    def _slopes(self, x: Array, y: npt.NDArray[np.int_], kept: Array) -> list[Array]:
        hidden, error = self._forward(x, kept)
        error[np.arange(len(y)), y] -= 1.0
        error /= len(y)
        back = (error @ self.weights[2].T) * (hidden > 0) * kept
        return [x.T @ back, back.sum(axis=0), hidden.T @ error, error.sum(axis=0)]


class Training(Simulation):
    """A simulation whose trials are trained really, and go on from the weights of checkpoints."""

    def __init__(
        self, experiment: Experiment, scheduler: Scheduler, data: Sequence[Data], epochs: int
    ) -> None:
        self._data = data
        self._epochs = epochs
        self._kept: dict[str, Network] = {}
        super().__init__(experiment, lambda config: (), scheduler=scheduler, checkpoints=True)

    def reports(self, start: Start) -> Iterator[tuple[float, dict[str, Any]]]:
        """Train and yield the loss on the second part of the data after each epoch."""
        seed = [self.engine.state.seed, start.trial]
        if start.checkpoint is None:
            network = Network.new(np.random.default_rng(seed))
        else:
            network = self._kept[start.checkpoint].copy()
        rng = np.random.default_rng([*seed, network.epoch])
        speed = 0.8 + 0.4 * rng.random()
        while network.epoch < self._epochs:
            network.train(self._data[0], start.config, rng)
            self._kept[f"trial {start.trial} @{network.epoch}"] = network.copy()
            yield speed, {"loss": network.loss(self._data[1])}


@dataclass
class Found:
    """A schedule, its loss while it was searched, and the epochs that the search took."""

    stages: list[Stage]
    curve: list[float]
    epochs: int
    retrained: list[float] = field(default_factory=list)


def search(
    algorithm: str, trials: int, epochs: int, seed: int, data: Sequence[Data], **settings: Any
) -> Found:
    """Return the best schedule that a run finds; a fixed setting is a schedule of one stage."""
    experiment = Experiment.from_python(
        run="noop",
        parameters=SPACE.parameters,
        metric="loss",
        trials=trials,
        parallel=WORKERS,
        search={"algorithm": "random", "seed": seed},
    )
    scheduler = SCHEDULERS[algorithm](SPACE, experiment.objectives, seed, **settings)
    simulation = Training(experiment, scheduler, data, epochs)
    simulation.run()
    state = RunState.replay(simulation.journal.records, keep_reports=True)
    stages = lineage(state, state.best()[0])
    curve = [
        report.values[0]
        for stage in stages
        for report in state.trials[stage.trial].reports
        if report.values is not None and report.step <= stage.to_step
    ]
    total = sum(len(trial.reports) for trial in state.trials.values())
    return Found(stages, curve, total)


def retrain(stages: Sequence[Stage], data: Sequence[Data], seed: int) -> list[float]:
    """Return the losses on the third part of the data from some initial weights."""
    losses = []
    for number in range(RETRAINED):
        rng = np.random.default_rng([seed, number, 12345])
        network = Network.new(rng)
        for stage in stages:
            while network.epoch < stage.to_step:
                network.train(data[0], stage.config, rng)
        losses.append(network.loss(data[2]))
    return losses


def split(seed: int) -> list[Data]:
    """Return images and digits to train with, to choose by, and to judge by."""
    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.target))
    parts = np.split(order, [len(order) // 2, 3 * len(order) // 4])
    return [(digits.data[part] / 16.0, digits.target[part]) for part in parts]


def compare(options: argparse.Namespace, seed: int) -> tuple[Found, Found]:
    """Return the best schedule and the best fixed setting, both trained anew."""
    data = split(seed)
    schedule = search(
        options.scheduler,
        options.population,
        options.epochs,
        seed,
        data,
        interval=options.interval,
        max_resource=options.epochs,
    )
    trials = options.factor * math.ceil(schedule.epochs / options.epochs)
    fixed = search("none", trials, options.epochs, seed, data)
    for found in (schedule, fixed):
        found.retrained = retrain(found.stages, data, seed)
    return schedule, fixed


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean and its 95 percent bootstrap interval."""
    rng = np.random.default_rng(0)
    numbers = np.array(values)
    means = rng.choice(numbers, (10_000, len(numbers))).mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(numbers.mean()), float(low), float(high)


def report(pairs: Sequence[tuple[Found, Found]]) -> None:
    """Print how the losses relate; below 1 the schedule is better."""
    for name, of in (
        ("while searched", lambda found: found.curve[-1]),
        ("trained anew", lambda found: float(np.mean(found.retrained))),
    ):
        ratios = [math.log(of(schedule) / of(fixed)) for schedule, fixed in pairs]
        mean, low, high = (math.exp(number) for number in interval(ratios))
        won = sum(ratio < 0 for ratio in ratios)
        print(
            f"{name}: loss of the schedule / of the fixed setting {mean:.3f} "
            f"[{low:.3f}, {high:.3f}], n = {len(ratios)}, better in {won}"
        )


def plot(schedule: Found, fixed: Found, path: Path) -> None:
    """Draw loss and parameters of one seed."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 1 + len(SPACE.dimensions), figsize=(18, 3.5))
    for found, name in ((schedule, "population-based training"), (fixed, "best fixed setting")):
        axes[0].plot(range(1, len(found.curve) + 1), found.curve, label=name)
        for axis, parameter in zip(axes[1:], SPACE.dimensions, strict=True):
            edges = [found.stages[0].from_step, *(stage.to_step for stage in found.stages)]
            values = [stage.config[parameter] for stage in found.stages]
            axis.stairs(values, edges, baseline=None)
            axis.set(title=parameter, xlabel="epoch")
            axis.set_yscale("log" if parameter in ("lr", "decay") else "linear")
    axes[0].set(title="validation loss", xlabel="epoch", yscale="log")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scheduler", default="pbt", choices=["pbt", "pb2"])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--population", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--interval", type=int, default=2)
    parser.add_argument("--factor", type=int, default=1, help="budget of the fixed settings")
    parser.add_argument("--plot", type=Path, help="picture of the first seed")
    options = parser.parse_args()
    pairs = []
    for seed in range(options.seeds):
        schedule, fixed = compare(options, seed)
        pairs.append((schedule, fixed))
        print(
            f"seed {seed}: {schedule.epochs} epochs, {len(schedule.stages)} stages, "
            f"{schedule.curve[-1]:.4f}, anew {np.mean(schedule.retrained):.4f}; fixed: "
            f"{fixed.epochs} epochs, {fixed.curve[-1]:.4f}, anew {np.mean(fixed.retrained):.4f}",
            flush=True,
        )
    report(pairs)
    if options.plot is not None:
        plot(*pairs[0], options.plot)


if __name__ == "__main__":
    main()
