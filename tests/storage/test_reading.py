"""The reader of files that may have come from anywhere: bounds, types, and errors of one line."""

from __future__ import annotations

import json
import logging
import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from prelar_ray.errors import DataError
from prelar_ray.storage.files import write_json
from prelar_ray.storage.json_text import parse_json, take_check, with_check
from prelar_ray.storage.reading import read_bytes, read_json, read_record, read_yaml

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "levels deep"),
        ('{"a":' * 100_000, "levels deep"),
        ('"' + '\\"' * 100_000 + "[" * 100, "Unterminated|levels deep"),
        ("9" * 400, "a number of 400 digits"),
        ("1e400", "too large"),
        ("-1e101", "too large"),
        ("NaN", "NaN is no number"),
        ("[Infinity]", "Infinity is no number"),
        ('{"a": 1, "a": 2}', "key 'a' is given twice"),
        ('"\\ud800"', "surrogate"),
        (b'"\xff"', "not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
        ("", "Expecting value"),
        ("{} {}", "Extra data"),
        ("\0" * 100, "Expecting value"),
    ],
)
def test_json_beyond_the_bounds_is_refused(text: str | bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_json(text)


@given(st.recursive(st.none() | st.booleans() | st.integers(-(2**127), 2**127) | st.text(), lambda x: st.lists(x)))
def test_ordinary_json_is_read_as_it_was_written(value: Any) -> None:
    assert parse_json(json.dumps(value)) == value


def test_numbers_that_are_not_finite_can_be_asked_for() -> None:
    assert parse_json("[1e400, -1e400]", finite=False) == [math.inf, -math.inf]


@given(st.dictionaries(st.text().filter(lambda key: key != "checksum"), st.integers() | st.floats(allow_nan=False)))
def test_a_checksum_is_right_until_something_changes(content: dict[str, Any]) -> None:
    written = json.loads(json.dumps(with_check(content)))
    assert take_check(dict(written))
    assert not take_check({**written, "another": 1})
    assert take_check(content), "files of earlier versions have none"


def test_a_file_whose_checksum_differs_is_read_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"steps": 3000})
    assert read_json(path) == {"steps": 3000}
    path.write_text(path.read_text().replace("3000", "7000"))
    with caplog.at_level(logging.WARNING):
        assert read_json(path) == {"steps": 7000}
    assert "its checksum differs" in caplog.text


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name, reason in (("pipe", "no regular file"), ("device", "no regular file"), ("none", "No such file")):
        with pytest.raises(DataError, match=reason):
            read_bytes(tmp_path / name)
    with pytest.raises(DataError, match="Is a directory|no regular file"):
        read_bytes(tmp_path)
    with pytest.raises(DataError, match="null (byte|character)"):
        read_bytes(tmp_path / "a\0b")


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**24 + 1)
    with pytest.raises(DataError, match="larger than 16 MiB"):
        read_json(tmp_path / "large")


class Record(BaseModel):
    count: int
    truths: tuple[bool, ...] = ()


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ({"count": "123"}, "count"),
        ({"count": 1.5}, "count"),
        ({"count": True}, "count"),
        ({}, "count"),
        ({"count": 1, "truths": ["false"]}, "truths.0"),
        ({"count": 1, "truths": [1]}, "truths.0"),
        ([], "Input should be an object"),
    ],
)
def test_text_counts_neither_as_a_number_nor_as_a_truth(tmp_path: Path, content: Any, key: str) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError) as error:
        read_record(Record, path)
    assert str(error.value).startswith(f"{path}: {key}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BOMB, "stands for more than 100,000 values"),
        ("a: &a [*a]", "recursive"),
        ("[" * 100_000, "nested too deeply"),
        ("- " * 10_000, "nested too deeply"),
        ("a: " + "9" * 400, "a number of 400 digits"),
        ("a: !!set {b}", "tag"),
        ("a: !!python/name:os.system", "tag"),
        ("a: !!bool x", "tag"),
        ("a: !!int x", "invalid literal"),
        ("a: !!float ''", "tag"),
        ("a: !!timestamp x", "tag"),
        ("a: 2024-99-99", "month"),
        ('a: "\\ud800"', "surrogate"),
        (b"a: \xff", "expected UTF-8"),
        ("a: b".encode("utf-16"), "expected UTF-8"),
        ("a: " + "b" * 2**20, "more than 1 MiB"),
        ("a: 1\na: 2", "given twice"),
    ],
)
def test_yaml_beyond_the_bounds_is_refused_by_file(tmp_path: Path, text: str | bytes, reason: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(DataError, match=reason) as error:
        read_yaml(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
