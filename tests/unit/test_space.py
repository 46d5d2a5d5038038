import copy
import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raytune_hpo.errors import SpaceError
from raytune_hpo.space import (
    Choice,
    Constant,
    Float,
    Int,
    LogNormal,
    Normal,
    Ordinal,
    Parameter,
    SearchSpace,
)
from raytune_hpo.trial import Config

NO_VALUE = object  # of no kind that a file can hold

CONDITIONAL = SearchSpace(
    {
        "rate": Float(0.1, 1.0, when="optimizer == sgd and momentum > 0.5"),
        "momentum": Float(0.0, 1.0, when="optimizer == sgd"),
        "optimizer": Choice(("sgd", "adam")),
        "version": Constant(2, when="optimizer == adam"),
    }
)


def one(parameter: Parameter, u: float) -> Any:
    return SearchSpace({"x": parameter}).decode(np.array([u]))["x"]


def back(parameter: Parameter, value: Any) -> Any:
    """Return what a value becomes by way of the unit interval."""
    space = SearchSpace({"x": parameter})
    return space.decode(space.encode({"x": value}))["x"]


def problems(parameters: Mapping[str, Any]) -> dict[str, str]:
    with pytest.raises(SpaceError) as caught:
        SearchSpace(parameters)
    return {problem.path: problem.message for problem in caught.value.problems}


def shares(parameter: Parameter, points: int = 100_000) -> dict[Any, float]:
    space = SearchSpace({"x": parameter})
    counts = Counter(space.decode(np.array([(i + 0.5) / points]))["x"] for i in range(points))
    return {value: count / points for value, count in counts.items()}


# Spaces as anyone could write them

BOUNDS = st.tuples(st.integers(-10_000, 10_000), st.integers(1, 10_000)).map(
    lambda pair: (pair[0], pair[0] + pair[1])
)
DECIMALS = st.tuples(BOUNDS, st.sampled_from([1.0, 10.0, 1000.0])).map(
    lambda drawn: (drawn[0][0] / drawn[1], drawn[0][1] / drawn[1])
)


@st.composite
def floats(draw: st.DrawFn, when: str | None = None) -> Float:
    low, high = draw(DECIMALS)
    kind = draw(st.sampled_from(["plain", "log", "step", "step log", "normal", "lognormal"]))
    width = high - low
    if kind == "normal":
        mean = low + width * draw(st.floats(0.0, 1.0))
        return Float(low, high, prior=Normal(mean, width * draw(st.floats(0.2, 2.0))), when=when)
    if kind == "plain":
        return Float(low, high, when=when)
    step = draw(st.sampled_from([0.001, 0.05, 0.25, 1.0, 3.0]))
    if kind == "step":
        return Float(low, max(high, round(low + step, 9)), step=step, when=when)
    low = draw(st.sampled_from([1e-6, 0.001, 0.5, 3.0]))
    high = low * draw(st.sampled_from([2.0, 10.0, 1e5]))
    if kind == "log":
        return Float(low, high, log=True, when=when)
    if kind == "step log":
        return Float(low, max(high, round(low + step, 9)), log=True, step=step, when=when)
    return Float(low, high, prior=LogNormal(math.log(low * 1.2), 1.0), when=when)


@st.composite
def ints(draw: st.DrawFn, when: str | None = None) -> Int:
    low, high = draw(BOUNDS)
    kind = draw(st.sampled_from(["plain", "log", "step", "step log", "normal"]))
    if kind == "normal":
        width = high - low
        mean = low + width * draw(st.floats(0.0, 1.0))
        return Int(low, high, prior=Normal(mean, width * draw(st.floats(0.2, 2.0))), when=when)
    log = "log" in kind
    low, high = (1 + low % 50, 51 + high % 5000) if log else (low, high)
    step = draw(st.integers(1, high - low)) if "step" in kind else None
    return Int(low, high, log=log, step=step, when=when)


VALUES = st.lists(
    st.one_of(st.text(max_size=3), st.integers(), st.floats(-1e9, 1e9), st.none(), st.booleans(),
              st.lists(st.integers(0, 3), max_size=3)),
    min_size=1, max_size=6, unique_by=lambda value: (type(value).__name__, json.dumps(value)),
).map(tuple)  # fmt: skip


@st.composite
def parameters(draw: st.DrawFn, when: str | None = None) -> Parameter:
    kind = draw(st.sampled_from(["float", "int", "choice", "ordinal", "constant"]))
    if kind == "float":
        return draw(floats(when=when))
    if kind == "int":
        return draw(ints(when=when))
    values = draw(VALUES)
    if kind == "constant":
        return Constant(values[0], when=when)
    return (Choice if kind == "choice" else Ordinal)(values, when=when)


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    made: dict[str, Any] = {
        "kind": Choice(("a", "b", "c")),
        "depth": Int(1, 4),
        "size": Float(0.0, 1.0, when="kind == a"),
    }
    conditions = st.sampled_from(
        [None, "kind == a", "kind in [b, c] and depth > 2", "size > 0.5", "not depth == 1"]
    )
    for index in range(draw(st.integers(0, 4))):
        made[f"group{index % 2}.p{index}"] = draw(parameters(when=draw(conditions)))
    names = draw(st.permutations(sorted(made)))
    return SearchSpace({name: made[name] for name in names})


PLACES = st.one_of(st.floats(0.0, 1.0), st.sampled_from([0.0, 1.0, -3.0, 7.0, math.nan, 1e-300]))


def places(data: st.DataObject, space: SearchSpace) -> np.ndarray[Any, Any]:
    count = len(space.dimensions)
    return np.array(data.draw(st.lists(PLACES, min_size=count, max_size=count)), dtype=float)


def inside(value: Any, parameter: Parameter) -> bool:
    """Return whether a value is legal, said in another way than the package says it."""
    if isinstance(parameter, Constant):
        return bool(value == parameter.value)
    if isinstance(parameter, Choice):
        return value in parameter.values
    if isinstance(parameter, Int):
        step = parameter.step or 1
        return type(value) is int and value in range(parameter.low, parameter.high + 1, step)
    if type(value) is not float or not parameter.low <= value <= parameter.high:
        return False
    if parameter.step is None:
        return True
    steps = (value - parameter.low) / parameter.step
    return abs(steps - round(steps)) < 1e-6


@given(space=spaces(), data=st.data())
def test_what_is_decoded_is_legal(space: SearchSpace, data: st.DataObject) -> None:
    config = space.decode(places(data, space))
    space.validate(config)
    assert all(inside(value, space.parameters[name]) for name, value in config.items())
    assert set(config) == {n for n in space.parameters if space.is_active(n, config)}
    assert json.loads(json.dumps(config)) == config


@given(space=spaces(), data=st.data())
def test_there_and_back(space: SearchSpace, data: st.DataObject) -> None:
    config = space.decode(places(data, space))
    u = space.encode(config)
    for name, place in zip(space.dimensions, u, strict=True):
        assert math.isnan(place) == (name not in config)
        assert math.isnan(place) or 0 <= place <= 1
    again = space.decode(u)
    assert list(again) == list(config)
    for name, value in config.items():
        same_type = type(again[name]) is type(value)
        parameter = space.parameters[name]
        rounded = isinstance(parameter, Float) and parameter.step is None
        assert same_type
        assert again[name] == (pytest.approx(value, rel=1e-9, abs=1e-9) if rounded else value)


@given(space=spaces(), data=st.data())
def test_there_and_back_is_exact(space: SearchSpace, data: st.DataObject) -> None:
    config = space.decode(places(data, space))
    assert space.decode(space.encode(config)) == config


@given(parameter=st.one_of(floats(), ints()), data=st.data())
def test_larger_places_give_no_smaller_values(parameter: Float | Int, data: st.DataObject) -> None:
    a, b = sorted(data.draw(st.tuples(st.floats(0, 1), st.floats(0, 1))))
    assert one(parameter, a) <= one(parameter, b)


@given(space=spaces(), seed=st.integers(0, 1000))
def test_completing(space: SearchSpace, seed: int) -> None:
    config = space.sample(np.random.default_rng(seed))
    kept = {name: value for name, value in config.items() if name in ("kind", "depth")}
    completed = space.complete(kept, np.random.default_rng(seed + 1))
    space.validate(completed)
    assert {name: completed[name] for name in kept} == kept


# One parameter


@pytest.mark.parametrize(
    ("parameter", "places_and_values"),
    [
        (Float(-1.0, 3.0), {0.0: -1.0, 0.25: 0.0, 0.5: 1.0, 1.0: 3.0}),
        (Float(0, 2), {0.0: 0.0, 0.5: 1.0, 1.0: 2.0}),
        (Float(1e-4, 1.0, log=True), {0.0: 1e-4, 0.25: 1e-3, 0.5: 1e-2, 1.0: 1.0}),
        (Float(0.0, 0.3, step=0.1), {0.0: 0.0, 0.3: 0.1, 0.6: 0.2, 0.9: 0.3, 1.0: 0.3}),
        (Float(-2.0, 2.0, prior=Normal(0.0, 0.5)), {0.0: -2.0, 0.5: 0.0, 1.0: 2.0}),
        (Float(0.01, 100.0, prior=LogNormal(0.0, 1.0)), {0.0: 0.01, 0.5: 1.0, 1.0: 100.0}),
        (Int(1, 4), {0.0: 1, 0.24: 1, 0.26: 2, 0.74: 3, 0.76: 4, 1.0: 4}),
        (Int(0, 10, step=5), {0.3: 0, 0.4: 5, 0.7: 10}),
        (Choice(("a", None, 3)), {0.0: "a", 0.4: None, 0.9: 3, 1.0: 3}),
        (Ordinal((8, 2.5, True)), {0.0: 8, 0.5: 2.5, 1.0: True}),
    ],
)
def test_decoding(parameter: Parameter, places_and_values: dict[float, Any]) -> None:
    for u, value in places_and_values.items():
        found = one(parameter, u)
        assert type(found) is type(value)
        assert found == (pytest.approx(value, abs=1e-12) if isinstance(value, float) else value)


@pytest.mark.parametrize(("low", "high"), [(1e-5, 1e-1), (3e-7, 0.7), (0.1, 0.3), (1e-300, 1e300)])
@pytest.mark.parametrize("log", [False, True])
def test_bounds_are_met_exactly(low: float, high: float, log: bool) -> None:
    parameter = Float(low, high, log=log)
    assert (one(parameter, 0.0), one(parameter, 1.0)) == (low, high)
    assert (one(parameter, -1.0), one(parameter, 2.0)) == (low, high)


@pytest.mark.parametrize(
    ("low", "high", "step", "values"),
    [
        (0.0, 0.5, 0.1, [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]),
        (0.01, 0.05, 0.005, [0.01, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04, 0.045, 0.05]),
        (0.1, 1.0, 0.4, [0.1, 0.5, 0.9]),
        (-0.3, 0.3, 0.3, [-0.3, 0.0, 0.3]),
        (1e-5, 4e-5, 1e-5, [1e-5, 2e-5, 3e-5, 4e-5]),
    ],
)
@pytest.mark.parametrize("log", [False, True])
def test_steps_are_round_numbers(
    low: float, high: float, step: float, values: list[float], log: bool
) -> None:
    if log and low <= 0:
        pytest.skip("there is no logarithm")
    parameter = Float(low, high, step=step, log=log)
    assert [config["x"] for config in SearchSpace({"x": parameter}).grid(2)] == values
    assert [back(parameter, value) for value in values] == values


def test_ints_have_equal_shares() -> None:
    assert shares(Int(-2, 1)) == dict.fromkeys([-2, -1, 0, 1], 0.25)


def test_ints_in_log_have_shares_by_the_log_of_their_bins() -> None:
    found = shares(Int(1, 8, log=True))
    whole = math.log(8.5 / 0.5)
    expected = {k: math.log((k + 0.5) / (k - 0.5)) / whole for k in range(1, 9)}
    assert found == pytest.approx(expected, abs=1e-4)


def test_ints_with_a_prior_have_shares_by_its_mass() -> None:
    found = shares(Int(-3, 3, prior=Normal(0.0, 1.0)))

    def below(value: float) -> float:
        return 0.5 * math.erfc(-value / math.sqrt(2))

    whole = below(3.5) - below(-3.5)
    expected = {k: (below(k + 0.5) - below(k - 0.5)) / whole for k in range(-3, 4)}
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("prior", [Normal(0.2, 0.3), Normal(1.5, 0.5), LogNormal(-1.0, 0.7)])
def test_samples_follow_the_prior_within_the_bounds(prior: Normal | LogNormal) -> None:
    space = SearchSpace({"x": Float(0.0, 1.0, prior=prior)})
    rng = np.random.default_rng(5)
    found = np.array([space.sample(rng)["x"] for _ in range(4000)])
    draws = np.random.default_rng(6).normal(prior.mean, prior.sd, 400_000)
    expected = np.exp(draws) if isinstance(prior, LogNormal) else draws
    expected = expected[(expected >= 0) & (expected <= 1)]
    assert found.min() >= 0
    assert found.max() <= 1
    for share in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert np.quantile(found, share) == pytest.approx(np.quantile(expected, share), abs=0.03)


def test_sampling_is_decoding_of_random_places() -> None:
    config = CONDITIONAL.sample(np.random.default_rng(3))
    assert config == CONDITIONAL.decode(np.random.default_rng(3).random(3))


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        (Float(-1.0, 1.0), 0.3),
        (Float(-1.0, 1.0), 1 / 8),
        (Float(0.0, 1e-3), 1.7e-4),
        (Float(1e6, 1e6 + 1), 1e6 + 0.1),
        (Float(1e-5, 1e-1, log=True), 3e-4),
        (Float(1e-5, 1e-1, log=True), 0.05),
        (Float(0.0, 1.0, prior=Normal(0.3, 0.1)), 0.37),
        (Float(0.001, 10.0, prior=LogNormal(0.0, 1.0)), 0.25),
    ],
)
def test_numbers_as_people_write_them_survive(parameter: Float, value: float) -> None:
    assert back(parameter, value) == value


@pytest.mark.parametrize("bound", [2**40, 2**50 - 1])
def test_large_ints_survive(bound: int) -> None:
    for value in (0, 1, bound // 3, bound - 1, bound):
        assert back(Int(0, bound), value) == value


def test_equal_values_of_different_type_are_kept_apart() -> None:
    parameter = Choice((1, 1.0, True, "1"))
    for value in parameter.values:
        found = back(parameter, value)
        assert (type(found), found) == (type(value), value)


def test_lists_are_values_and_nobody_can_change_them() -> None:
    space = SearchSpace({"x": Choice(([1, 2], [3])), "y": Constant([4])})
    first = space.decode(np.array([0.1]))
    first["x"].append(9)
    first["y"].append(9)
    assert space.decode(np.array([0.1])) == {"x": [1, 2], "y": [4]}
    for config in space.grid():
        config["x"].append(9)
    assert [config["x"] for config in space.grid()] == [[1, 2], [3]]


def test_a_place_that_is_not_known_is_the_middle() -> None:
    assert one(Float(0.0, 3.0), math.nan) == 1.5


def test_the_number_of_places_has_to_be_right() -> None:
    with pytest.raises(ValueError, match="argument 2"):
        CONDITIONAL.decode(np.zeros(5))


# Conditions


def test_conditional_parameters_come_and_go() -> None:
    assert list(CONDITIONAL.parameters) == ["optimizer", "momentum", "rate", "version"]
    assert CONDITIONAL.dimensions == ["optimizer", "momentum", "rate"]
    assert CONDITIONAL.decode(np.array([0.9, 0.9, 0.9])) == {"optimizer": "adam", "version": 2}
    assert CONDITIONAL.decode(np.array([0.1, 0.25, 0.9])) == {"optimizer": "sgd", "momentum": 0.25}
    assert set(CONDITIONAL.decode(np.array([0.1, 0.75, 0.9]))) == {"optimizer", "momentum", "rate"}


def test_a_parameter_needs_all_that_its_condition_names() -> None:
    assert not CONDITIONAL.is_active("rate", {"optimizer": "sgd"})
    assert not CONDITIONAL.is_active("rate", {"optimizer": "adam", "momentum": 0.9})
    assert CONDITIONAL.is_active("rate", {"optimizer": "sgd", "momentum": 0.9})
    assert CONDITIONAL.is_active("optimizer", {})


@pytest.mark.parametrize(
    ("parameter", "condition", "there"),
    [
        (Choice((True, False)), "x", True),
        (Choice((True, False)), "not x", False),
        (Choice((True, False)), "x == true", True),
        (Choice((True, False)), "x != False", True),
        (Choice((None, "a")), "x == null", True),
        (Choice((None, "a")), "x != None", False),
        (Choice(("adam-w", "b")), "x == 'adam-w'", True),
        (Choice((1, 5)), "x in [1, 2] and x < 3", True),
        (Int(1, 3), "x % 2 == 1", True),
        (Constant("a"), "x == a", True),
    ],
)
def test_what_conditions_can_say(parameter: Parameter, condition: str, there: bool) -> None:
    space = SearchSpace({"x": parameter, "y": Int(0, 1, when=condition)})
    config = space.decode(np.zeros(len(space.dimensions)))
    assert ("y" in config) == there


def test_conditions_on_nested_and_odd_names() -> None:
    space = SearchSpace(
        {
            "model": {"kind": Choice(("p", "q")), "kinds": Int(0, 3)},
            "batch-size": Int(1, 9),
            "x": Int(0, 1, when="model.kind == p and batch-size > 4 and `model.kinds` < 2"),
        }
    )
    assert "x" in space.decode(np.array([0.1, 0.1, 0.9, 0.0]))
    assert "x" not in space.decode(np.array([0.9, 0.1, 0.9, 0.0]))
    assert "x" not in space.decode(np.array([0.1, 0.9, 0.9, 0.0]))


@pytest.mark.parametrize(
    ("condition", "part"),
    [
        ("optimiser == sgd", "did you mean 'optimizer'"),
        ("optimizer == sdg", "did you mean 'sgd'"),
        ("optimizer == sgd and layer > 2", "did you mean 'layers'"),
        ("optimizer ==", "not a formula"),
        ("layers + 1", "true or false"),
        ("layers", "true or false"),
        ("optimizer > 2", "no number"),
        ("layers > 4", "never"),
        ("momentum > 0 and optimizer == adam", "never"),
        ("y > 2", "circle"),
        (7, "must be a text"),
    ],
)
def test_conditions_that_cannot_be(condition: Any, part: str) -> None:
    found = problems(
        {
            "optimizer": Choice(("sgd", "adam")),
            "layers": Int(1, 4),
            "momentum": Ordinal((0.5, 0.9), when="optimizer == sgd"),
            "y": Int(0, 5, when=condition),
        }
    )
    assert list(found) == ["y.when"]
    assert part in found["y.when"]


def test_the_column_of_a_wrong_condition() -> None:
    with pytest.raises(SpaceError) as caught:
        SearchSpace({"a": {"b": Int(0, 1)}, "c": Int(0, 1, when="a.b == 1 and foo(2)")})
    (problem,) = caught.value.problems
    assert (problem.path, problem.column) == ("c.when", 14)
    assert problem.snippet == "a.b == 1 and foo(2)"


def test_a_circle_is_shown_without_what_only_hangs_on_it() -> None:
    found = problems(
        {
            "d": Int(1, 2, when="a > 1"),
            "a": Int(1, 2, when="b > 1"),
            "b": Int(1, 2, when="a > 1"),
        }
    )
    (message,) = found.values()
    assert message.endswith("a -> b -> a")


# What is refused


@pytest.mark.parametrize(
    ("parameter", "field"),
    [
        (Float(2.0, 1.0), "low"),
        (Float(1.0, 1.0), "high"),
        (Float(0.0, 1.0, log=True), "low"),
        (Float(0.0, math.inf), "high"),
        (Float(math.nan, 1.0), "low"),
        (Float(-1e308, 1e308), "high"),
        (Float("0", 1.0), "low"),  # type: ignore[arg-type]
        (Float(True, 2.0), "low"),
        (Float(0.0, 1.0, step=0.0), "step"),
        (Float(0.0, 1.0, step=2.0), "step"),
        (Float(0.0, 1.0, step=1e-16), "step"),
        (Float(0.0, 1.0, prior=Normal(0.0, 0.0)), "prior"),
        (Float(0.0, 1.0, prior=Normal(math.nan, 1.0)), "prior"),
        (Float(0.0, 1.0, prior=Normal(50.0, 1.0)), "prior"),
        (Float(0.0, 1.0, prior="normal"), "prior"),  # type: ignore[arg-type]
        (Float(0.1, 1.0, log=True, prior=Normal(0.5, 1.0)), "log"),
        (Float(-2.0, -1.0, prior=LogNormal(0.0, 1.0)), "high"),
        (Int(0, 5, step=6), "step"),
        (Int(0.5, 5), "low"),  # type: ignore[arg-type]
        (Int(0, 2**60), "high"),
        (Int(0, 5, log=True), "low"),
        (Choice(()), "values"),
        (Choice("abc"), "values"),  # type: ignore[arg-type]
        (Choice(("a", "b", "a")), "values"),
        (Choice(([1], [1])), "values"),
        (Ordinal((1, math.nan)), "values"),
        (Choice(({"a": 1},)), "values"),
        (Choice((NO_VALUE,)), "values"),
        (Constant(math.nan), "value"),
        (Constant(NO_VALUE), "value"),
    ],
    ids=repr,
)
def test_impossible_parameters(parameter: Parameter, field: str) -> None:
    found = problems({"good": Int(0, 1), "x": parameter})
    assert f"x.{field}" in found
    assert all(path.startswith("x.") for path in found)


def test_all_problems_are_told_at_once() -> None:
    found = problems(
        {
            "a": Float(2.0, 1.0),
            "b": {"c": Choice(()), "d": 5},
            "e": Int(0, 3, step=0),
            "f": Int(0, 3, when="@"),
            "g": Float(0.0, 1.0),
        }
    )
    assert set(found) == {"a.low", "b.c.values", "b.d", "e.step", "f.when"}


@pytest.mark.parametrize(
    ("made", "path"),
    [
        ({}, ""),
        ({"a": {}}, ""),
        ({"a": 5}, "a"),
        ({"a": [1, 2]}, "a"),
        ({"": Int(0, 1)}, ""),
        ({"a.": Int(0, 1)}, "a."),
        ({"a.b": Int(0, 1), "a": {"b": Int(0, 1)}}, "a.b"),
        ({"a": Int(0, 1), "a.b": Int(0, 1)}, "a.b"),
    ],
)
def test_impossible_names(made: dict[str, Any], path: str) -> None:
    assert list(problems(made)) == [path]


# Configs


def test_legal_configs_are_legal() -> None:
    CONDITIONAL.validate({"optimizer": "adam", "version": 2})
    CONDITIONAL.validate({"momentum": 0, "optimizer": "sgd"})
    CONDITIONAL.validate({"rate": 0.1, "momentum": 1.0, "optimizer": "sgd"})


@pytest.mark.parametrize(
    ("config", "paths"),
    [
        ({"optimizer": "lion", "momentun": 1}, {"optimizer", "momentun"}),
        ({"optimizer": "adam"}, {"version"}),
        ({"optimizer": "adam", "version": 3, "momentum": 0.3}, {"version", "momentum"}),
        ({"optimizer": "sgd", "momentum": 1.5}, {"momentum"}),
        ({"optimizer": "sgd", "momentum": True}, {"momentum"}),
        ({"optimizer": "sgd", "momentum": math.nan}, {"momentum"}),
        ({"optimizer": "sgd", "momentum": "0.5"}, {"momentum"}),
        ({}, {"optimizer"}),
    ],
)
def test_illegal_configs_are_told_in_full(config: Config, paths: set[str]) -> None:
    with pytest.raises(SpaceError) as caught:
        CONDITIONAL.validate(config)
    assert {problem.path for problem in caught.value.problems} == paths


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        (Int(0, 9), 2.0),
        (Int(0, 9), True),
        (Int(0, 9, step=3), 4),
        (Float(0.0, 1.0, step=0.1), 0.15),
        (Float(0.0, 1.0, step=0.1), 0.1 * 3),
        (Choice((1, 2)), 1.0),
        (Choice((1, 2)), [1]),
    ],
)
def test_illegal_values(parameter: Parameter, value: Any) -> None:
    space = SearchSpace({"x": parameter})
    with pytest.raises(SpaceError):
        space.validate({"x": value})
    with pytest.raises(SpaceError):
        space.encode({"x": value})


def test_completing_keeps_to_conditions() -> None:
    rng = np.random.default_rng(0)
    config = CONDITIONAL.complete({"momentum": 0.2}, np.random.default_rng(11))
    assert config == {"optimizer": "sgd", "momentum": 0.2}
    with pytest.raises(SpaceError):
        CONDITIONAL.complete({"optimizer": "adam", "momentum": 0.2}, rng)
    with pytest.raises(SpaceError):
        CONDITIONAL.complete({"optimizer": "lion"}, rng)
    with pytest.raises(SpaceError):
        CONDITIONAL.complete({"nothing": 1}, rng)


def test_nesting() -> None:
    space = SearchSpace({"a": {"b": {"c": Int(1, 2)}, "d": Constant("x")}, "e.f": Int(3, 4)})
    config = space.decode(np.zeros(2))
    assert config == {"a.b.c": 1, "a.d": "x", "e.f": 3}
    assert space.nested(config) == {"a": {"b": {"c": 1}, "d": "x"}, "e": {"f": 3}}


# Grids

FINITE = {
    "o": Choice(("a", "b")),
    "n": Int(1, 3, when="o == a"),
    "m": Ordinal((1, 2), when="n > 1"),
    "c": Constant(7, when="o == b"),
    "z": Float(0.0, 0.2, step=0.1),
}


def test_a_grid_has_every_config_once() -> None:
    space = SearchSpace(FINITE)
    configs = list(space.grid())
    keys = {json.dumps(config, sort_keys=True) for config in configs}
    assert len(keys) == len(configs) == space.cardinality == space.grid_size() == 18
    for config in configs:
        space.validate(config)
    rng = np.random.default_rng(1)
    assert {json.dumps(space.sample(rng), sort_keys=True) for _ in range(2000)} == keys


def test_the_last_parameter_changes_fastest() -> None:
    space = SearchSpace({"a": Int(0, 1), "b": Choice(("x", "y"))})
    assert [tuple(config.values()) for config in space.grid()] == [
        (0, "x"), (0, "y"), (1, "x"), (1, "y"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("parameter", "resolution", "values"),
    [
        (Float(0.0, 1.0), 5, [0.0, 0.25, 0.5, 0.75, 1.0]),
        (Float(0.0, 1.0), 1, [0.5]),
        (Float(1e-4, 1.0, log=True), 5, [1e-4, 1e-3, 1e-2, 1e-1, 1.0]),
        (Choice(("a", "b", "c")), 2, ["a", "b", "c"]),
        (Constant(4), 2, [4]),
    ],
)
def test_grid_values(parameter: Parameter, resolution: int, values: list[Any]) -> None:
    space = SearchSpace({"x": parameter})
    found = [config["x"] for config in space.grid(resolution)]
    assert found == (pytest.approx(values) if isinstance(parameter, Float) else values)
    assert space.grid_size(resolution) == len(values)


def test_a_grid_with_a_prior_is_at_the_middles_of_its_cells() -> None:
    space = SearchSpace({"x": Float(-4.0, 4.0, prior=Normal(0.0, 1.0))})
    found = [config["x"] for config in space.grid(3)]
    assert found == pytest.approx([-0.967, 0.0, 0.967], abs=1e-3)


def test_infinite_spaces() -> None:
    space = SearchSpace({"x": Float(0.0, 1.0), "y": Int(0, 1)})
    assert space.cardinality is None
    with pytest.raises(SpaceError, match="x: has infinitely many values"):
        next(space.grid())
    with pytest.raises(SpaceError):
        space.grid_size()
    assert space.grid_size(3) == len(list(space.grid(3))) == 6


@given(space=spaces(), resolution=st.integers(1, 3))
def test_the_size_of_a_grid_is_what_it_has(space: SearchSpace, resolution: int) -> None:
    size = space.grid_size(resolution)
    if size <= 3000:
        configs = list(space.grid(resolution))
        assert len(configs) == size
        assert len({json.dumps(config) for config in configs}) == size


def test_counting_needs_no_listing() -> None:
    free = {f"p{index}": Int(1, 1000) for index in range(20)}
    bound = {f"q{index}": Int(1, 10, when="o == a") for index in range(20)}
    space = SearchSpace({"o": Choice(("a", "b")), **free, **bound})
    assert space.cardinality == 1000**20 * (10**20 + 1)
    assert SearchSpace({"n": Int(0, 10**9), "y": Int(0, 1, when="n > 3")}).cardinality is not None
    assert SearchSpace({"x": Float(0.0, 1e9, step=0.001)}).grid_size(3) == 10**12 + 1


def test_spaces_with_many_parameters() -> None:
    space = SearchSpace({f"p{index}": Constant(index) for index in range(3000)})
    assert space.cardinality == 1
    (config,) = space.grid()
    assert config == {f"p{index}": index for index in range(3000)}


# As an object


def test_parameters_are_values() -> None:
    assert Float(0.0, 1.0) == Float(0.0, 1.0) != Float(0.0, 2.0)
    assert Choice(("a",)) != Ordinal(("a",))
    assert Int(1, 2, True, None, None, "a == 1") == Int(1, 2, log=True, when="a == 1")
    with pytest.raises(AttributeError):
        Float(0.0, 1.0).low = 3.0  # type: ignore[misc]


def test_a_copy_is_as_good() -> None:
    twin = copy.deepcopy(CONDITIONAL)
    u = np.array([0.1, 0.75, 0.9])
    assert twin.decode(u) == CONDITIONAL.decode(u)
