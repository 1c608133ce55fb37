from __future__ import annotations

import io

from rich.console import Console

from prelar_ray.telemetry.metrics import METRICS
from prelar_ray.telemetry.progress import Progress
from prelar_ray.telemetry.status import ROLES, status_table


def shown(values: dict[str, float]) -> list[str]:
    console = Console(file=io.StringIO(), width=200)
    console.print(status_table(values))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines() if line.strip()]


def test_every_role_shows_what_is_known_of_it_with_units() -> None:
    lines = shown({"time/update": 0.25, "replay/fill": 0.5, "queue/updates_due": 3, "loss/action_kl": 1.0})
    assert lines == ["learner   update 0.25 s", "replay    fill 50%   updates due 3 updates"]


def test_all_names_are_metrics() -> None:
    assert {name for names in ROLES.values() for name in names} <= METRICS.keys()


def test_the_view_is_drawn_under_the_bars_of_a_terminal_and_nowhere_else() -> None:
    for terminal in (True, False):
        console = Console(file=io.StringIO(), width=120, force_terminal=terminal)
        with Progress(console) as progress, progress.phase("finetune", 10, "env steps") as phase:
            phase.look_at(status_table({"replay/fill": 0.5}))
            phase.advance(1)
        assert isinstance(console.file, io.StringIO)
        assert ("fill" in console.file.getvalue()) == terminal
