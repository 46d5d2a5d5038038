import copy
import math
import operator
import string
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raytune_hpo.errors import ExpressionError
from raytune_hpo.expression import (
    MAX_DEPTH,
    MAX_LENGTH,
    Expression,
    ExpressionValueError,
    MissingName,
)


def refused(text: str, *, strings: bool = False) -> tuple[int, str]:
    with pytest.raises(ExpressionError) as caught:
        Expression.parse(text, strings=strings)
    (problem,) = caught.value.problems
    assert problem.snippet == text
    return problem.column, problem.message


@pytest.mark.parametrize(
    ("text", "shown", "value"),
    [
        ("1.25 * throughput / p99_ms", "((1.25 * throughput) / p99_ms)", 5.0),
        ("throughput - p99_ms - 1", "((throughput - p99_ms) - 1)", 5.0),
        ("-p99_ms ** 2", "(-(p99_ms ** 2))", -4.0),
        ("2 ** 3 ** p99_ms", "(2 ** (3 ** p99_ms))", 512.0),
        ("throughput % 3", "(throughput % 3)", 2.0),
        ("max(throughput, 9, p99_ms)", "max(throughput, 9, p99_ms)", 9.0),
        ("min(throughput, 9) + abs(-p99_ms)", "(min(throughput, 9) + abs((-p99_ms)))", 10.0),
        ("sqrt(throughput * p99_ms)", "sqrt((throughput * p99_ms))", 4.0),
        ("log(exp(p99_ms))", "log(exp(p99_ms))", 2.0),
        (
            "throughput if p99_ms <= 2 and not throughput > 9 else 0",
            "(throughput if ((p99_ms <= 2) and (not (throughput > 9))) else 0)",
            8.0,
        ),
        ("1 if 1 < p99_ms < 3 else 0 * p99_ms", "(1 if (1 < p99_ms < 3) else (0 * p99_ms))", 1.0),
        ("1 if p99_ms in [1, 2] else 0", "(1 if (p99_ms in [1, 2]) else 0)", 1.0),
        ("1 if p99_ms not in (1, 2) else 0", "(1 if (p99_ms not in [1, 2]) else 0)", 0.0),
        ("`p99_ms` + 1", "(p99_ms + 1)", 3.0),
    ],
)
def test_value_and_form(text: str, shown: str, value: float) -> None:
    expression = Expression.parse(text)
    values = {"throughput": 8.0, "p99_ms": 2.0}
    assert str(expression) == shown
    assert expression(values) == value
    again = Expression.parse(shown)
    assert str(again) == shown
    assert again(values) == value


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a + b * a", {"a", "b"}),
        ("max(a, log(b))", {"a", "b"}),
        ("`val/loss` + `p99(ms)`", {"val/loss", "p99(ms)"}),
        ("`max` + `lambda`", {"max", "lambda"}),
        ("test.loss + `test.loss`", {"test.loss"}),
        ("`x` + _00 + ___", {"x", "_00", "___"}),
        ("\N{MICRO SIGN}s + \N{LATIN SMALL LIGATURE FI}t", {"\N{MICRO SIGN}s", "\ufb01t"}),
    ],
)
def test_names_are_as_they_were_written(text: str, names: set[str]) -> None:
    expression = Expression.parse(text)
    assert expression.names == names
    assert Expression.parse(str(expression)).names == names
    assert math.isfinite(expression(dict.fromkeys(names, 1.0)))


def test_different_quoted_names_are_kept_apart() -> None:
    expression = Expression.parse("`a b` - `c d`")
    assert expression({"a b": 5.0, "c d": 3.0}) == 2.0


def test_a_formula_may_run_over_lines() -> None:
    assert Expression.parse("\n  a\n  + b\n")({"a": 1.0, "b": 2.0}) == 3.0


@pytest.mark.parametrize(
    "name", ["loss", "val/loss", "max", "lambda", "p99(ms)", "1st", "a b", "é"]
)
def test_a_name_alone(name: str) -> None:
    expression = Expression.name(name)
    assert expression.is_name
    assert expression.names == {name}
    assert expression({name: 2.5}) == 2.5
    assert Expression.parse(str(expression)).names == {name}
    assert not Expression.parse(f"{expression} + 1").is_name


def test_a_name_has_no_backtick() -> None:
    with pytest.raises(ExpressionError):
        Expression.name("a`b")


@pytest.mark.parametrize("name", ["", " "])
def test_a_name_is_not_empty(name: str) -> None:
    with pytest.raises(ExpressionError):
        Expression.name(name)


@pytest.mark.parametrize(
    ("text", "column", "part"),
    [
        ("1 + foo(a)", 5, "unknown function foo"),
        ("a + sqr(b)", 5, "did you mean 'sqrt'?"),
        ("\N{MICRO SIGN}\N{MICRO SIGN} + foo(1)", 6, "unknown function"),
        ("  a + foo(1)", 7, "unknown function"),
        ("`val/loss` + foo(1)", 14, "unknown function"),
        ("a + 'text'", 5, "no number"),
        ("a + True", 5, "no number"),
        ("a + 1j", 5, "no number"),
        ("a * 1e999", 5, "too large"),
        ("a // b", 1, "not allowed"),
        ("a + b[0]", 5, "not allowed"),
        ("a + (lambda: 1)", 6, "not allowed"),
        ("a.b.c()", 1, ""),
        ("log()", 1, "takes 1"),
        ("max(a)", 1, "2 or more"),
        ("log + a", 1, "is a function"),
        ("a +", 3, "not a formula"),
        ("", 1, ""),
        ("a" * (MAX_LENGTH + 1), 1, "longer than"),
    ],
)
def test_what_is_refused_and_where(text: str, column: int, part: str) -> None:
    found, message = refused(text)
    assert (found, part in message) == (column, True)


@pytest.mark.parametrize(
    ("text", "column", "part"),
    [
        ("a = 3", 3, "=="),
        ("a =< 3", 3, "<="),
        ("a && b", 3, "and"),
        ("a || b", 3, "or"),
        ("!a", 1, "not"),
        ("a ^ 2", 3, "**"),
        ("a \N{LESS-THAN OR EQUAL TO} 3", 3, "<="),
        ("a # b", 3, "not allowed"),
        ("`a + b", 1, "not allowed"),
        ("`` + a", 1, "not allowed"),
        ("a + p99(ms)", 5, "backticks"),
    ],
)
def test_slips_are_answered_with_what_to_write(text: str, column: int, part: str) -> None:
    found, message = refused(text)
    assert (found, part in message) == (column, True)


@pytest.mark.parametrize(
    "text",
    [
        "a) + (b",
        "0xfor a",
        "1if a > 2 else 3",
        "a; b",
        "a\\\n+ b",
        "a is b",
        "(a).b",
        "a . b",
        "*a",
    ],
)
def test_no_python_slips_through(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refused(text)


@pytest.mark.parametrize(
    "text",
    [
        "a < b",
        "not a > 1",
        "[a, b]",
        "a and b",
        "a + (b < 1)",
        "1 if a else b",
        "a in b",
        "a < b < (1 < a)",
    ],
)
def test_truth_values_and_numbers_are_not_mixed(text: str) -> None:
    refused(text)


def test_a_formula_needs_a_name() -> None:
    assert "names no metric" in refused("1 + 2")[1]


@pytest.mark.parametrize(
    "text", ["-" * 1900 + "a", "(" * 250 + "a" + ")" * 250, "+".join("a" * 900)]
)
def test_deep_formulas_are_refused_when_read(text: str) -> None:
    refused(text)


def test_long_sums_are_fine() -> None:
    terms = MAX_DEPTH - 10
    assert Expression.parse("+".join("a" * terms))({"a": 1.0}) == terms


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a / b", {"a": 1.0, "b": 0.0}),
        ("a % b", {"a": 1.0, "b": 0.0}),
        ("log(a)", {"a": 0.0}),
        ("sqrt(a)", {"a": -1.0}),
        ("exp(a)", {"a": 1e4}),
        ("a ** 60", {"a": 1e300}),
        ("a ** 65", {"a": 1.0}),
        ("a ** 0.5", {"a": -8.0}),
        ("a ** -1", {"a": 0.0}),
        ("a + 1", {"a": "text"}),
        ("a + 1", {"a": None}),
    ],
)
def test_no_value(text: str, values: dict[str, Any]) -> None:
    with pytest.raises(ExpressionValueError):
        Expression.parse(text)(values)


@pytest.mark.parametrize(
    ("text", "values"), [("a + 1", {"a": True}), ("a * b", {"a": [1], "b": 2})]
)
def test_what_is_no_number_is_not_reckoned_with(text: str, values: dict[str, Any]) -> None:
    with pytest.raises(ExpressionValueError):
        Expression.parse(text)(values)


def test_a_missing_name_is_named() -> None:
    text = r"'val_los'.*did you mean 'val_loss'"
    with pytest.raises(MissingName, match=text) as caught:
        Expression.parse("val_los + 1")({"val_loss": 1.0})
    assert caught.value.name == "val_los"


def test_large_whole_numbers_end_in_an_infinity_and_no_long_sum() -> None:
    assert Expression.parse("a * a * a * a")({"a": 10**300}) == math.inf


@pytest.mark.parametrize("order", ["a, b", "b, a"])
def test_nan_is_not_lost_in_extremes(order: str) -> None:
    values = {"a": math.nan, "b": 1.0}
    assert math.isnan(Expression.parse(f"max({order})")(values))
    assert math.isnan(Expression.parse(f"min({order})")(values))


# Conditions


@pytest.mark.parametrize(
    ("text", "values", "holds"),
    [
        ("optimizer == 'sgd'", {"optimizer": "sgd"}, True),
        ("optimizer in ['sgd', 'adam']", {"optimizer": "lion"}, False),
        ("optimizer != 'sgd' and layers > 2", {"optimizer": "adam", "layers": 3}, True),
        ("layers % 2 == 0", {"layers": 4}, True),
        ("flag", {"flag": True}, True),
        ("not flag", {"flag": True}, False),
    ],
)
def test_condition(text: str, values: dict[str, Any], holds: bool) -> None:
    assert Expression.parse(text, strings=True)(values) is holds


@pytest.mark.parametrize(
    ("text", "value", "holds"),
    [
        ("x == true", True, True),
        ("x == True", False, False),
        ("x != null", None, False),
        ("x == None", None, True),
        ("x in [null, false]", False, True),
        ("x == 'true'", True, False),
    ],
)
def test_words_for_values(text: str, value: Any, holds: bool) -> None:
    condition = Expression.parse(text, strings=True)
    assert condition.names == {"x"}
    assert condition({"x": value}) is holds


def test_known_names_need_no_backticks() -> None:
    known = ["batch-size", "batch", "size"]
    text = "batch-size > 2 and batch == 'batch-size'"
    condition = Expression.parse(text, strings=True, known=known)
    assert condition.names == {"batch-size", "batch"}
    assert condition({"batch-size": 3, "batch": "batch-size"})


@pytest.mark.parametrize("text", ["layers + 1", "'sgd'", "x + 'a'", "'a' < x", "3"])
def test_a_condition_is_true_or_false(text: str) -> None:
    refused(text, strings=True)


def test_texts_have_no_order() -> None:
    with pytest.raises(ExpressionValueError, match="no number"):
        Expression.parse("x > 3", strings=True)({"x": "sgd"})


# As an object


def test_parts_of_a_comparison() -> None:
    parts = Expression.parse("a / b <= 2 * c", truth=True).comparison()
    assert parts is not None
    left, sign, right = parts
    assert (str(left), sign, str(right)) == ("(a / b)", "<=", "(2 * c)")
    assert [left.names, right.names] == [frozenset("ab"), frozenset("c")]
    assert Expression.parse("a < b < c", truth=True).comparison() is None
    assert Expression.parse("a").comparison() is None


def test_equal_hashable_and_copied() -> None:
    one, same, other = (Expression.parse(text) for text in ("a + `b c`", "a + `b c`", "a"))
    assert one == same != other
    assert len({one, same, other}) == 2
    twin = copy.deepcopy(one)
    assert twin == one
    assert twin({"a": 1.0, "b c": 2.0}) == 3.0


# Whatever is written

WORDS = [
    *("**", "if", "else", "and", "or", "not", "in", "is", "e9", "max", "log", "lambda", "for"),
    *("x.y", "true", "null", "None", "0x", "1e999", "{", ":", "@"),
    *"ab01.,+-*/%()[]<>=!`'\"#\\ \n",
]
LIKELY = st.lists(st.sampled_from(WORDS), max_size=25).map(" ".join)
TEXTS = st.one_of(
    LIKELY, LIKELY.map(lambda text: text.replace(" ", "")), st.text(max_size=40),
    st.text(alphabet=string.printable, max_size=40),
)  # fmt: skip


@given(text=TEXTS, strings=st.booleans())
@example(text="\ud800", strings=False)
@example(text="a\0b", strings=True)
@example(text="f'{a}'", strings=True)
@example(text="'\\N{x}'", strings=True)
@example(text="a\u2028+ b", strings=False)
def test_parsing_raises_nothing_but_its_error(text: str, strings: bool) -> None:
    try:
        expression = Expression.parse(text, strings=strings)
    except ExpressionError as error:
        (problem,) = error.problems
        assert 1 <= problem.column <= len(text) + 1
        return
    again = Expression.parse(str(expression), strings=strings)
    assert again.names == expression.names
    assert str(again) == str(expression)


@given(text=TEXTS, strings=st.booleans(), data=st.data())
def test_evaluating_raises_nothing_but_its_error(
    text: str, strings: bool, data: st.DataObject
) -> None:
    try:
        expression = Expression.parse(text, strings=strings)
    except ExpressionError:
        return
    anything = st.one_of(
        st.floats(), st.integers(), st.booleans(), st.none(), st.text(max_size=2),
        st.just(10**400), st.lists(st.integers(), max_size=2),
    )  # fmt: skip
    values = {name: data.draw(anything) for name in sorted(expression.names)}
    try:
        value = expression(values)
    except ExpressionValueError:
        return
    if not strings and not expression.is_name:
        assert isinstance(value, int | float)


NUMBERS = st.floats(min_value=-1e6, max_value=1e6)
Formula = tuple[str, Callable[[float, float], float]]
"""A text and what Python makes of it."""
LEAVES: list[Formula] = [("a", lambda a, b: a), ("b", lambda a, b: b), ("2.5", lambda a, b: 2.5)]
SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


def joined(sign: str, left: Formula, right: Formula) -> Formula:
    (x, f), (y, g) = left, right
    return f"({x} {sign} {y})", lambda a, b: SIGNS[sign](f(a, b), g(a, b))


def larger(left: Formula, right: Formula) -> Formula:
    (x, f), (y, g) = left, right
    return f"max({x}, {y})", lambda a, b: max(f(a, b), g(a, b))


def chosen(then: Formula, left: Formula, right: Formula) -> Formula:
    (x, f), (y, g), (z, h) = then, left, right
    return f"({x} if {y} < {z} else -1)", lambda a, b: f(a, b) if g(a, b) < h(a, b) else -1.0


FORMULAS = st.recursive(
    st.sampled_from(LEAVES),
    lambda inner: st.one_of(
        st.builds(joined, st.sampled_from(sorted(SIGNS)), inner, inner),
        st.builds(larger, inner, inner),
        st.builds(chosen, inner, inner, inner),
    ),
    max_leaves=8,
)


@given(formula=FORMULAS, a=NUMBERS, b=NUMBERS)
def test_values_are_those_of_python(formula: Formula, a: float, b: float) -> None:
    text, function = formula
    expression = Expression.parse(f"{text} + 0 * a")
    assert expression({"a": a, "b": b}) == function(a, b)
