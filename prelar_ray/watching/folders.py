"""Where studies and runs lie, and what all of them are doing."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from prelar_ray.errors import UsageError
from prelar_ray.storage.provenance import utc_now
from prelar_ray.storage.study_folder import is_study
from prelar_ray.watching.problems import Problems
from prelar_ray.watching.records import StatusReport
from prelar_ray.watching.runs import look_at_run
from prelar_ray.watching.studies import look_at_study

__all__ = ["look_at"]

DEPTH = 3
"""Levels of folders below a given one that are searched."""
MOST_FOLDERS = 5000
"""Folders of which each given one may hold as many; more are no folder of runs."""


def look_at(paths: Sequence[Path]) -> StatusReport:
    """Return what the studies and runs in ``paths`` are doing; takes no locks and writes nothing.

    Each path is a study, a run, or a folder that holds some, up to three levels deep. What is damaged is named in the
    report.

    Raises:
        UsageError: a path is no folder, or there is no study and no run at all.
    """
    problems = Problems()
    studies: list[Path] = []
    runs: list[Path] = []
    seen: set[Path] = set()
    for path in paths:
        if not path.is_dir():
            raise UsageError(f"{path}: no such folder; name a study, a run, or a folder that holds some")
        _find(path, seen, studies, runs, problems)
    now = time.time()
    report = StatusReport(
        at=utc_now(),
        host=socket.gethostname(),
        studies=[study for path in studies if (study := look_at_study(path, now, problems))],
        runs=[run for path in runs if (run := look_at_run(path, now, problems))],
        problems=problems.lines,
    )
    if not report.studies and not report.runs:
        where = ", ".join(map(str, paths))
        said = "; ".join(problems.lines) or f"{where}: holds no study and no run; name the folder given as --out"
        raise UsageError(said)
    return report


def _find(top: Path, seen: set[Path], studies: list[Path], runs: list[Path], problems: Problems) -> None:
    """Add the studies and runs below a folder, unless ``seen``; nothing below them is looked at."""
    level, searched = [top], 0
    for depth in range(DEPTH + 1):
        below: list[Path] = []
        for folder in level:
            if (real := folder.resolve()) in seen:  # given twice, or a link to what was there already
                continue
            seen.add(real)
            if is_study(folder):
                studies.append(folder)
            elif (folder / "run.json").is_file():
                runs.append(folder)
            elif depth < DEPTH:
                below += _folders_in(folder, problems)
        searched += len(below)
        if searched > MOST_FOLDERS:
            problems.add(f"{top}: holds more than {MOST_FOLDERS} folders, not all were searched; name those of runs")
            return
        level = below


def _folders_in(folder: Path, problems: Problems) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    except OSError as error:
        problems.add(f"{folder}: cannot be searched ({error.strerror})")
        return []
    return [folder / name for name in names]
