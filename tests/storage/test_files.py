"""Files that survive kills and full disks."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelar_ray.errors import DataError
from prelar_ray.storage.files import append_json_line, atomic_file, filter_json_lines, prepare_file, read_json_lines

ROWS = st.lists(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3), max_size=6)


def write_half(path: Path) -> None:
    with atomic_file(path) as file:
        file.write(b"new")
        raise KeyboardInterrupt


def test_an_interrupted_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        write_half(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(DataError, match=r"file: cannot write: No space left on device .*free space"):
        with atomic_file(path) as file:
            file.write(b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_appending_to_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.symlink_to("/dev/full")
    with pytest.raises(DataError, match="No space left on device"):
        append_json_line(path, {"a": 1})


@given(rows=ROWS, half=st.binary(max_size=10).filter(lambda data: b"\n" not in data), last=st.integers())
def test_lines_are_read_back_and_a_half_written_one_is_replaced(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]], half: bytes, last: int
) -> None:
    path = tmp_path_factory.mktemp("lines") / "lines.jsonl"
    path.touch()
    for row in rows:
        append_json_line(path, row)
    with path.open("ab") as file:
        file.write(half)
    assert read_json_lines(path) == rows
    append_json_line(path, {"last": last})
    assert read_json_lines(path) == [*rows, {"last": last}]


@pytest.mark.parametrize("line", [b"{broken", b"[1]", b"\xff\xfe", b""])
def test_a_damaged_line_within_a_file_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b'\n{"a": 2}\n')
    with pytest.raises(DataError, match=r"lines.jsonl: line 2 is not a JSON object; delete that line"):
        read_json_lines(path)


def test_filtering_keeps_the_chosen_lines_and_drops_a_half_one(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": 2}\n{"a": 3}\n{"a"')
    filter_json_lines(path, lambda row: row["a"] != 2)
    assert path.read_bytes() == b'{"a": 1}\n{"a": 3}\n'


def test_filtering_a_missing_file_makes_none(tmp_path: Path) -> None:
    filter_json_lines(tmp_path / "lines.jsonl", lambda row: True)
    assert not list(tmp_path.iterdir())


def test_the_folder_of_a_file_is_made_and_nothing_else(tmp_path: Path) -> None:
    prepare_file(tmp_path / "a" / "b" / "file")
    assert [path.name for path in (tmp_path / "a").rglob("*")] == ["b"]


def test_a_file_that_could_not_be_written_is_refused_beforehand(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file/result: cannot write: no folder can be made"):
        prepare_file(tmp_path / "file" / "result")
    with pytest.raises(DataError, match="cannot write: a folder, expected a file"):
        prepare_file(tmp_path)
