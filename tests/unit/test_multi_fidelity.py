"""The benchmark of multi-fidelity tuning: its simulation, its results on disk and its scores."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.fidelity import running
from benchmarks.fidelity.records import Key, append, load
from benchmarks.fidelity.runs import Run, simulate, value_at
from benchmarks.fidelity.scores import best_known, curves, mean_at, speedup, times
from benchmarks.fidelity.tables import report
from benchmarks.fidelity.tasks import TASKS, Point, Task
from benchmarks.fidelity.tuners import Setting, Tuner, make_tuner
from benchmarks.quality import reference
from benchmarks.quality.reference import Reference
from benchmarks.quality.spaces import Axis, Config, Space
from benchmarks.quality.tasks import Evaluation

ROOT = Path(__file__).parents[2]
near: Any = pytest.approx
SCALE = {"line": Reference(best=0.0, median=1.0, how="known")}


class Line:
    """The value is x at full fidelity and more before; a full job takes 10 s, or as told."""

    full = 9.0

    def __init__(self, seconds: float = 10.0) -> None:
        self.space = Space([Axis("x", "float", 0.0, 1.0)])
        self.seconds = seconds

    def evaluate_at(
        self, configs: Sequence[Config], fidelities: Sequence[float]
    ) -> list[Evaluation]:
        return [
            Evaluation(config["x"] + (9 - at) / 9, seconds=self.seconds * at / 9)
            for config, at in zip(configs, fidelities, strict=True)
        ]


class Script:
    """A searcher that proposes what it is given, then 0.9."""

    def __init__(self, *xs: float) -> None:
        self.xs = xs

    def suggest(self, trial: int) -> Config:
        return {"x": self.xs[trial] if trial < len(self.xs) else 0.9}

    def adopt(self, *args: Any) -> None: ...

    def report(self, *args: Any) -> None: ...

    def observe(self, *args: Any) -> None: ...

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None: ...


def line(*, again: bool = False) -> Task:
    return Task("line", Line(), (1, 3, 9), (1, 3, 9), first=1, again=again)


def scripted(scheduler: str, setting: Setting, *xs: float) -> Tuner:
    return replace(make_tuner(f"{scheduler}+random", setting), searcher=Script(*xs))


def run_of(*incumbents: tuple[float, float], **fields: Any) -> Run:
    return Run(**{"unit_s": 1.0, "incumbents": list(incumbents), "trials": 1, "full": 1, **fields})


# Tasks


def test_a_job_that_goes_on_pays_for_each_step_once() -> None:
    assert line().job({"x": 0.5}) == [
        Point(1, near(0.5 + 8 / 9), near(10 / 9)),
        Point(3, near(0.5 + 6 / 9), near(20 / 9)),
        Point(9, near(0.5), near(60 / 9)),
    ]


def test_a_job_that_begins_anew_pays_for_all_of_each_step() -> None:
    task = line(again=True)
    assert [point.seconds for point in task.job({"x": 0.5})] == near([10 / 9, 30 / 9, 10])
    assert task.full_job({"x": 0.5}) == [Point(9, 0.5, 10.0)]
    assert task.job_until({"x": 0.5}, 3) == [Point(3, near(0.5 + 6 / 9), near(30 / 9))]


def test_a_full_job_of_one_that_goes_on_reports_on_its_way() -> None:
    assert line().full_job({"x": 0.5}) == line().job({"x": 0.5})
    assert line().job_until({"x": 0.5}, 3) == line().job({"x": 0.5})[:2]


def test_the_unit_is_the_median_full_job() -> None:
    assert line().unit_s == near(10.0)


def test_milestones() -> None:
    task = Task("line", Line(), (1, 3, 9), (3, 9), first=3, again=False)
    assert [task.milestone(used) for used in (1, 3, 8, 9)] == [0, 3, 3, 9]


def test_every_task_has_a_reference() -> None:
    known = reference.read()
    assert all(known[task].best < known[task].median for task in TASKS)


# Runs


def test_full_jobs_fill_the_budget() -> None:
    setting = Setting(line(again=True), workers=2, seed=0)
    run = simulate(scripted("none", setting, 0.5, 0.3), setting.task, setting, budget=6.1)
    assert run.full == 6
    assert run.incumbents == [(near(2.0), 0.5), (near(2.0), 0.3)]


def test_the_best_at_the_highest_milestone_is_held() -> None:
    """Trial 2 is better than trial 0 at each step, but only the last step of trial 0 compares."""
    setting = Setting(line(), workers=1, seed=0)
    tuner = scripted("asha?form=stop", setting, 0.4, 0.6, 0.1)
    run = simulate(tuner, setting.task, setting, budget=3.0)
    assert run.incumbents == [(near(1 / 9), 0.4), (near(1 + 1 / 9 + 1), 0.1)]


def test_a_promoted_trial_pays_for_the_rest_only() -> None:
    """Four trials of a ninth of a job each; the best goes on from its checkpoint, to a third."""
    setting = Setting(line(), workers=1, seed=0)
    tuner = scripted("asha?form=promote&reduction_factor=4", setting, 0.5, 0.6, 0.7, 0.4)
    run = simulate(tuner, setting.task, setting, budget=4 / 9 + 2 / 9 + 0.001)
    assert run.incumbents[-1] == (near(4 / 9), 0.4)
    assert run.trials == 4


def test_the_same_seed_gives_the_same_run() -> None:
    def run(seed: int) -> list[tuple[float, float]]:
        setting = Setting(line(), workers=4, seed=seed)
        return simulate(make_tuner("asha+bohb", setting), setting.task, setting, 30.0).incumbents

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_suggestions_are_counted_and_may_be_late() -> None:
    for late in (False, True):
        setting = Setting(line(), workers=2, seed=0)
        tuner = replace(scripted("none", setting), late=late)
        run = simulate(tuner, setting.task, setting, budget=5)
        # One is requested ahead, and never needed.
        assert len(run.suggest_ms) == run.trials + (not late)


def test_the_value_held_at_a_time() -> None:
    incumbents = [(1.0, 0.5), (2.0, 0.7)]
    held = [value_at(incumbents, at) for at in (0.5, 1.0, 1.9, 5.0)]
    assert held == [float("inf"), 0.5, 0.5, 0.7]


# Tuners


def test_schedulers_are_told_what_a_job_uses() -> None:
    task = Task("line", Line(), (1, 3, 9), (3, 9), first=3, again=False)
    scheduler: Any = make_tuner("asha?reduction_factor=2+random", Setting(task, 4, 0)).scheduler
    assert (scheduler.resource, scheduler.min_resource, scheduler.max_resource) == ("used", 3, 9)
    assert scheduler.reduction_factor == 2


def test_only_full_jobs_do_not_report_on_their_way() -> None:
    setting = Setting(line(again=True), 4, 0)
    assert make_tuner("asha+random", setting).job is None
    job = make_tuner("none+random", setting).job
    assert job is not None
    assert [point.used for point in job({"x": 0.5})] == [9]


@pytest.mark.parametrize("name", ["ray-asha", "ray-hyperband"])
def test_schedulers_of_ray_halve_and_go_on(name: str) -> None:
    setting = Setting(line(), workers=4, seed=1)
    run = simulate(make_tuner(name, setting), setting.task, setting, budget=40.0)
    assert 2 < run.full < run.trials / 2
    assert run.incumbents[-1][1] < 0.2


# Results


def test_results_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "results.jsonl"
    keys = [Key(name, "line", 4, 0, 100.0) for name in "ab"]
    runs = [run_of((1.5, 0.25), suggest_ms=[1.0, 2.5], tell_ms=0.125), run_of()]
    for key, run in zip(keys, runs, strict=True):
        append(path, key, run)
    assert load([path]) == dict(zip(keys, runs, strict=True))


def test_a_torn_line_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    for name in "ab":
        append(path, Key(name, "line", 4, 0, 100.0), run_of((1.0, 0.5)))
    path.write_text(path.read_text()[:-9])
    assert [key.tuner for key in load([path])] == ["a"]
    append(path, Key("b", "line", 4, 0, 100.0), run_of((1.0, 0.5)))
    assert [key.tuner for key in load([path])] == ["a", "b"]


def test_what_is_on_file_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.jsonl"
    made: list[str] = []

    def counting(name: str, setting: Setting) -> Tuner:
        made.append(f"{name} {setting.seed}")
        return make_tuner(name, setting)

    monkeypatch.setattr(running, "make_tuner", counting)
    monkeypatch.setattr(running, "make_task", lambda name, data: line())
    monkeypatch.setattr(running, "BUDGETS", {4: 8.0})
    running._task.cache_clear()
    wanted = running.keys(["none+random", "asha+random"], ["line"], [0, 1], [4])
    assert running.run_all(wanted[:3], path, Path()) == 0
    assert running.run_all([*wanted, Key("no-such-one", "line", 4, 0, 8.0)], path, Path()) == 1
    running._task.cache_clear()
    assert made == [
        "none+random 0", "asha+random 0", "none+random 1", "asha+random 1", "no-such-one 0",
    ]  # fmt: skip
    assert list(load([path])) == wanted


def test_seeds_are_outermost_and_budgets_grow_with_the_workers() -> None:
    keys = running.keys(["a"], ["t"], [3, 4], [4, 64])
    assert [(key.seed, key.workers) for key in keys] == [(3, 4), (3, 64), (4, 4), (4, 64)]
    assert [key.budget for key in keys[:2]] == [100.0, 640.0]


# Scores


def test_regret_follows_what_is_held() -> None:
    (curve,) = curves([run_of((0.5, 0.6), (1.5, 0.2))], 2.0, SCALE["line"], best=0.0)
    assert times(2.0).tolist() == [0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0]
    assert curve.tolist() == [1.0, 0.6, 0.6, 0.6, 0.6, 0.2, 0.2, 0.2]


def test_a_better_value_than_known_moves_the_scale() -> None:
    key = Key("a", "line", 4, 0, 2.0)
    assert best_known({key: run_of((1.0, -0.5))}, SCALE) == {"line": -0.5}
    assert best_known({key: run_of((1.0, 0.5))}, SCALE) == {"line": 0.0}


def test_speedup_is_a_ratio_of_times() -> None:
    random = np.linspace(1.0, 0.2, 40)[None, :].repeat(5, axis=0)
    fast = np.where(np.arange(40) >= 7, 0.1, 1.0)[None, :].repeat(5, axis=0)
    assert speedup(fast, random, at=10.0) == (5.0, 5.0, 5.0)
    assert speedup(random, random, at=10.0) == (1.0, 1.0, 1.0)
    assert speedup(np.ones((5, 40)), random, at=10.0) == (0.0, 0.0, 0.0)


def test_the_interval_of_a_speedup_holds_what_other_seeds_would_give() -> None:
    random = np.full((10, 40), 0.5)
    early, late = np.arange(40) >= 3, np.arange(40) >= 19
    mixed = np.array([np.where(early if i < 6 else late, 0.1, 1.0) for i in range(10)])
    found = speedup(mixed, random, at=10.0)
    assert found == (10.0, 2.0, 10.0)


def test_means_have_intervals() -> None:
    curve = np.array([[0.0, 0.2], [0.0, 0.4]]).repeat(2, axis=1)
    assert mean_at(curve, 0.5) == (0.0, 0.0, 0.0)
    found = mean_at(curve, 1.0)
    assert found.value == near(0.3)
    assert (found.low, found.high) == (near(0.2), near(0.4))


# The report and the command


def test_the_report_compares_with_random_search() -> None:
    runs = {
        Key("none+random", "line", 4, 0, 10.0): run_of((1.0, 0.9), (10.0, 0.5)),
        Key("asha+bo", "line", 4, 0, 10.0): run_of((1.0, 0.9), (2.0, 0.25), trials=7),
        Key("other", "line", 16, 0, 10.0): run_of((1.0, 0.9)),
    }
    text = report(runs, SCALE, at=1.0, markdown=True)
    four, sixteen = text.split("### 16 workers")
    assert "4 workers, 10 full-job equivalents" in four
    assert "| asha+bo | 1 | 5.0 [5.0, 5.0] |" in four
    assert "| asha+bo | 1 | 0.250 [0.250, 0.250] |" in four
    assert "| asha+bo | 1 | 7, 1, 0.0 |" in four
    assert "| other | 1 | - |" in sixteen
    assert "| other | 1 | 0.900 [0.900, 0.900] |" in sixteen
    chosen = report(runs, SCALE, at=1.0, tuners=["asha+bo"])
    assert "none+random  1" not in chosen
    assert "5.0 [5.0, 5.0]" in chosen


def test_the_command_reports(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    task = TASKS[0]
    append(path, Key("none+random", task, 4, 0, 100.0), run_of((1.0, -0.5)))
    done = subprocess.run(
        [sys.executable, "benchmarks/multi_fidelity.py", "report", str(path), "--workers", "4"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"tuner        runs  {task}" in done.stdout
