import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raytune_hpo.errors import SpecError
from raytune_hpo.experiment import Experiment
from raytune_hpo.objective import BadMetric, Constraint, Objective
from raytune_hpo.schedulers.asha import Asha, bracket_of
from raytune_hpo.schedulers.base import Decision, Resume
from raytune_hpo.simulate import Simulation
from raytune_hpo.space import Float, SearchSpace
from raytune_hpo.trial import Config, Outcome, Result, TrialState

SPACE = SearchSpace({"x": Float(0, 1)})
LOSS = Objective.of("loss", "min")
CONTINUE, PAUSE, STOP = Decision.CONTINUE, Decision.PAUSE, Decision.STOP
COMPLETE = Decision.COMPLETE


def asha(trials: int = 100, objective: Objective = LOSS, **settings: Any) -> Asha:
    made = Asha(SPACE, objective, 1, **settings)
    for trial in range(trials):
        made.on_trial(trial, {"x": 0.5}, None)
    return made


def report(trial: int, step: int, loss: float, **metrics: object) -> Result:
    return Result(trial, step, (loss,), {"loss": loss, **metrics})


def checkpointed(trial: int, step: int, loss: float) -> Result:
    return Result(trial, step, (loss,), {"loss": loss}, checkpoint=True)


def survivors(scheduler: Asha, step: int, losses: list[float]) -> list[int]:
    """Return which of the trials from 0 go on that report in their order."""
    decisions = [scheduler.on_result(report(t, step, loss)) for t, loss in enumerate(losses)]
    return [trial for trial, decision in enumerate(decisions) if decision is CONTINUE]


# Both forms


@pytest.mark.parametrize("form", ["stop", "promote"])
def test_rungs_stand_at_powers_of_the_factor_below_max_resource(form: str) -> None:
    """The trial is the worst of all, so it is cut at each rung."""
    for step in range(1, 12):
        scheduler = asha(form=form, min_resource=2, max_resource=10, reduction_factor=2)
        for other in range(1, 4):
            scheduler.on_result(report(other, 9, 0.0))
        decisions = [scheduler.on_result(report(0, s, 1.0)) for s in range(1, step + 1)]
        cut = [s for s, decision in enumerate(decisions, 1) if decision is not CONTINUE]
        assert cut == [s for s in (2, 4, 8, 10, 11) if s <= step]


@pytest.mark.parametrize("form", ["stop", "promote"])
def test_rungs_without_max_resource_go_on(form: str) -> None:
    scheduler = asha(form=form, min_resource=2, reduction_factor=4)
    for other in range(1, 4):
        scheduler.on_result(report(other, 10_000, 0.0))
    cut = [s for s in range(1, 3000) if scheduler.on_result(report(0, s, 1.0)) is not CONTINUE]
    assert cut == [2, 8, 32, 128, 512, 2048]


def test_fractional_resource_and_factor() -> None:
    scheduler = asha(
        form="promote", resource="hours", min_resource=0.5, max_resource=2.0, reduction_factor=1.5
    )
    for other in range(1, 4):
        scheduler.on_result(report(other, 1, 0.0, hours=1.9))
    decisions = [
        scheduler.on_result(report(0, step, 1.0, hours=hours))
        for step, hours in enumerate((0.4, 0.5, 0.7, 0.75, 1.2, 1.6, 1.7, 2.0), 1)
    ]
    assert decisions == [CONTINUE, PAUSE, CONTINUE, PAUSE, PAUSE, CONTINUE, PAUSE, COMPLETE]


def test_max_resource_completes_the_best() -> None:
    scheduler = asha(max_resource=9)
    decisions = [scheduler.on_result(report(0, step, 1.0)) for step in range(1, 10)]
    assert decisions == [CONTINUE] * 8 + [COMPLETE]


@pytest.mark.parametrize("form", ["stop", "promote"])
def test_first_report_beyond_max_resource_completes_even_a_bad_trial(form: str) -> None:
    scheduler = asha(max_resource=9, form=form)
    assert scheduler.on_result(report(0, 9, 1.0)) is COMPLETE
    assert scheduler.on_result(report(1, 12, 2.0)) is COMPLETE


def test_without_max_resource_nothing_completes() -> None:
    scheduler = asha()
    assert [scheduler.on_result(report(0, step, 1.0)) for step in (1, 10, 10**9)] == [CONTINUE] * 3


def test_resource_is_read_from_a_metric() -> None:
    scheduler = asha(resource="epoch", min_resource=10, max_resource=100)
    scheduler.on_result(report(0, 1, 1.0, epoch=10))
    assert scheduler.on_result(report(1, 5, 2.0, epoch=9)) is CONTINUE
    assert scheduler.on_result(report(1, 6, 2.0, epoch=10)) is STOP


def test_a_report_without_the_resource_changes_nothing() -> None:
    scheduler = asha(resource="epoch")
    with pytest.raises(BadMetric, match="'epoch'"):
        scheduler.on_result(report(0, 1, 1.0))
    assert scheduler.on_result(report(1, 1, 2.0, epoch=1)) is CONTINUE


def test_shares_of_brackets() -> None:
    counts = Counter(bracket_of(trial, 3, 3) for trial in range(1300))
    assert [round(counts[b] / 100) for b in range(3)] == [9, 3, 1]
    assert {bracket_of(trial, 1, 3) for trial in range(100)} == {0}


@pytest.mark.parametrize(("form", "cut"), [("stop", STOP), ("promote", PAUSE)])
def test_brackets_begin_one_rung_later_each(form: str, cut: Decision) -> None:
    scheduler = asha(max_resource=27, brackets=3, form=form)
    trials = {b: [t for t in range(60) if bracket_of(t, 3, 3) == b][:4] for b in range(3)}
    for bracket, (bad, *good) in trials.items():
        first = 3**bracket
        for trial in good:
            scheduler.on_result(report(trial, first, 1.0))
        for step in range(1, first):
            assert scheduler.on_result(report(bad, step, 2.0)) is CONTINUE
        assert scheduler.on_result(report(bad, first, 2.0)) is cut


def test_problems_are_found_all_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        asha(min_resource=0, max_resource=-1, reduction_factor=1, brackets=0)
    assert [problem.path.rpartition(".")[2] for problem in caught.value.problems] == [
        "min_resource", "max_resource", "reduction_factor", "brackets",
    ]  # fmt: skip


@pytest.mark.parametrize(("max_resource", "brackets"), [(1, 1), (9, 3)])
def test_no_room_for_a_rung(max_resource: int, brackets: int) -> None:
    with pytest.raises(SpecError, match="first rung of the last bracket"):
        asha(max_resource=max_resource, brackets=brackets)


# The form that stops


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([5.0], [0]),
        ([1.0, 2.0, 3.0], [0]),
        ([3.0, 2.0, 1.0], [0, 1, 2]),
        # The sixth is second best of six, of which two pass; the eighth is third best of eight.
        ([1.0, 9.0, 9.0, 9.0, 9.0, 2.0, 9.0, 3.0, 3.0], [0, 5, 8]),
    ],
)
def test_the_best_third_so_far_survives(losses: list[float], expected: list[int]) -> None:
    assert survivors(asha(form="stop", max_resource=27), 1, losses) == expected


def test_equal_values_share_a_fate() -> None:
    assert survivors(asha(form="stop"), 1, [1.0] * 20) == list(range(20))


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, unique=True), st.integers(2, 5))
def test_a_trial_survives_by_its_rank_among_those_before_it(
    losses: list[float], factor: int
) -> None:
    scheduler = asha(len(losses), form="stop", reduction_factor=factor)
    expected = [
        t
        for t, loss in enumerate(losses)
        if sorted(losses[: t + 1]).index(loss) < max(1, (t + 1) // factor)
    ]
    assert survivors(scheduler, 1, losses) == expected


def test_worse_trial_is_stopped_at_the_rung_and_not_before() -> None:
    scheduler = asha(min_resource=2, max_resource=18)
    assert [scheduler.on_result(report(0, step, 1.0)) for step in (1, 2)] == [CONTINUE, CONTINUE]
    assert scheduler.on_result(report(1, 1, 9.0)) is CONTINUE
    assert scheduler.on_result(report(1, 2, 9.0)) is STOP


def test_between_rungs_nothing_is_stopped() -> None:
    scheduler = asha(max_resource=27)
    scheduler.on_result(report(0, 1, 2.0))
    scheduler.on_result(report(1, 1, 1.0))
    assert scheduler.on_result(report(1, 2, 99.0)) is CONTINUE
    assert scheduler.on_result(report(0, 3, 1.0)) is CONTINUE
    assert scheduler.on_result(report(1, 3, 99.0)) is STOP


def test_first_report_beyond_a_rung_counts_for_every_rung_it_skipped() -> None:
    assert asha(max_resource=27).on_result(report(0, 10, 1.0)) is CONTINUE
    for step in (1, 3, 9):
        fresh = asha(max_resource=27)
        fresh.on_result(report(0, 10, 1.0))
        assert fresh.on_result(report(1, step, 2.0)) is STOP


def test_a_trial_enters_a_rung_once() -> None:
    scheduler = asha(max_resource=27)
    scheduler.on_result(report(0, 1, 5.0))
    for _ in range(20):
        assert scheduler.on_result(report(0, 1, 1.0)) is CONTINUE
    assert scheduler.on_result(report(1, 1, 4.0)) is CONTINUE


@pytest.mark.parametrize("state", [TrialState.PRUNED, TrialState.STOPPED, TrialState.COMPLETED])
def test_an_entry_stays_when_its_trial_has_ended(state: TrialState) -> None:
    scheduler = asha(max_resource=27)
    scheduler.on_result(report(0, 1, 1.0))
    scheduler.on_end(0, Outcome(state, (1.0,), step=1))
    assert scheduler.on_result(report(1, 1, 2.0)) is STOP


def test_a_failed_trial_becomes_the_worst_at_its_rungs_and_at_the_next() -> None:
    scheduler = asha(max_resource=27)
    scheduler.on_result(report(0, 3, 1.0))
    scheduler.on_end(0, Outcome(TrialState.FAILED, step=3))
    assert [scheduler.on_result(report(1, step, 9.0)) for step in (1, 3, 9)] == [CONTINUE] * 3
    # Of three entries at 9, one of them failed, only the best passes.
    assert scheduler.on_result(report(2, 9, 8.0)) is CONTINUE
    assert scheduler.on_result(report(3, 9, 8.5)) is STOP


def test_failures_before_the_first_rung_count() -> None:
    """Of six trials two pass, four failed ones among them."""
    scheduler = asha(max_resource=27)
    for trial in range(4):
        scheduler.on_end(trial, Outcome(TrialState.FAILED))
    assert scheduler.on_result(report(4, 1, 1.0)) is CONTINUE
    assert scheduler.on_result(report(5, 1, 2.0)) is CONTINUE
    assert scheduler.on_result(report(6, 1, 3.0)) is STOP


def test_a_trial_that_ends_by_itself_is_an_entry_at_the_next_rung() -> None:
    scheduler = asha(max_resource=27)
    scheduler.on_result(report(0, 4, 1.0))
    scheduler.on_end(0, Outcome(TrialState.COMPLETED, (0.5,), step=5))
    assert scheduler.on_result(report(1, 8, 0.1)) is CONTINUE
    assert scheduler.on_result(report(1, 9, 0.7)) is STOP


def test_maximized_objective() -> None:
    scheduler = asha(objective=Objective.of("accuracy", "max"), max_resource=9)
    assert scheduler.on_result(report(0, 1, 0.5)) is CONTINUE
    assert scheduler.on_result(report(1, 1, 0.9)) is CONTINUE
    assert scheduler.on_result(report(2, 1, 0.8)) is STOP


def test_a_trial_that_violates_a_constraint_is_behind_all_others() -> None:
    objective = Objective(LOSS.goals, [Constraint.parse("ms <= 20")])
    scheduler = asha(objective=objective, max_resource=27)
    assert scheduler.on_result(Result(0, 1, (0.0,), violations=(9.0,))) is CONTINUE
    assert scheduler.on_result(Result(1, 1, (5.0,), violations=(7.0,))) is CONTINUE
    assert scheduler.on_result(Result(2, 1, (9.0,), violations=(-1.0,))) is CONTINUE
    assert scheduler.on_result(Result(3, 1, (0.0,), violations=(0.1,))) is STOP


@pytest.mark.parametrize(("form", "cut"), [("stop", STOP), ("promote", PAUSE)])
def test_with_several_goals_the_first_front_goes_on(form: str, cut: Decision) -> None:
    objective = Objective(LOSS.goals + Objective.of("speed", "max").goals)
    scheduler = asha(objective=objective, max_resource=27, form=form, reduction_factor=2)
    for trial in range(3):
        scheduler.on_result(Result(trial, 1, (5.0, 1.0)))
    assert scheduler.on_result(Result(3, 1, (1.0, 5.0))) is CONTINUE
    assert scheduler.on_result(Result(4, 1, (2.0, 4.0))) is CONTINUE
    assert scheduler.on_result(Result(5, 1, (9.0, 9.0))) is CONTINUE
    assert scheduler.on_result(Result(6, 1, (9.0, 0.0))) is cut


def test_saves_most_of_the_work_and_finds_a_good_trial() -> None:
    chance = random.Random(0)
    scheduler = asha(max_resource=27)
    used, reached = 0, []
    levels = [chance.random() for _ in range(81)]
    for trial, level in enumerate(levels):
        for step in range(1, 28):
            used += 1
            decision = scheduler.on_result(report(trial, step, level + 1 / step))
            if decision is COMPLETE:
                reached.append(level)
            if decision is not CONTINUE:
                break
    assert used < 81 * 27 / 4
    assert min(reached) == min(levels)


# The form that promotes


def test_a_trial_waits_until_it_is_among_the_best_third() -> None:
    """Li et al. 2020, Algorithm 2: the best floor(n / eta) of n entries are promotable."""
    scheduler = asha(form="promote", max_resource=27)
    assert [scheduler.on_result(report(t, 1, loss)) for t, loss in enumerate([2.0, 1.0])] == [
        PAUSE, PAUSE,
    ]  # fmt: skip
    assert scheduler.next_move([0, 1], more=True) is None
    assert scheduler.on_result(report(2, 1, 3.0)) is PAUSE
    assert scheduler.next_move([0, 1, 2], more=True) == Resume(1)
    # It runs, and the second of three has to wait for three more.
    assert scheduler.next_move([0, 2], more=True) is None
    for trial in (3, 4, 5):
        scheduler.on_result(report(trial, 1, 9.0))
    assert scheduler.next_move([0, 2, 3, 4, 5], more=True) == Resume(0)


def test_a_trial_among_the_best_goes_on_without_a_pause() -> None:
    scheduler = asha(form="promote", max_resource=27)
    decisions = [scheduler.on_result(report(trial, 1, -float(trial))) for trial in range(6)]
    assert decisions == [PAUSE, PAUSE, CONTINUE, CONTINUE, CONTINUE, CONTINUE]
    assert scheduler.next_move([0, 1], more=True) is None


def test_of_equal_trials_the_earlier_ones_are_promoted() -> None:
    scheduler = asha(form="promote", max_resource=27)
    assert [scheduler.on_result(report(trial, 1, 1.0)) for trial in range(6)] == [PAUSE] * 6
    assert scheduler.next_move(range(6), more=True) == Resume(0)
    assert scheduler.next_move(range(1, 6), more=True) == Resume(1)
    assert scheduler.next_move(range(2, 6), more=True) is None


def test_the_highest_rung_comes_first() -> None:
    scheduler = asha(form="promote", max_resource=27)
    for trial in range(9):
        scheduler.on_result(report(trial, 1, float(trial)))
    for trial in (0, 1):
        assert scheduler.next_move(range(trial, 9), more=True) == Resume(trial)
        assert scheduler.on_result(report(trial, 3, float(trial))) is PAUSE
    assert scheduler.next_move(range(9), more=True) == Resume(2)
    assert scheduler.on_result(report(2, 3, 2.0)) is PAUSE
    for trial in (9, 10, 11):
        scheduler.on_result(report(trial, 1, 99.0))
    assert scheduler.next_move(range(12), more=True) == Resume(0)
    assert scheduler.next_move(range(1, 12), more=True) == Resume(3)


def test_a_report_that_skips_rungs_waits_at_the_last_of_them() -> None:
    scheduler = asha(form="promote", max_resource=27)
    for trial in (0, 1):
        assert scheduler.on_result(report(trial, 4, float(trial))) is PAUSE
    assert scheduler.on_result(report(2, 1, 9.0)) is PAUSE
    assert scheduler.next_move([0, 1, 2], more=True) is None
    assert scheduler.on_result(report(3, 3, 9.0)) is PAUSE
    assert scheduler.next_move([0, 1, 2, 3], more=True) == Resume(0)


def test_steps_that_come_again_after_a_pause_are_not_judged_again() -> None:
    scheduler = asha(form="promote", max_resource=27)
    for trial in range(3):
        scheduler.on_result(report(trial, 1, float(trial)))
    assert scheduler.next_move([0, 1, 2], more=True) == Resume(0)
    assert [scheduler.on_result(report(0, step, 9.0)) for step in (1, 2)] == [CONTINUE] * 2
    assert scheduler.on_result(report(0, 3, 9.0)) is PAUSE
    assert scheduler.next_move([0, 1, 2], more=True) is None


def test_in_the_end_one_trial_goes_on_to_the_end() -> None:
    scheduler = asha(trials=2, form="promote", max_resource=9)
    for trial in (0, 1):
        scheduler.on_result(report(trial, 1, float(trial)))
    assert scheduler.next_move([0, 1], more=True) is None
    assert scheduler.next_move([0, 1], more=False) == Resume(0)
    assert scheduler.next_move([1], more=False) is None
    assert scheduler.on_result(report(0, 3, 0.0)) is PAUSE
    assert scheduler.next_move([0, 1], more=False) == Resume(0)
    assert scheduler.on_result(report(0, 9, 0.0)) is COMPLETE
    scheduler.on_end(0, Outcome(TrialState.COMPLETED, (0.0,), step=9))
    assert scheduler.next_move([1], more=False) is None


def test_in_the_end_a_trial_that_failed_is_replaced() -> None:
    scheduler = asha(trials=2, form="promote", max_resource=9)
    for trial in (0, 1):
        scheduler.on_result(report(trial, 1, float(trial)))
    scheduler.on_end(0, Outcome(TrialState.FAILED, step=2))
    assert scheduler.next_move([1], more=False) == Resume(1)


def test_in_the_end_each_bracket_is_decided_when_nothing_runs_in_it() -> None:
    scheduler = asha(trials=20, form="promote", max_resource=27, brackets=2)
    first, second = ([t for t in range(20) if bracket_of(t, 2, 3) == b] for b in (0, 1))
    for trial in range(20):
        if trial not in (*first[:2], *second[:2]):
            scheduler.on_end(trial, Outcome(TrialState.STOPPED))
    scheduler.on_result(report(first[0], 1, 1.0))
    assert scheduler.next_move([first[0]], more=False) is None
    scheduler.on_result(report(second[0], 3, 1.0))
    scheduler.on_result(report(second[1], 3, 2.0))
    assert scheduler.next_move(sorted([first[0], *second[:2]]), more=False) == Resume(second[0])
    scheduler.on_result(report(first[1], 1, 2.0))
    assert scheduler.next_move(sorted([*first[:2], second[1]]), more=False) == Resume(first[0])


def test_auto_pauses_only_what_has_a_checkpoint() -> None:
    scheduler = asha(max_resource=27)
    assert scheduler.on_result(report(0, 1, 1.0)) is CONTINUE
    assert scheduler.on_result(report(1, 1, 2.0)) is STOP
    assert scheduler.on_result(checkpointed(2, 1, 3.0)) is PAUSE
    assert scheduler.on_result(checkpointed(3, 1, 0.5)) is CONTINUE


@pytest.mark.parametrize(("form", "cut"), [("stop", STOP), ("promote", PAUSE)])
def test_a_form_that_is_named_does_not_depend_on_checkpoints(form: str, cut: Decision) -> None:
    for make in (report, checkpointed):
        scheduler = asha(form=form, max_resource=27)
        scheduler.on_result(make(0, 1, 1.0))
        assert scheduler.on_result(make(1, 1, 2.0)) is cut


def curve(config: Config) -> Iterator[tuple[float, dict[str, float]]]:
    for step in range(1, 28):
        yield 1.0, {"loss": config["x"] + 1 / step}


def reached(levels: list[float], parallel: int) -> list[int]:
    """Return how many trials of these levels, in their order, reach steps 1, 3, 9 and 27."""
    experiment = Experiment.from_python(
        run="noop",
        parameters=SPACE.parameters,
        metric="loss",
        trials=len(levels),
        parallel=parallel,
        search={"algorithm": "random", "initial": [{"x": level} for level in levels]},
    )
    scheduler = Asha(SPACE, LOSS, 1, form="promote", max_resource=27)
    run = Simulation(experiment, curve, scheduler=scheduler, checkpoints=True).run()
    steps = [trial.step for trial in run.trials.values()]
    return [sum(step >= rung for step in steps) for rung in (1, 3, 9, 27)]


@pytest.mark.parametrize("parallel", [1, 4, 16])
def test_promotion_of_trials_that_come_best_first_is_that_of_synchronous_halving(
    parallel: int,
) -> None:
    assert reached([trial / 100 for trial in range(81)], parallel) == [81, 27, 9, 3]


def test_trials_that_come_worst_first_are_promoted_too_early() -> None:
    """Each is the best so far: what not waiting for the others may cost."""
    assert reached([1 - trial / 100 for trial in range(81)], 1)[0:2] == [81, 79]
