"""Where studies and runs are looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from prelar_ray.errors import UsageError
from prelar_ray.watching import folders
from prelar_ray.watching.folders import look_at
from tests.watching.folders import begin, make_study


def names(top: Path, paths: list[str]) -> list[str]:
    return [str(Path(path).relative_to(top)) for path in paths]


def test_studies_and_runs_are_found_some_levels_down_and_nothing_within_them(tmp_path: Path) -> None:
    study = make_study(tmp_path / "b" / "study", "pretrain/prelar/seed-0")
    begin(study / "runs" / "pretrain/prelar/seed-0", "pretrain")
    for name in ("run", "a/run", "a/b/run", "a/b/c/too-deep", ".hidden/run"):
        begin(tmp_path / name)
    begin(tmp_path / "run" / "checkpoints")
    report = look_at([tmp_path])
    assert names(tmp_path, [study.path for study in report.studies]) == ["b/study"]
    assert names(tmp_path, [run.path for run in report.runs]) == ["run", "a/run", "a/b/run"]
    assert report.problems == []


def test_a_folder_may_be_a_study_or_a_run_itself(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", "pretrain/prelar/seed-0")
    run = begin(tmp_path / "run").path
    report = look_at([study, run])
    assert ([found.path for found in report.studies], [found.path for found in report.runs]) == (
        [str(study)],
        [str(run)],
    )


def test_what_is_there_twice_is_shown_once(tmp_path: Path) -> None:
    run = begin(tmp_path / "runs" / "run").path
    (tmp_path / "runs" / "link").symlink_to(run)
    (tmp_path / "runs" / "loop").symlink_to(tmp_path / "runs")
    assert len(look_at([tmp_path / "runs", run]).runs) == 1


def test_a_huge_tree_is_not_searched_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(tmp_path / "run")
    for number in range(5):
        (tmp_path / "many" / str(number)).mkdir(parents=True)
    monkeypatch.setattr(folders, "MOST_FOLDERS", 4)
    report = look_at([tmp_path])
    assert len(report.runs) == 1
    assert report.problems == [f"{tmp_path}: holds more than 4 folders, not all were searched; name those of runs"]


def test_a_missing_folder_and_one_without_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"^{tmp_path}/gone: no such folder; name a study"):
        look_at([tmp_path / "gone"])
    with pytest.raises(UsageError, match=rf"^{tmp_path}: holds no study and no run; name the folder"):
        look_at([tmp_path])
    begin(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    assert len(look_at([tmp_path / "empty", tmp_path / "run"]).runs) == 1


def test_where_nothing_can_be_read_the_damage_is_the_error(tmp_path: Path) -> None:
    (begin(tmp_path / "run").path / "run.json").write_text("{")
    with pytest.raises(UsageError, match=rf"^{tmp_path}/run/run\.json: cannot be read as JSON"):
        look_at([tmp_path])
