"""The live view of a run: one line per role, from the last metrics."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from prelar_ray.telemetry.metrics import METRICS

__all__ = ["status_table"]

ROLES: dict[str, tuple[str, ...]] = {
    "learner": (
        "rate/updates_per_second",
        "time/update",
        "time/wait_for_data",
        "loss/total",
        "rllib/total_loss",
        "memory/learner",
    ),
    "replay": ("replay/fill", "replay/updates_per_env_step", "queue/updates_due", "memory/replay"),
    "collectors": ("rate/env_steps_per_second", "time/collectors_paused", "weights/age_updates", "memory/collectors"),
    "training": ("train/episode_return", "train/episode_success", "train/env_failures"),
    "evaluation": ("evaluation/return_mean", "evaluation/success_rate", "memory/evaluator"),
}


def status_table(values: Mapping[str, float]) -> Table:
    """Return the table of the last metrics by role; roles without metrics are omitted."""
    table = Table.grid(padding=(0, 3))
    for role, names in ROLES.items():
        cells = [_cell(name, values[name]) for name in names if name in values]
        if cells:
            table.add_row(f"[bold]{role}[/bold]", "   ".join(cells))
    return table


def _cell(name: str, value: float) -> str:
    unit = METRICS[name].unit
    label = name.partition("/")[2].replace("_", " ")
    shown = f"{value:.0%}" if unit == "fraction" else f"{value:.3g} {unit}".rstrip()
    return f"[dim]{label}[/dim] {shown}"
