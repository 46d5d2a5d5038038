"""Experiment files: places of mistakes, overrides, schema, starter file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from raytune_hpo import document, spec
from raytune_hpo.errors import SpecError
from raytune_hpo.experiment import Experiment
from raytune_hpo.space import Constant, Float, Int

EIGHT_LINES = """\
run: python train.py --lr ${lr} --layers ${layers}
objective: {metric: val_loss, mode: min}
parameters:
  lr: {min: 1e-5, max: 1e-1, log: true}
  layers: {min: 2, max: 8}
  optimizer: {values: [sgd, adam]}
  momentum: {min: 0.0, max: 0.99, when: optimizer == sgd}
trials: 50
"""


def places(text: str, *overrides: str) -> list[tuple[int, int, str]]:
    """Return line, column and path of each problem."""
    return [(p.line, p.column, p.path) for p in error(text, *overrides).problems]


def error(text: str, *overrides: str) -> SpecError:
    with pytest.raises(SpecError) as caught:
        spec.loads(text, "e.yaml", overrides)
    return caught.value


def with_lines(*lines: str) -> str:
    """Return a right file with further lines; the first of them is line 4."""
    return "\n".join(
        ["run: x", "objective: {metric: loss}", "parameters: {lr: {min: 0.1, max: 1.0}}", *lines]
    )


# Reading


def test_eight_lines_are_an_experiment() -> None:
    experiment = spec.loads(EIGHT_LINES)
    assert experiment.trials == 50
    assert experiment.parameters["lr"] == Float(1e-5, 1e-1, log=True)
    assert experiment.parameters["layers"] == Int(2, 8)
    assert experiment.search_space.dimensions[-1] == "momentum"


def test_json_is_read_too() -> None:
    text = json.dumps(spec.loads(EIGHT_LINES).to_json(), indent="\t")
    assert spec.loads(text) == spec.loads(EIGHT_LINES)


def test_values_of_variables_and_words_stay_as_written() -> None:
    experiment = spec.loads(
        with_lines("env: {PY: 3.10, N: 1e3, F: True}").replace("run: x", "run: [a, 3.10, no]")
    )
    assert experiment.env == {"PY": "3.10", "N": "1e3", "F": "True"}
    assert experiment.run == ("a", "3.10", "no")


def test_the_name_is_that_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "My Experiment.v2.yaml"
    file.write_text(EIGHT_LINES)
    assert spec.load(file).name == "my-experiment-v2"
    file.write_text(EIGHT_LINES + "name: mine\n")
    assert spec.load(file).name == "mine"
    assert spec.load(str(file), ["name=other"]).name == "other"


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"none\.yaml: no such file or directory; raytune-hpo init"):
        spec.load(tmp_path / "none.yaml")
    with pytest.raises(SpecError, match="is a directory"):
        spec.load(tmp_path)


def test_a_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    file = tmp_path / "e.yaml"
    file.write_bytes(b"run: x\nname: \xff\n")
    with pytest.raises(SpecError, match=r"e\.yaml:2: the file is not in UTF-8"):
        spec.load(file)
    file.write_bytes(b"#" * (document.MAX_BYTES + 1))
    with pytest.raises(SpecError, match="larger than 1 MiB"):
        spec.load(file)


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "~"])
def test_an_empty_file_is_told(text: str) -> None:
    assert "the file is empty; raytune-hpo init" in str(error(text))


@pytest.mark.parametrize("text", ["- a\n- b\n", "just text", "5"])
def test_a_file_that_is_no_mapping_is_told(text: str) -> None:
    assert "is a mapping with run, objective and parameters" in str(error(text))


# Places


def test_mistakes_come_in_file_order_with_line_and_caret() -> None:
    text = with_lines("trails: 5", "time_limit: 12:30", "resources:", "  cpu: -1")
    assert places(text) == [(4, 1, "trails"), (5, 13, "time_limit"), (7, 8, "resources.cpu")]
    assert str(error(text)).splitlines()[-3:] == [
        "e.yaml:7:8: resources.cpu: must be 0 or more, not -1",
        "      cpu: -1",
        "           ^",
    ]


def test_missing_fields_stand_at_the_mapping() -> None:
    assert places("# first\ntrials: 5\n") == [
        (2, 1, "run"),
        (2, 1, "objective"),
        (2, 1, "parameters"),
    ]
    assert places(with_lines("env:", "  A: {}")) == [(5, 6, "env.A.from_env")]


@pytest.mark.parametrize(
    ("line", "column"),
    [
        ("constraints: [p99 <= 20, 2 @ 3]", 28),
        ("constraints: [p99 <= 20, '2 @ 3']", 29),
        ('constraints: [p99 <= 20, "2 \\x40 3"]', 26),
    ],
)
def test_the_column_is_within_the_expression_when_it_can_be_counted(line: str, column: int) -> None:
    ((found_line, found_column, path),) = places(with_lines(line))
    assert (found_line, path) == (4, "constraints[1]")
    # The parser of expressions says which character is wrong; it is within the text.
    if "\\" in line:
        assert found_column == column
    else:
        assert column - 2 <= found_column <= column + 2


def test_the_column_of_an_objective_expression_is_within_it() -> None:
    text = with_lines().replace("{metric: loss}", "\n  expression: a + wrong(b)")
    ((line, column, path),) = places(text)
    assert (line, path) == (3, "objective.expression")
    assert column >= 15 + len("a + ")


def test_problems_of_the_space_stand_at_the_field_of_the_file() -> None:
    text = with_lines().replace(
        "parameters: {lr: {min: 0.1, max: 1.0}}",
        "parameters:\n"
        "  lr: {min: 1.0, max: 0.1}\n"
        "  spark.sql:\n"
        "    shuffle: {min: 0.0, max: 1.0, log: true}\n"
        "  x: {min: 0.0, max: 1.0, when: lr >}\n",
    )
    found = places(text)
    assert {line for line, _, _ in found} == {4, 6, 7}
    by_line = {line: (column, path) for line, column, path in found}
    assert by_line[4][1].startswith("parameters.lr")
    assert by_line[6][1].startswith("parameters.spark.sql.shuffle")
    assert by_line[7][1] == "parameters.x.when"
    assert by_line[7][0] >= 33


def test_a_placeholder_is_marked_in_the_command() -> None:
    text = with_lines().replace("run: x", "run: 'train ${lr} ${lrr}'")
    assert places(text) == [(1, 21, "run")]


def test_wrong_configurations_stand_at_their_entry() -> None:
    text = with_lines(
        "search:", "  initial:", "    - {lr: 0.5}", "    - {lr: 7.0}", "    - {lrr: 0.5}"
    )
    found = places(text)
    assert (7, 12, "search.initial[1].lr") in found
    assert (8, 8, "search.initial[2].lrr") in found
    assert not any(line == 6 for line, _, _ in found)


def test_what_yaml_allows_but_we_do_not_comes_with_the_rest() -> None:
    text = with_lines("trails: 5", "name: !x a", "run: y", "parallel: 0")
    assert [line for line, _, _ in places(text)] == [4, 5, 6, 7]


def test_katib_objects_are_not_supported_yet() -> None:
    text = "apiVersion: kubeflow.org/v1beta1\nkind: Experiment\nspec: {}\n"
    assert "not supported yet" in str(error(text))
    assert len(error(text).problems) == 1


# Overrides


def test_overrides_replace_and_add() -> None:
    experiment = spec.loads(
        EIGHT_LINES,
        overrides=[
            "trials=5",
            "search.seed=3",
            "parameters.lr.max=0.5",
            "parameters.epochs=10",
            "objective.mode=max",
            "stop_when={no_improvement: 4}",
            "description=a = b",
        ],
    )
    assert (experiment.trials, experiment.search.seed) == (5, 3)
    assert experiment.parameters["lr"] == Float(1e-5, 0.5, log=True)
    assert experiment.parameters["epochs"] == Constant(10)
    assert experiment.objectives.modes == ("max",)
    assert experiment.stop_when.no_improvement == 4
    assert experiment.description == "a = b"


def test_overrides_reach_into_lists_and_names_with_dots() -> None:
    text = with_lines("constraints: [a <= 1, b <= 2]").replace("lr:", "spark.lr:")
    experiment = spec.loads(text, overrides=["constraints.1=b <= 3", "parameters.spark.lr.max=2.0"])
    assert experiment.constraints == ("a <= 1", "b <= 3")
    assert experiment.parameters["spark.lr"] == Float(0.1, 2.0)


def test_an_empty_override_takes_a_value_away() -> None:
    assert spec.loads(EIGHT_LINES, overrides=["trials=", "time_limit=1h"]).trials is None


def test_an_override_does_not_reach_through_an_alias() -> None:
    text = with_lines().replace(
        "parameters: {lr: {min: 0.1, max: 1.0}}",
        "parameters:\n  a: &range {min: 0.1, max: 1.0}\n  b: *range",
    )
    experiment = spec.loads(text, overrides=["parameters.b.max=2.0"])
    assert experiment.parameters == {"a": Float(0.1, 1.0), "b": Float(0.1, 2.0)}


@pytest.mark.parametrize(
    ("override", "text"),
    [
        (
            "parallel=0",
            "parallel: must be a whole number of at least 1, not 0\n"
            "    --set parallel=0\n"
            "                   ^",
        ),
        (
            "search.sed=1",
            "search.sed: unknown key 'sed' (did you mean 'seed'?); "
            "valid keys: algorithm, seed, initial, settings\n"
            "    --set search.sed=1\n"
            "                 ^",
        ),
        (
            "trials",
            "an override is written field=value, such as search.seed=3\n"
            "    --set trials\n"
            "          ^",
        ),
        (
            "trials.x=1",
            "trials: is 50 and holds no 'x'; set it as a whole\n    --set trials.x=1\n          ^",
        ),
    ],
)
def test_a_wrong_override_is_shown_with_a_caret(override: str, text: str) -> None:
    assert str(error(EIGHT_LINES, override)) == text


@pytest.mark.parametrize("override", ["=1", ".a=1", "a..b=1", "name=[", "name={a: b: c}"])
def test_an_override_that_cannot_be_read_is_refused(override: str) -> None:
    (found,) = error(EIGHT_LINES, override).problems
    assert found.snippet == f"--set {override}"
    assert found.column >= len("--set ")


def test_a_position_beyond_a_list_is_refused() -> None:
    text = with_lines("constraints: [a <= 1]")
    assert "positions 0 to 0, not '7'" in str(error(text, "constraints.7=b <= 1"))


def test_mistakes_of_the_file_keep_their_places_and_come_first() -> None:
    text = with_lines("trails: 5", "parallel: 2", "retries: -1")
    assert places(text, "parallel=0", "name=A B", "search.seed=x") == [
        (4, 1, "trails"),
        (6, 10, "retries"),
        (0, 16, "parallel"),
        (0, 12, "name"),
        (0, 19, "search.seed"),
    ]


def test_overrides_of_plain_data() -> None:
    data: dict[str, Any] = {"search": {"seed": 1}, "parameters": {"lr": Float(0.1, 1.0)}}
    changed = spec.apply_overrides(data, ["search.seed=2", "trials=1e1"])
    assert changed == {
        "search": {"seed": 2},
        "parameters": {"lr": Float(0.1, 1.0)},
        "trials": 10.0,
    }
    assert data["search"] == {"seed": 1}
    with pytest.raises(SpecError, match="field=value"):
        spec.apply_overrides(data, ["trials"])


# Schema, starter, secrets

MORE = ("baseline.width=64", "baseline.dropout=0.1")


def switched_on(text: str) -> str:
    """Return the starter file with all its optional lines."""
    return re.sub(r"^( *)# ( *[a-zA-Z_]+: ?)", r"\1\2", text, flags=re.MULTILINE)


def test_the_starter_file_is_right_and_says_what_it_shows() -> None:
    experiment = spec.loads(spec.starter())
    assert experiment.to_json() == {**spec.loads(EIGHT_LINES).to_json()}


def test_every_line_of_the_starter_file_that_is_switched_off_is_right_too() -> None:
    text = spec.starter()
    fields = {"parallel", "search", "metrics", "storage", "env", "constraints", "mlflow"}
    experiment = spec.loads(switched_on(text), overrides=MORE)
    written = experiment.to_json()
    assert fields <= set(written)
    assert written["parallel"] == 4
    assert "width" in written["parameters"]


def test_every_field_is_in_the_starter_file() -> None:
    text = spec.starter()
    missing = [key for key in Experiment.valid_keys() if f"{key}:" not in text]
    assert missing == ["name", "description", "targets"]


def test_the_schema_is_one_and_takes_right_files() -> None:
    schema = spec.schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    check = jsonschema.Draft202012Validator(schema).validate
    for text in (EIGHT_LINES, spec.starter()):
        check(document.read(text, "").root.data())
        check(spec.loads(text).to_json())
    check(document.read(with_lines("mlflow: false", "run: [a, 1]"), "").root.data())
    nested = with_lines().replace(
        "{lr: {min: 0.1, max: 1.0}}", "{model: {a: {b: {value: 1}}}, c: 2}"
    )
    check(document.read(nested, "").root.data())
    assert set(schema["properties"]) == set(Experiment.valid_keys())
    assert json.loads(json.dumps(schema)) == schema


@pytest.mark.parametrize(
    "line",
    [
        "trails: 5",
        "trials: 0",
        "trials: many",
        "search: {sed: 1}",
        "objective: {metric: a, mode: minimize}",
        "parameters: {lr: {mn: 1, max: 2}}",
        "parameters: {lr: {min: 1}}",
        "parameters: {}",
        "time_limit: 12:30",
        "mlflow: {register: best}",
        "env: {A: {from_nev: B}}",
    ],
)
def test_the_schema_refuses_wrong_files(line: str) -> None:
    base = document.read(with_lines(), "").root.data()
    wrong = {**base, **document.read(line, "").root.data()}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(spec.schema()).validate(wrong)


def test_secret_values_are_taken_out_of_the_text() -> None:
    text = with_lines(
        "env:",
        "  A: 1",
        "  API_KEY: hunter2   # not for others",
        "  MY_PASSWORD: |",
        "    hunter2",
        "    hunter2",
        "  T_TOKEN: {from_env: T}",
        "  B_SECRET: 'hunter2'",
        "trials: 3",
    )
    safe = spec.redacted(text)
    assert "hunter2" not in safe
    assert "# not for others" in safe
    experiment = spec.loads(safe)
    assert (experiment.env["A"], experiment.trials) == ("1", 3)
    assert spec.redacted(EIGHT_LINES) == EIGHT_LINES


# Any text at all

VALUES = [
    "0",
    "-1",
    "x",
    "[]",
    "{}",
    "null",
    "true",
    "1e400",
    ".nan",
    "''",
    '"a"',
    "[1,[2]]",
    "{a:1}",
    "99999999999999999999",
    "${x}",
    "a.b",
    "*x",
    "~",
    "0.5",
    "min",
    "max",
    "values",
    "when",
    "auto",
    "grid",
    "asha",
]


def read_or_refused(text: str, *overrides: str) -> Experiment | SpecError:
    try:
        return spec.loads(text, "e.yaml", overrides)
    except SpecError as error:
        return error


@given(st.data())
def test_a_file_with_wrong_values_is_read_or_refused(data: st.DataObject) -> None:
    text = switched_on(spec.starter())
    lines = [line for line in text.splitlines() if line[:1] not in ("", "#")]
    for _ in range(data.draw(st.integers(1, 2))):
        index = data.draw(st.integers(0, len(lines) - 1))
        words = list(re.finditer(r"[\w.${}-]+", lines[index]))
        assume(words)
        word = data.draw(st.sampled_from(words))
        value = data.draw(st.sampled_from(VALUES))
        lines[index] = lines[index][: word.start()] + value + lines[index][word.end() :]
    experiment = read_or_refused("\n".join(lines), *MORE)
    if isinstance(experiment, Experiment):
        assert Experiment.from_json(json.loads(json.dumps(experiment.to_json()))) == experiment
        assert experiment.search_space.parameters
        assert experiment.objectives.goals


@given(
    st.integers(0, len(EIGHT_LINES)),
    st.integers(0, 30),
    st.text(st.sampled_from("abz019 :,{}[]'\"\n\t#-&*!|>%@`$.~"), max_size=8),
)
def test_a_damaged_file_is_read_or_refused_with_places(start: int, cut: int, put: str) -> None:
    text = EIGHT_LINES[:start] + put + EIGHT_LINES[start + cut :]
    experiment = read_or_refused(text)
    if isinstance(experiment, SpecError):
        assert all(1 <= p.line <= text.count("\n") + 2 for p in experiment.problems)
        return
    assert Experiment.from_json(json.loads(json.dumps(experiment.to_json()))) == experiment
