"""The part of a report that asks whether the latent action is any good."""

from __future__ import annotations

from dataclasses import dataclass

from prelar_ray.reporting.drawing import Panel
from prelar_ray.reporting.figures import bar_chart, curves_chart
from prelar_ray.reporting.runs import Run
from prelar_ray.storage.records import Diagnostics, ProbeScores
from prelar_ray.telemetry.metrics import METRICS
from prelar_ray.wording import counted

__all__ = ["Latent", "LatentRow", "latent_part"]

CHARTS = {
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
"""Per chart: vertical axis, metrics, caption."""

GROUPS = ("latent", "open_loop")
REFERENCE = "open_loop/repeated"
"""Drawn dashed: no model made it."""


@dataclass(frozen=True)
class LatentRow:
    """A diagnostic: its last value in training, and what `prelar-ray diagnose` found; None where there is none."""

    name: str
    unit: str
    training: float | None
    diagnosis: float | None
    reading: str


@dataclass(frozen=True)
class Latent:
    """What the page shows."""

    charts: list[Panel]
    rows: list[LatentRow]
    diagnosis: Diagnostics | None


def latent_part(run: Run) -> Latent | None:
    """Return the part, or None where nothing was measured (fine-tuning, methods without latent actions)."""
    names = [name for group in GROUPS for name in run.names(group)]
    if not names and run.diagnosis is None:
        return None
    found = {} if run.diagnosis is None else run.diagnosis.metrics
    rows = [_row(run, name, found) for name in METRICS if name in names or name in found]
    charts = [chart for title in CHARTS if (chart := _curves(run, title)) is not None]
    if run.diagnosis is not None:
        if run.diagnosis.probe is not None:
            rows += _probe_rows(run.diagnosis.probe)
        charts += _bars(run.diagnosis)
    return Latent(charts, rows, run.diagnosis)


def _row(run: Run, name: str, found: dict[str, float | None]) -> LatentRow:
    _, values = run.series(name, "update")
    metric = METRICS[name]
    last = float(values[-1]) if len(values) else None
    return LatentRow(name, metric.unit, last, found.get(name), metric.reading or metric.meaning)


def _probe_rows(scores: ProbeScores) -> list[LatentRow]:
    tested = f"{counted(scores.test_steps, 'step')} of {counted(scores.test_episodes, 'episode')}"
    seen = "neither model nor probe saw" if scores.unseen else "the model saw and the probe did not"
    reading = f"1: the true action is in the latent action, linearly. 0 or less: it is not. On {tested} that {seen}."
    return [
        LatentRow("probe/r2", "", None, scores.r2, reading),
        LatentRow("probe/r2_permuted", "", None, scores.r2_permuted, "Paired at random: about 0, or something leaks."),
    ]


def _curves(run: Run, title: str) -> Panel | None:
    label, names, meaning = CHARTS[title]
    series = {name: run.series(name, "update") for name in names}
    curves = {name.split("/")[1].replace("_", " "): (x, y) for name, (x, y) in series.items() if len(x)}
    if not curves:
        return None
    dashed = REFERENCE.split("/")[1] if REFERENCE in names else ""
    return Panel(curves_chart(curves, "update", label, dashed), title, meaning)


def _bars(diagnosis: Diagnostics) -> list[Panel]:
    charts = []
    if diagnosis.kl_by_dimension:
        values = {str(index): value for index, value in enumerate(diagnosis.kl_by_dimension)}
        picture = bar_chart(values, "dimension, largest first", "KL to the prior (nats)")
        charts.append(Panel(picture, "KL per dimension", "Dimensions near 0 tell nothing."))
    scores = diagnosis.probe
    if scores is not None and scores.r2 is not None:
        named = {str(index): value for index, value in enumerate(scores.r2_by_dimension)}
        named["permuted"] = scores.r2_permuted
        values = {name: value for name, value in named.items() if value is not None}
        picture = bar_chart(values, "dimension of the true action", "R²")
        charts.append(Panel(picture, "Probe", "Share of each true action's variance found in the latent action."))
    return charts
