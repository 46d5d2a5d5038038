"""Fit a curve by gradient descent for some seconds, and print the loss; needs nothing but Python.

Try it by itself: python train.py --lr 0.01 --momentum 0.5 --seconds 1
"""

from __future__ import annotations

import argparse
import math
import time

POINTS = [(x / 20, math.sin(3 * x / 20)) for x in range(-20, 21)]


def gradient(weights: list[float]) -> tuple[float, list[float]]:
    """Return the mean squared error of a polynomial, and its derivatives."""
    loss, slopes = 0.0, [0.0] * len(weights)
    for x, y in POINTS:
        error = sum(weight * x**power for power, weight in enumerate(weights)) - y
        loss += error * error / len(POINTS)
        for power in range(len(weights)):
            slopes[power] += 2 * error * x**power / len(POINTS)
    return loss, slopes


def main() -> None:
    """Train until the time is over."""
    parser = argparse.ArgumentParser(description="Fit a curve.")
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--momentum", type=float, required=True)
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    weights, speeds = [0.0] * 6, [0.0] * 6
    end = time.monotonic() + options.seconds
    loss, _ = gradient(weights)
    while time.monotonic() < end:
        loss, slopes = gradient(weights)
        for power, slope in enumerate(slopes):
            speeds[power] = options.momentum * speeds[power] - options.lr * slope
            weights[power] += speeds[power]
    print(f"loss={loss:.6f}")


if __name__ == "__main__":
    main()
