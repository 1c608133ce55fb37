from __future__ import annotations

from pathlib import Path

import pytest

from prelar_ray.errors import ConfigError, DataError
from prelar_ray.sources.lists import Entry, read_list, seconds


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    return tmp_path / "list.txt"


def test_ids_with_frames_and_class(listed: Path) -> None:
    listed.write_text("78687 41 1\n\n42326 60 0\r\n")
    assert read_list(listed) == (Entry(1, "78687", "1", frames=41), Entry(3, "42326", "0", frames=60))


def test_classes_have_the_names_of_category_txt_beside_the_list(listed: Path) -> None:
    listed.write_text("78687 41 1\n42326 60 0\n")
    listed.with_name("category.txt").write_text("Holding something\nPushing something\n")
    assert [entry.name for entry in read_list(listed)] == ["Pushing something", "Holding something"]
    listed.with_name("category.txt").write_text("Holding something\n")
    with pytest.raises(DataError, match=r"list\.txt:1: class 1"):
        read_list(listed)


def test_paths_with_labels(listed: Path) -> None:
    listed.write_text("a/b c.mp4 3\n/data/d.mp4 jump\n")
    assert [(entry.path, entry.label) for entry in read_list(listed)] == [("a/b c.mp4", "3"), ("/data/d.mp4", "jump")]


@pytest.mark.parametrize("header", ["", "path,start,end,name\n", "\ufeffPath, Start, End, Name, more\n"])
def test_parts_of_files_with_or_without_a_header(listed: Path, header: str) -> None:
    listed.write_text(header + 'a.mp4,1.5,0:01:02.25,open\n"b, c.mp4",,,\n', encoding="utf-8")
    first, second = read_list(listed)
    assert (first.path, first.start, first.end, first.name, first.is_cut) == ("a.mp4", 1.5, 62.25, "open", True)
    assert (second.path, second.start, second.end, second.name, second.is_cut) == ("b, c.mp4", 0, None, "", False)


def test_a_header_gives_the_order_of_columns(listed: Path) -> None:
    listed.write_text("name,end,start,path\nopen,5,2,a.mp4\n")
    assert read_list(listed) == (Entry(2, "a.mp4", "open", "open", start=2, end=5, is_cut=True),)


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("", "", "empty"),
        ("alone.mp4\n", ":1", "<path> <label>"),
        ("1 20 3\n2 20\n", ":2", "<id> <frames> <class>"),
        ("1 20 3\n2 twenty 3\n", ":2", "<id> <frames> <class>"),
        ("a.mp4 1\nb.mp4\n", ":2", "<path> <label>"),
        ("a.mp4,1,2\nb.mp4,x,2\n", ":2", "'x' is no time"),
        ("a.mp4,1,2\nb.mp4,3\n", ":2", "path,start,end"),
        ("a.mp4,1,2\nb.mp4,-3,2\n", ":2", "'-3' is no time"),
        ("a.mp4,1,2\nb.mp4,5,5\n", ":2", "not after its start"),
        ("a.mp4,1,2\n,5,6\n", ":2", "no path"),
        ("path,start\na.mp4,5\n", ":1", "no column end"),
    ],
)
def test_a_wrong_line_is_named(listed: Path, text: str, line: str, expected: str) -> None:
    listed.write_text(text)
    with pytest.raises(DataError) as caught:
        read_list(listed)
    message = str(caught.value)
    assert message.startswith(f"{listed}{line}: ")
    assert expected in message
    assert "\n" not in message


def test_a_list_that_is_missing_or_no_text_is_refused(listed: Path) -> None:
    with pytest.raises(DataError, match=r"list\.txt: cannot be read"):
        read_list(listed)
    listed.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(DataError, match=r"list\.txt: cannot be read"):
        read_list(listed)


def test_classes_are_chosen_by_number_or_name(listed: Path) -> None:
    listed.write_text("a 41 1\nb 60 0\nc 9 2\n")
    listed.with_name("category.txt").write_text("Holding\nPushing left\nPulling\n")
    assert [entry.path for entry in read_list(listed, ("Pushing left", "2"))] == ["a", "c"]
    with pytest.raises(ConfigError, match=r"--label 93: no such class .* Holding, Pulling, Pushing left"):
        read_list(listed, ("1", "93"))


def test_times_are_seconds_or_have_colons() -> None:
    assert [seconds(text) for text in ("7", "7.", "0.25", "1:02", "01:00:03.5", " 90 ")] == [7, 7, 0.25, 62, 3603.5, 90]
    for wrong in ("", "1:2:3:4", "nan", "1e3", "-1", "1:-2", "12s"):
        with pytest.raises(ValueError, match="no time"):
            seconds(wrong)
