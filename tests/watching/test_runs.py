"""What one run is doing, as its folder shows it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prelar_ray.watching.problems import Problems
from prelar_ray.watching.records import RunStatus
from prelar_ray.watching.runs import look_at_run
from tests.watching.folders import BEGAN, TASK, begin, finish, gone_process, iso, kill, write_evaluation, write_lines


def look(path: Path, seconds: float, problems: Problems) -> RunStatus:
    run = look_at_run(path, BEGAN + seconds, problems)
    assert run is not None
    return run


def test_a_running_run_has_progress_rate_time_left_and_scores(tmp_path: Path, problems: Problems) -> None:
    folder = begin(tmp_path / "run", "finetune", "seed=3", "method=dreamerv2")
    write_lines(folder, [(10, 20)], **{"train/episode_return": 5.0, "train/episode_success": 0.25})
    write_lines(folder, [(20, 40), (30, 60)])
    write_evaluation(folder, [1.0, 3.0], [False, True])
    run = look(folder.path, 34, problems)
    assert problems.lines == []
    assert (run.phase, run.method, run.task, run.seed) == ("finetune", "dreamerv2", TASK, 3)
    assert (run.status, run.silent, run.done, run.total, run.unit) == ("running", False, 60, 1000, "env steps")
    assert (run.progress, run.rate, run.seconds, run.last_line_age) == (0.06, 2.0, 34.0, 4.0)
    assert run.seconds_left == 470.0
    assert (run.train_return, run.train_success) == (5.0, 0.25)
    assert (run.evaluation_return, run.evaluation_success) == (2.0, 0.5)
    assert run.process is not None
    assert run.process.alive


def test_a_pre_training_counts_updates_and_names_no_task(tmp_path: Path, problems: Problems) -> None:
    folder = begin(tmp_path / "run", "pretrain")
    write_lines(folder, [(1, 100), (2, 300)])
    run = look(folder.path, 2, problems)
    assert (run.task, run.done, run.unit, run.rate, run.seconds_left) == (None, 300, "updates", 200.0, 3.5)


@pytest.mark.parametrize(
    ("times", "patience"),
    [
        ([10, 20, 30], 120),  # at least two minutes
        ([30, 60, 90], 300),  # ten of its intervals
        ([10, 20, 30, 40, 240], 400),  # twice the longest, in which it may have evaluated
        ([20], 200),  # the time to the first line is all that is known
    ],
)
def test_a_run_is_silent_when_its_last_line_is_much_older_than_usual(
    tmp_path: Path, problems: Problems, times: list[int], patience: int
) -> None:
    folder = begin(tmp_path / "run")
    write_lines(folder, [(at, at) for at in times])
    assert not look(folder.path, times[-1] + patience - 1, problems).silent
    late = look(folder.path, times[-1] + patience + 1, problems)
    assert (late.status, late.silent, late.last_line_age) == ("running", True, patience + 1)


def test_before_its_first_line_nothing_is_known_of_its_rate_and_it_is_not_silent(
    tmp_path: Path, problems: Problems
) -> None:
    run = look(begin(tmp_path / "run").path, 3000, problems)
    assert (run.done, run.rate, run.seconds_left, run.last_line_age, run.silent) == (0, None, None, 3000.0, False)
    assert problems.lines == []


def test_the_time_before_a_resume_is_no_part_of_rate_and_silence(tmp_path: Path, problems: Problems) -> None:
    folder = begin(tmp_path / "run")
    write_lines(folder, [(10, 100), (20, 200)])
    folder.update(timings={"finetune": 20.0}, resumed=[iso(BEGAN + 5000)])
    assert look(folder.path, 5010, problems).rate is None
    write_lines(folder, [(5010, 210), (5020, 220)])
    run = look(folder.path, 5021, problems)
    assert (run.done, run.rate, run.seconds, run.silent) == (220, 1.0, 41.0, False)


def test_a_run_whose_process_is_gone_is_interrupted_and_says_how_to_resume(tmp_path: Path, problems: Problems) -> None:
    folder = begin(tmp_path / "a run")
    kill(folder, checkpoint=False)
    assert look(folder.path, 10, problems).resume is None, "there is no checkpoint"
    kill(folder)
    run = look(folder.path, 10, problems)
    assert (run.status, run.reason) == ("interrupted", f"its process {folder.info['process']['pid']} is gone")
    assert run.resume == f"prelar-ray finetune --resume --out '{folder.path}'"


def test_of_processes_of_another_host_nothing_is_known(tmp_path: Path, problems: Problems) -> None:
    folder = begin(tmp_path / "run")
    folder.update(process=gone_process() | {"host": "elsewhere"})
    run = look(folder.path, 10, problems)
    assert run.status == "running"
    assert run.process is not None
    assert run.process.alive is None


def test_a_failed_run_says_why(tmp_path: Path, problems: Problems) -> None:
    folder = begin(tmp_path / "run")
    write_lines(folder, [(10, 100), (20, 200)])
    finish(folder, 25, "failed", error="DataError: no disk\x1b[2J")
    run = look(folder.path, 100, problems)
    assert (run.status, run.reason, run.done, run.seconds) == ("failed", "DataError: no disk [2J", 200, 25.0)
    assert (run.rate, run.seconds_left, run.last_line_age) == (None, None, None)


def test_a_half_written_line_is_not_there_yet_and_a_damaged_one_is_named(tmp_path: Path, problems: Problems) -> None:
    folder = begin(tmp_path / "run")
    write_lines(folder, [(10, 100), (20, 200)])
    with folder.metrics_path.open("ab") as file:
        file.write(b'{"time": 18000000')
    assert look(folder.path, 21, problems).done == 200
    assert problems.lines == []
    with folder.metrics_path.open("ab") as file:
        file.write(b"\n[1]\n" + json.dumps({"update": "7"}).encode() + b"\n")
    write_lines(folder, [(30, 300)])
    assert look(folder.path, 31, problems).done == 300
    assert problems.lines == [f"{folder.metrics_path}: 3 lines near its end cannot be read; left out"]


def test_only_the_end_of_a_long_file_is_read(
    tmp_path: Path, problems: Problems, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = begin(tmp_path / "run")
    folder.metrics_path.write_bytes(b"damaged\n" * 50_000)
    write_lines(folder, [(number, number) for number in range(1, 2000)])
    run = look(folder.path, 2000, problems)
    assert (run.done, run.rate) == (1999, 1.0)
    assert problems.lines == []


def test_a_damaged_configuration_costs_the_progress_alone(tmp_path: Path, problems: Problems) -> None:
    folder = begin(tmp_path / "run")
    write_lines(folder, [(10, 100), (20, 200)])
    folder.config_path.write_text("method: [")
    run = look(folder.path, 20, problems)
    assert (run.status, run.phase, run.method, run.done, run.last_line_age) == ("running", "finetune", "", None, 0.0)
    (problem,) = problems.lines
    assert problem.startswith(f"{folder.config_path}: not YAML")


def test_settings_of_another_version_cost_the_progress_and_are_no_problem(tmp_path: Path, problems: Problems) -> None:
    folder = begin(tmp_path / "run")
    folder.config_path.write_text(folder.config_path.read_text() + "gone: 1\n")
    run = look(folder.path, 20, problems)
    assert (run.method, run.task, run.total) == ("prelar", TASK, None)
    assert problems.lines == []


def test_a_damaged_record_is_named_and_shows_no_run(tmp_path: Path, problems: Problems) -> None:
    folder = begin(tmp_path / "run")
    (folder.path / "run.json").write_text("{")
    assert look_at_run(folder.path, BEGAN, problems) is None
    (problem,) = problems.lines
    assert problem.startswith(f"{folder.path / 'run.json'}: cannot be read as JSON")
