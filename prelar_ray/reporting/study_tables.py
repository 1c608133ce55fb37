"""A comparison as tables: Markdown and LaTeX to read, CSV to compute with."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from prelar_ray.reporting.comparison import Group
from prelar_ray.reporting.notes import spaced
from prelar_ray.reporting.trials import METRICS, SUCCESS
from prelar_ray.statistics import Interval
from prelar_ray.wording import counted

__all__ = ["ScoreTable", "latex", "markdown", "score_table", "score_text", "steps_text", "summary_csv"]

WIDE = 4
"""With more series than this, and than tasks, series are rows and tasks are columns."""
NONE = "–"

COLUMNS = ("quantity", "metric", "series", "over", "task", "env_step", "estimate", "low", "high", "runs", "reached")


@dataclass(frozen=True)
class ScoreTable:
    """Scores at one step: a row per task, then mean and IQM; a column per series. Or the other way round."""

    caption: str
    header: list[str]
    rows: list[list[str]]


def score_text(interval: Interval, metric: str) -> str:
    """Return for example ``0.86 [0.79, 0.92]``; a score without an interval says so."""
    digits = 2 if metric == SUCCESS else 1
    if math.isnan(interval.low):
        return f"{interval.estimate:.{digits}f} (no interval)"
    return interval.format(digits)


def steps_text(interval: Interval, at: int) -> str:
    """Return for example ``65 000 [45 000, 95 000]``; what was not reached is later than ``at``."""

    def text(steps: float) -> str:
        return f"> {spaced(at)}" if math.isinf(steps) else spaced(round(steps))

    if math.isnan(interval.low):
        return f"{text(interval.estimate)} (no interval)"
    return f"{text(interval.estimate)} [{text(interval.low)}, {text(interval.high)}]"


def score_table(group: Group) -> ScoreTable:
    """Return the scores of a group at its step."""
    assert group.at is not None
    counts = {len(of) for by_task in group.scores.values() for of in by_task.values()}

    def cell(interval: Interval | None) -> str:
        if interval is None:
            return NONE
        return score_text(interval, group.metric) + (f", n={interval.count}" if len(counts) > 1 else "")

    names = list(group.scores)
    columns = [names, *([cell(group.means[name].get(task)) for name in names] for task in group.tasks)]
    header = ["", *group.tasks]
    if len(group.compared) > 1:
        for title, intervals in (("mean over tasks", group.mean), ("IQM over tasks", group.iqm)):
            header.append(title)
            columns.append([cell(intervals.get(name)) for name in names])
    if len(names) > max(WIDE, len(group.tasks)):
        return ScoreTable(_caption(group, counts), header, [list(row) for row in zip(*columns, strict=True)])
    rows = [[title, *column] for title, column in zip(header[1:], columns[1:], strict=True)]
    return ScoreTable(_caption(group, counts), ["", *names], rows)


def markdown(tables: Iterable[ScoreTable]) -> str:
    """Return tables in Markdown, each under its caption."""
    return "\n".join(f"{table.caption}\n\n{_markdown(table)}" for table in tables)


def latex(tables: Iterable[ScoreTable]) -> str:
    r"""Return tables in LaTeX; they need ``\usepackage{booktabs}``."""
    return "\n".join(map(_latex, tables))


def summary_csv(groups: Iterable[Group]) -> str:
    """Return every number of a comparison with its interval, a row each; empty where there is none."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for group in groups:
        common = {"metric": group.metric, "env_step": group.at}
        for name, by_task in group.means.items():
            for task, interval in by_task.items():
                writer.writerow({**common, "quantity": "mean", "series": name, "task": task, **_values(interval)})
        for quantity, intervals in (("mean_over_tasks", group.mean), ("iqm_over_tasks", group.iqm)):
            for name, interval in intervals.items():
                writer.writerow({**common, "quantity": quantity, "series": name, **_values(interval)})
        for pair in group.improvements:
            names = {"series": pair.better, "over": pair.worse}
            writer.writerow({**common, "quantity": "probability_of_improvement", **names, **_values(pair.probability)})
        for name, found in group.half_reached.items():
            for task, (interval, reached) in found.items():
                row = {"quantity": f"steps_until_half_reached_{group.threshold:g}", "series": name, "task": task}
                writer.writerow({**common, **row, **_values(interval), "reached": reached})
    return buffer.getvalue()


def _caption(group: Group, counts: set[int]) -> str:
    seeds = counted(next(iter(counts)), "seed") if len(counts) == 1 else "n seeds"
    return (
        f"{METRICS[group.metric].capitalize()} at {spaced(group.at or 0)} environment steps: mean over {seeds}, with "
        "95 % stratified bootstrap intervals; the unit is the seed."
    )


def _markdown(table: ScoreTable) -> str:
    lines = [table.header, ["---"] * len(table.header), *table.rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _latex(table: ScoreTable) -> str:
    rows = "".join("    " + " & ".join(map(_escaped, row)) + " \\\\\n" for row in table.rows)
    return (
        "\\begin{table}\n  \\centering\n"
        f"  \\caption{{{_escaped(table.caption)}}}\n"
        f"  \\begin{{tabular}}{{l{'c' * (len(table.header) - 1)}}}\n    \\toprule\n"
        f"    {' & '.join(map(_escaped, table.header))} \\\\\n    \\midrule\n{rows}"
        "    \\bottomrule\n  \\end{tabular}\n\\end{table}\n"
    )


_LATEX = {
    "\\": "\\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    ">": "$>$",
    NONE: "--",
    "\N{NARROW NO-BREAK SPACE}": "\\,",
    "β": "$\\beta$",
}


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text)


def _values(interval: Interval) -> dict[str, Any]:
    bounds = {"estimate": interval.estimate, "low": interval.low, "high": interval.high}
    return {key: f"{x:.6g}" if math.isfinite(x) else "" for key, x in bounds.items()} | {"runs": interval.count}
