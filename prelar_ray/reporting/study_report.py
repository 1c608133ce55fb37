"""Studies, tables of scores and run folders to one report: a page, its figures and its tables as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prelar_ray.errors import DataError
from prelar_ray.reporting.comparison import Group, Options, compare_group, group_tasks
from prelar_ray.reporting.drawing import Panel, Picture, draw_chart
from prelar_ray.reporting.protocols import check_protocols
from prelar_ray.reporting.published_scores import published_series
from prelar_ray.reporting.score_files import read_scores, write_scores
from prelar_ray.reporting.studies import Study, is_study, read_runs, read_study
from prelar_ray.reporting.study_notes import study_notes
from prelar_ray.reporting.study_page import study_page
from prelar_ray.reporting.study_panels import PanelSection, study_panels
from prelar_ray.reporting.study_tables import latex, markdown, score_table, summary_csv
from prelar_ray.reporting.trials import Trial, name_series
from prelar_ray.storage.files import atomic_file, prepare_file

__all__ = ["StudyReport", "is_comparison", "write_study_report"]

FOLDER = "report"
"""Beside the page: figures and tables."""


@dataclass(frozen=True)
class StudyReport:
    """What was written and what it says."""

    page: Path
    trials: list[Trial]
    groups: list[Group]


def is_comparison(paths: Sequence[Path]) -> bool:
    """Whether any of the paths is a study or a table of scores, so that runs are compared rather than described."""
    return any(is_study(path) or _is_table(path) for path in paths)


def write_study_report(paths: Sequence[Path], out: Path, options: Options) -> StudyReport:
    """Compare the runs of studies, tables of scores and run folders, and write a report.

    It writes ``OUT/report.html`` and, into ``OUT/report/``, every figure as PNG and PDF, ``scores.csv``,
    ``summary.csv``, ``table.md`` and ``table.tex``.

    Raises:
        DataError: something given cannot be read, holds no fine-tuning run, or ``out`` cannot be written.
        UsageError: runs of one task were measured by different protocols, or a seed is there twice.
    """
    studies, trials = _read(paths)
    runs = [trial for trial in trials if trial.phase == "finetune"]
    if not runs:
        given = ", ".join(map(str, paths))
        raise DataError(f"{given}: no fine-tuning run among these; there is nothing to compare")
    differences = check_protocols(runs, options.mix_protocols)
    series = name_series(runs)
    page, folder = out / "report.html", out / FOLDER
    prepare_file(page)
    prepare_file(folder / "scores.csv")
    tasks = group_tasks(series)
    published = published_series({task for some in tasks.values() for task in some}) if options.published else {}
    groups = [compare_group(series, metric, some, options, published) for metric, some in tasks.items()]
    sections = study_panels(series, groups, published)
    pictures: dict[str, Picture] = {}
    for panel in (panel for section in sections for panel in section.panels):
        drawing = draw_chart(panel.chart)
        pictures[panel.file] = drawing.picture
        _write(folder / f"{panel.file}.png", drawing.png)
        _write(folder / f"{panel.file}.pdf", drawing.pdf)
    tables = [score_table(group) for group in groups if group.scores]
    write_scores(folder / "scores.csv", runs)
    _write(folder / "summary.csv", summary_csv(groups).encode())
    _write(folder / "table.md", markdown(tables).encode())
    _write(folder / "table.tex", latex(tables).encode())
    notes = study_notes(series, groups, differences, options.at, bool(published))
    title = ", ".join(dict.fromkeys(path.resolve().name for path in paths))
    shown = [(section, _panels(section, pictures)) for section in sections]
    _write(page, study_page(title, studies, trials, series, groups, shown, tables, notes, bool(published)).encode())
    return StudyReport(page, trials, groups)


def _read(paths: Sequence[Path]) -> tuple[list[Study], list[Trial]]:
    """Read what is given, each of it once."""
    studies, trials = [], []
    for path in {path.resolve(): path for path in paths}.values():
        if is_study(path):
            studies.append(read_study(path))
            trials += studies[-1].trials
        elif _is_table(path):
            trials += read_scores(path)
        else:
            trials += read_runs([path])
    return studies, trials


def _is_table(path: Path) -> bool:
    return path.is_file() or path.suffix.lower() == ".csv"


def _panels(section: PanelSection, pictures: Mapping[str, Picture]) -> list[Panel]:
    return [Panel(pictures[panel.file], panel.name, panel.meaning) for panel in section.panels]


def _write(path: Path, content: bytes) -> None:
    with atomic_file(path) as file:
        file.write(content)
