from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any

import pytest

from raytune_hpo import plugins
from raytune_hpo.errors import SpecError
from raytune_hpo.experiment import Experiment
from raytune_hpo.journal import Record
from raytune_hpo.objective import Objective
from raytune_hpo.schedulers.hyperband import Hyperband, shapes
from raytune_hpo.simulate import Simulation
from raytune_hpo.space import Float, SearchSpace
from raytune_hpo.state import RunState
from raytune_hpo.trial import Config, TrialState

SPACE = SearchSpace({"x": Float(0, 1)})
LOSS = Objective.of("loss", "min")

Table = list[dict[int, int]]
"""For each bracket, how many trials get so much of the resource, as the paper's table has it."""

R27: Table = [
    {1: 27, 3: 9, 9: 3, 27: 1},
    {3: 12, 9: 4, 27: 1},
    {9: 6, 27: 2},
    {27: 4},
]
R81: Table = [
    {1: 81, 3: 27, 9: 9, 27: 3, 81: 1},
    {3: 34, 9: 11, 27: 3, 81: 1},
    {9: 15, 27: 5, 81: 1},
    {27: 8, 81: 2},
    {81: 5},
]


@pytest.mark.parametrize(("max_resource", "table"), [(27, R27), (81, R81)])
def test_sizes_and_rungs_are_those_of_the_paper(max_resource: int, table: Table) -> None:
    """Li et al. 2018, Algorithm 1: n = ceil((s_max + 1) / (s + 1) * eta ** s)."""
    expected = [(next(iter(rungs.values())), list(rungs)[:-1]) for rungs in table]
    assert shapes(1, max_resource, 3) == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # s_max is floor(log_3(100)) = 4, and the highest rung stands at a third of the maximum.
        ((1, 100, 3), [81, 34, 15, 8, 5]),
        ((0.1, 0.9, 3), [9, 5, 3]),
        ((4, 64, 4), [16, 6, 3]),
        ((1, 16, 2), [16, 10, 7, 5, 5]),
        ((1, 3, 3), [3, 2]),
    ],
)
def test_sizes(settings: tuple[float, float, float], expected: list[int]) -> None:
    found = shapes(*settings)
    assert [size for size, _ in found] == expected
    _, max_resource, factor = settings
    for _, levels in found[:-1]:
        assert levels[-1] == pytest.approx(max_resource / factor)
        assert levels[0] >= settings[0] * (1 - 1e-9)
        assert all(b / a == pytest.approx(factor) for a, b in pairwise(levels))


def curve(config: Config) -> Iterator[tuple[float, dict[str, Any]]]:
    """Yield more reports than anybody may make, of curves that cross."""
    for step in range(1, 100):
        yield 1.0 + config["x"], {"loss": abs(config["x"] - 1 / step), "epoch": 2 * step}


def simulate(
    max_resource: int, trials: int, parallel: int, records: Sequence[Record] = (), **settings: Any
) -> Simulation:
    experiment = Experiment.from_python(
        run="noop",
        parameters=SPACE.parameters,
        metric="loss",
        trials=trials,
        parallel=parallel,
        search={"algorithm": "random", "seed": 1},
    )
    scheduler = Hyperband(SPACE, LOSS, 1, max_resource=max_resource, **settings)
    return Simulation(experiment, curve, records=records, scheduler=scheduler, checkpoints=True)


def table_of(state: RunState, sizes: Sequence[int], levels: Sequence[int]) -> Table:
    """Return the paper's table of a run."""
    found = []
    for end, size in zip(accumulate(sizes), sizes, strict=True):
        steps = [state.trials[trial].step for trial in range(end - size, end)]
        reached = {level: sum(step >= level for step in steps) for level in levels}
        lowest = min(steps)
        found.append({level: count for level, count in reached.items() if level >= lowest})
    return found


@pytest.mark.parametrize("parallel", [1, 2, 4, 100])
@pytest.mark.parametrize(("max_resource", "table"), [(27, R27), (81, R81)])
def test_the_papers_table_is_run_under_every_limit_of_concurrency(
    max_resource: int, table: Table, parallel: int
) -> None:
    sizes = [next(iter(rungs.values())) for rungs in table]
    state = simulate(max_resource, sum(sizes), parallel).run()
    assert table_of(state, sizes, list(table[0])) == table
    assert state.finish is not None
    assert state.finish.reason == "trials"
    counts = state.counts()
    assert counts[TrialState.COMPLETED] == sum(rungs[max_resource] for rungs in table)
    assert counts[TrialState.PRUNED] == sum(sizes) - counts[TrialState.COMPLETED]


@pytest.mark.parametrize("parallel", [1, 4, 100])
def test_after_the_last_bracket_comes_the_first_again(parallel: int) -> None:
    sizes = [next(iter(rungs.values())) for rungs in R27]
    state = simulate(27, 2 * sum(sizes) + 10, parallel).run()
    tables = table_of(state, [*sizes, *sizes, 10], list(R27[0]))
    assert tables == [*R27, *R27, {1: 10, 3: 3, 9: 1, 27: 1}]


def test_the_best_of_each_bracket_goes_to_the_end() -> None:
    state = simulate(27, 27, 4).run()
    first = sorted(range(27), key=lambda trial: abs(state.trials[trial].config["x"] - 1))
    at_3 = sorted(first[:9], key=lambda trial: abs(state.trials[trial].config["x"] - 1 / 3))
    at_9 = min(at_3[:3], key=lambda trial: abs(state.trials[trial].config["x"] - 1 / 9))
    steps = {trial: record.step for trial, record in state.trials.items()}
    assert {trial for trial, step in steps.items() if step >= 3} == set(first[:9])
    assert {trial for trial, step in steps.items() if step >= 9} == set(at_3[:3])
    assert {trial for trial, step in steps.items() if step >= 27} == {at_9}


def test_another_resource_and_factor() -> None:
    state = simulate(32, 10, 3, resource="epoch", min_resource=8, reduction_factor=2).run()
    # Epochs go up by two a step: four trials from 8 epochs, three from 16 and three to the end.
    steps = [Counter(state.trials[trial].step for trial in group) for group in (
        range(4), range(4, 7), range(7, 10)
    )]  # fmt: skip
    assert steps == [{4: 2, 8: 1, 16: 1}, {8: 2, 16: 1}, {16: 3}]


@pytest.mark.parametrize("events", range(1, 150, 7))
def test_a_run_that_goes_on_has_the_brackets_that_it_had(events: int) -> None:
    undisturbed = simulate(9, 25, 3).run()
    first = simulate(9, 25, 3)
    first.run(events)
    state = simulate(9, 25, 3, first.journal.records).run()
    assert [(t.state, t.step) for t in state.trials.values()] == [
        (t.state, t.step) for t in undisturbed.trials.values()
    ]


def test_bohb_is_hyperband() -> None:
    """What makes it BOHB is the searcher of that name."""
    assert plugins.load("schedulers", "bohb") is Hyperband


@pytest.mark.parametrize(
    ("settings", "paths"),
    [
        (
            {"min_resource": 0, "max_resource": -1, "reduction_factor": 1},
            ["min_resource", "max_resource", "reduction_factor"],
        ),
        ({}, ["max_resource"]),
        ({"max_resource": 2.9}, ["max_resource"]),
    ],
)
def test_problems_are_found_all_at_once(settings: dict[str, Any], paths: list[str]) -> None:
    with pytest.raises(SpecError) as caught:
        Hyperband(SPACE, LOSS, 1, **settings)
    found = [problem.path for problem in caught.value.problems]
    assert found == [f"scheduler.settings.{path}" for path in paths]


def test_a_maximum_that_leaves_no_rung_is_named_with_the_least_one() -> None:
    with pytest.raises(SpecError, match=r"at least 6 .*, so that there is a rung, not 5"):
        Hyperband(SPACE, LOSS, 1, min_resource=2, max_resource=5)
