"""Tuning from Python in ten lines. Run with: python examples/python_api.py."""

from __future__ import annotations

from typing import Any

from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import cross_val_score
from sklearn.tree import DecisionTreeClassifier

import raytune_hpo as rh


def accuracy(config: dict[str, Any]) -> float:
    """Return the cross-validated accuracy of a decision tree."""
    x, y = load_breast_cancer(return_X_y=True)
    return float(cross_val_score(DecisionTreeClassifier(**config, random_state=0), x, y).mean())


if __name__ == "__main__":
    result = rh.run(
        accuracy,
        {"max_depth": rh.Int(1, 12), "min_samples_leaf": rh.Int(1, 50, log=True)},
        metric="accuracy",
        mode="max",
        trials=20,
        resources={"cpu": 0.5},
    )
    print(result.best.config, result.best.metrics)
