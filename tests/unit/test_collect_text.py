"""Metrics in lines: name=value, JSON objects, and the user's own patterns."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raytune_hpo.collect import MetricOptions, make_collector
from raytune_hpo.collect.jsonlines import JsonCollector
from raytune_hpo.collect.lines import MAX_LINE
from raytune_hpo.collect.patterns import PatternCollector
from raytune_hpo.collect.stdout import StdoutCollector
from raytune_hpo.errors import SpecError


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("epoch=1 loss=0.31 acc: 0.5", {"epoch": 1, "loss": 0.31}),
        ("loss = 1e-5, lr =3.0E+2;x= -.5", {"loss": 1e-5, "lr": 300.0, "x": -0.5}),
        ("2026-01-01T10:20:30.123456789Z loss=0.5", {"loss": 0.5}),
        ("val/loss=1 a.b=2 a|b=3", {"val/loss": 1, "a.b": 2, "a|b": 3}),
        ("a-b=4 a:b=5", {"a-b": 4, "a:b": 5}),
        ("p99(ms)=7 p99%=8 99.9%=9", {"p99(ms)": 7, "p99%": 8, "99.9%": 9}),
        ("rate(1/s)=10", {"rate(1/s)": 10}),
        ("Epoch 3 (loss=0.3, acc=0.5)", {"loss": 0.3, "acc": 0.5}),
        ("Result(loss=0.3)", {"loss": 0.3}),
        ("|loss=1|acc=2|", {"loss": 1, "acc": 2}),
        ("[loss=1] {acc=2} <f1=3>", {"loss": 1, "acc": 2, "f1": 3}),
        ("INFO:my.log:loss=0.3", {"loss": 0.3}),
        ("Epoch 3:loss=0.3", {"loss": 0.3}),
        ("epoch=3/10 done=50%", {"epoch": 3, "done": 50}),
        ("final loss=0.5. The end, acc=1.", {"loss": 0.5, "acc": 1.0}),
        ("loss=1 loss=2", {"loss": 2}),
        ("größe=3 損失=4", {"größe": 3, "損失": 4}),
        ("\x1b[32mloss\x1b[0m=\x1b[1m0.5\x1b[0m", {"loss": 0.5}),
        ("\r 1/3 loss=3\r 2/3 loss=2\r 3/3 loss=1", {"loss": 1}),
        ("loss=2\r      \r", {"loss": 2}),
        ("loss=2\r", {"loss": 2}),
        ("x=" + "9" * 40, {"x": 1e40}),
    ],
)  # fmt: skip
def test_pairs(line: str, found: dict[str, float]) -> None:
    assert StdoutCollector().feed(line) == [found]


@pytest.mark.parametrize(
    "line",
    [
        "", "loss: 0.3", "a == 3", "a<=3", "a=b", "a=", "=3", "id=1_", "n=1__0", "x=0x1F", "x=12ms",
        "version=1.2.3", "date=2026-01-01", "time=12:30", "x=1,234.5", "x=0,31", "x=info",
        "x=NaNny", "train --lr=0.01", "path/=3x", "1.5=2",
    ],
)  # fmt: skip
def test_no_pairs(line: str) -> None:
    assert StdoutCollector().feed(line) == []


@pytest.mark.parametrize("text", ["inf", "Inf", "+INF", "Infinity", "infinity"])
def test_infinity(text: str) -> None:
    assert StdoutCollector().feed(f"a={text} b=-inf") == [{"a": math.inf, "b": -math.inf}]


@pytest.mark.parametrize("text", ["nan", "NaN", "-nan", "NAN"])
def test_nan(text: str) -> None:
    (found,) = StdoutCollector().feed(f"loss={text}")
    assert math.isnan(found["loss"])


@given(st.floats())
def test_every_float_comes_through(value: float) -> None:
    (found,) = StdoutCollector().feed(f"x={value!r} ")
    assert repr(float(found["x"])) == repr(value)


@given(st.text(alphabet='a1=.:_%|/(){}-,eE+\r\x1b[" ', max_size=80))
def test_no_line_is_too_strange(line: str) -> None:
    for found in StdoutCollector().feed(line):
        assert all(isinstance(value, int | float) for value in found.values())


@pytest.mark.parametrize(
    "unit",
    ["a", "1", "a:", "a|", "(", "=", "= ", " ", "a=", "a=1_", "\r", '{"a":', "\x1b[0"],
)
def test_the_longest_line_of_anything_is_read(unit: str) -> None:
    line = "x=" + unit * (MAX_LINE // len(unit)) + "x"
    assert len(StdoutCollector().feed(line)) <= 1


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('{"loss": 0.5, "acc": "0.9", "n": "3"}', {"loss": 0.5, "acc": 0.9, "n": 3}),
        ('  {"a": {"b": {"c": 1}}, "d": [1]}  ', {"a.b.c": 1}),
        ('2026-01-01T00:00:00Z {"loss": 1}', {"loss": 1}),
        ('2026-01-01 00:00:00,123 {"loss": 1}', {"loss": 1}),
        ('2026-01-01T00:00:00.5+02:00 {"loss": "x=3", "acc": 1}', {"acc": 1}),
        ('{"loss": Infinity, "big": 99999999999999999999}', {"loss": math.inf, "big": 1e20}),
        ('\x1b[1m{"loss": 1}\x1b[0m', {"loss": 1}),
    ],
)  # fmt: skip
def test_json_lines(line: str, found: dict[str, float]) -> None:
    assert JsonCollector().feed(line) == [found]
    assert StdoutCollector().feed(line) == [found]


@pytest.mark.parametrize(
    "line",
    [
        '{"loss": 1', "[1]", '{"done": true}', '{"loss": null, "note": "x"}', "{}", "{",
        '{"a":' * 10_000 + "1" + "}" * 10_000, '{"n": ' + "1" * 5000 + "}",
    ],
)  # fmt: skip
def test_no_json_lines(line: str) -> None:
    assert JsonCollector().feed(line) == []


@given(
    st.dictionaries(st.text(), st.floats(allow_nan=False) | st.integers(-(2**63) + 1, 2**63 - 1))
)
def test_json_comes_through(content: dict[str, float]) -> None:
    assert JsonCollector().feed(json.dumps(content)) == ([content] if content else [])


@pytest.mark.parametrize(
    ("patterns", "line", "found"),
    [
        ({"p99": r"99%:\s+([\d.]+)ms"}, "  99%:  12.5ms", {"p99": 12.5}),
        ({"p99": r"(p\d+) (?P<value>\d+)"}, "p99 12", {"p99": 12}),
        ({"any": r"(?P<name>p\d+) (?P<value>\d+)"}, "p50 3 p99 12", {"p50": 3, "p99": 12}),
        ({"any": r"(?P<loss>\S+) / (?P<acc>\S+)"}, "0.5 / 0.9", {"loss": 0.5, "acc": 0.9}),
        ({"loss": r"loss (?P<number>\S+)"}, "loss 3", {"loss": 3}),
        ({"a": r"a(\d)", "b": r"b(\d)?"}, "a1 b", {"a": 1}),
        ({"a": r"a(\d)"}, "a1 a2", {"a": 2}),
        ({"a": r"a(\d*)"}, "a1 a", {"a": 1}),
        ({"a": r"a=(\S+)"}, "a=1,234", {"a": "1,234"}),
        ({"a": r"a=(\d)"}, "a\x1b[0m=1", {"a": 1}),
        ([r"{metricName: ([\w|-]+), metricValue: ((-?\d+)(\.\d+)?)}"],
         "{metricName: loss, metricValue: -0.5}", {"loss": -0.5}),
        ([r"(\w+\s\w+)\s:\s((-?\d+)(\.\d+)?)"], "valid_1 auc : 0.75", {"valid_1 auc": 0.75}),
        ([r"loss (?P<loss>\S+)"], "loss 3", {"loss": 3}),
    ],
)  # fmt: skip
def test_patterns(patterns: Any, line: str, found: dict[str, Any]) -> None:
    assert PatternCollector(patterns).feed(line) == [found]
    assert PatternCollector(patterns).feed("nothing") == []


@pytest.mark.parametrize(
    ("patterns", "words"),
    [
        ({"p99": "a(b"}, r"metrics.patterns.p99: .*unterminated subpattern at character 2"),
        ({"p99": "ab"}, "metrics.patterns.p99: must mark the number by a group"),
        (["(a)"], "metrics.patterns: must mark the metric's name"),
    ],
)
def test_wrong_patterns_are_refused(patterns: Any, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        PatternCollector(patterns)


def test_options_pick_the_collector() -> None:
    line = '{"a": 1}'
    assert make_collector(MetricOptions()).feed("a=1") == [{"a": 1}]
    assert make_collector(MetricOptions()).feed(line) == [{"a": 1}]
    assert make_collector(MetricOptions(source="json")).feed("a=1") == []
    assert make_collector(MetricOptions(source="json")).feed(line) == [{"a": 1}]
    assert make_collector(MetricOptions(patterns={"b": r"(\d)"})).feed(line) == [{"b": 1}]
    assert all(make_collector(MetricOptions(source=s)).finish() == [] for s in ("stdout", "json"))
