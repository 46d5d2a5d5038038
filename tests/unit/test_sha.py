from collections.abc import Sequence
from typing import Any

import pytest

from raytune_hpo.errors import SpecError
from raytune_hpo.objective import BadMetric, Constraint, Objective
from raytune_hpo.schedulers.base import Decision, Drop, Move, Resume
from raytune_hpo.schedulers.sha import Sha
from raytune_hpo.space import Float, SearchSpace
from raytune_hpo.trial import Outcome, Result, TrialState

SPACE = SearchSpace({"x": Float(0, 1)})
LOSS = Objective.of("loss", "min")
CONTINUE, PAUSE, STOP = Decision.CONTINUE, Decision.PAUSE, Decision.STOP
COMPLETE = Decision.COMPLETE


def sha(trials: int, objective: Objective = LOSS, **settings: Any) -> Sha:
    made = Sha(SPACE, objective, 1, **settings)
    for trial in range(trials):
        made.on_trial(trial, {"x": 0.5}, None)
    return made


def report(trial: int, step: int, loss: float, **metrics: object) -> Result:
    return Result(trial, step, (loss,), {"loss": loss, **metrics})


def reports(scheduler: Sha, step: int, losses: dict[int, float]) -> list[Decision]:
    return [scheduler.on_result(report(trial, step, loss)) for trial, loss in losses.items()]


def dropped(scheduler: Sha, paused: Sequence[int], *, more: bool = True) -> list[int]:
    """Let the engine drop all trials that are to be dropped, and return them."""
    left, found = list(paused), []
    while isinstance(move := scheduler.next_move(left, more=more), Drop):
        left.remove(move.trial)
        found.append(move.trial)
        scheduler.on_end(move.trial, Outcome(TrialState.PRUNED, (9.0,), step=1))
    return found


def resumed(scheduler: Sha, paused: Sequence[int], *, more: bool = True) -> list[int]:
    """Return the trials that go on, in their order."""
    left, found = list(paused), []
    move: Move | None
    while isinstance(move := scheduler.next_move(left, more=more), Resume):
        left.remove(move.trial)
        found.append(move.trial)
    return found


@pytest.mark.parametrize(
    ("settings", "size", "levels"),
    [
        ({"max_resource": 81}, 81, [1, 3, 9, 27]),
        ({"max_resource": 100}, 243, [1, 3, 9, 27, 81]),
        ({"min_resource": 2, "max_resource": 32, "reduction_factor": 4}, 16, [2, 8]),
        ({"max_resource": 3, "reduction_factor": 1.5}, 4, [1, 1.5, 2.25]),
        ({"max_resource": 27, "size": 4}, 4, [1, 3, 9]),
        ({"size": 9}, 9, [1, 3]),
        ({"size": 8, "min_resource": 5}, 8, [5, 15]),
        ({"size": 2}, 2, [1]),
        ({"size": 8, "reduction_factor": 2}, 8, [1, 2, 4]),
    ],
)
def test_size_and_rungs(settings: dict[str, Any], size: int, levels: list[float]) -> None:
    made = Sha(SPACE, LOSS, 1, **settings)
    assert (made.size, made.levels) == (size, levels)


def test_the_best_third_goes_on_once_all_are_there() -> None:
    scheduler = sha(9, max_resource=9)
    losses = {t: float(loss) for t, loss in enumerate([5, 1, 9, 7, 2, 8, 6, 3, 4])}
    first, last = dict(list(losses.items())[:-1]), {8: losses[8]}
    assert reports(scheduler, 1, first) == [PAUSE] * 8
    assert scheduler.next_move(list(first), more=True) is None
    assert reports(scheduler, 1, last) == [STOP]
    assert dropped(scheduler, list(first)) == [0, 2, 3, 5, 6]
    assert resumed(scheduler, [1, 4, 7]) == [1, 4, 7]
    assert reports(scheduler, 3, {7: 0.5, 1: 2.0, 4: 1.0}) == [PAUSE, PAUSE, STOP]
    assert dropped(scheduler, [1, 7]) == [1]
    assert resumed(scheduler, [7]) == [7]
    assert scheduler.on_result(report(7, 8, 0.0)) is CONTINUE
    assert scheduler.on_result(report(7, 9, 0.0)) is COMPLETE


def test_the_last_one_to_come_goes_on_at_once_if_it_may() -> None:
    scheduler = sha(3, size=3)
    assert reports(scheduler, 1, {0: 3.0, 1: 2.0, 2: 1.0}) == [PAUSE, PAUSE, CONTINUE]
    assert dropped(scheduler, [0, 1]) == [0, 1]
    assert [scheduler.on_result(report(2, step, 1.0)) for step in (2, 3, 100)] == [CONTINUE] * 3


def test_without_maximum_the_best_runs_to_its_own_end() -> None:
    scheduler = sha(1, size=1)
    assert [scheduler.on_result(report(0, 3**k, 1.0)) for k in range(9)] == [CONTINUE] * 9


def test_the_best_goes_on_first() -> None:
    scheduler = sha(9, size=9)
    reports(scheduler, 1, {trial: float(-trial) for trial in range(9)})
    assert dropped(scheduler, range(8)) == [0, 1, 2, 3, 4, 5]
    assert resumed(scheduler, [6, 7]) == [7, 6]


def test_the_next_bracket_starts_while_one_waits_and_is_decided_by_itself() -> None:
    scheduler = sha(6, size=3)
    assert reports(scheduler, 1, {0: 30.0, 1: 20.0}) == [PAUSE] * 2
    assert reports(scheduler, 1, {3: 3.0, 4: 1.0, 5: 2.0}) == [PAUSE, PAUSE, STOP]
    assert dropped(scheduler, [0, 1, 3, 4]) == [3]
    assert resumed(scheduler, [0, 1, 4]) == [4]
    assert reports(scheduler, 1, {2: 40.0}) == [STOP]
    assert dropped(scheduler, [0, 1]) == [0]
    assert resumed(scheduler, [1]) == [1]


def test_the_oldest_bracket_goes_on_first() -> None:
    scheduler = sha(6, size=3)
    reports(scheduler, 1, {3: 1.0, 4: 2.0, 5: 3.0})
    reports(scheduler, 1, {0: 10.0, 1: 20.0, 2: 30.0})
    assert dropped(scheduler, [0, 1, 3, 4]) == [1]
    assert scheduler.next_move([0, 3, 4], more=True) == Resume(0)
    assert dropped(scheduler, [3, 4]) == [4]
    assert resumed(scheduler, [3]) == [3]


def test_an_incomplete_bracket_is_decided_when_no_more_trials_follow() -> None:
    scheduler = sha(7, max_resource=27)
    reports(scheduler, 1, {trial: float(trial) for trial in range(6)})
    assert scheduler.next_move(range(6), more=True) is None
    assert scheduler.next_move(range(6), more=False) is None, "one still runs"
    assert reports(scheduler, 1, {6: 6.0}) == [PAUSE]
    assert scheduler.next_move(range(7), more=True) is None
    assert dropped(scheduler, range(7), more=False) == [2, 3, 4, 5, 6]
    assert resumed(scheduler, [0, 1], more=False) == [0, 1]
    assert reports(scheduler, 3, {0: 5.0, 1: 1.0}) == [PAUSE, CONTINUE]
    assert dropped(scheduler, [0]) == [0]


def test_a_bracket_that_was_decided_takes_no_more_trials() -> None:
    scheduler = sha(4, size=9)
    reports(scheduler, 1, {trial: float(trial) for trial in range(4)})
    assert dropped(scheduler, range(4), more=False) == [1, 2, 3]
    for trial in range(4, 13):
        scheduler.on_trial(trial, {"x": 0.5}, None)
    assert scheduler.next_move([0], more=True) == Resume(0)
    assert reports(scheduler, 1, {t: -float(t) for t in range(4, 13)}) == [PAUSE] * 8 + [CONTINUE]


def test_a_lone_trial_that_goes_on_closes_its_bracket() -> None:
    scheduler = sha(1, size=9)
    assert reports(scheduler, 1, {0: 1.0}) == [PAUSE]
    assert scheduler.next_move([0], more=False) == Resume(0)
    assert scheduler.on_result(report(0, 2, 1.0)) is CONTINUE
    scheduler.on_trial(1, {"x": 0.5}, None)
    assert scheduler.on_result(report(0, 3, 1.0)) is CONTINUE
    assert scheduler.on_result(report(1, 1, 0.0)) is PAUSE


@pytest.mark.parametrize("state", [TrialState.FAILED, TrialState.STOPPED, TrialState.PRUNED])
def test_nobody_waits_for_a_trial_that_ended_and_it_is_a_loser(state: TrialState) -> None:
    scheduler = sha(3, size=3)
    assert reports(scheduler, 1, {1: 5.0, 2: 9.0}) == [PAUSE, PAUSE]
    scheduler.on_end(0, Outcome(state, (0.0,)))
    assert dropped(scheduler, [1, 2]) == [2]
    assert resumed(scheduler, [1]) == [1]


def test_a_trial_that_failed_after_a_rung_is_a_loser_at_the_next() -> None:
    scheduler = sha(9, size=9)
    reports(scheduler, 1, {trial: float(trial) for trial in range(9)})
    assert dropped(scheduler, range(8)) == [3, 4, 5, 6, 7]
    reports(scheduler, 2, {0: 0.0})
    scheduler.on_end(0, Outcome(TrialState.FAILED, step=2))
    assert reports(scheduler, 3, {2: 2.0, 1: 3.0}) == [PAUSE, STOP]
    assert scheduler.next_move([2], more=True) == Resume(2)


def test_when_all_failed_nothing_goes_on() -> None:
    scheduler = sha(4, size=3)
    for trial in range(3):
        scheduler.on_end(trial, Outcome(TrialState.FAILED))
    assert scheduler.next_move([], more=True) is None
    assert scheduler.on_result(report(3, 1, 1.0)) is PAUSE


def test_a_trial_that_ended_by_itself_stands_with_its_last_value() -> None:
    """It takes the place of one that would go on, at this rung and at the next."""
    scheduler = sha(9, size=9)
    reports(scheduler, 1, {trial: float(trial) for trial in range(1, 9)})
    scheduler.on_end(0, Outcome(TrialState.COMPLETED, (1.5,), step=0))
    assert dropped(scheduler, range(1, 9)) == [3, 4, 5, 6, 7, 8]
    assert resumed(scheduler, [1, 2]) == [1, 2]
    assert reports(scheduler, 3, {1: 2.0, 2: 3.0}) == [PAUSE, STOP]
    assert dropped(scheduler, [1]) == [1]


def test_a_trial_that_skips_rungs_stands_at_all_of_them() -> None:
    scheduler = sha(9, max_resource=27, size=9)
    assert reports(scheduler, 4, {0: 5.0}) == [PAUSE]
    assert reports(scheduler, 1, {trial: float(trial) for trial in range(1, 9)}) == [
        *[PAUSE] * 7, STOP,
    ]  # fmt: skip
    assert dropped(scheduler, range(8)) == [0, 4, 5, 6, 7]
    assert resumed(scheduler, [1, 2, 3]) == [1, 2, 3]


def test_a_trial_at_max_resource_is_complete_whatever_the_rungs_say() -> None:
    scheduler = sha(3, max_resource=9, size=3)
    assert reports(scheduler, 12, {0: 99.0}) == [COMPLETE]
    scheduler.on_end(0, Outcome(TrialState.COMPLETED, (99.0,), step=12))
    assert reports(scheduler, 1, {1: 2.0, 2: 1.0}) == [PAUSE, CONTINUE]
    assert dropped(scheduler, [1]) == [1]


def test_steps_that_come_again_are_not_judged_again() -> None:
    scheduler = sha(3, size=3)
    assert reports(scheduler, 1, {0: 1.0, 1: 2.0}) == [PAUSE, PAUSE]
    assert reports(scheduler, 1, {2: 3.0}) == [STOP]
    assert dropped(scheduler, [0, 1]) == [1]
    assert [scheduler.on_result(report(0, step, 99.0)) for step in (1, 2, 3)] == [CONTINUE] * 3


def test_equal_trials_are_cut_by_their_number() -> None:
    scheduler = sha(3, size=3)
    assert reports(scheduler, 1, {0: 1.0, 1: 1.0, 2: 1.0}) == [PAUSE, PAUSE, STOP]
    assert dropped(scheduler, [0, 1]) == [1]


def test_resource_constraints_and_direction() -> None:
    objective = Objective(Objective.of("accuracy", "max").goals, [Constraint.parse("ms <= 20")])
    scheduler = sha(3, objective, resource="epoch", min_resource=10, max_resource=90, size=3)
    results = [
        Result(trial, 1, (accuracy,), {"epoch": 10}, violations=(violation,))
        for trial, (accuracy, violation) in enumerate([(0.5, -1.0), (0.7, -1.0), (0.9, 0.1)])
    ]
    early = Result(0, 1, (0.0,), {"epoch": 9.5}, violations=(-1.0,))
    assert scheduler.on_result(early) is CONTINUE
    assert [scheduler.on_result(result) for result in results] == [PAUSE, PAUSE, STOP]
    assert dropped(scheduler, [0, 1]) == [0]
    with pytest.raises(BadMetric, match="'epoch'"):
        scheduler.on_result(report(1, 2, 1.0))


def test_several_goals_are_decided_by_fronts_and_crowding() -> None:
    objective = Objective(LOSS.goals + Objective.of("speed", "max").goals)
    scheduler = sha(6, objective, size=6)
    values = [(1.0, 1.0), (2.0, 2.0), (2.1, 2.1), (9.0, 9.0), (3.0, 0.0), (9.0, 0.0)]
    decisions = [scheduler.on_result(Result(t, 1, pair)) for t, pair in enumerate(values)]
    assert decisions == [PAUSE] * 5 + [STOP]
    # The first four are one front, whose ends are the least crowded.
    assert dropped(scheduler, range(5)) == [1, 2, 4]
    assert resumed(scheduler, [0, 3]) == [0, 3]


@pytest.mark.parametrize(
    ("settings", "paths"),
    [
        (
            {"min_resource": 0, "max_resource": -1, "reduction_factor": 1, "size": 0},
            ["min_resource", "max_resource", "reduction_factor", "size"],
        ),
        ({}, ["max_resource"]),
        ({"min_resource": 9, "max_resource": 9}, ["max_resource"]),
    ],
)
def test_problems_are_found_all_at_once(settings: dict[str, Any], paths: list[str]) -> None:
    with pytest.raises(SpecError) as caught:
        Sha(SPACE, LOSS, 1, **settings)
    found = [problem.path for problem in caught.value.problems]
    assert found == [f"scheduler.settings.{path}" for path in paths]
