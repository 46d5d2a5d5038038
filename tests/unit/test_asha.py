import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raytune_hpo.errors import SpecError
from raytune_hpo.objective import BadMetric, Objective
from raytune_hpo.schedulers.asha import Asha, bracket_of, rungs_reached, survives
from raytune_hpo.schedulers.base import Decision
from raytune_hpo.trial import Outcome, Result, TrialState

LOSS = Objective.of("loss", "min")
CONTINUE, STOP, COMPLETE = Decision.CONTINUE, Decision.STOP, Decision.COMPLETE


def report(trial: int, step: int, loss: float, **metrics: object) -> Result:
    return Result(trial, step, (loss,), {"loss": loss, **metrics})


@pytest.mark.parametrize(
    ("used", "expected"), [(0.5, 0), (1, 1), (2, 1), (3, 2), (8, 2), (9, 2), (100, 2)]
)
def test_rungs_stand_below_max_resource(used: float, expected: int) -> None:
    assert rungs_reached(used, 1, 9, 3) == expected


def test_rungs_without_max_resource_go_on() -> None:
    assert [rungs_reached(used, 2, None, 4) for used in (1, 2, 8, 32, 10_000)] == [0, 1, 2, 3, 7]


def test_fractional_resource_and_factor() -> None:
    assert [rungs_reached(used, 0.5, 2.0, 1.5) for used in (0.4, 0.5, 0.75, 1.2, 5.0)] == [
        0, 1, 2, 3, 4,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("entries", "passing"),
    [([5.0], 1), ([1.0, 2.0], 1), ([1.0, 2.0, 3.0], 1), (list(map(float, range(9))), 3)],
)
def test_best_share_survives(entries: list[float], passing: int) -> None:
    assert [survives(value, entries, 3) for value in entries] == [
        rank < passing for rank in range(len(entries))
    ]


def test_equal_values_share_a_fate() -> None:
    assert all(survives(1.0, [1.0] * n, 3) for n in range(1, 20))


@given(st.lists(st.floats(allow_nan=False), min_size=1), st.integers(2, 5))
def test_number_of_survivors(values: list[float], factor: int) -> None:
    entries = sorted(values)
    distinct = len(set(values)) == len(values)
    passing = sum(survives(value, entries, factor) for value in entries)
    expected = max(1, len(values) // factor)
    assert passing == expected if distinct else passing >= expected


def test_worse_trial_is_stopped_at_the_rung_and_not_before() -> None:
    asha = Asha(LOSS, min_resource=2, max_resource=18)
    assert [asha.on_result(report(0, step, 1.0)) for step in (1, 2)] == [CONTINUE, CONTINUE]
    assert asha.on_result(report(1, 1, 9.0)) is CONTINUE
    assert asha.on_result(report(1, 2, 9.0)) is STOP


def test_between_rungs_nothing_is_stopped() -> None:
    asha = Asha(LOSS, max_resource=27)
    asha.on_result(report(0, 1, 2.0))
    asha.on_result(report(1, 1, 1.0))
    assert asha.on_result(report(1, 2, 99.0)) is CONTINUE
    assert asha.on_result(report(0, 3, 1.0)) is CONTINUE
    assert asha.on_result(report(1, 3, 99.0)) is STOP


def test_first_report_beyond_a_rung_counts_for_every_rung_it_skipped() -> None:
    asha = Asha(LOSS, max_resource=27)
    assert asha.on_result(report(0, 10, 1.0)) is CONTINUE
    for step in (1, 3, 9):
        fresh = Asha(LOSS, max_resource=27)
        fresh.on_result(report(0, 10, 1.0))
        assert fresh.on_result(report(1, step, 2.0)) is STOP


def test_a_trial_enters_a_rung_once() -> None:
    asha = Asha(LOSS, max_resource=27)
    asha.on_result(report(0, 1, 5.0))
    for _ in range(20):
        assert asha.on_result(report(0, 1, 1.0)) is CONTINUE
    assert asha.on_result(report(1, 1, 4.0)) is CONTINUE


def test_end_forgets_the_trial_but_not_its_entries() -> None:
    asha = Asha(LOSS, max_resource=27)
    asha.on_result(report(0, 1, 1.0))
    asha.on_end(0, Outcome(TrialState.FAILED))
    assert asha.on_result(report(1, 1, 2.0)) is STOP


def test_maximized_objective() -> None:
    asha = Asha(Objective.of("accuracy", "max"), max_resource=9)
    assert asha.on_result(report(0, 1, 0.5)) is CONTINUE
    assert asha.on_result(report(1, 1, 0.9)) is CONTINUE
    assert asha.on_result(report(2, 1, 0.8)) is STOP


def test_max_resource_completes_the_best() -> None:
    asha = Asha(LOSS, max_resource=9)
    decisions = [asha.on_result(report(0, step, 1.0)) for step in range(1, 10)]
    assert decisions == [CONTINUE] * 8 + [COMPLETE]


def test_first_report_beyond_max_resource_completes_even_a_bad_trial() -> None:
    asha = Asha(LOSS, max_resource=9)
    asha.on_result(report(0, 9, 1.0))
    assert asha.on_result(report(1, 12, 2.0)) is COMPLETE


def test_without_max_resource_nothing_completes() -> None:
    asha = Asha(LOSS)
    assert [asha.on_result(report(0, step, 1.0)) for step in (1, 10, 10**9)] == [CONTINUE] * 3


def test_resource_is_read_from_a_metric() -> None:
    asha = Asha(LOSS, resource="epoch", min_resource=10, max_resource=100)
    asha.on_result(report(0, 1, 1.0, epoch=10))
    assert asha.on_result(report(1, 5, 2.0, epoch=9)) is CONTINUE
    assert asha.on_result(report(1, 6, 2.0, epoch=10)) is STOP


def test_missing_resource_metric_is_an_error_that_names_the_nearest() -> None:
    asha = Asha(LOSS, resource="epoch")
    with pytest.raises(BadMetric, match=r"'epoch'.*epochs, loss \(did you mean 'epochs'"):
        asha.on_result(report(0, 1, 1.0, epochs=3))


@pytest.mark.parametrize("seen", ["3", True, None, math.nan, math.inf])
def test_resource_metric_has_to_be_a_number(seen: object) -> None:
    with pytest.raises(BadMetric, match="finite number"):
        Asha(LOSS, resource="epoch").on_result(report(0, 1, 1.0, epoch=seen))


def test_brackets_begin_one_rung_later_each() -> None:
    asha = Asha(LOSS, max_resource=27, brackets=3)
    trials = {b: [t for t in range(60) if bracket_of(t, 3, 3) == b][:2] for b in range(3)}
    for bracket, (good, bad) in trials.items():
        first = 3**bracket
        for step in range(1, first + 1):
            assert asha.on_result(report(good, step, 1.0)) is CONTINUE
        for step in range(1, first):
            assert asha.on_result(report(bad, step, 2.0)) is CONTINUE
        assert asha.on_result(report(bad, first, 2.0)) is STOP


def test_shares_of_brackets() -> None:
    counts = Counter(bracket_of(trial, 3, 3) for trial in range(1300))
    assert [round(counts[b] / 100) for b in range(3)] == [9, 3, 1]
    assert {bracket_of(trial, 1, 3) for trial in range(100)} == {0}


def test_problems_are_found_all_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        Asha(LOSS, min_resource=0, max_resource=-1, reduction_factor=1, brackets=0)
    assert [problem.path.rpartition(".")[2] for problem in caught.value.problems] == [
        "min_resource", "max_resource", "reduction_factor", "brackets",
    ]  # fmt: skip


@pytest.mark.parametrize(("max_resource", "brackets"), [(1, 1), (9, 3)])
def test_no_room_for_a_rung(max_resource: int, brackets: int) -> None:
    with pytest.raises(SpecError, match="first rung of the last bracket"):
        Asha(LOSS, max_resource=max_resource, brackets=brackets)


def test_several_goals_are_refused() -> None:
    goals = LOSS.goals + Objective.of("speed", "max").goals
    with pytest.raises(SpecError, match="one goal"):
        Asha(Objective(goals))


def test_saves_most_of_the_work_and_finds_a_good_trial() -> None:
    chance = random.Random(0)
    asha = Asha(LOSS, max_resource=27)
    used, reached = 0, []
    levels = [chance.random() for _ in range(81)]
    for trial, level in enumerate(levels):
        for step in range(1, 28):
            used += 1
            result = report(trial, step, level + 1 / step)
            decision = asha.on_result(result)
            if decision is COMPLETE:
                reached.append(level)
            if decision is not CONTINUE:
                break
    assert used < 81 * 27 / 4
    assert min(reached) == min(levels)
