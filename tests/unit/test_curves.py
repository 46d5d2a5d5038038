"""The schedulers that stop a trial by its learning curve."""

from __future__ import annotations

import doctest
from collections.abc import Sequence
from statistics import median
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raytune_hpo.errors import SpecError
from raytune_hpo.objective import BadMetric, Objective
from raytune_hpo.schedulers import curves, patient, percentile, threshold
from raytune_hpo.schedulers import median as median_module
from raytune_hpo.schedulers.base import Decision, Scheduler
from raytune_hpo.schedulers.curves import Curve, Places, quantile
from raytune_hpo.schedulers.median import Median
from raytune_hpo.schedulers.patient import Patient
from raytune_hpo.schedulers.percentile import Percentile
from raytune_hpo.schedulers.threshold import Threshold
from raytune_hpo.space import Float, SearchSpace
from raytune_hpo.trial import Outcome, Result, TrialState

SPACE = SearchSpace({"x": Float(0, 1)})
LOSS = Objective.of("loss")
GO, STOP = Decision.CONTINUE, Decision.STOP


def report(trial: int, step: int, value: float, **metrics: Any) -> Result:
    return Result(trial, step, (value,), metrics)


def curve(scheduler: Scheduler, trial: int, values: Sequence[float]) -> list[Decision]:
    """Tell of a trial up to its end, as the engine would."""
    scheduler.on_trial(trial, {"x": 0.5}, None)
    decisions = []
    for step, value in enumerate(values, start=1):
        decisions.append(scheduler.on_result(report(trial, step, value)))
        if decisions[-1] is STOP:
            break
    state = TrialState.PRUNED if STOP in decisions else TrialState.COMPLETED
    scheduler.on_end(trial, Outcome(state, (values[0],), step=len(decisions)))
    return decisions


# Median


def test_the_best_value_is_compared_with_the_median_of_averages() -> None:
    rule = Median(SPACE, LOSS, 1, min_trials=3)
    curve(rule, 0, [1.0, 0.0])  # average 0.5 at step 2
    curve(rule, 1, [1.0, 0.4])  # 0.7
    curve(rule, 2, [1.0, 0.8])  # 0.9
    assert curve(rule, 3, [0.9, 0.71]) == [GO, STOP]
    assert curve(rule, 4, [0.69, 5.0]) == [GO, GO]


def test_a_trial_equal_to_the_median_goes_on() -> None:
    rule = Median(SPACE, LOSS, 1, min_trials=1)
    curve(rule, 0, [0.5])
    assert curve(rule, 1, [0.5]) == [GO]
    assert curve(rule, 2, [0.5 + 1e-9]) == [STOP]


def test_nobody_is_stopped_before_enough_others_have_come_there() -> None:
    rule = Median(SPACE, LOSS, 1, min_trials=3)
    assert curve(rule, 0, [0.1, 0.1]) == [GO, GO]
    assert curve(rule, 1, [0.1]) == [GO]
    assert curve(rule, 2, [0.1]) == [GO]
    assert curve(rule, 3, [9.0]) == [STOP]
    assert curve(Median(SPACE, LOSS, 1, min_trials=1), 0, [9.0]) == [GO]


def test_nobody_is_stopped_before_the_least_resource() -> None:
    rule = Median(SPACE, LOSS, 1, min_trials=1, min_resource=3)
    curve(rule, 0, [0.1] * 5)
    assert curve(rule, 1, [9.0] * 5) == [GO, GO, STOP]


def test_a_resource_that_is_reported_at_odd_places_is_compared_at_multiples() -> None:
    rule = Median(SPACE, LOSS, 1, min_trials=1, resource="seconds", interval=10)
    rule.on_trial(0, {}, None)
    for at, value in ((4.0, 0.5), (11.5, 0.3), (29.0, 0.1)):
        rule.on_result(report(0, 1, value, seconds=at))
    rule.on_trial(1, {}, None)
    assert rule.on_result(report(1, 1, 9.0, seconds=9.9)) is GO
    assert rule.on_result(report(1, 2, 9.0, seconds=10.0)) is STOP


def test_a_multiple_that_is_not_exact_is_met() -> None:
    rule = Median(SPACE, LOSS, 1, min_trials=1, resource="share", interval=0.1, min_resource=0)
    places = [0.1 + 0.2, 3 * 0.1]
    for trial, at in enumerate(places):
        rule.on_trial(trial, {}, None)
        rule.on_result(report(trial, 1, float(trial), share=at))
    rule.on_trial(2, {}, None)
    assert rule.on_result(report(2, 1, 9.0, share=0.3)) is STOP


def test_a_maximised_objective_is_turned() -> None:
    rule = Median(SPACE, Objective.of("acc", "max"), 1, min_trials=1)
    curve(rule, 0, [0.5])
    assert curve(rule, 1, [0.4]) == [STOP]
    assert curve(rule, 2, [0.6]) == [GO]


@given(st.lists(st.lists(st.floats(-9, 9), min_size=4, max_size=4), min_size=2, max_size=9))
def test_the_rule_is_that_of_the_paper(curves: list[list[float]]) -> None:
    rule = Median(SPACE, LOSS, 1, min_trials=1)
    seen: list[list[float]] = []
    for trial, values in enumerate(curves):
        decisions = curve(rule, trial, values)
        for step, decision in enumerate(decisions, start=1):
            averages = [float(np.mean(other[:step])) for other in seen if len(other) >= step]
            best = min(values[:step])
            if averages and abs(best - median(averages)) > 1e-9:
                assert (decision is STOP) == (best > median(averages))
        seen.append(values[: len(decisions)])


def test_steps_of_many_units_cost_no_more_than_steps_of_one() -> None:
    rule = Median(SPACE, LOSS, 1, min_trials=1, resource="tokens")
    for trial, value in enumerate((0.5, 0.6, 0.4)):
        rule.on_trial(trial, {}, None)
        decisions = [
            rule.on_result(report(trial, step, value, tokens=step * 10**12)) for step in (1, 2)
        ]
        assert decisions[0] is (STOP if value == 0.6 else GO)
    assert len(rule._places._ends) == 2


# Places and quantiles


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(1, 9), st.floats(-9, 9)), min_size=1, max_size=30
    )
)
def test_a_report_enters_each_place_that_it_passes(
    reports: list[tuple[int, int, float]],
) -> None:
    places, at = Places(), [0] * 5
    expected: dict[int, list[float]] = {place: [] for place in range(1, 60)}
    for trial, ahead, entry in reports:
        before, at[trial] = at[trial], at[trial] + ahead
        places.enter(before, at[trial], entry)
        for place in range(before + 1, at[trial] + 1):
            expected.setdefault(place, []).append(entry)
    for place, entries in expected.items():
        assert list(places.at(place)) == sorted(entries)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20), st.floats(0, 1))
def test_a_quantile_is_that_of_numpy(entries: list[float], share: float) -> None:
    entries.sort()
    assert quantile(entries, share) == pytest.approx(np.quantile(entries, share), abs=1e-6)


@given(st.floats(-1e308, 1e308), st.integers(1, 30), st.floats(0, 1))
def test_equal_entries_have_their_value_as_quantile_and_mean(
    value: float, count: int, share: float
) -> None:
    assert quantile([value] * count, share) == value
    curve = Curve()
    for step in range(count):
        curve.add(step, value)
    assert curve.mean == value


def test_huge_values_overflow_nowhere() -> None:
    assert quantile([-1e308, 1e308], 0.75) == 1e308
    rule = Median(SPACE, LOSS, 1, min_trials=1)
    curve(rule, 0, [1e308, -1e308, 1e308])
    assert curve(rule, 1, [1e308, -1e307, 1e308]) == [GO, GO, GO]


# Percentile


@pytest.mark.parametrize(("percentile", "stopped"), [(10, [3, 4]), (50, [4]), (90, [])])
def test_all_but_the_best_per_cent_are_stopped(percentile: float, stopped: list[int]) -> None:
    rule = Percentile(SPACE, LOSS, 1, percentile=percentile, min_trials=3)
    for trial, value in enumerate([1.0, 2.0, 3.0]):
        assert curve(rule, trial, [value]) == [GO]
    found = [t for t, value in ((3, 1.4), (4, 2.6)) if curve(rule, t, [value]) == [STOP]]
    assert found == stopped


def test_others_count_with_the_value_they_had_there() -> None:
    rule = Percentile(SPACE, LOSS, 1, percentile=50, min_trials=1)
    curve(rule, 0, [0.1, 0.8])
    assert curve(rule, 1, [0.1, 0.9]) == [GO, GO], "its best value is better than the other's last"
    assert curve(Percentile(SPACE, LOSS, 1, min_trials=1), 0, [1.0]) == [GO]


# Threshold


def test_a_value_beyond_the_bound_stops() -> None:
    rule = Threshold(SPACE, LOSS, 1, worst=2.0)
    assert curve(rule, 0, [2.0, 1.0, 2.1]) == [GO, GO, STOP]
    up = Threshold(SPACE, Objective.of("acc", "max"), 1, worst=0.1, min_resource=2)
    assert curve(up, 0, [0.0, 0.1, 0.09]) == [GO, GO, STOP]


# Patient


def test_a_trial_that_stands_still_is_stopped_when_patience_is_over() -> None:
    rule = Patient(SPACE, LOSS, 1, patience=3)
    assert curve(rule, 0, [1.0, 0.9, 0.95, 0.9, 0.9, 0.1]) == [GO, GO, GO, GO, STOP]


def test_little_is_no_improvement() -> None:
    rule = Patient(SPACE, LOSS, 1, patience=2, min_delta=0.1)
    assert curve(rule, 0, [1.0, 0.95, 0.91]) == [GO, GO, STOP]
    assert curve(rule, 1, [1.0, 0.95, 0.89, 0.85, 0.8]) == [GO, GO, GO, GO, STOP]


def test_patience_may_be_in_seconds() -> None:
    rule = Patient(SPACE, LOSS, 1, patience=60, resource="seconds")
    rule.on_trial(0, {}, None)
    assert rule.on_result(report(0, 1, 1.0, seconds=100.0)) is GO
    assert rule.on_result(report(0, 2, 1.0, seconds=159.0)) is GO
    assert rule.on_result(report(0, 3, 1.0, seconds=160.0)) is STOP


# All


@pytest.mark.parametrize("module", [curves, median_module, patient, percentile, threshold])
def test_the_examples_are_right(module: ModuleType) -> None:
    found = doctest.testmod(module)
    assert found.attempted
    assert not found.failed


RULES = [
    Median(SPACE, LOSS, 1, min_trials=1),
    Percentile(SPACE, LOSS, 1, min_trials=1),
    Threshold(SPACE, LOSS, 1, worst=0.5),
    Patient(SPACE, LOSS, 1, patience=2),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_steps_that_come_again_are_not_judged_again(rule: Scheduler) -> None:
    curve(rule, 100, [0.2, 0.2, 0.2])
    rule.on_trial(0, {}, None)
    assert rule.on_result(report(0, 1, 0.1)) is GO
    assert rule.on_result(report(0, 2, 0.09)) is GO
    for _ in range(5):
        assert rule.on_result(report(0, 1, 9.0)) is GO
        assert rule.on_result(report(0, 2, 9.0)) is GO
    assert rule.on_result(report(0, 3, 0.08)) is GO


@pytest.mark.parametrize("name", ["median", "percentile", "threshold", "patient"])
def test_several_goals_are_refused(name: str) -> None:
    made = {"median": Median, "percentile": Percentile, "threshold": Threshold, "patient": Patient}
    settings = {"worst": 1.0} if name == "threshold" else {}
    several = Objective([LOSS.goals[0], Objective.of("size").goals[0]])
    with pytest.raises(SpecError, match=f"{name} judges trials by one goal"):
        made[name](SPACE, several, 1, **settings)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Median(SPACE, LOSS, 1, interval=0), "interval: must be above 0"),
        (lambda: Median(SPACE, LOSS, 1, min_trials=0), "min_trials: must be at least 1"),
        (lambda: Median(SPACE, LOSS, 1, min_resource=-1), "min_resource: must be 0 or above"),
        (lambda: Percentile(SPACE, LOSS, 1, percentile=100), "percentile: must be above 0 and"),
        (lambda: Threshold(SPACE, LOSS, 1), "worst: has to be given"),
        (lambda: Threshold(SPACE, LOSS, 1, worst=float("inf")), "worst: has to be given"),
        (lambda: Patient(SPACE, LOSS, 1, patience=0), "patience: must be above 0"),
        (lambda: Patient(SPACE, LOSS, 1, min_delta=-1.0), "min_delta: must be 0 or above"),
    ],
)
def test_settings_out_of_range_are_refused(make: Any, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        make()


def test_a_resource_that_is_missing_fails_the_trial() -> None:
    rule = Median(SPACE, LOSS, 1, resource="epoch")
    rule.on_trial(0, {}, None)
    with pytest.raises(BadMetric, match="epoch"):
        rule.on_result(report(0, 1, 0.5, epochs=1))
