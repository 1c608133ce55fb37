"""The report command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from prelar_ray.commands import report
from prelar_ray.errors import DataError, UsageError
from prelar_ray.reporting.drawing import Chart
from prelar_ray.storage.run_folder import RunFolder

SCORES = "method,task,seed,env_step,success_rate\n" + "".join(
    f"{method},reach,{seed},{step},{step * factor / 1000:g}\n"
    for method, factor in (("one", 1), ("other", 2))
    for seed in range(2)
    for step in (100, 200)
)


def test_the_page_lies_in_the_run_unless_told_otherwise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunFolder.create(tmp_path / "run", "", "pretrain")
    assert report.main([str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "report.html").is_file()
    assert report.main([str(tmp_path / "run"), "--out", str(tmp_path / "new" / "page.html")]) == 0
    assert (tmp_path / "new" / "page.html").is_file()
    output = capsys.readouterr().out
    assert "page.html: 1 run" in output
    assert "metrics.jsonl: missing" in output  # what the page lacks is said here too


def test_a_page_on_several_runs_goes_into_the_folder_that_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(RunFolder.create(tmp_path / name, "", "pretrain").path) for name in ("a", "b")]
    (tmp_path / "there.html").mkdir()
    for name in ("new", "there.html", "new"):
        assert report.main([*runs, "--out", str(tmp_path / name)]) == 0
        assert capsys.readouterr().out.endswith(f"{name}/report.html: 2 runs\n")
        assert [path.name for path in (tmp_path / name).iterdir()] == ["report.html"]


def test_a_page_on_several_runs_lies_in_none_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        RunFolder.create(Path("runs", name), "", "pretrain")
    own = Path("runs/a/report.html")
    assert report.main(["runs/a"]) == 0
    before = own.read_bytes()
    assert report.main(["runs/a", "runs/b"]) == 0
    assert capsys.readouterr().out.endswith("comparison/report.html: 2 runs\n")
    assert "<title>prelar_ray: a, b" in Path("comparison/report.html").read_text()
    assert own.read_bytes() == before
    assert not Path("runs/b/report.html").exists()


def test_a_folder_that_is_no_run_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prelar_ray", "report", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path}: not a run folder")
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_reporting_imports_neither_torch_nor_ray() -> None:
    code = "import sys, prelar_ray.commands.report; sys.exit(bool({'torch', 'ray', 'gymnasium'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts are not drawn, which takes most of the time."""
    monkeypatch.setattr(Chart, "picture", lambda chart, theme: "")
    monkeypatch.setattr(Chart, "files", lambda chart: {".png": b"", ".pdf": b""})


@pytest.mark.usefixtures("_no_pictures")
def test_a_table_of_scores_becomes_a_report_in_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data.csv").write_text(SCORES)
    assert report.main([str(tmp_path / "data.csv"), "--out", str(tmp_path / "new" / "out")]) == 0
    assert {path.name for path in (tmp_path / "new" / "out").iterdir()} == {"report.html", "report"}
    output = capsys.readouterr().out.replace("\N{NARROW NO-BREAK SPACE}", " ")
    assert "success rate at 200 environment steps" in output
    assert "0.40 [0.40, 0.40]" in output
    assert "report.html: 4 runs" in output


@pytest.mark.usefixtures("_no_pictures")
def test_a_comparison_of_several_has_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("one", "other"):
        rows = [line for line in SCORES.splitlines(keepends=True) if line.startswith(("method", name))]
        Path(f"{name}.csv").write_text("".join(rows))
    assert report.main(["one.csv", "other.csv"]) == 0
    assert {path.name for path in Path("comparison").iterdir()} == {"report.html", "report"}


@pytest.mark.usefixtures("_no_pictures")
def test_options_reach_the_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data.csv").write_text(SCORES)
    options = ["--at", "100", "--threshold", "0.15", "--no-published"]
    assert report.main([str(tmp_path / "data.csv"), "--out", str(tmp_path / "out"), *options]) == 0
    assert "success rate at 100 environment steps" in capsys.readouterr().out
    summary = (tmp_path / "out" / "report" / "summary.csv").read_text()
    assert "steps_until_half_reached_0.15,success_rate,other,,reach,100,100," in summary


@pytest.mark.usefixtures("_no_pictures")
def test_a_study_is_reported_into_its_own_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = tmp_path / "study"
    study.mkdir()
    (study / "study.yaml").write_text("a: 1\n")
    run = {"name": "finetune/a/seed-0", "phase": "finetune", "method": "a", "task": "prelar/point-reach", "seed": 0}
    (study / "plan.json").write_text(json.dumps({"runs": [run]}))
    RunFolder.create(study / "runs" / run["name"], "", "finetune").update(status="failed", error="ValueError: no luck")
    assert report.main([str(study)]) == 0
    assert {path.name for path in study.iterdir()} == {"study.yaml", "plan.json", "runs", "report", "report.html"}
    said = capsys.readouterr().out
    assert "finetune/a/seed-0: failed: ValueError: no luck" in said
    assert "not finished: 1 failed, of 1 run; prelar-ray status shows them" in said


@pytest.mark.parametrize(
    ("arguments", "error", "reason"),
    [
        (["data.csv", "missing"], DataError, "missing: not a run folder"),
        (["missing", "data"], DataError, "missing: not a run folder"),
        (["data.csv", "--out", "page.html"], UsageError, "name a folder as --out"),
        (["data.csv", "--out", "data.csv"], UsageError, "name a folder as --out"),
        (["empty.csv", "--out", "out"], DataError, "empty.csv: not a table of scores"),
        (["missing.csv", "--out", "out"], DataError, "missing.csv: cannot be read"),
        (["data.csv", "missing", "--out", "out"], DataError, "missing: not a run folder"),
        (["data.csv", "copy.csv", "--out", "out"], UsageError, "seed 0, is there twice"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], error: type[Exception], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in (("data.csv", SCORES), ("copy.csv", SCORES), ("empty.csv", "")):
        Path(name).write_text(text)
    with pytest.raises(error) as caught:
        report.main(arguments)
    assert reason in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {"data.csv", "copy.csv", "empty.csv"}


@pytest.mark.parametrize("options", [["--at", "0"], ["--at", "x"], ["--threshold", "nan"], ["--threshold", "x"]])
def test_options_that_are_no_numbers_are_refused(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        report.main(["data.csv", "--out", "out", *options])
    assert "must be a" in capsys.readouterr().err


def test_a_half_written_plan_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").touch()
    (tmp_path / "plan.json").write_text('{"runs": [{"na')
    with pytest.raises(DataError) as error:
        report.main([str(tmp_path)])
    assert str(error.value).startswith(f"{tmp_path}/plan.json: half-written or damaged")
    assert len(str(error.value).splitlines()) == 1
