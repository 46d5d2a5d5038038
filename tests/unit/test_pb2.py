"""Population-based bandits: what is learnt from gains, and what a fork gets."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from raytune_hpo.chaos.checked_decisions import check_decisions
from raytune_hpo.errors import SpecError
from raytune_hpo.experiment import Experiment
from raytune_hpo.objective import Objective
from raytune_hpo.schedulers.bandit import Kernel, Rows, fitted, upper_bound
from raytune_hpo.schedulers.base import Drop, Fork
from raytune_hpo.schedulers.pb2 import Gain, Pb2
from raytune_hpo.simulate import Simulation
from raytune_hpo.space import Choice, Float, Int, Ordinal, SearchSpace
from raytune_hpo.trial import Config, Outcome, Result, TrialState

SPACE = SearchSpace({"x": Float(0.0, 1.0)})
LOSS = Objective.of("loss")
SPREAD: list[Config] = [{"x": x} for x in (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 0.1)]


def pb2(space: SearchSpace = SPACE, objective: Objective = LOSS, **settings: Any) -> Pb2:
    return Pb2(space, objective, 1, **{"interval": 1, **settings})


def trained(
    scheduler: Pb2, configs: list[Config], intervals: int, loss: Callable[[int, int], float]
) -> None:
    """Let some trials run some intervals; ``loss`` gets the trial and the interval."""
    for trial, config in enumerate(configs):
        scheduler.on_trial(trial, config, None)
    for step in range(1, intervals + 1):
        for trial in range(len(configs)):
            value = loss(trial, step)
            scheduler.on_result(Result(trial, step, (value,), checkpoint=True))


def forked(scheduler: Pb2) -> Fork:
    """Return the next fork, with whoever is dropped for it."""
    alive = [trial for trial, member in scheduler.members.items() if member.alive]
    move = scheduler.next_move(alive, more=False)
    if isinstance(move, Drop):
        scheduler.on_end(move.trial, Outcome(TrialState.PRUNED, (0.0,), step=1))
        alive.remove(move.trial)
        move = scheduler.next_move(alive, more=False)
    assert isinstance(move, Fork)
    return move


def line(*x: float) -> Rows:
    return Rows(np.zeros(len(x)), np.array(x)[:, None])


def test_the_kernel_by_hand() -> None:
    a = Rows(np.array([3.0]), np.array([[0.0, 0.5]]))
    b = Rows(np.array([3.0, 7.0]), np.array([[0.3, 0.9], [0.0, 0.5]]))
    near, later = Kernel(length=0.5, forgetting=0.2, noise=0.1)(a, b)[0]
    assert near == pytest.approx(math.exp(-(0.3**2 + 0.4**2) / (2 * 0.5**2)))
    assert later == pytest.approx(0.8 ** (4 / 2))


def test_the_bound_is_the_posterior_of_a_gaussian_process() -> None:
    kernel = Kernel(length=0.3, forgetting=0.0, noise=0.5)
    rows, y, at = line(0.1, 0.4, 0.8), np.array([1.0, -0.5, -0.5]), line(0.2)
    k = kernel(rows, rows) + 0.5 * np.eye(3)
    inverse = np.linalg.inv(k)
    signal = y @ inverse @ y / 3
    cross = kernel(rows, at)[:, 0]
    deviation = math.sqrt(signal * (1 - cross @ inverse @ cross))
    expected = cross @ inverse @ y + math.sqrt(0.2 + math.log(0.4 * 3)) * deviation
    none = Rows(np.zeros(0), np.zeros((0, 1)))
    assert upper_bound(kernel, rows, y, none, at)[0] == pytest.approx(expected, rel=1e-6)


def test_what_is_pending_leaves_the_mean_and_lowers_the_variance() -> None:
    kernel = Kernel(length=0.2, forgetting=0.0, noise=0.01)
    rows, y, at = line(0.1, 0.2, 0.3, 0.4), np.array([1.0, 0.5, -0.5, -1.0]), line(0.9, 0.1)
    none = Rows(np.zeros(0), np.zeros((0, 1)))
    before = upper_bound(kernel, rows, y, none, at)
    after = upper_bound(kernel, rows, y, line(0.9), at)
    assert after[0] < before[0] / 2
    assert after[1] == pytest.approx(before[1], abs=0.05)


def test_gains_that_change_over_time_are_forgotten_faster() -> None:
    rng = np.random.default_rng(0)
    rows = Rows(np.repeat(np.arange(20.0), 5), rng.random((100, 1)))
    steady = np.sin(6 * rows.u[:, 0])
    changing = np.sin(6 * rows.u[:, 0] + rows.interval)
    forgetting = [fitted(rows, y - y.mean()).forgetting for y in (steady, changing)]
    assert forgetting[0] == 0.0
    assert forgetting[1] >= 0.2


def test_a_gain_is_the_improvement_in_an_interval() -> None:
    scheduler = pb2()
    losses = {(0, 1): 5.0, (0, 2): 3.0, (1, 1): 4.0, (1, 2): 4.5}
    trained(scheduler, [{"x": 0.1}, {"x": 0.9}], 2, lambda trial, step: losses[trial, step])
    assert scheduler._gains() == [Gain(2, {"x": 0.1}, 2.0), Gain(2, {"x": 0.9}, -0.5)]


def test_a_fork_gains_on_its_parent() -> None:
    scheduler = pb2()
    trained(scheduler, [{"x": 0.1}, {"x": 0.9}], 1, lambda trial, step: 5.0 - trial)
    fork = forked(scheduler)
    scheduler.on_trial(2, {"x": 0.5}, fork.parent)
    # Nothing was reported at the second interval's end, so it counts for both.
    scheduler.on_result(Result(2, 3, (1.0,), checkpoint=True))
    assert scheduler._gains() == [Gain(3, {"x": 0.5}, 1.5)]


def test_maximized_values_gain_by_growing() -> None:
    scheduler = pb2(objective=Objective.of("accuracy", "max"))
    trained(scheduler, [{"x": 0.1}], 2, lambda trial, step: float(step))
    assert scheduler._gains() == [Gain(2, {"x": 0.1}, 1.0)]


def test_a_fork_gets_the_config_that_gains_most() -> None:
    found = []
    gains = [math.exp(-(((c["x"] - 0.7) / 0.2) ** 2)) for c in SPREAD]
    for seed in range(5):
        scheduler = Pb2(SPACE, LOSS, seed, interval=1)
        trained(scheduler, SPREAD, 6, lambda trial, step: -gains[trial] * step)
        found.append(forked(scheduler).config["x"])
    assert np.abs(np.array(found) - 0.7).max() < 0.15


def test_forks_that_start_together_differ() -> None:
    scheduler = pb2(quantile=0.5)
    configs = [{"x": x} for x in (0.1, 0.3, 0.5, 0.7)]
    trained(scheduler, configs, 4, lambda trial, step: float(-step * (trial == 2)))
    chosen = []
    for number in (4, 5):
        fork = forked(scheduler)
        chosen.append(fork.config["x"])
        scheduler.on_trial(number, fork.config, fork.parent)
    assert abs(chosen[0] - chosen[1]) > 0.02


def test_a_trial_that_diverges_does_not_hide_the_others() -> None:
    scheduler = pb2()
    gains = [-1e12, *(math.exp(-(((c["x"] - 0.7) / 0.2) ** 2)) for c in SPREAD[1:])]
    trained(scheduler, SPREAD, 6, lambda trial, step: -gains[trial] * step)
    assert abs(forked(scheduler).config["x"] - 0.7) < 0.2


def test_with_few_gains_the_parent_is_perturbed() -> None:
    scheduler = pb2(resample=0.0)
    trained(scheduler, [{"x": 0.5}, {"x": 0.1}], 1, lambda trial, step: trial)
    assert forked(scheduler).config["x"] in (0.4, 0.6)


MIXED = SearchSpace(
    {
        "x": Float(1e-4, 1.0, log=True),
        "n": Int(1, 9),
        "size": Ordinal((16, 32, 64)),
        "kind": Choice(("a", "b", "c")),
        "y": Float(0.0, 1.0, when="kind == a"),
        "layers": Int(1, 4),
    }
)


@pytest.mark.parametrize(("resample", "kinds"), [(0.0, 1), (1.0, 3)])
def test_without_an_order_it_is_inherited_or_drawn_anew(resample: float, kinds: int) -> None:
    seen, fixed = set(), set()
    for seed in range(12):
        scheduler = Pb2(MIXED, LOSS, seed, interval=1, resample=resample, fixed=["layers"])
        rng = np.random.default_rng(seed)
        configs = [MIXED.complete({"kind": "b", "layers": 3}, rng) for _ in range(8)]
        trained(scheduler, configs, 4, lambda trial, step: -trial * step)
        config = forked(scheduler).config
        MIXED.validate(config)
        seen.add(config["kind"])
        fixed.add(config["layers"])
    assert len(seen) == kinds
    assert "b" in seen
    assert fixed == {3}


def test_without_anything_to_learn_it_is_perturbed() -> None:
    space = SearchSpace({"kind": Choice(("a", "b"))})
    scheduler = pb2(space, resample=0.0)
    trained(scheduler, [{"kind": "a"}] * 8, 4, lambda trial, step: trial * step)
    assert forked(scheduler).config == {"kind": "a"}


def test_wrong_settings_are_told_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        pb2(interval=-1, quantile=0, resample=-0.1)
    assert len(caught.value.problems) == 3


def curve(config: Config) -> Iterator[tuple[float, dict[str, Any]]]:
    for step in range(1, 13):
        yield 1.0 + config["x"], {"loss": config["x"] + 1 / step}


@pytest.mark.parametrize("parallel", [1, 3, 10])
def test_a_run_that_is_killed_goes_on_alike(parallel: int) -> None:
    spec = Experiment.from_python(
        run="noop",
        parameters=MIXED.parameters,
        metric="loss",
        trials=6,
        parallel=parallel,
        search={"algorithm": "random", "seed": 1},
    )
    records: list[Any] = []
    for _ in range(100):
        scheduler = Pb2(MIXED, LOSS, 1, interval=3, max_resource=12)
        run = Simulation(spec, curve, records=records, scheduler=scheduler, checkpoints=True)
        state = run.run(events=23)
        records = list(run.journal.records)
        if state.finish is not None:
            break
    assert state.finish is not None
    assert check_decisions(records, Pb2(MIXED, LOSS, 1, interval=3, max_resource=12)) == []
    assert state.counts()[TrialState.COMPLETED] == 6
    for trial in state.trials.values():
        MIXED.validate(trial.config)
