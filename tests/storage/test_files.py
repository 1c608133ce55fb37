"""Files that survive kills and full disks."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelar_ray.errors import DataError
from prelar_ray.storage import files
from prelar_ray.storage.files import (
    append_json_line,
    atomic_file,
    filter_json_lines,
    new_folder,
    prepare_file,
    read_json_lines,
    remove_unfinished,
    sync_lines,
)

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


def test_a_link_planted_where_a_temporary_file_was_is_not_followed(tmp_path: Path) -> None:
    precious, path = tmp_path / "precious", tmp_path / "run.json"
    precious.write_text("mine")
    for name in ("run.json.tmp", ".run.json.tmp", "run.json"):
        (tmp_path / name).symlink_to(precious)
    with atomic_file(path) as file:
        file.write(b"new")
    assert precious.read_text() == "mine"
    assert (path.read_bytes(), path.is_symlink()) == (b"new", False)


def test_a_temporary_name_that_is_taken_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.secrets, "token_hex", lambda size: "0" * 2 * size)
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / ".run.json.000000000000.tmp").symlink_to(precious)
    with pytest.raises(DataError, match="File exists"), atomic_file(tmp_path / "run.json"):
        pytest.fail("opened")
    assert precious.read_text() == "mine"


def test_the_longest_name_that_a_file_may_have_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 127)
    with atomic_file(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"


def test_what_a_kill_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (".run.json.0123456789ab.tmp", "mine.tmp", ".mine.tmp"):
        (tmp_path / name).touch()
    remove_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.tmp", "mine.tmp"]


def write_half_a_folder(path: Path) -> None:
    with new_folder(path) as folder:
        (folder / "half").touch()
        assert [left.name for left in path.parent.iterdir()] == [folder.name], "an earlier one that was killed is gone"
        raise KeyboardInterrupt


def test_a_folder_appears_when_it_is_whole_and_replaces_none(tmp_path: Path) -> None:
    left = tmp_path / ".out.0123456789ab.part"
    left.mkdir()
    with pytest.raises(KeyboardInterrupt):
        write_half_a_folder(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    with new_folder(tmp_path / "out") as folder:
        (folder / "file").touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["file"]
    with pytest.raises(OSError, match="not empty"), new_folder(tmp_path / "out"):
        pass


def test_a_line_that_was_changed_is_read_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "lines.jsonl"
    for value in (1, 2, 3):
        append_json_line(path, {"value": value})
    path.write_text(path.read_text().replace('"value": 2', '"value": 7'))
    with caplog.at_level(logging.WARNING):
        assert [row["value"] for row in read_json_lines(path)] == [1, 7, 3]
    assert "1 line, the first is line 2, changed since written, or damaged" in caplog.text


def test_lines_are_flushed_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    assert sync_lines(path) == 0
    for value in (1, 2):
        append_json_line(path, {"value": value})
    assert sync_lines(path) == 2
