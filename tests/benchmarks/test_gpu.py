"""The stages of ``benchmarks gpu``: what is kept when one fails, runs too long, or has no time left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.gpu import Stage

WRITE = "import sys, json; open(sys.argv[-1], 'w').write(json.dumps({'rows': [1]}))"


def test_stages_keep_what_they_wrote_and_say_what_went_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [
        Stage("works", ["-c", WRITE], 30),
        Stage("twice", ["-c", WRITE], 30, copies=2),
        Stage("fails", ["-c", "raise SystemExit('no such kernel')"], 30),
        Stage("hangs", ["-c", f"{WRITE}; import time; time.sleep(600)"], 8),
    ]
    monkeypatch.setattr(gpu, "stages", lambda *_: made)
    out = tmp_path / "gpu.json"
    assert gpu.main(["--json", str(out), "--device", "cpu"]) == 0
    found = json.loads(out.read_text())
    stages = found["stages"]
    assert found["device"] == "cpu"
    assert stages["works"]["results"] == [{"rows": [1]}]
    assert len(stages["twice"]["results"]) == 2
    assert (stages["fails"]["exit_codes"], "results" in stages["fails"]) == ([1], False)
    assert "no such kernel" in stages["fails"]["output"][0]
    assert stages["hangs"]["results"] == [{"rows": [1]}]
    assert stages["hangs"]["cut_off"] == "after 8 s"


def test_a_stage_without_time_left_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "stages", lambda *_: [Stage("works", ["-c", WRITE], 30)])
    out = tmp_path / "gpu.json"
    assert gpu.main(["--json", str(out), "--device", "cpu", "--minutes", "0"]) == 0
    assert json.loads(out.read_text())["stages"]["works"] == {"cut_off": "no time left"}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_stage_is_a_benchmark_or_a_script_that_exists_and_the_whole_run_needs_time(device: str) -> None:
    from benchmarks.__main__ import NAMES

    made = gpu.stages(device, "paper", 8, [])
    for stage in made:
        first, *rest = stage.command
        assert (first == "-m" and rest[1] in NAMES) or (gpu.ROOT / first).is_file()
    short = [stage.name for stage in gpu.stages(device, "paper", 4, [])]
    assert short == [stage.name for stage in made if stage.name != "whole_run"]
