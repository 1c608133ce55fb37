"""The report command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from prelar_ray import report
from prelar_ray.run_folder import RunFolder


def test_the_page_lies_in_the_first_run_unless_told_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    RunFolder.create(tmp_path / "run", "", "pretrain")
    assert report.main([str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "report.html").is_file()
    assert report.main([str(tmp_path / "run"), "--out", str(tmp_path / "new" / "page.html")]) == 0
    assert (tmp_path / "new" / "page.html").is_file()
    output = capsys.readouterr().out
    assert "page.html: 1 run" in output
    assert "metrics.jsonl: missing" in output  # what the page lacks is said here too


def test_a_folder_that_is_no_run_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prelar_ray.report", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path}: not a run folder")
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_reporting_imports_neither_torch_nor_ray() -> None:
    code = "import sys, prelar_ray.report; sys.exit(bool({'torch', 'ray', 'gymnasium'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
