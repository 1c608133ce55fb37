"""Run folders to one page that describes each, and draws runs of one method together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from prelar_ray.reporting.charts import (
    bar_chart,
    evaluation_chart,
    frame_strip,
    metric_chart,
    metrics_chart,
    prediction_error_chart,
    seeds_chart,
)
from prelar_ray.reporting.formats import duration
from prelar_ray.reporting.notes import run_notes
from prelar_ray.reporting.pages import Panel, machines, write_page
from prelar_ray.reporting.read import Run, find_runs, read_run
from prelar_ray.reporting.scores import RETURN, SUCCESS
from prelar_ray.storage.records import Diagnostics, ProbeScores
from prelar_ray.telemetry.metrics import METRICS
from prelar_ray.wording import counted

__all__ = ["write_report"]

GROUPS = {
    "train": ("Training episodes", "env_steps"),
    "loss": ("World-model losses", "update"),
    "loss_scale": ("Learnt factors of the losses", "update"),
    "validation": ("Losses on held-out clips", "update"),
    "behaviour": ("Behaviour learning", "update"),
    "bonus": ("Intrinsic bonus", "update"),
    "rllib": ("Learning in RLlib", "update"),
    "model": ("World model", "update"),
    "grad_norm": ("Gradient norms before clipping", "update"),
}
"""Per group of metrics: heading and horizontal axis, in the order of the page."""

SPEED_GROUPS = ("rate", "time", "replay", "weights", "memory")
"""Groups shown as a table of their median and last value."""

LATENT_GROUPS = ("latent", "open_loop")
LATENT_CHARTS = {
    "Does the decoder listen?": (
        "error (nats)",
        ("open_loop/own", "open_loop/shuffled", "open_loop/zero", "open_loop/repeated"),
        "Open-loop error with a clip's own latent actions, those of another clip, zeros; dashed: a still picture.",
    ),
    "Do the distances agree?": ("rank correlation", ("latent/spearman",), "Of state and latent-action distances."),
    "How many dimensions are used?": (
        "dimensions",
        ("latent/active_units", "latent/participation_ratio"),
        "None are where it has collapsed.",
    ),
    "How much can it tell?": (
        "KL to the prior (nats)",
        ("latent/kl", "latent/kl_largest"),
        "Summed over dimensions, and of the largest one.",
    ),
}
"""Per chart on the latent action: vertical axis, metrics, caption."""
REFERENCE = "open_loop/repeated"
"""Drawn dashed: no model made it."""


def write_report(paths: Sequence[Path], out: Path) -> list[Run]:
    """Write one page on the runs in the given folders, oldest first, and return them.

    Parts that are missing or damaged are named on the page, with the reason.

    Raises:
        DataError: a folder holds no run, or ``out`` cannot be written.
    """
    runs = sorted((read_run(path) for path in find_runs(paths)), key=lambda run: str(run.info.get("created", "")))
    write_page(
        out,
        "runs.html",
        title=f"prelar_ray: {', '.join(dict.fromkeys(path.resolve().name for path in paths))}",
        sections=[_section(run, f"run-{number}") for number, run in enumerate(runs)],
        notes=run_notes(runs),
        seeds=list(_seeds(runs)),
        machines=machines((run.path.name, run.info) for run in runs),
    )
    return runs


def _section(run: Run, anchor: str) -> dict[str, Any]:
    """Return what the page shows of a run."""
    groups = {
        heading: [_panel(run, name, over) for name in run.names(group)] for group, (heading, over) in GROUPS.items()
    }
    return {
        "run": run,
        "anchor": anchor,
        "quiet_for": _quiet_for(run),
        "evaluations": _evaluations(run) if run.evaluations else [],
        "strips": [frame_strip(run.prediction), prediction_error_chart(run.prediction)] if run.prediction else [],
        "latent": _latent(run),
        "groups": {heading: panels for heading, panels in groups.items() if panels},
        "speeds": [
            (METRICS[name], name, pd.Series(run.series(name, "update")[1]))
            for group in SPEED_GROUPS
            for name in run.names(group)
        ],
    }


def _evaluations(run: Run) -> list[Panel]:
    names = {RETURN: "evaluation/return_mean", SUCCESS: "evaluation/success_rate"}
    bars = "Bars: 95\N{NO-BREAK SPACE}% intervals."
    return [
        Panel(evaluation_chart(run, metric), name, f"{METRICS[name].meaning} {bars}")
        for metric, name in names.items()
        if run.scored(metric)
    ]


def _panel(run: Run, name: str, over: str) -> Panel:
    metric = METRICS[name]
    label = name.split("/")[1].replace("_", " ") + (f" ({metric.unit})" if metric.unit else "")
    return Panel(metric_chart(run, name, over, label), name, metric.meaning)


def _seeds(runs: Sequence[Run]) -> Iterator[Panel]:
    """Draw fine-tuning runs of one task and one method together where there are several."""
    evaluated = [run for run in runs if run.phase == "finetune" and run.evaluations]
    if len({evaluation.task for run in evaluated for evaluation in run.evaluations}) > 1:
        return
    for method in dict.fromkeys(run.method for run in evaluated):
        of_method = [run for run in evaluated if run.method == method]
        if len(of_method) > 1:
            meaning = f"Grey: each of {len(of_method)} runs. Bars: 95\N{NO-BREAK SPACE}% bootstrap intervals over runs."
            of = f" of {method}" if method else ""
            for metric, name in ((RETURN, "Mean return"), (SUCCESS, "Success rate")):
                if not all(run.scored(metric) for run in of_method):
                    continue
                yield Panel(seeds_chart(of_method, metric), f"{name} over runs{of}", meaning)


def _latent(run: Run) -> dict[str, Any] | None:
    """Return the part on the latent action, or None where nothing was measured (fine-tuning, other methods)."""
    measured = [name for group in LATENT_GROUPS for name in run.names(group)]
    diagnosis = run.diagnosis
    if not measured and diagnosis is None:
        return None
    found = diagnosis.metrics if diagnosis else {}
    charts = [
        Panel(chart, title, meaning)
        for title, (label, names, meaning) in LATENT_CHARTS.items()
        if (chart := metrics_chart(run, names, label, REFERENCE))
    ]
    rows: list[tuple[str, str, float | None, float | None, str]] = []
    for name, metric in METRICS.items():
        if name in measured or name in found:
            values = run.series(name, "update")[1].tolist()
            last = values[-1] if values else None
            rows.append((name, metric.unit, last, found.get(name), metric.reading or metric.meaning))
    if diagnosis:
        rows += _probe_rows(diagnosis.probe) if diagnosis.probe else []
        charts += _diagnosis_charts(diagnosis)
    return {"charts": charts, "rows": rows, "diagnosis": diagnosis}


def _probe_rows(scores: ProbeScores) -> list[tuple[str, str, float | None, float | None, str]]:
    tested = f"{counted(scores.test_steps, 'step')} of {counted(scores.test_episodes, 'episode')}"
    seen = "neither model nor probe saw" if scores.unseen else "the model saw and the probe did not"
    reading = f"1: the true action is in the latent action, linearly. 0 or less: it is not. On {tested} that {seen}."
    return [
        ("probe/r2", "", None, scores.r2, reading),
        ("probe/r2_permuted", "", None, scores.r2_permuted, "Paired at random: about 0, or something leaks."),
        *((name, "", None, value, METRICS[name].reading) for name, value in scores.comparisons.items()),
    ]


def _diagnosis_charts(diagnosis: Diagnostics) -> Iterator[Panel]:
    if diagnosis.kl_by_dimension:
        values = {str(index): value for index, value in enumerate(diagnosis.kl_by_dimension)}
        chart = bar_chart(values, "dimension, largest first", "KL to the prior (nats)")
        yield Panel(chart, "KL per dimension", "Dimensions near 0 tell nothing.")
    scores = diagnosis.probe
    if scores is not None and scores.r2 is not None:
        named = {**{str(i): value for i, value in enumerate(scores.r2_by_dimension)}, "permuted": scores.r2_permuted}
        values = {name: value for name, value in named.items() if value is not None}
        meaning = "Share of each true action's variance found in the latent action."
        yield Panel(bar_chart(values, "dimension of the true action", "R²"), "Probe", meaning)


def _quiet_for(run: Run) -> str:
    """Return the time since the last file was written, where ``run.json`` says ``running``."""
    if run.info.get("status") != "running":
        return ""
    newest = max((file.stat().st_mtime for file in run.path.iterdir() if file.is_file()), default=0.0)
    return duration(datetime.now(UTC).timestamp() - newest)
