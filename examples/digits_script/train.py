"""A plain training script: it knows nothing of any tuner, it takes options and prints numbers.

Try it by itself: python train.py --lr 0.01 --layers 2
"""

from __future__ import annotations

import argparse

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier


def main() -> None:
    """Train for some epochs and print a line after each."""
    parser = argparse.ArgumentParser(description="Train a network on handwritten digits.")
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=12)
    options = parser.parse_args()
    data = load_digits()
    x_train, x_val, y_train, y_val = train_test_split(
        data.data / 16.0, data.target, test_size=0.3, random_state=0, stratify=data.target
    )
    model = MLPClassifier(
        hidden_layer_sizes=(options.width,) * options.layers,
        learning_rate_init=options.lr,
        random_state=0,
    )
    for epoch in range(1, options.epochs + 1):
        model.partial_fit(x_train, y_train, classes=np.unique(data.target))
        accuracy = model.score(x_val, y_val)
        print(f"epoch={epoch} loss={model.loss_:.6f} val_accuracy={accuracy:.6f}", flush=True)


if __name__ == "__main__":
    main()
