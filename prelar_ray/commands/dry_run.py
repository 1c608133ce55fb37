"""Output of ``--dry-run``: configuration, parameters per part, memory."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

from prelar_ray.commands.summary import summarise
from prelar_ray.config import RunConfig, to_yaml
from prelar_ray.replay.memory import GIB

__all__ = ["print_dry_run"]


def print_dry_run(config: RunConfig) -> None:
    """Print the resolved configuration as YAML, then parameter counts and memory estimates, on standard output."""
    sys.stdout.write(to_yaml(config))
    console = Console(soft_wrap=True, highlight=False)
    if config.algorithm:
        console.print(f"networks: those of {config.algorithm} in RLlib, as rllib.* says; they are not counted here")
        return
    summary = summarise(config)
    for phase, parts in summary.parameters.items():
        table = Table("part", title=f"parameters: {phase}", title_justify="left")
        table.add_column("parameters", justify="right")
        for name, count in parts.items():
            table.add_row(name.replace("_", " "), f"{count:,}")
        table.add_section()
        table.add_row("total", f"{sum(parts.values()):,}")
        console.print(table)
    table = Table("memory estimate", title="memory, float32", title_justify="left")
    table.add_column("GiB", justify="right")
    for name, size in summary.memory.items():
        table.add_row(name, f"{size / GIB:.2f}")
    console.print(table)
