"""Durations, memory, names and the other values of fields."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from raytune_hpo import fields


def said(read: Callable[[Any], Any], value: object) -> str:
    with pytest.raises(PydanticCustomError) as caught:
        read(value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("90s", 90.0),
        ("10m", 600.0),
        ("2h", 7200.0),
        ("1d", 86400.0),
        ("1h30m", 5400.0),
        ("1d2h3m4s", 93784.0),
        ("1.5h", 5400.0),
        (" 5m ", 300.0),
        (15, 15.0),
        (0.5, 0.5),
    ],
)
def test_durations(value: object, seconds: float) -> None:
    assert fields.duration(value) == seconds


@pytest.mark.parametrize(
    "value",
    ["", " ", "90", "5 m", "30m1h", "-1m", "1w", 0, -5, "0s", True, None, [1], float("nan"), 1e300],
)
def test_what_is_no_duration_is_refused(value: object) -> None:
    assert "must be" in said(fields.duration, value)


def test_a_time_of_day_gets_a_hint() -> None:
    assert said(fields.duration, "12:30").endswith("write 12h30m")


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("4Gi", 4 * 2**30),
        ("512Mi", 512 * 2**20),
        ("1.5G", 1_500_000_000),
        ("16GB", 16 * 10**9),
        ("16 GiB", 16 * 2**30),
        ("100k", 100_000),
        ("1024", 1024),
        (1024, 1024),
        (2e9, 2_000_000_000),
    ],
)
def test_memory(value: object, size: int) -> None:
    assert fields.memory(value) == size


@pytest.mark.parametrize(
    "value", ["4Gx", "", "-4G", "G", 0, -1, True, None, "1e9", "99999P", 1e300]
)
def test_what_is_no_memory_is_refused(value: object) -> None:
    assert "must be" in said(fields.memory, value)


def test_numbers_in_quotes_get_a_hint() -> None:
    assert said(fields.number, "0.1").endswith("; write 0.1 without quotes")
    assert said(fields.number, "010").endswith("; write 10")
    assert said(fields.whole(1), "1_000").endswith("; write 1000")


@pytest.mark.parametrize("value", [True, None, "x", float("inf"), float("nan"), 10**400, [], {}])
def test_what_is_no_number_is_refused(value: object) -> None:
    assert said(fields.number, value)


def test_whole_numbers_have_bounds() -> None:
    assert fields.whole(1)(5.0) == 5
    assert said(fields.whole(1), 0) == "must be a whole number of at least 1, not 0"
    assert said(fields.whole(0, 9), 10) == "must be a whole number from 0 to 9, not 10"
    assert said(fields.whole(0), 1.5) == "must be a whole number of at least 0, not 1.5"
    assert said(fields.whole(0), True) == "must be a whole number of at least 0, not true"


def test_true_and_false_only() -> None:
    assert fields.flag(False) is False
    assert said(fields.flag, "on") == "must be true or false, not 'on'; write true"
    assert said(fields.flag, 1) == "must be true or false, not 1"


def test_amounts_above_one_are_whole() -> None:
    assert fields.amount(0.5) == 0.5
    assert fields.amount(4) == 4.0
    assert "whole" in said(fields.amount, 1.5)
    assert "0 or more" in said(fields.amount, -1)


@pytest.mark.parametrize("value", ["a", "my-run_2", "0", "x" * 63])
def test_legal_names(value: str) -> None:
    assert fields.name(value) == value


@pytest.mark.parametrize(
    ("value", "legal"),
    [("My Run", "my-run"), ("../x", "x"), ("", "experiment"), ("-a", "a"), ("y" * 64, "y" * 63)],
)
def test_a_wrong_name_gets_a_legal_one(value: str, legal: str) -> None:
    assert said(fields.name, value).endswith(f"write {legal}")


@given(st.text(max_size=100))
def test_every_text_has_a_legal_name(text: str) -> None:
    legal = fields.legal_name(text)
    assert fields.name(legal) == legal


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("/scratch/me/runs", "/scratch/me/runs"),
        ("s3://bucket/x/", "s3://bucket/x"),
        ("S3://b", "s3://b"),
        ("gcs://b/x", "gs://b/x"),
        ("abfss://files@account.dfs.core.windows.net/x", None),
        ("file:///data/runs", None),
    ],
)
def test_storage_is_a_path_or_the_url_of_a_store(value: str, kept: str | None) -> None:
    assert fields.storage(value) == (kept or value)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("hdfs://x/y", "runs cannot be kept in hdfs://"),
        ("s3n://b", "did you mean 's3"),
        ("https://host/x", "valid: s3,"),
        ("memory://b/x", "ends with the process"),
        ("s3://", "needs the name of a bucket"),
        ("s3:///x", "needs the name of a bucket"),
        ("s3://b/x?version=1", "without ? and #"),
        ("s3://b/../x", "must not have . or .."),
        ("file://x", "whole path: file:///data/runs"),
    ],
)
def test_storage_that_can_be_none_is_explained(value: str, words: str) -> None:
    assert words in said(fields.storage, value)


@pytest.mark.parametrize("url", ["s3://AKIA:hunter2@b/x", "s3://AKIA@b", "gs://t0ken:@b/x"])
def test_a_key_in_the_storage_is_refused_and_not_repeated(url: str) -> None:
    message = said(fields.storage, url)
    assert "must not hold a key" in message
    assert not {"AKIA", "hunter2", "t0ken"} & set(
        message.replace("@", " ").replace(":", " ").split()
    )


def test_wrong_entries_of_a_list_are_all_reported() -> None:
    with pytest.raises(PydanticCustomError) as caught:
        fields.each(["a", 1, "", "b"], fields.text)
    assert [finding.path for finding in fields.findings_of(caught.value)] == [(1,), (2,)]


def test_only_json_values_are_free() -> None:
    assert fields.free({"a": [1, {"b": None}]}) == {"a": [1, {"b": None}]}
    with pytest.raises(PydanticCustomError) as caught:
        fields.free({"a": {"b": [1, object()]}})
    assert fields.findings_of(caught.value)[0].path == ("a", "b", 1)
