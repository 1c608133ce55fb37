"""Progress on terminals and in files."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from prelar_ray.telemetry import progress
from prelar_ray.telemetry.progress import Progress


def text_of(buffer: io.StringIO) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", buffer.getvalue())


def interrupted_phase(console: Console) -> None:
    with Progress(console) as bars, bars.phase("finetune", 10, "env steps") as task:
        task.advance(2)
        task.advance(3, loss=2.5)
        raise KeyboardInterrupt


def test_without_a_terminal_there_is_a_line_at_the_begin_and_the_end() -> None:
    buffer = io.StringIO()
    with Progress(Console(file=buffer)) as bars, bars.phase("pretrain", 1500, "updates", done=1400) as task:
        for _ in range(100):
            task.advance(1, loss=0.12345)
    first, last = buffer.getvalue().splitlines()
    assert first == "pretrain: 1 400/1 500 updates, begins"
    assert re.fullmatch(r"pretrain: 1 500/1 500 updates, done after 0:00:00, \d+ updates/s, loss 0.1235", last)


def test_without_a_terminal_a_long_phase_tells_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.0)
    buffer = io.StringIO()
    with Progress(Console(file=buffer)) as bars, bars.phase("record", 4, "frames") as task:
        task.advance(1)
        task.advance(1, fps=30)
    lines = buffer.getvalue().splitlines()
    assert len(lines) == 4
    assert lines[1].startswith("record: 1/4 frames, 25 %")
    assert lines[2].startswith("record: 2/4 frames, 50 %")
    assert lines[2].endswith("left, fps 30")


def test_the_rate_of_a_resumed_phase_counts_its_own_work_only(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.StringIO()
    with Progress(Console(file=buffer)) as bars:
        clock = iter([0.0, 2.0, 2.0])
        monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
        with bars.phase("pretrain", 1000, "updates", done=900) as task:
            task.advance(100)
        monkeypatch.undo()
    assert buffer.getvalue().splitlines()[-1] == "pretrain: 1 000/1 000 updates, done after 0:00:02, 50 updates/s"


def test_lines_between_are_at_least_the_interval_apart() -> None:
    buffer = io.StringIO()
    with Progress(Console(file=buffer)) as bars, bars.phase("record", 1000, "frames") as task:
        for _ in range(1000):
            task.advance()
    assert len(buffer.getvalue().splitlines()) == 2


def test_a_phase_that_is_interrupted_says_how_far_it_came() -> None:
    buffer = io.StringIO()
    with pytest.raises(KeyboardInterrupt):
        interrupted_phase(Console(file=buffer))
    assert "finetune: 5/10 env steps, stopped after" in buffer.getvalue()


def test_on_a_terminal_bars_show_rate_and_values_and_the_cursor_comes_back_after_ctrl_c() -> None:
    buffer = io.StringIO()
    console = Console(file=buffer, force_terminal=True, width=120)
    with pytest.raises(KeyboardInterrupt):
        interrupted_phase(console)
    assert re.search(r"finetune .* 50% 5/10 env steps .* env steps/s .* loss 2.5", text_of(buffer))
    hidden, shown = buffer.getvalue().rfind("\x1b[?25l"), buffer.getvalue().rfind("\x1b[?25h")
    assert shown > hidden >= 0


def test_a_value_that_is_not_known_yet_is_a_dash() -> None:
    buffer = io.StringIO()
    with Progress(Console(file=buffer)) as bars, bars.phase("finetune", 2, "env steps") as task:
        task.advance(2, **{"return": float("nan")})
    assert buffer.getvalue().endswith("return –\n")


def test_several_phases_follow_one_another() -> None:
    buffer = io.StringIO()
    with Progress(Console(file=buffer)) as bars:
        for name in ("record", "pretrain"):
            with bars.phase(name, 2, "units") as task:
                task.advance(2)
    assert [line.split(",")[0] for line in buffer.getvalue().splitlines()] == [
        "record: 0/2 units",
        "record: 2/2 units",
        "pretrain: 0/2 units",
        "pretrain: 2/2 units",
    ]
