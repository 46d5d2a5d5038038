"""Tuning of real learners, answered by YAHPO Gym's surrogates and by NAS-Bench-201's table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .spaces import Axis, Config, Space
from .tasks import Evaluation, Problem


@dataclass(frozen=True)
class _Scenario:
    """How a surrogate is asked: its inputs and outputs in order, and which of them mean what.

    ``scale`` turns the usual output into shares; ``fidelity`` is at its upper bound in a full job.
    """

    numbers: tuple[str, ...]
    texts: tuple[str, ...]
    outputs: tuple[str, ...]
    instance: str
    value: str
    scale: float
    fidelity: str
    seconds: str


_RBV2_OUTPUTS = (
    "acc",
    "bac",
    "auc",
    "brier",
    "f1",
    "logloss",
    "timetrain",
    "timepredict",
    "memory",
)
_SCENARIOS = {
    "lcbench": _Scenario(
        numbers=(
            "epoch",
            "batch_size",
            "learning_rate",
            "momentum",
            "weight_decay",
            "num_layers",
            "max_units",
            "max_dropout",
        ),
        texts=("OpenML_task_id",),
        outputs=(
            "time",
            "val_accuracy",
            "val_cross_entropy",
            "val_balanced_accuracy",
            "test_cross_entropy",
            "test_balanced_accuracy",
        ),
        instance="OpenML_task_id",
        value="val_accuracy",
        scale=0.01,
        fidelity="epoch",
        seconds="time",
    ),
    "rbv2_xgboost": _Scenario(
        numbers=(
            "nrounds",
            "eta",
            "gamma",
            "lambda",
            "alpha",
            "subsample",
            "max_depth",
            "min_child_weight",
            "colsample_bytree",
            "colsample_bylevel",
            "rate_drop",
            "skip_drop",
            "trainsize",
            "repl",
        ),
        texts=("task_id", "booster", "num.impute.selected.cpo"),
        outputs=_RBV2_OUTPUTS,
        instance="task_id",
        value="acc",
        scale=1.0,
        fidelity="trainsize",
        seconds="timetrain",
    ),
    "rbv2_rpart": _Scenario(
        numbers=("cp", "maxdepth", "minbucket", "minsplit", "trainsize", "repl"),
        texts=("task_id", "num.impute.selected.cpo"),
        outputs=_RBV2_OUTPUTS,
        instance="task_id",
        value="acc",
        scale=1.0,
        fidelity="trainsize",
        seconds="timetrain",
    ),
}
_SMALL_IS_GOOD = ("logloss", "brier", "val_cross_entropy", "test_cross_entropy")
_REPETITIONS = 10
_LEAST_SECONDS = 1e-3


class Surrogate(Problem):
    """A YAHPO Gym scenario on one data set.

    Args:
        data: Folder with a folder a scenario: ``model.onnx``, ``encoding.json`` and
            ``config_space.json`` as YAHPO Gym publishes them.
        scenario: ``lcbench``, ``rbv2_xgboost`` or ``rbv2_rpart``.
        instance: Number of the data set.
        output: What to optimise; None for the accuracy.

    Attributes:
        full: The fidelity of a full job.

    Source: Pfisterer et al. 2022, arXiv:2109.03670.
    """

    def __init__(self, data: Path, scenario: str, instance: str, output: str | None = None) -> None:
        if scenario not in _SCENARIOS:
            raise ValueError(f"unknown task family {scenario!r}; known: {sorted(_SCENARIOS)}")
        self._scenario = _SCENARIOS[scenario]
        self._instance = instance
        self._output = output or self._scenario.value
        folder = data / scenario
        self._session = _session(folder / "model.onnx")
        self._codes = json.loads((folder / "encoding.json").read_text())
        if instance not in self._codes[self._scenario.instance]:
            raise ValueError(f"scenario {scenario!r} has no instance {instance!r}")
        described = json.loads((folder / "config_space.json").read_text())
        self.full = _upper_bound(described, self._scenario.fidelity)
        held = (self._scenario.instance, self._scenario.fidelity, "repl")
        self.space = Space(_axes(described, held))

    def evaluate_many(self, configs: Sequence[Config]) -> list[Evaluation]:
        """Return what is true of each config."""
        return self.evaluate_at(configs, [self.full] * len(configs))

    def evaluate_at(
        self, configs: Sequence[Config], fidelities: Sequence[float]
    ) -> list[Evaluation]:
        """Return what is true of each config at a fidelity of its own."""
        outputs = self._session.run(None, self._inputs(configs, fidelities))[0].astype(float)
        names = self._scenario.outputs
        values = outputs[:, names.index(self._output)]
        if self._output not in _SMALL_IS_GOOD:
            values = -values
        if self._output == self._scenario.value:
            values = values * self._scenario.scale
        seconds = np.maximum(outputs[:, names.index(self._scenario.seconds)], _LEAST_SECONDS)
        pairs = zip(values, seconds, strict=True)
        return [Evaluation(float(value), seconds=float(took)) for value, took in pairs]

    def _inputs(self, configs: Sequence[Config], fidelities: Sequence[float]) -> dict[str, Any]:
        """Return the surrogate's inputs; what is not there is 0 or its own code."""
        held = {self._scenario.instance: self._instance, "repl": _REPETITIONS}
        pairs = zip(configs, fidelities, strict=True)
        full = [{**config, **held, self._scenario.fidelity: at} for config, at in pairs]
        numbers = [[one.get(name, 0) for name in self._scenario.numbers] for one in full]
        texts = [
            [self._codes[name][str(one.get(name, "#na#"))] for name in self._scenario.texts]
            for one in full
        ]
        return {"x_cont": np.array(numbers, np.float32), "x_cat": np.array(texts, np.int32)}


class NasBench(Problem):
    """Validation accuracy of each of 15625 cells.

    Args:
        data: Folder with ``nb201.npz``: ``ops``, shape (15625, 6), and an array a data set.
        dataset: ``cifar100`` or ``imagenet``.

    Source: Dong and Yang 2020, arXiv:2001.00326.
    """

    _OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")

    def __init__(self, data: Path, dataset: str) -> None:
        table = np.load(data / "nb201.npz")
        pairs = zip(table["ops"].tolist(), table[dataset].tolist(), strict=True)
        self._values = {tuple(cell): -accuracy / 100 for cell, accuracy in pairs}
        self.space = Space([Axis(f"op{i}", "choice", choices=self._OPERATIONS) for i in range(6)])
        self.optimum = min(self._values.values())

    def evaluate_many(self, configs: Sequence[Config]) -> list[Evaluation]:
        """Return what is true of each config."""
        cells = (tuple(self._OPERATIONS.index(c[f"op{i}"]) for i in range(6)) for c in configs)
        return [Evaluation(self._values[cell]) for cell in cells]


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options)


def _upper_bound(described: dict[str, Any], name: str) -> float:
    return float(next(h["upper"] for h in described["hyperparameters"] if h["name"] == name))


def _axes(described: dict[str, Any], held: Sequence[str]) -> list[Axis]:
    """Return the axes that ConfigSpace's JSON describes, those with a condition last."""
    conditions = {
        c["child"]: (c["parent"], tuple(c.get("values") or [c["value"]]))
        for c in described["conditions"]
    }
    axes = [
        _axis(h, *conditions.get(h["name"], (None, ())))
        for h in described["hyperparameters"]
        if h["name"] not in held
    ]
    return sorted(axes, key=lambda axis: axis.parent is not None)


def _axis(described: dict[str, Any], parent: str | None, values: tuple[str, ...]) -> Axis:
    name = described["name"]
    if described["type"] == "categorical":
        choices = tuple(described["choices"])
        return Axis(name, "choice", choices=choices, parent=parent, values=values)
    return Axis(
        name,
        "int" if described["type"] == "uniform_int" else "float",
        described["lower"],
        described["upper"],
        log=bool(described["log"]),
        parent=parent,
        values=values,
    )
