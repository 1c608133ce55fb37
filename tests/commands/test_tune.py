from __future__ import annotations

import json
from pathlib import Path
from typing import NoReturn

import pytest
import yaml

from prelar_ray.commands import tune
from prelar_ray.config import RunConfig
from prelar_ray.errors import CheckpointError, ConfigError, ResourceError, RunFolderError
from prelar_ray.storage.run_folder import RunFolder
from tests.conftest import MINUTE

TASK = "prelar/point-reach"
STAGES = """
pretrain:
  videos:
    reach: {record.tasks: [prelar/point-reach], record.policy: random, record.episodes_per_task: 3}
finetune:
  methods: [prelar, dreamerv2]
  tasks: [prelar/point-reach]
  seeds: [0]
"""


def sweep_file(folder: Path, stages: str = STAGES, **more: object) -> Path:
    pairs = [word.partition("=") for word in MINUTE.split()]
    settings = {key: yaml.safe_load(value) for key, _, value in pairs if key not in ("cluster", "env.task")}
    settings |= {"finetune.env_steps": 240, "finetune.random_steps": 200, "replay.tolerance_updates": 8}
    path = folder / "minute.yaml"
    path.write_text(yaml.safe_dump({"settings": settings, **yaml.safe_load(stages), **more}))
    return path


def runs(out: Path) -> dict[str, str]:
    found = (out / "runs").rglob("run.json")
    return {str(path.parent.relative_to(out / "runs")): json.loads(path.read_text())["status"] for path in found}


@pytest.mark.cluster
def test_a_study_of_one_run_runs_to_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "study"
    stages = "finetune: {methods: [dreamerv2], tasks: [prelar/point-reach], seeds: [0]}"
    assert tune.main([str(sweep_file(tmp_path, stages)), "--out", str(out)]) == 0
    assert list(runs(out).values()) == ["finished"]
    assert "1 of 1 run finished" in capsys.readouterr().err
    with pytest.raises(RunFolderError, match="holds this study already; add --resume"):
        tune.main([str(sweep_file(tmp_path, stages)), "--out", str(out)])


@pytest.mark.cluster
@pytest.mark.nightly
def test_a_study_runs_to_its_end_and_later_only_what_is_new(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "study"
    assert tune.main([str(sweep_file(tmp_path)), "--out", str(out)]) == 0
    assert sorted(runs(out).values()) == ["finished"] * 3
    assert "3 of 3 runs finished" in capsys.readouterr().err
    (prelar,) = out.glob("runs/finetune/prelar/*/*/seed-0")
    (pretrained,) = out.glob("runs/pretrain/prelar/*/seed-0")
    manifest = json.loads((prelar / "manifest.json").read_text())
    assert (manifest["study"], manifest["method"], manifest["task"], manifest["seed"]) == ("minute", "prelar", TASK, 0)
    assert manifest["command"].endswith(f"--init {pretrained}")
    assert list(out.glob("tune/session-000/*/progress.csv")), "CSV per trial"
    assert list(out.glob("tune/session-000/*/events.out.tfevents*")), "TensorBoard per trial"
    written = {path: path.stat().st_mtime_ns for path in out.glob("runs/**/run.json")}

    with pytest.raises(RunFolderError, match="holds this study already; add --resume"):
        tune.main([str(sweep_file(tmp_path)), "--out", str(out)])
    more = sweep_file(
        tmp_path, STAGES.replace("seeds: [0]", "seeds: [0, 1]").replace("[prelar, dreamerv2]", "[dreamerv2]")
    )
    assert tune.main([str(more), "--out", str(out), "--resume"]) == 0
    assert len(runs(out)) == 4
    assert all(path.stat().st_mtime_ns == at for path, at in written.items()), "finished runs are not touched"


@pytest.mark.cluster
@pytest.mark.nightly
def test_a_run_that_always_fails_lets_the_others_finish_and_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "study"
    stages = """
finetune:
  methods: [dreamerv2]
  tasks: [prelar/point-reach]
  seeds: [0]
  space: {finetune.segment_length: [5, 500]}  # no episode has 500 steps
"""
    path = sweep_file(tmp_path, stages, failures={"retries": 1})
    assert tune.main([str(path), "--out", str(out)]) == 1
    said = capsys.readouterr().err
    failures = json.loads((out / "failures.json").read_text())
    (failed,) = ((name, reason) for name, reason in failures.items() if name != "checksum")
    assert "segment_length=500" in failed[1]
    assert f"{failed[0]}: failed: " in said
    assert "1 of 2 runs finished" in said
    assert "--resume --retry-failed" in said
    assert sorted(runs(out).values()) == ["failed", "finished"]
    assert RunFolder.open(out / "runs" / failed[0]).info["status"] == "failed"


@pytest.mark.cluster
@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["asha", "median"])
def test_a_scheduler_may_stop_runs_early_and_none_of_them_is_run_again(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "study"
    stages = """
pretrain:
  videos:
    reach: {record.tasks: [prelar/point-reach], record.policy: random, record.episodes_per_task: 3}
finetune: {methods: [prelar], tasks: [prelar/point-reach], seeds: [0, 1, 2, 3, 4, 5]}
"""
    scheduler = {"kind": kind, "grace_env_steps": 240, "reduction": 2}
    path = sweep_file(tmp_path, stages, scheduler=scheduler, concurrent=2)
    study = yaml.safe_load(path.read_text())
    study["settings"] |= {"finetune.env_steps": 600, "evaluation.every_env_steps": 120}
    path.write_text(yaml.safe_dump(study))
    assert tune.main([str(path), "--out", str(out)]) == 0
    statuses = runs(out)
    stopped = json.loads((out / "stopped.json").read_text()) if (out / "stopped.json").exists() else {}
    assert len(statuses) == 7
    assert {name for name, status in statuses.items() if status != "finished"} <= set(stopped)
    assert len(stopped) < 6
    written = {file: file.stat().st_mtime_ns for file in out.glob("runs/**/run.json")}
    assert tune.main([str(path), "--out", str(out), "--resume"]) == 0
    assert {file: file.stat().st_mtime_ns for file in written} == written


def test_a_dry_run_says_what_a_study_costs_on_given_nodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = sweep_file(tmp_path, update_seconds={"pretrain": 0.1, "finetune": 36.0})
    assert tune.main([str(path), "--dry-run", "--nodes", "64x8x256"]) == 0
    said = capsys.readouterr().out
    assert "minute: 3 runs" in said
    # 10 updates of 36 seconds each: 2 first, and one for every 5 of 40 steps.
    assert "hours of runs: 0.2 (given as update_seconds)" in said
    assert "nodes: 64 CPU 8 GPU 256 GiB; 3 of the largest trials at once" in said
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_leaves_runs_of_rllib_out_of_its_sums(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stages = "finetune: {methods: [dreamerv2, rllib/PPO], tasks: [prelar/point-reach], seeds: [0, 1]}"
    path = sweep_file(tmp_path, stages, update_seconds={"finetune": 36.0})
    assert tune.main([str(path), "--dry-run", "--nodes", "64x8x256"]) == 0
    said = capsys.readouterr().out
    assert "2 runs of RLlib, which paces itself and keeps its own replay: in none of the numbers below" in said
    assert "hours of runs: 0.2 (given as update_seconds)" in said
    path = sweep_file(tmp_path, stages.replace("dreamerv2, ", ""))
    assert tune.main([str(path), "--dry-run", "--nodes", "64x8x256"]) == 0
    assert "hours" not in capsys.readouterr().out.partition("in none of the numbers")[2]


def test_a_keyword_that_rllib_does_not_know_is_refused_before_anything_starts(tmp_path: Path) -> None:
    stages = "finetune: {methods: [rllib/PPO], tasks: [prelar/point-reach], space: {rllib.training.clip_parm: [0.1]}}"
    with pytest.raises(
        ConfigError, match=r"^finetune/rllib-PPO/\S+: rllib\.training\.clip_parm: .*nearest: clip_param"
    ):
        tune.main([str(sweep_file(tmp_path, stages)), "--dry-run", "--nodes", "64x8x256"])


def test_more_than_any_node_has_is_refused_before_anything_starts(tmp_path: Path) -> None:
    path = sweep_file(tmp_path)
    text = path.read_text().replace("device: cpu", "device: cuda")
    path.write_text(text)
    with pytest.raises(ResourceError, match=r"^pretrain/prelar/\S+: device=cuda: the learner needs 1 GPU"):
        tune.main([str(path), "--dry-run", "--nodes", "64x0x256"])


@pytest.mark.parametrize(
    "words", [["--nodes", "8"], ["--nodes", "8x1x64"], ["--measure"], ["--retry-failed"]], ids=lambda words: words[0]
)
def test_options_that_do_not_go_together_are_refused(tmp_path: Path, words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        tune.main([str(sweep_file(tmp_path)), *words])
    assert ended.value.code == 2


def test_what_a_study_starts_from_must_be_there_before_anything_is_made(tmp_path: Path) -> None:
    out = tmp_path / "study"
    stages = STAGES.replace(
        "{record.tasks: [prelar/point-reach], record.policy: random, record.episodes_per_task: 3}", "gone"
    )
    with pytest.raises(ConfigError, match=r"^pretrain\.videos\.reach: gone holds no video store; prelar-ray record"):
        tune.main([str(sweep_file(tmp_path, stages)), "--out", str(out)])
    stages = "finetune: {methods: [prelar], tasks: [prelar/point-reach], init: {prelar: gone}}"
    with pytest.raises(CheckpointError, match=r"^finetune\.init\.prelar: \S*gone: no such folder"):
        tune.main([str(sweep_file(tmp_path, stages)), "--out", str(out)])
    with pytest.raises(ResourceError, match=r"^cluster=127\.0\.0\.1:1: cannot connect"):
        tune.main([str(sweep_file(tmp_path)), "--out", str(out), "--cluster", "127.0.0.1:1"])
    assert not out.exists()


@pytest.mark.parametrize("wanted", [True, False])
def test_the_ray_of_a_study_has_the_dashboard_that_its_settings_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: bool
) -> None:
    class Asked(Exception):
        pass

    def connected(config: RunConfig) -> NoReturn:
        assert config.dashboard == wanted
        raise Asked

    monkeypatch.setattr("prelar_ray.distributed.connection.connected", connected)
    stages = "finetune: {methods: [dreamerv2], tasks: [prelar/point-reach], seeds: [0]}"
    path = sweep_file(tmp_path, stages)
    path.write_text(path.read_text().replace("settings:\n", f"settings:\n  dashboard: {str(wanted).lower()}\n"))
    with pytest.raises(Asked):
        tune.main([str(path), "--out", str(tmp_path / "study")])
