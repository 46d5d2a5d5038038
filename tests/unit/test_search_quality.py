"""The benchmark of search quality: its simulation, its results on disk and its scores."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.quality import reference, running
from benchmarks.quality.cli import seeds
from benchmarks.quality.constrained import make as make_constrained
from benchmarks.quality.ours import search_space
from benchmarks.quality.penalty import WorstSeen
from benchmarks.quality.records import Key, Record, append, load
from benchmarks.quality.reference import Reference
from benchmarks.quality.scores import (
    Cells,
    incumbents,
    mean_of_tasks,
    ranks,
    ratio,
    regrets,
    won,
)
from benchmarks.quality.simulation import Run, simulate
from benchmarks.quality.spaces import Axis, Config, Space
from benchmarks.quality.tables import report
from benchmarks.quality.tasks import SUITES, Evaluation, Problem, Task, kind_of, make_task
from benchmarks.quality.tuners import Setting, Told, make_tuner, parse

ROOT = Path(__file__).parents[2]
SPACE = Space(
    [
        Axis("kind", "choice", choices=("a", "b", "c")),
        Axis("rate", "float", 1e-4, 1.0, log=True),
        Axis("size", "int", 1, 5),
        Axis("depth", "int", 2, 64, log=True, parent="kind", values=("a", "c")),
    ]
)
SCALE = {"bbob:f1:d2:i1": Reference(best=0.0, median=10.0, how="known")}


class Line(Problem):
    """The value is x, and it takes as many seconds as it is told."""

    def __init__(self, seconds: Sequence[float] | None = None) -> None:
        self.space = Space([Axis("x", "float", 0.0, 1.0)])
        self.seconds = seconds
        self.asked = 0

    def evaluate_many(self, configs: Sequence[Config]) -> list[Evaluation]:
        answers = []
        for config in configs:
            took = None if self.seconds is None else self.seconds[self.asked]
            self.asked += 1
            answers.append(Evaluation(config["x"], seconds=took))
        return answers


class Script:
    """A tuner that proposes what it is given and notes what it is told."""

    def __init__(self, xs: Sequence[float]) -> None:
        self.xs = list(xs)
        self.asked = 0
        self.told: list[tuple[int, Told]] = []
        self.most_pending = 0

    def ask(self) -> tuple[int, Config] | None:
        if self.asked == len(self.xs):
            return None
        self.asked += 1
        self.most_pending = max(self.most_pending, self.asked - len(self.told))
        return self.asked - 1, {"x": self.xs[self.asked - 1]}

    def tell(self, handle: int, told: Told) -> None:
        self.told.append((handle, told))


def run_of(*values: float | None, **fields: Any) -> Run:
    good = [value is not None for value in values]
    defaults: dict[str, Any] = {
        "observed": list(values),
        "feasible": good,
        "times": [float(i) for i in range(len(values))],
        "ask_s": [0.001] * len(values),
        "tell_s": [0.001] * len(values),
    }
    return Run(values=list(values), **{**defaults, **fields})


def records_of(**runs: Run) -> dict[Key, Record]:
    keys = {name: Key(name, "bbob:f1:d2:i1", 0, 1, len(runs[name].values)) for name in runs}
    return {key: Record(key, runs[name]) for name, key in keys.items()}


# Spaces


def test_units_and_values_agree() -> None:
    rng = np.random.default_rng(0)
    for axis in SPACE.axes:
        for u in rng.random(50):
            value = axis.value(float(u))
            assert axis.value(axis.unit(value)) == pytest.approx(value)


def test_whole_numbers_get_even_shares() -> None:
    axis = Axis("size", "int", 1, 5)
    values = [axis.value(float(u)) for u in np.linspace(0, 1, 1001)]
    counts = [values.count(n) for n in range(1, 6)]
    assert max(counts) - min(counts) <= 2
    assert sum(counts) == 1001


def test_configs_are_ours_too() -> None:
    ours = search_space(SPACE)
    rng = np.random.default_rng(1)
    configs = [SPACE.sample(rng) for _ in range(200)]
    for config in configs:
        ours.validate(config)
    assert {"depth" in config for config in configs} == {True, False}


# Tasks


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("bbob:f8:d5:i1", "continuous"),
        ("lcbench:167168:noise0.05", "noisy"),
        ("rbv2_xgboost:1501:logloss", "conditional"),
        ("rbv2_rpart:40499", "mixed"),
        ("nb201:cifar100", "categorical"),
        ("constrained:g4", "constrained"),
        ("bbob:f8:d5:i1:noise0.1:fail", "failing"),
    ],
)
def test_class_of_a_task(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_every_suite_has_references() -> None:
    tasks = {reference.base_name(task) for suite in SUITES.values() for task in suite}
    known = reference.read()
    assert tasks == tasks & set(known)
    assert all(known[task].best < known[task].median for task in tasks)


def test_the_full_suite_has_every_class() -> None:
    assert {kind_of(task) for task in SUITES["full"]} == {
        "continuous",
        "mixed",
        "categorical",
        "conditional",
        "noisy",
        "constrained",
        "failing",
    }


@pytest.mark.parametrize("name", ["gardner", "g4", "vessel", "spring"])
def test_a_fifth_of_random_trials_fails(name: str) -> None:
    task = make_task(f"constrained:{name}:fail")
    rng = np.random.default_rng(2)
    fails = [task.failing(task.space.sample(rng), rng) for _ in range(4000)]
    assert 0.16 < np.mean(fails) < 0.24


def test_a_corner_always_fails_and_the_rest_only_sometimes() -> None:
    task = make_task("constrained:g4:fail")
    rng = np.random.default_rng(3)
    configs = [task.space.sample(rng) for _ in range(500)]
    corner = [config for config in configs if task.in_corner(config)]
    rest = [config for config in configs if not task.in_corner(config)]
    assert all(task.failing(config, rng) for config in corner)
    assert 0 < sum(task.failing(config, rng) for config in rest) < 0.2 * len(rest)


def test_noise_is_a_share_of_the_spread() -> None:
    task = Task("line:noise0.5", Line(), noise=0.5)
    rng = np.random.default_rng(4)
    seen = [task.observed(Evaluation(1.0), rng) for _ in range(4000)]
    assert np.std(seen) == pytest.approx(0.5 * task.spread, rel=0.1)
    assert np.mean(seen) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(
    ("name", "point"),
    [
        ("gardner", (4.622641019357, 5.849334492608)),
        ("g4", (78.0, 33.0, 29.9952560256815, 45.0, 36.7758129057882)),
        ("g6", (14.0950000001, 0.842960788)),
        ("g8", (1.2279713530, 4.2453733670)),
        ("vessel", (13, 7, 42.0984455958, 176.6365958424)),
        ("beam", (0.2057296398, 3.4704886656, 9.0366239104, 0.2057296398)),
        ("spring", (11, 0.3617486713, 0.0518973227)),
    ],
)
def test_known_optimum_of_a_constrained_function(name: str, point: tuple[float, ...]) -> None:
    function = make_constrained(name)
    config = dict(zip((axis.name for axis in function.space.axes), point, strict=True))
    (truth,) = function.evaluate_many([config])
    assert function.optimum is not None
    assert truth.value == pytest.approx(function.optimum, rel=1e-5)
    assert max(truth.violations) < 1e-4
    assert len(truth.violations) == function.constraints
    rng = np.random.default_rng(5)
    others = function.evaluate_many([function.space.sample(rng) for _ in range(3000)])
    assert min((o.value for o in others if o.feasible), default=np.inf) >= function.optimum


def test_unknown_tasks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"known: .*gardner"):
        make_task("constrained:g99")
    with pytest.raises(ValueError, match="needs --data"):
        make_task("lcbench:167168")


# Simulation


def test_trials_end_in_the_order_of_the_virtual_clock() -> None:
    tuner = Script([0.1, 0.2, 0.3, 0.4])
    task = Task("line", Line([10.0, 1.0, 2.0, 3.0]))
    run = simulate(tuner, task, seed=0, budget=4, workers=2)
    assert [handle for handle, _ in tuner.told] == [1, 2, 3, 0]
    assert run.times == [1.0, 3.0, 6.0, 10.0]
    assert run.values == [0.2, 0.3, 0.4, 0.1]


@pytest.mark.parametrize("workers", [1, 3, 8])
def test_so_many_trials_are_pending_as_there_are_workers(workers: int) -> None:
    tuner = Script(np.linspace(0, 1, 30).tolist())
    run = simulate(tuner, Task("line", Line()), seed=0, budget=20, workers=workers)
    assert tuner.most_pending == workers
    assert tuner.asked == len(run.values) == len(tuner.told) == 20


def test_a_tuner_with_nothing_left_ends_the_run() -> None:
    run = simulate(Script([0.5, 0.6]), Task("line", Line()), seed=0, budget=9, workers=4)
    assert sorted(value for value in run.values if value is not None) == [0.5, 0.6]


def test_noise_is_told_and_the_truth_is_kept() -> None:
    tuner = Script([0.5] * 20)
    run = simulate(tuner, Task("line", Line(), noise=0.1), seed=0, budget=20, workers=1)
    assert run.values == [0.5] * 20
    assert run.observed == [told.value for _, told in tuner.told]
    assert len(set(run.observed)) == 20


def test_noise_depends_on_the_seed_and_the_trial_only() -> None:
    task = Task("line", Line(), noise=0.1)
    noises = []
    for x, seed in ((0.2, 1), (0.8, 1), (0.2, 2)):
        run = simulate(Script([x] * 5), task, seed=seed, budget=5, workers=1)
        noises.append([seen - x for seen in run.observed if seen is not None])
    assert noises[0] == pytest.approx(noises[1])
    assert noises[0] != pytest.approx(noises[2])


def test_failures_are_told_without_a_value() -> None:
    tuner = Script(np.linspace(0, 1, 100).tolist())
    run = simulate(tuner, Task("line:fail", Line(), fails=True), seed=0, budget=100, workers=4)
    failed = [value is None for value in run.values]
    assert 5 < sum(failed) < 50
    assert [told.value is None for _, told in tuner.told] == failed
    assert run.feasible == [not bad for bad in failed]


# Tuners


def test_parts_of_a_name() -> None:
    assert parse("tpe") == ("tpe", {})
    assert parse("tpe@before?startup_trials=5&failures=ignore&multivariate=true") == (
        "tpe",
        {"startup_trials": 5, "failures": "ignore", "multivariate": True},
    )


@pytest.mark.parametrize("name", ["random", "tpe?startup_trials=5", "auto", "optuna-tpe"])
@pytest.mark.parametrize("constraints", [0, 2])
def test_tuners_propose_configs_of_the_space(name: str, constraints: int) -> None:
    tuner = make_tuner(name, Setting(SPACE, constraints, seed=1, budget=30, workers=2))
    legal = search_space(SPACE)
    pending = []
    for number in range(30):
        asked = tuner.ask()
        assert asked is not None
        legal.validate(asked[1])
        pending.append(asked)
        if number % 2:
            for handle, config in pending:
                told = Told(config["rate"], (config["size"] - 3.0, -1.0)[:constraints])
                tuner.tell(handle, Told(None) if number % 5 == 0 else told)
            pending = []


def test_worst_value_stands_for_a_bad_one() -> None:
    worst = WorstSeen()
    told = [Told(None), Told(3.0, (1.0,)), Told(1.0, (0.0,)), Told(None), Told(2.0, (0.1,))]
    assert [worst.number(one) for one in told] == [None, 3.0, 1.0, 3.0, 3.0]


# Results


def test_results_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "results.jsonl"
    noisy = run_of(1.0, None, 3.0, observed=[1.5, None, 2.5], feasible=[True, False, False])
    for record in records_of(a=noisy, b=run_of(0.25, 0.125)).values():
        append(path, record)
    assert load([path]) == records_of(a=noisy, b=run_of(0.25, 0.125))


def test_a_torn_line_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    records = records_of(a=run_of(1.0), b=run_of(2.0))
    for record in records.values():
        append(path, record)
    text = path.read_text()
    path.write_text(text[: -len(text) // 4])
    assert [key.searcher for key in load([path])] == ["a"]
    append(path, records_of(b=run_of(2.0))[next(k for k in records if k.searcher == "b")])
    assert [key.searcher for key in load([path])] == ["a", "b"]


def test_what_is_on_file_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.jsonl"
    made: list[str] = []

    def counting(name: str, setting: Setting) -> Any:
        made.append(f"{name} {setting.seed}")
        return make_tuner(name, setting)

    monkeypatch.setattr(running, "make_tuner", counting)
    tasks = ["constrained:gardner"]
    assert running.run_all(running.keys(["random"], tasks, [0, 1], 1, 4), path, None, 1) == 0
    before = path.read_text()
    wanted = running.keys(["random", "random@again"], tasks, [0, 1], 1, 4)
    assert running.run_all(wanted, path, None, 1) == 0
    assert made == ["random 0", "random 1", "random@again 0", "random@again 1"]
    assert path.read_text().startswith(before)
    assert len(load([path])) == 4


def test_a_broken_tuner_does_not_stop_the_others(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    wanted = running.keys(["no-such-one", "random"], ["constrained:gardner"], [0], 1, 3)
    assert running.run_all(wanted, path, None, 1) == 1
    assert [key.searcher for key in load([path])] == ["random"]


def test_seeds_are_outermost() -> None:
    keys = running.keys(["a", "b"], ["t"], seeds("3-4"), 8, 100)
    assert [(key.searcher, key.seed) for key in keys] == [("a", 3), ("b", 3), ("a", 4), ("b", 4)]


# Scores


def test_the_incumbent_is_chosen_by_what_was_seen() -> None:
    run = run_of(5.0, 2.0, 9.0, 1.0, observed=[5.0, 6.0, 3.0, 4.0])
    assert incumbents(run).tolist() == [5.0, 5.0, 9.0, 9.0]


def test_only_feasible_trials_become_incumbents() -> None:
    run = run_of(None, 1.0, 7.0, 3.0, feasible=[False, False, True, True])
    assert incumbents(run).tolist() == [np.inf, np.inf, 7.0, 3.0]


def test_regret_is_between_the_ends_of_the_scale() -> None:
    runs = records_of(a=run_of(None, 15.0, 5.0, 0.0))
    (curve,) = regrets(runs, SCALE).values()
    assert curve.tolist() == [1.0, 1.0, 0.5, 0.0]


def test_a_better_value_than_known_moves_the_scale_of_all() -> None:
    runs = records_of(a=run_of(5.0), b=run_of(-10.0))
    found = {key.searcher: curve[0] for key, curve in regrets(runs, SCALE).items()}
    assert found == {"a": 0.75, "b": 0.0}


def test_an_infeasible_value_moves_no_scale() -> None:
    runs = records_of(a=run_of(5.0), b=run_of(-10.0, feasible=[False]))
    found = {key.searcher: curve[0] for key, curve in regrets(runs, SCALE).items()}
    assert found == {"a": 0.5, "b": 1.0}


def test_noisy_tasks_share_the_scale_of_the_task_without_noise() -> None:
    key = Key("a", "bbob:f1:d2:i1:noise0.1", 0, 1, 1)
    assert regrets({key: Record(key, run_of(5.0))}, SCALE)[key].tolist() == [0.5]


def test_a_run_that_ended_early_keeps_its_last_value() -> None:
    key = Key("a", "bbob:f1:d2:i1", 0, 1, 4)
    curve = regrets({key: Record(key, run_of(5.0, 1.0))}, SCALE)[key]
    assert curve.tolist() == [0.5, 0.1, 0.1, 0.1]


def test_ranks_share_ties_and_use_common_cells_only() -> None:
    cells: dict[str, Cells] = {
        "a": {("t", 0): 0.1, ("t", 1): 0.5, ("u", 0): 0.0},
        "b": {("t", 0): 0.2, ("t", 1): 0.5},
        "c": {("t", 0): 0.3, ("t", 1): 0.9},
    }
    assert ranks(cells) == ({"a": 1.25, "b": 1.75, "c": 3.0}, 2)
    assert ranks({**cells, "d": {}}) == ({}, 0)


def test_tasks_count_alike_however_many_seeds_they_have() -> None:
    cells = {("t", 0): 1.0, **{("u", seed): 0.0 for seed in range(9)}}
    assert mean_of_tasks(cells) == (0.5, 0.5, 0.5)


def cells_of(tasks: int, seeds: int, draw: Callable[[int, int], float]) -> Cells:
    return {(f"t{t}", s): draw(t, s) for t in range(tasks) for s in range(seeds)}


def test_intervals_narrow_with_seeds_and_hold_the_mean() -> None:
    rng = np.random.default_rng(6)
    few, many = (mean_of_tasks(cells_of(3, n, lambda t, s: rng.random())) for n in (5, 80))
    for interval in (few, many):
        assert interval.low < interval.value < interval.high
    assert many.high - many.low < (few.high - few.low) / 2


def test_a_ratio_is_resampled_in_pairs() -> None:
    rng = np.random.default_rng(7)
    theirs = cells_of(4, 6, lambda t, s: float(rng.random()))
    ours = {cell: value / 2 for cell, value in theirs.items()}
    assert ratio(ours, theirs) == pytest.approx((0.5, 0.5, 0.5))


def test_a_ratio_is_of_means_over_tasks() -> None:
    ours = {("t", 0): 0.1, ("u", 0): 0.3, ("only ours", 0): 9.0}
    theirs = {("t", 0): 0.4, ("u", 0): 0.4, ("only theirs", 0): 9.0}
    plain = ratio(ours, theirs)
    assert plain is not None
    assert plain.value == pytest.approx(0.5)
    geometric = ratio(ours, theirs, geometric=True)
    assert geometric is not None
    assert geometric.value == pytest.approx((0.25 * 0.75) ** 0.5)


def test_a_geometric_ratio_has_a_floor() -> None:
    found = ratio({("t", 0): 0.0}, {("t", 0): 1e-9}, geometric=True)
    assert found == pytest.approx((1.0, 1.0, 1.0))


def test_nothing_in_common_has_no_ratio() -> None:
    assert ratio({("t", 0): 0.1}, {("t", 1): 0.1}) is None


def test_a_tie_is_half_a_win() -> None:
    ours = {("t", 0): 0.1, ("t", 1): 0.2, ("t", 2): 0.3, ("u", 0): 0.0}
    theirs = {("t", 0): 0.2, ("t", 1): 0.2, ("t", 2): 0.1}
    assert won(ours, theirs) == (1.5, 3)


# Report


def test_the_report_has_the_best_first_and_ratios() -> None:
    runs = records_of(a=run_of(8.0, 4.0), b=run_of(8.0, 2.0), c=run_of(8.0, 8.0))
    text = report(runs, SCALE, at=[1, 2, 50], against="a", markdown=True)
    rows = [line for line in text.splitlines() if line.startswith("| ")][:4]
    assert rows[0] == "| tuner | runs | tasks | rank (1) | @1 | @2 | @2 / a | geometric | won |"
    assert [row.split()[1] for row in rows[1:]] == ["b", "a", "c"]
    assert "0.2000 [0.2000, 0.2000] | 0.50 [0.50, 0.50] |" in rows[1]
    assert "| 1 of 1 |" in rows[1]


def test_the_report_shows_who_it_is_asked_for_on_the_scale_of_all() -> None:
    runs = records_of(a=run_of(5.0), b=run_of(-10.0))
    text = report(runs, SCALE, at=[1], against=None, searchers=["a"])
    assert "0.7500 [0.7500, 0.7500]" in text
    assert "\nb " not in text


def test_the_report_says_what_several_workers_cost() -> None:
    alone, many = run_of(8.0, 2.0), run_of(8.0, 4.0)
    keys = [Key("a", "bbob:f1:d2:i1", 0, workers, 2) for workers in (1, 4)]
    runs = dict(zip(keys, (Record(keys[0], alone), Record(keys[1], many)), strict=True))
    text = report(runs, SCALE, at=[2], against=None)
    assert "Regret at 2: 4 workers over 1 worker" in text
    assert text.splitlines()[-1].split()[:2] == ["a", "2.00"]


def test_the_command_line_runs_and_reports(tmp_path: Path) -> None:
    script, out = str(ROOT / "benchmarks" / "search_quality.py"), str(tmp_path / "r.jsonl")
    tasks = "constrained:gardner,constrained:spring"
    flags = ["--searchers", "random,tpe", "--tasks", tasks, "--seeds", "0-1", "--budget", "6"]
    for arguments in (["run", *flags, "--out", out], ["report", out, "--at", "3,6"]):
        done = subprocess.run(
            [sys.executable, script, *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert "1 worker, 6 trials" in done.stdout
    assert "constrained:spring" in done.stdout
