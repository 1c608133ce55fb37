"""A comparison as tables: Markdown and LaTeX to read, CSV to compute with; and what its runs cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from prelar_ray.kinds import find_kind
from prelar_ray.reporting.compare import Group
from prelar_ray.reporting.formats import score_text, spaced
from prelar_ray.reporting.scores import METRIC_NAMES, RunScores
from prelar_ray.reporting.texts import csv_text, markdown_text
from prelar_ray.statistics import Interval
from prelar_ray.wording import counted

__all__ = ["ScoreTable", "cost_table", "latex", "markdown", "score_texts", "summary_csv", "total_costs"]

WIDE = 4
"""With more series than this, and than tasks, series are rows and tasks are columns."""
NONE = "–"

COLUMNS = ("quantity", "metric", "series", "over", "task", "env_step", "estimate", "low", "high", "runs", "reached")

_LATEX = str.maketrans(
    {
        "\\": "\\textbackslash{}",
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        "~": "\\textasciitilde{}",
        "^": "\\textasciicircum{}",
        ">": "$>$",
        NONE: "--",
        "\N{NARROW NO-BREAK SPACE}": "\\,",
        "β": "$\\beta$",
    }
)


@dataclass(frozen=True)
class ScoreTable:
    """Scores at one step: a row per task, then mean and IQM; a column per series. Or the other way round."""

    caption: str
    cells: pd.DataFrame

    @property
    def lines(self) -> list[list[str]]:
        """Header and rows, each with its name first."""
        return [["", *self.cells.columns], *([name, *row] for name, *row in self.cells.itertuples())]


def score_texts(group: Group) -> ScoreTable:
    """Return the scores of a group at its step, as text."""
    counts = {len(of) for by_task in group.scores.values() for of in by_task.values()}

    def cell(interval: Interval | None) -> str:
        if interval is None:
            return NONE
        return score_text(interval, group.metric) + (f", n={interval.count}" if len(counts) > 1 else "")

    cells = pd.DataFrame(
        {name: [cell(group.means[name].get(task)) for task in group.tasks] for name in group.scores}, index=group.tasks
    )
    if len(group.compared) > 1:
        cells.loc["mean over tasks"] = [cell(group.mean.get(name)) for name in group.scores]
        cells.loc["IQM over tasks"] = [cell(group.iqm.get(name)) for name in group.scores]
    seeds = counted(next(iter(counts)), "seed") if len(counts) == 1 else "n seeds"
    caption = (
        f"{METRIC_NAMES[group.metric].capitalize()} at {spaced(group.at or 0)} environment steps: mean over {seeds}, "
        "with 95 % stratified bootstrap intervals; the unit is the seed."
    )
    return ScoreTable(caption, cells.T if len(group.scores) > max(WIDE, len(group.tasks)) else cells)


def markdown(tables: Iterable[ScoreTable]) -> str:
    """Return tables in Markdown, each under its caption."""
    texts = []
    for table in tables:
        header, *rows = table.lines
        named = [[markdown_text(name), *cells] for name, *cells in rows]
        lines = [list(map(markdown_text, header)), ["---"] * len(header), *named]
        cells = ("| " + " | ".join(line) + " |\n" for line in lines)
        texts.append(f"{table.caption}\n\n{''.join(cells)}")
    return "\n".join(texts)


def latex(tables: Iterable[ScoreTable]) -> str:
    r"""Return tables in LaTeX; they need ``\usepackage{booktabs}``."""
    texts = []
    for table in tables:
        header, *rows = (" & ".join(cell.translate(_LATEX) for cell in line) + " \\\\\n" for line in table.lines)
        texts.append(
            "\\begin{table}\n  \\centering\n"
            f"  \\caption{{{table.caption.translate(_LATEX)}}}\n"
            f"  \\begin{{tabular}}{{l{'c' * (len(table.lines[0]) - 1)}}}\n    \\toprule\n"
            f"    {header}    \\midrule\n{''.join(f'    {row}' for row in rows)}"
            "    \\bottomrule\n  \\end{tabular}\n\\end{table}\n"
        )
    return "\n".join(texts)


def summary_csv(groups: Iterable[Group]) -> str:
    """Return every number of a comparison with its interval, a row each; empty where there is none."""
    rows = []
    for group in groups:
        for interval, row in _numbers(group):
            bounds = {"estimate": interval.estimate, "low": interval.low, "high": interval.high}
            texts = {key: f"{x:.6g}" if math.isfinite(x) else "" for key, x in bounds.items()}
            names = {key: csv_text(value) if isinstance(value, str) else value for key, value in row.items()}
            rows.append({"metric": group.metric, "env_step": group.at, "runs": interval.count, **names, **texts})
    return str(pd.DataFrame(rows, columns=COLUMNS, dtype=object).to_csv(index=False))


def _numbers(group: Group) -> Iterator[tuple[Interval, dict[str, Any]]]:
    for name, by_task in group.means.items():
        for task, interval in by_task.items():
            yield interval, {"quantity": "mean", "series": name, "task": task}
    for quantity, intervals in (("mean_over_tasks", group.mean), ("iqm_over_tasks", group.iqm)):
        for name, interval in intervals.items():
            yield interval, {"quantity": quantity, "series": name}
    for (better, worse), interval in group.improvements.items():
        yield interval, {"quantity": "probability_of_improvement", "series": better, "over": worse}
    for name, found in group.half_reached.items():
        quantity = f"steps_until_half_reached_{group.threshold:g}"
        for task, (interval, reached) in found.items():
            yield interval, {"quantity": quantity, "series": name, "task": task, "reached": reached}


def cost_table(runs: Iterable[RunScores]) -> pd.DataFrame:
    """Return wall time and GPUs of the runs that began, a row each; NaN where they are not known."""
    rows = []
    for run in runs:
        if run.info:
            timings = run.info.get("timings")
            seconds = timings.get(run.phase) if isinstance(timings, dict) else None
            known = _number(seconds)
            rows.append((run.name, run.status, run.method, run.phase, run.last_step, known, _gpus(run)))
    columns = ["name", "status", "method", "phase", "last_step", "seconds", "gpus"]
    costs = pd.DataFrame(rows, columns=columns)
    return costs.assign(gpu_hours=costs.seconds / 3600 * costs.gpus)


def total_costs(costs: pd.DataFrame) -> pd.DataFrame:
    """Return what the runs of each method and phase cost together, as far as it is known, and all of them."""

    def total(of: Any) -> pd.DataFrame:
        unknown = ("gpu_hours", lambda hours: int(hours.isna().sum()))
        sums = {name: (name, "sum") for name in ("seconds", "gpu_hours")}
        return of.agg(runs=("name", "size"), **sums, unknown=unknown).reset_index()

    totals = total(costs.groupby(["method", "phase"], sort=False))
    if len(totals) < 2:
        return totals
    return pd.concat([totals, total(costs.assign(method="all", phase="").groupby(["method", "phase"]))])


def _gpus(run: RunScores) -> float:
    config = run.config
    try:
        if config["device"] == "cpu" or (config["device"] == "auto" and not run.info["hardware"].get("gpus")):
            return 0.0
        learner, collect = config["learner"], config["collect"]
        gpus = _number(learner["ranks"]) * (_number(learner["gpus"]) or 1.0)
        kind = find_kind(run.phase, str(config["method"]))
        if kind and kind.has_policy:  # those of RLlib step environments without a GPU
            gpus += _number(collect["collectors"]) * _number(collect["gpus"])
            gpus += _number(config.get("evaluation", {}).get("gpus", 0.0))  # runs of earlier versions have none
        return gpus
    except (KeyError, TypeError, ValueError, AttributeError):
        return math.nan


def _number(value: object) -> float:
    """Return a number; NaN for anything else, text included."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
