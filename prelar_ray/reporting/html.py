"""Run folders to one self-contained page: no script, no external resource, light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from prelar_ray.reporting.drawing import Panel, Picture
from prelar_ray.reporting.figures import (
    evaluation_chart,
    frame_strip,
    metric_chart,
    prediction_error_chart,
    seeds_chart,
)
from prelar_ray.reporting.latent import Latent, latent_part
from prelar_ray.reporting.notes import notes
from prelar_ray.reporting.runs import Run, find_runs, load_run
from prelar_ray.reporting.template import duration, machines, render
from prelar_ray.storage.files import atomic_file
from prelar_ray.telemetry.metrics import METRICS

__all__ = ["write_report"]

GROUPS = {
    "train": ("Training episodes", "env_steps"),
    "loss": ("World-model losses", "update"),
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


@dataclass(frozen=True)
class Speed:
    """A row of the table of rates."""

    name: str
    unit: str
    median: float
    last: float
    meaning: str


@dataclass
class Section:
    """One run on the page."""

    run: Run
    anchor: str
    quiet_for: str
    """Time since the last file was written, where ``run.json`` says ``running``."""
    evaluations: list[Panel] = field(default_factory=list)
    strip: Picture | None = None
    strip_error: Picture | None = None
    latent: Latent | None = None
    groups: list[tuple[str, list[Panel]]] = field(default_factory=list)
    speeds: list[Speed] = field(default_factory=list)


def write_report(paths: Sequence[Path], out: Path) -> list[Run]:
    """Write one page on the runs in the given folders, oldest first, and return them.

    Parts that are missing or damaged are named on the page, with the reason.

    Raises:
        DataError: a folder holds no run, or ``out`` cannot be written.
    """
    runs = sorted((load_run(path) for path in find_runs(paths)), key=lambda run: str(run.info.get("created", "")))
    page = render(
        "page.html",
        title=f"prelar_ray: {paths[0].resolve().name}",
        sections=[_section(run, f"run-{number}") for number, run in enumerate(runs)],
        notes=notes(runs),
        seeds=_seeds(runs),
        machines=machines([(run.path.name, run.info) for run in runs]),
    )
    with atomic_file(out) as file:
        file.write(page.encode())
    return runs


def _section(run: Run, anchor: str) -> Section:
    section = Section(run, anchor, _quiet_for(run))
    if run.evaluations:
        for success, name in ((False, "evaluation/return_mean"), (True, "evaluation/success_rate")):
            section.evaluations.append(
                Panel(
                    evaluation_chart(run.evaluations, success),
                    name,
                    METRICS[name].meaning + " Bars: 95\N{NO-BREAK SPACE}% intervals.",
                )
            )
    if run.prediction:
        section.strip = frame_strip(run.prediction)
        section.strip_error = prediction_error_chart(run.prediction)
    section.latent = latent_part(run)
    for group, (heading, over) in GROUPS.items():
        panels = [_panel(run, name, over) for name in run.names(group)]
        if panels:
            section.groups.append((heading, panels))
    for name in [name for group in SPEED_GROUPS for name in run.names(group)]:
        _, values = run.series(name, "update")
        metric = METRICS[name]
        section.speeds.append(Speed(name, metric.unit, float(np.median(values)), float(values[-1]), metric.meaning))
    return section


def _panel(run: Run, name: str, over: str) -> Panel:
    x, y = run.series(name, over)
    metric = METRICS[name]
    label = name.split("/")[1].replace("_", " ") + (f" ({metric.unit})" if metric.unit else "")
    return Panel(metric_chart(x, y, over, label), name, metric.meaning)


def _seeds(runs: Sequence[Run]) -> list[Panel]:
    """Draw fine-tuning runs of one task and one method together where there are several."""
    evaluated = [run for run in runs if run.phase == "finetune" and run.evaluations]
    if len({evaluation.task for run in evaluated for evaluation in run.evaluations}) > 1:
        return []
    panels = []
    for method in dict.fromkeys(run.method for run in evaluated):
        of_method = [run.evaluations for run in evaluated if run.method == method]
        if len(of_method) < 2:
            continue
        meaning = f"Grey: each of {len(of_method)} runs. Bars: 95\N{NO-BREAK SPACE}% bootstrap intervals over runs."
        of = f" of {method}" if method else ""
        panels += [
            Panel(seeds_chart(of_method, success), f"{name} over runs{of}", meaning)
            for success, name in ((False, "Mean return"), (True, "Success rate"))
        ]
    return panels


def _quiet_for(run: Run) -> str:
    if run.info.get("status") != "running":
        return ""
    newest = max((file.stat().st_mtime for file in run.path.iterdir() if file.is_file()), default=0.0)
    return duration(datetime.now(UTC).timestamp() - newest)
