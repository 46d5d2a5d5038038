"""A classifier of handwritten digits that goes on from a checkpoint with another config.

Run with: raytune-hpo run examples/pbt/experiment.yaml
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

import raytune_hpo

EPOCHS = 20


def make_model(config: dict[str, Any]) -> MLPClassifier:
    """Return an untrained network with the config's settings."""
    return MLPClassifier(
        hidden_layer_sizes=(64,),
        solver="sgd",
        learning_rate_init=config["lr"],
        alpha=config["alpha"],
        batch_size=config["batch_size"],
        random_state=0,
    )


def save(model: MLPClassifier, epoch: int, path: Path) -> None:
    """Write the epoch and all weights; the optimizer's momentum starts anew in a fork."""
    layers = {f"w{i}": w for i, w in enumerate(model.coefs_)}
    biases = {f"b{i}": b for i, b in enumerate(model.intercepts_)}
    np.savez(path, epoch=epoch, **layers, **biases)


def load(model: MLPClassifier, path: Path) -> int:
    """Put saved weights into a network of the same shape; return the epoch."""
    with np.load(path) as saved:
        for i in range(len(model.coefs_)):
            model.coefs_[i][:] = saved[f"w{i}"]
            model.intercepts_[i][:] = saved[f"b{i}"]
        return int(saved["epoch"])


def train(config: dict[str, Any]) -> None:
    """Train for some epochs; report the loss and a checkpoint after each."""
    # A learning rate that is too high is what the population is to find out.
    warnings.simplefilter("ignore", RuntimeWarning)
    data = load_digits()
    x_train, x_val, y_train, y_val = train_test_split(
        data.data / 16.0, data.target, test_size=0.3, random_state=0, stratify=data.target
    )
    classes = np.unique(data.target)
    model = make_model(config)
    first = 1
    checkpoint = raytune_hpo.get_checkpoint()
    if checkpoint is not None:
        # One batch gives the network its shape; then the saved weights replace what it learnt.
        batch = slice(config["batch_size"])
        model.partial_fit(x_train[batch], y_train[batch], classes=classes)
        first = load(model, checkpoint / "model.npz") + 1
    for epoch in range(first, EPOCHS + 1):
        model.partial_fit(x_train, y_train, classes=classes)
        path = Path("model.npz")
        save(model, epoch, path)
        chances = model.predict_proba(x_val)
        raytune_hpo.report(
            val_loss=log_loss(y_val, chances, labels=classes), epoch=epoch, checkpoint=path
        )
