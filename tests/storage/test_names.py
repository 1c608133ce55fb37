"""Names that come from elsewhere: what leads out of a folder is refused before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from prelar_ray.errors import DataError
from prelar_ray.storage.names import check_name, check_names, files_inside, is_inside


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "is empty"),
        ("../precious", "which leads elsewhere"),
        ("a/../../precious", "which leads elsewhere"),
        ("a/./b", "which leads elsewhere"),
        ("a//b", "which leads elsewhere"),
        ("a/", "which leads elsewhere"),
        ("/etc/passwd", "absolute"),
        ("..\\precious", "backslash"),
        ("C:/precious", "drive letter"),
        ("a/C:precious", "drive letter"),
        ("a\x00b", "control characters"),
        ("a\nb", "control characters"),
        ("a\x1b[2Jb", "control characters"),
        ("a\u2028b", "control characters"),
        ("a\udc80b", "no Unicode"),
        ("a" * 256, "more than 255 bytes"),
        ("é" * 128, "more than 255 bytes"),
        ("a/" * 600 + "a", "longer than 1024 bytes"),
    ],
)
def test_a_name_that_leads_elsewhere_or_that_no_file_system_takes_is_refused(name: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem) as error:
        check_name(name, "s3://bucket")
    assert str(error.value).startswith("s3://bucket: ")
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("name", ["run.json", "a/b/c.pt", ".hidden", "a..b", "…", "é" * 127, "ab: c", "a b"])
def test_a_name_within_a_folder_is_taken_as_it_is(name: str) -> None:
    assert check_name(name, "here") == name


@pytest.mark.parametrize(
    "names", [["a", "A"], ["é", "e\u0301"], ["x/run.json", "X/run.json"], ["straße", "STRASSE"], ["a", "a"]]
)
def test_names_that_are_the_same_on_some_file_systems_are_refused(names: list[str]) -> None:
    with pytest.raises(DataError, match="are the same on some file systems"):
        check_names(names, "s3://bucket")


def test_a_file_that_is_a_folder_too_is_refused() -> None:
    with pytest.raises(DataError, match="'a' is a file and the folder of 'A/b'"):
        check_names(["a", "A/b"], "s3://bucket")


def test_links_that_leave_a_folder_are_told_from_those_within(tmp_path: Path) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    for path in (folder / "sub", outside):
        path.mkdir(parents=True)
        (path / "file").touch()
    (folder / "within").symlink_to(folder / "sub" / "file")
    (folder / "out").symlink_to(outside / "file")
    (folder / "dangling").symlink_to(outside / "nothing")
    (folder / "folder").symlink_to(outside)
    (folder / "circle").symlink_to(folder / "circle")
    found = dict(files_inside(folder))
    assert found == {
        "sub/file": True,
        "within": True,
        "out": False,
        "dangling": False,
        "folder": False,
        "circle": False,
    }
    assert is_inside(folder / "new" / "file", folder)
