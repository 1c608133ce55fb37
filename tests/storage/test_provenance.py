"""What a run or a benchmark records about where its numbers come from."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from prelar_ray.storage import provenance


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_the_commit_is_that_of_the_tree_that_tracks_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "provenance.py"
    monkeypatch.setattr(provenance, "__file__", str(source))
    git(tmp_path, "init", "-q")
    (tmp_path / "other.py").touch()
    git(tmp_path, "add", "other.py")
    git(tmp_path, "commit", "-qm", "another project's commit")
    source.touch()
    assert provenance.provenance()["commit"] is None  # installed inside somebody else's repository
    git(tmp_path, "add", "provenance.py")
    git(tmp_path, "commit", "-qm", "first")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert provenance.provenance()["commit"] == head
    source.write_text("changed")
    assert provenance.provenance()["commit"] == f"{head}-dirty"


@pytest.mark.parametrize(
    ("text", "commit"),
    [
        ("0.1.0+g0123456789ab", "0123456789ab"),
        ("0.1.0+g0123456789ab.dirty.d01234567", "0123456789ab-dirty-d01234567"),
        ("0.1.0", None),
    ],
)
def test_the_version_of_a_package_says_its_commit(text: str, commit: str | None) -> None:
    assert provenance._commit_of_version(text) == commit
