"""Metrics on disk: what is written can be read, resumed and never lies."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from prelar_ray.errors import DataError, RunFolderError
from prelar_ray.telemetry.writers import MetricWriter, read_metrics


def write_updates(folder: Path, updates: range, resume_at_update: int | None = None) -> None:
    with MetricWriter(folder / "metrics.jsonl", folder / "tensorboard", resume_at_update) as writer:
        for update in updates:
            writer.write(update, 5 * update, {"loss/total": float(update)})


def updates_in(folder: Path) -> list[float | None]:
    return [row["update"] for row in read_metrics(folder / "metrics.jsonl")]


def test_lines_hold_time_update_steps_and_values(tmp_path: Path) -> None:
    with MetricWriter(tmp_path / "metrics.jsonl", tmp_path / "tensorboard") as writer:
        writer.write(3, 15, {"loss/total": np.float32(0.5), "rate/updates_per_second": 2})
        (row,) = read_metrics(tmp_path / "metrics.jsonl")  # on disk before the writer closes
    assert list(row) == ["time", "update", "env_steps", "loss/total", "rate/updates_per_second"]
    assert (row["update"], row["env_steps"], row["loss/total"], row["rate/updates_per_second"]) == (3, 15, 0.5, 2.0)


def test_an_unknown_name_is_refused_with_the_nearest_and_nothing_is_written(tmp_path: Path) -> None:
    with MetricWriter(tmp_path / "metrics.jsonl", tmp_path / "tensorboard") as writer:
        with pytest.raises(ValueError, match="unknown metric 'loss/totl', the nearest is 'loss/total'"):
            writer.write(1, 0, {"loss/image": 1.0, "loss/totl": 1.0})
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_becomes_null_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, value: float
) -> None:
    with caplog.at_level(logging.WARNING), MetricWriter(tmp_path / "m.jsonl", tmp_path / "tensorboard") as writer:
        writer.write(7, 0, {"loss/total": value, "loss/image": 1.0})
    row = json.loads((tmp_path / "m.jsonl").read_text(), parse_constant=pytest.fail)
    assert row["loss/total"] is None
    assert row["loss/image"] == 1.0
    assert f"update 7: loss/total is {value}" in caplog.text


def test_a_new_run_does_not_touch_the_metrics_of_another(tmp_path: Path) -> None:
    write_updates(tmp_path, range(1, 3))
    with pytest.raises(RunFolderError, match="already holds metrics of another run"):
        write_updates(tmp_path, range(1, 3))
    assert updates_in(tmp_path) == [1, 2]


def test_a_resumed_run_drops_what_lies_beyond_its_checkpoint(tmp_path: Path) -> None:
    write_updates(tmp_path, range(1, 6))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"time": 1.0, "upd')  # killed while writing
    write_updates(tmp_path, range(4, 7), resume_at_update=3)
    assert updates_in(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_a_run_killed_before_its_first_line_can_be_resumed(tmp_path: Path) -> None:
    write_updates(tmp_path, range(1, 3), resume_at_update=0)
    assert updates_in(tmp_path) == [1, 2]


def test_tensorboard_shows_each_update_once_after_a_resume(tmp_path: Path) -> None:
    write_updates(tmp_path, range(1, 6))
    write_updates(tmp_path, range(4, 7), resume_at_update=3)  # within the same second
    shown = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("loss/total")
    assert [(event.step, event.value) for event in shown] == [(update, float(update)) for update in range(1, 7)]


def test_a_full_disk_is_an_error_and_closing_does_not_hang(tmp_path: Path) -> None:
    with MetricWriter(tmp_path / "metrics.jsonl", tmp_path / "tensorboard") as writer:
        (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
        with pytest.raises(DataError, match="No space left on device"):
            writer.write(1, 0, {"loss/total": 1.0})
