"""The YAML reader: values by YAML 1.2, places, limits."""

from __future__ import annotations

import contextlib
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raytune_hpo import document
from raytune_hpo.document import Place, read, scalar
from raytune_hpo.errors import SpecError


def data(text: str) -> Any:
    found = read(text, "t.yaml")
    assert not found.problems
    return found.root.data()


def message(text: str) -> str:
    with pytest.raises(SpecError) as caught:
        read(text, "t.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("1.", 1.0),
        (".5", 0.5),
        ("-3", -3),
        ("+3", 3),
        ("0x1F", 31),
        ("0o17", 15),
        ("010", "010"),
        ("00.5", "00.5"),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2001-01-01", "2001-01-01"),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("no", "no"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("", None),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("1e", "1e"),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_a_plain_scalar_means_what_yaml_1_2_says(text: str, value: object) -> None:
    found = scalar(text)
    assert found == value
    assert type(found) is type(value)


def test_not_a_number_is_a_number() -> None:
    assert math.isnan(scalar(".nan"))


def test_quoted_scalars_stay_text() -> None:
    assert data("a: '5'\nb: \"true\"\nc: |\n  1\n") == {"a": "5", "b": "true", "c": "1\n"}


def test_keys_are_text_as_written() -> None:
    assert data("1: a\n010: b\ntrue: c\nnull: d") == {
        "1": "a",
        "010": "b",
        "true": "c",
        "null": "d",
    }


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=10).filter(lambda key: key != "<<"), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(_VALUES, st.sampled_from([None, 2, "\t"]))
def test_json_is_read_as_json(value: object, indent: int | str | None) -> None:
    whole = {"value": value}
    assert data(json.dumps(whole, indent=indent)) == whole


def data_of_any(text: str) -> Any:
    return read(text, "t.yaml").root.data()


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(SpecError):
        json.dumps(data_of_any(text))


def test_places_are_those_of_an_editor() -> None:
    found = read("run: x\nobjective:\n  metric: 'loss'\nlist: [a, {b: 1}]\n", "t.yaml")
    assert found.place(("run",)) == Place(1, 6)
    assert found.place(("run",), key=True) == Place(1, 1)
    assert found.place(("objective", "metric"), offset=3) == Place(3, 14)
    assert found.place(("list", 1, "b"), key=True) == Place(4, 12)
    assert found.place(("list", 1, "b")) == Place(4, 15)


def test_the_nearest_existing_place_stands_for_a_missing_one() -> None:
    found = read("a:\n  b: {c: 1}\n", "t.yaml")
    assert found.place(("a", "b", "x", "y")) == Place(2, 6)


def test_a_byte_order_mark_does_not_shift_columns() -> None:
    assert read("\ufeffa: b", "t.yaml").place(("a",), offset=1) == Place(1, 4)


def test_columns_are_not_counted_in_scalars_with_escapes_or_several_lines() -> None:
    found = read('a: "x\\ty @"\nb: |\n  x @\n', "t.yaml")
    assert found.place(("a",), offset=5) == Place(1, 4)
    assert found.place(("b",), offset=3) == Place(2, 4)


def test_an_alias_stands_where_its_anchor_stands() -> None:
    found = read("a: &x {b: 1}\nc: *x\n", "t.yaml")
    assert found.root.data() == {"a": {"b": 1}, "c": {"b": 1}}
    assert found.place(("c", "b")) == Place(1, 11)


def test_duplicate_keys_name_both_places() -> None:
    found = read("a: 1\nb: 2\n a: 3".replace("\n a", "\na"), "t.yaml")
    (problem,) = found.problems
    assert (problem.line, problem.column) == (3, 1)
    assert "first at line 1, column 1" in problem.message
    assert found.root.data()["a"] == 1


@pytest.mark.parametrize("text", ["a: !!python/object:os.system x", "a: !x {b: 1}", "a: !!int 5"])
def test_tags_are_refused(text: str) -> None:
    (problem,) = read(text, "t.yaml").problems
    assert (problem.line, problem.column) == (1, 4)
    assert "tags" in problem.message


def test_merge_keys_are_refused() -> None:
    (problem,) = read("a: &x {b: 1}\nc:\n  <<: *x\n", "t.yaml").problems
    assert (problem.line, problem.column) == (3, 3)
    assert "merge keys" in problem.message


def test_a_text_beyond_a_mebibyte_is_refused() -> None:
    assert "larger than 1 MiB" in message("# " + "x" * document.MAX_BYTES)
    assert "larger than 1 MiB" in message("# " + "é" * (document.MAX_BYTES // 2))


def test_deep_nesting_is_refused_where_it_gets_too_deep() -> None:
    assert data("[" * 32 + "]" * 32)
    assert message("[" * 100_000).startswith("t.yaml:1:33: the file is nested deeper than 32")


def test_too_many_values_are_refused() -> None:
    assert "more than 50000 values" in message("[" + "1," * document.MAX_NODES + "]")


def test_aliases_may_not_multiply_the_file() -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    for level in range(1, 8):
        entries = ", ".join([f"*a{level - 1}"] * 10)
        bomb += f"a{level}: &a{level} [{entries}]\n"
    assert "aliases multiply the file" in message(bomb)


@pytest.mark.parametrize("text", ["a: *a", "a: &a [*a]", "a: *x\nb: &x 1"])
def test_an_alias_needs_a_finished_anchor_before_it(text: str) -> None:
    assert "there is no anchor" in message(text)


@pytest.mark.parametrize(
    ("text", "where", "words"),
    [
        ("a:\n\tb: 1", "t.yaml:2:1", "use spaces"),
        ("a: b: c", "t.yaml:1:5", "in quotes"),
        ("a: `p99` / 2", "t.yaml:1:4", "in quotes"),
        ("a: {when: x in [1, 2]}", "t.yaml:1:16", "in quotes"),
        ("a: [1, 2", "t.yaml:1:9", "not valid YAML"),
        ("a: 1\n---\nb: 2", "t.yaml:2:1", "one document"),
        ("a: \x00", "t.yaml:1:4", "control character"),
        ('a: "\\ud83d"', "t.yaml:1:4", "surrogate"),
    ],
)
def test_broken_yaml_is_located_and_explained(text: str, where: str, words: str) -> None:
    found = message(text)
    assert found.startswith(f"{where}: ")
    assert words in found


def test_passwords_are_not_shown_in_source_lines() -> None:
    found = message("uri: http://me:hunter2@host\n---\n")
    assert "hunter2" not in found
    (problem,) = read("uri: !x http://me:hunter2@host\n", "t.yaml").problems
    assert problem.snippet == "uri: !x http://me:***@host"
