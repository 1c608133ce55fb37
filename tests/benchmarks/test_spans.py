"""Variants over seeds and tasks, from a file of ``gather``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import spans
from prelar_ray.reporting.scores import read_scores


def entry(name: str, task: str, seed: int, *successes: int) -> dict[str, Any]:
    evaluations = [
        {"env_steps": 1000 * (number + 1), "returns": [10.0 * won, 20.0 * won], "successes": won}
        for number, won in enumerate(successes)
    ]
    return {
        "name": f"{name}-{seed}",
        "phase": "finetune",
        "configuration": {"seed": seed, "env": {"task": task}},
        "evaluations": evaluations,
    }


@pytest.fixture
def gathered(tmp_path: Path) -> Path:
    """Two variants on two tasks, two seeds each; ``new`` wins from the second evaluation on."""
    runs = [{"name": "before", "phase": "pretrain"}]
    for task in ("a/one", "a/two"):
        for seed in (0, 1):
            runs += [entry("old", task, seed, 0, 0, 2), entry("new", task, seed, 0, 2, 2)]
    path = tmp_path / "runs.json"
    path.write_text(json.dumps(runs))
    return path


def test_means_are_over_the_evaluations_of_a_span(gathered: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [str(gathered), "--spans", "1000-2000", "3000", "--baseline", "old"]
    assert spans.main(given) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "| a/one | new | 1 | 0 (0.0) | 30 (1.0) | 30 (1.0) |" in lines
    assert lines[-3:] == [
        "| --- | --- | --- | --- | --- |",
        "| old | 4 | 0.00 [0.00, 0.00] | 1.00 [1.00, 1.00] |  |",
        "| new | 4 | 0.50 [0.50, 0.50] | 1.00 [1.00, 1.00] | 1.00 [1.00, 1.00] |",
    ]


def test_scores_are_what_report_reads(gathered: Path, tmp_path: Path) -> None:
    table = tmp_path / "scores.csv"
    spans.main([str(gathered), "--spans", "1000", "--baseline", "old", "--scores", str(table)])
    runs = read_scores(table)
    assert {(run.method, run.task, run.seed) for run in runs} == {
        (method, task, seed) for method in ("old", "new") for task in ("a/one", "a/two") for seed in (0, 1)
    }
