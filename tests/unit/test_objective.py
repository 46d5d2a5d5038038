import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raytune_hpo.errors import ExpressionError, RaytuneHpoError, SpecError
from raytune_hpo.expression import Expression
from raytune_hpo.objective import BadMetric, Constraint, Goal, Mode, Objective
from raytune_hpo.trial import FailureKind


def goal(text: str, mode: Mode = "min", target: float | None = None) -> Goal:
    return Goal(Expression.parse(text), mode, text, target)


LOSS = Objective.of("loss")
BOTH = Objective([goal("loss"), goal("speed", "max")])


class Tensor:
    """Holds numbers as the arrays of other libraries do."""

    def __init__(self, *numbers: float) -> None:
        self.numbers = numbers

    def __repr__(self) -> str:
        return f"Tensor{self.numbers}"

    def item(self) -> float:
        if len(self.numbers) != 1:
            raise RuntimeError("only a tensor with one element can be converted")
        return self.numbers[0]


# Values


@pytest.mark.parametrize(
    "value",
    [
        0.5,
        np.float64(0.5),
        np.float32(0.5),
        np.array(0.5),
        np.array([0.5]),
        Tensor(0.5),
        Fraction(1, 2),
    ],
)
def test_numbers_of_any_kind_become_floats(value: Any) -> None:
    (found,) = LOSS.values({"loss": value})
    assert (type(found), found) == (float, 0.5)


@pytest.mark.parametrize("value", [3, np.int32(3), np.uint8(3)])
def test_whole_numbers_become_floats(value: Any) -> None:
    (found,) = LOSS.values({"loss": value})
    assert (type(found), found) == (float, 3.0)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, FailureKind.METRIC_NOT_NUMBER),
        ("0.5", FailureKind.METRIC_NOT_NUMBER),
        (True, FailureKind.METRIC_NOT_NUMBER),
        (np.bool_(True), FailureKind.METRIC_NOT_NUMBER),
        ([0.5], FailureKind.METRIC_NOT_NUMBER),
        (0.5j, FailureKind.METRIC_NOT_NUMBER),
        (Decimal("0.5"), FailureKind.METRIC_NOT_NUMBER),
        (np.array([0.5, 0.6]), FailureKind.METRIC_NOT_NUMBER),
        (Tensor(0.5, 0.6), FailureKind.METRIC_NOT_NUMBER),
        (math.nan, FailureKind.METRIC_NAN),
        (np.float32("nan"), FailureKind.METRIC_NAN),
        (math.inf, FailureKind.METRIC_INFINITE),
        (-np.inf, FailureKind.METRIC_INFINITE),
        (10**400, FailureKind.METRIC_INFINITE),
    ],
    ids=repr,
)
def test_what_is_no_finite_number_is_a_failure_of_its_kind(value: Any, kind: FailureKind) -> None:
    for objective in (LOSS, Objective([goal("loss + 1")])):
        with pytest.raises(BadMetric, match="'loss'") as caught:
            objective.values({"loss": value})
        assert caught.value.kind is kind
    assert isinstance(caught.value, RaytuneHpoError)


def test_a_missing_metric_is_named_with_what_was_reported() -> None:
    with pytest.raises(BadMetric) as caught:
        Objective.of("val_los").values({"val_loss": 1.0, "epoch": 3})
    assert caught.value.kind is FailureKind.METRIC_MISSING
    for part in ("'val_los'", "epoch, val_loss", "did you mean 'val_loss'"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("a / b", FailureKind.METRIC_NAN),
        ("log(b)", FailureKind.METRIC_NAN),
        ("(a * 1e300 * 1e300) - (a * 1e300 * 1e300)", FailureKind.METRIC_NAN),
        ("a * 1e300 * 1e300", FailureKind.METRIC_INFINITE),
    ],
)
def test_a_formula_without_a_value(text: str, kind: FailureKind) -> None:
    with pytest.raises(BadMetric) as caught:
        Objective([goal(text)]).values({"a": 1.0, "b": 0.0})
    assert caught.value.kind is kind
    assert text in str(caught.value)


def test_inputs_and_names() -> None:
    objective = Objective(
        [goal("throughput / p99"), goal("`val/loss`", "max")],
        [Constraint.parse("p50 <= p99"), Constraint.parse("errors == 0")],
    )
    assert objective.inputs == {"throughput", "p99", "val/loss"}
    assert objective.constraint_inputs == {"p50", "p99", "errors"}
    assert objective.names == ("throughput / p99", "`val/loss`")
    assert objective.modes == ("min", "max")
    assert objective.multi
    assert objective.values({"throughput": 6, "p99": 2, "val/loss": 1, "else": None}) == (3.0, 1.0)


@pytest.mark.parametrize("metric", ["loss", "val/loss", "max", "lambda", "p99(ms)", "test.f1"])
def test_any_text_can_name_a_metric(metric: str) -> None:
    objective = Objective.of(metric, "max", target=2.0)
    assert objective.names == (metric,)
    assert objective.inputs == {metric}
    assert objective.values({metric: 2.0}) == (2.0,)
    assert not objective.multi
    assert objective.reached((2.0,))


def test_what_is_no_objective() -> None:
    with pytest.raises(SpecError, match="at least one goal"):
        Objective([])
    with pytest.raises(SpecError, match="min or max"):
        Objective.of("loss", "minimise")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="finite"):
        Objective.of("loss", target=math.nan)
    with pytest.raises(ExpressionError):
        Objective.of("a`b")


# Constraints


@pytest.mark.parametrize(
    ("text", "a", "violation"),
    [
        ("a <= 20", 23.0, 3.0),
        ("a <= 20", 20.0, 0.0),
        ("a <= 20", 15.0, -5.0),
        ("a >= 20", 15.0, 5.0),
        ("a >= 20", 20.0, 0.0),
        ("a < 20", 20.0, 5e-324),
        ("a > 20", 20.0, 5e-324),
        ("a < 20", 19.0, -1.0),
        ("a > 20", 23.0, -3.0),
        ("a == 20", 20.0, 0.0),
        ("a == 20", 18.0, 2.0),
        ("20 >= 2 * a", 11.0, 2.0),
    ],
)
def test_violation(text: str, a: float, violation: float) -> None:
    assert Constraint.parse(text).violation({"a": a}) == violation


FINITE = st.floats(allow_nan=False, allow_infinity=False)
COMPARE = {
    "<=": lambda a, b: a <= b,
    "<": lambda a, b: a < b,
    ">=": lambda a, b: a >= b,
    ">": lambda a, b: a > b,
    "==": lambda a, b: a == b,
}


@given(a=FINITE, b=st.one_of(FINITE, st.none()), sign=st.sampled_from(sorted(COMPARE)))
def test_violated_is_what_python_says(a: float, b: float | None, sign: str) -> None:
    other = a if b is None else b
    objective = Objective(LOSS.goals, [Constraint.parse(f"a {sign} b")])
    (violation,) = objective.violations({"a": a, "b": other})
    assert math.isfinite(violation)
    assert (violation <= 0) == COMPARE[sign](a, other)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("1 < a < 3", "several constraints"),
        ("a < 1 and b < 2", "several constraints"),
        ("a", "one comparison"),
        ("a != 3", "one comparison"),
        ("a in [1, 2]", "one comparison"),
        ("not a < 3", "one comparison"),
        ("a = 3", "=="),
        ("1 <= 2", "no metric"),
        ("a <= 'x'", "number"),
    ],
)
def test_what_is_no_constraint(text: str, part: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        Constraint.parse(text)
    assert part in caught.value.problems[0].message
    assert caught.value.problems[0].snippet == text


def test_bad_metrics_of_constraints() -> None:
    objective = Objective(LOSS.goals, [Constraint.parse("a / b <= 1")])
    for metrics, kind in (
        ({"a": 1.0}, FailureKind.METRIC_MISSING),
        ({"a": 1.0, "b": math.nan}, FailureKind.METRIC_NAN),
        ({"a": math.inf, "b": 1.0}, FailureKind.METRIC_INFINITE),
        ({"a": "x", "b": 1.0}, FailureKind.METRIC_NOT_NUMBER),
        ({"a": 1.0, "b": 0.0}, FailureKind.METRIC_NAN),
        ({"a": 1e300, "b": 1e-300}, FailureKind.METRIC_INFINITE),
    ):
        with pytest.raises(BadMetric) as caught:
            objective.violations(metrics)
        assert caught.value.kind is kind
    assert LOSS.violations({}) == ()


# Comparing


def test_better_with_one_goal() -> None:
    up = Objective.of("speed", "max")
    assert LOSS.better((1.0,), (2.0,))
    assert not LOSS.better((1.0,), (1.0,))
    assert up.better((2.0,), (1.0,))
    assert (LOSS.minimized((2.0,)), up.minimized((2.0,))) == ((2.0,), (-2.0,))


def test_better_with_several_goals_dominates() -> None:
    assert BOTH.better((1.0, 5.0), (2.0, 5.0))
    assert not BOTH.better((1.0, 5.0), (1.0, 5.0))
    assert not BOTH.better((1.0, 4.0), (2.0, 5.0))
    assert not BOTH.better((2.0, 5.0), (1.0, 4.0))


def test_reached_needs_every_target_and_one() -> None:
    objective = Objective([goal("loss", "min", 0.1), goal("speed", "max", 5.0), goal("size")])
    assert objective.reached((0.1, 5.0, 9.0))
    assert not objective.reached((0.2, 5.0, 9.0))
    assert not objective.reached((0.1, 4.0, 9.0))
    assert not BOTH.reached((0.0, 1e9))


def test_best_is_the_best_feasible() -> None:
    candidates = [(0, (1.0,), (0.1,)), (4, (2.0,), (0.0,)), (3, (2.0,), (-1.0,)), (5, (3.0,), ())]
    assert LOSS.best(candidates) == [3]
    assert Objective.of("loss", "max").best(candidates) == [5]
    assert LOSS.best([(0, (1.0,), (math.inf,)), (1, (1.0,), (math.nan,))]) == []
    assert LOSS.best([]) == []
    assert LOSS.best([(0, (), ()), (1, (9.0,), ())]) == [1]


POINTS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=12)


@given(points=POINTS)
def test_best_of_several_goals_is_the_pareto_front(points: list[tuple[int, int]]) -> None:
    values = [(float(x), float(y)) for x, y in points]
    found = BOTH.best((number, value, ()) for number, value in enumerate(values))
    expected = [
        number
        for number, (x, y) in enumerate(values)
        if not any(a <= x and b >= y and (a, b) != (x, y) for a, b in values)
    ]
    assert found == expected


@given(points=POINTS)
def test_the_front_can_be_found_step_by_step(points: list[tuple[int, int]]) -> None:
    everyone = [(number, (float(x), float(y)), ()) for number, (x, y) in enumerate(points)]
    front: list[int] = []
    for candidate in everyone:
        front = BOTH.best([everyone[number] for number in front] + [candidate])
    assert front == BOTH.best(everyone)
