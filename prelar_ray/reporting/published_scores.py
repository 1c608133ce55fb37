"""Curves that the authors of APV published, to draw the project's own beside; they are never averaged with them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path

from prelar_ray.reporting.score_files import read_scores
from prelar_ray.reporting.trials import Trial

__all__ = ["SOURCE", "published_series"]

SOURCE = "Seo et al., APV (ICML 2022), raw scores published with their code"


@dataclass(frozen=True)
class _Published:
    """A table of published scores, and how its tasks are called here."""

    file: str
    family: str
    suffix: str
    simulator: str

    def task(self, name: str) -> str:
        return f"{self.family}/{name.replace('_', '-')}{self.suffix}"


TABLES = (
    _Published("apv_2022_metaworld_success.csv", "metaworld", "-v3", "MuJoCo 2.0"),
    _Published("apv_2022_dmc_return.csv", "dmc", "", "simulator version not stated"),
)


def published_series(tasks: Iterable[str]) -> dict[str, list[Trial]]:
    """Return the published trials on the given tasks, by a name that says where they come from."""
    wanted = set(tasks)
    series: dict[str, list[Trial]] = {}
    for table in TABLES:
        for trial in _trials(table):
            if trial.task in wanted:
                series.setdefault(f"{trial.method} (published, {table.simulator})", []).append(trial)
    return series


@cache
def _trials(table: _Published) -> list[Trial]:
    file = resources.files("prelar_ray.reporting") / "published" / table.file
    with resources.as_file(file) as path:
        return [replace(trial, task=table.task(trial.task), source=SOURCE) for trial in read_scores(Path(path))]
