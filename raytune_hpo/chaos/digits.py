"""The built-in experiment: a small network on scikit-learn's handwritten digits.

Its parameters are those of the fault-tolerance experiment of Katib's paper: hidden units, dropout
and the optimizer. Each epoch is padded with sleep, so that many trials run at once on few cores.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

EPOCHS_ENV = "RAYTUNE_HPO_CHAOS_EPOCHS"
EPOCH_S_ENV = "RAYTUNE_HPO_CHAOS_EPOCH_S"
"""Length of an epoch in seconds, with what it waits."""
EPOCHS = 8
EPOCH_S = 0.4
FILE = "network.bin"
PARAMETERS: dict[str, Any] = {
    "units": {"min": 2, "max": 128},
    "dropout": {"min": 0.0, "max": 0.9},
    "lr": {"min": 1e-4, "max": 0.1, "log": True},
    "optimizer": {"values": ["adam", "sgd"]},
}
_BATCH = 64
_CLASSES = 10
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

Array = NDArray[np.float64]


def experiment(name: str, **fields: Any) -> dict[str, Any]:
    """Return the experiment, as a file would hold it, with some fields of one's own."""
    return {
        "name": name,
        "run": "raytune_hpo.chaos.digits:train",
        "objective": {"metric": "entropy", "mode": "min"},
        "parameters": PARAMETERS,
        "search": {"algorithm": "random", "seed": 0},
        "trials": 40,
        "parallel": 4,
        "resources": {"cpu": 0.5},
        "env": ONE_THREAD,
        **fields,
    }


def train(config: dict[str, Any]) -> None:
    """Train one network; goes on from its checkpoint if there is one."""
    import raytune_hpo

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / FILE
        for metrics in epochs(config, raytune_hpo.get_checkpoint(), place):
            raytune_hpo.report(metrics, checkpoint=place)


def epochs(config: dict[str, Any], start: Path | None, save: Path) -> Iterator[dict[str, Any]]:
    """Train epoch by epoch, and yield the metrics of each.

    Args:
        config: Values of ``PARAMETERS``.
        start: A folder with a file that ``save`` named before, to go on from, or None.
        save: File that has the network's state when an epoch is yielded.
    """
    last = int(os.environ.get(EPOCHS_ENV, EPOCHS))
    epoch_s = float(os.environ.get(EPOCH_S_ENV, EPOCH_S))
    began_s = time.monotonic()
    data = _data()
    network = Network(config, None if start is None else start / FILE)
    for epoch in range(network.epoch + 1, last + 1):
        network.train(*data[:2])
        entropy = network.entropy(*data[2:])
        network.save(save)
        time.sleep(max(0.0, epoch_s - (time.monotonic() - began_s)))
        yield {"entropy": entropy, "epoch": epoch}
        began_s = time.monotonic()


class Network:
    """One hidden layer with dropout, trained by Adam or by gradient descent with momentum.

    Args:
        config: Values of ``PARAMETERS``.
        start: A file to go on from, or None.

    Attributes:
        epoch: Epochs that it was trained for.
    """

    def __init__(self, config: dict[str, Any], start: Path | None = None) -> None:
        self._config = config
        units = config["units"]
        self._shapes = ((64, units), (units,), (units, _CLASSES), (_CLASSES,))
        count = sum(int(np.prod(shape)) for shape in self._shapes)
        # Weights, then what the optimizer remembers: first and second moments; then the epoch.
        self._state = np.zeros(3 * count + 1) if start is None else np.fromfile(start)
        self._weights, self._first, self._second = self._state[:-1].reshape(3, count)
        if start is None:
            random = np.random.default_rng(0)
            for index, scale in ((0, 64**-0.5), (2, units**-0.5)):
                part = self._parts(self._weights)[index]
                part[...] = random.normal(0.0, scale, part.shape)

    @property
    def epoch(self) -> int:
        """Epochs that it was trained for."""
        return int(self._state[-1])

    def save(self, path: Path) -> None:
        """Write its state."""
        self._state.tofile(path)

    def train(self, x: Array, y: NDArray[np.int_]) -> None:
        """Train for one epoch."""
        random = np.random.default_rng(self.epoch + 1)
        for rows in np.array_split(random.permutation(len(x)), len(x) // _BATCH):
            keep = random.random(self._config["units"]) >= self._config["dropout"]
            mask = keep / (1.0 - self._config["dropout"])
            self._step(self._gradient(x[rows], y[rows], mask))
        self._state[-1] += 1

    def entropy(self, x: Array, y: NDArray[np.int_]) -> float:
        """Return the mean cross-entropy in nats."""
        chances = self._forward(x, np.ones(self._config["units"]))[1]
        return float(-np.log(np.maximum(chances[np.arange(len(y)), y], 1e-12)).mean())

    def _parts(self, vector: Array) -> list[Array]:
        """Return the views of a vector that are the weights and offsets of the two layers."""
        ends = np.cumsum([int(np.prod(shape)) for shape in self._shapes])
        pieces = np.split(vector, ends[:-1])
        return [piece.reshape(shape) for piece, shape in zip(pieces, self._shapes, strict=True)]

    def _forward(self, x: Array, mask: Array) -> tuple[Array, Array]:
        """Return the hidden layer's output and the probabilities of the classes."""
        w1, b1, w2, b2 = self._parts(self._weights)
        hidden = np.maximum(x @ w1 + b1, 0.0) * mask
        scores = hidden @ w2 + b2
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return hidden, powers / powers.sum(axis=1, keepdims=True)

    def _gradient(self, x: Array, y: NDArray[np.int_], mask: Array) -> Array:
        hidden, error = self._forward(x, mask)
        error[np.arange(len(y)), y] -= 1.0
        error /= len(y)
        back = (error @ self._parts(self._weights)[2].T) * (hidden > 0) * mask
        parts = (x.T @ back, back.sum(axis=0), hidden.T @ error, error.sum(axis=0))
        return np.concatenate([part.ravel() for part in parts])

    def _step(self, gradient: Array) -> None:
        lr = self._config["lr"]
        self._first[...] = 0.9 * self._first + 0.1 * gradient
        if self._config["optimizer"] == "sgd":
            self._weights -= 10 * lr * self._first
            return
        self._second[...] = 0.99 * self._second + 0.01 * gradient**2
        self._weights -= lr * self._first / (np.sqrt(self._second) + 1e-8)


def _data() -> Any:
    """Return features and labels to train with, then those to validate with."""
    # Importing scikit-learn takes seconds of CPU in each new worker, and a strike makes many.
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("the built-in experiment needs scikit-learn, as mlflow does")
    table = np.loadtxt(Path(spec.origin).parent / "datasets/data/digits.csv.gz", delimiter=",")
    x, y = table[:, :-1] / 16.0, table[:, -1].astype(int)
    test = np.random.default_rng(0).random(len(x)) < 0.3
    return x[~test], y[~test], x[test], y[test]
