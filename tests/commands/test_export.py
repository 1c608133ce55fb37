from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import prelar_ray
from prelar_ray.checkpoint.store import load_checkpoint
from prelar_ray.commands import evaluate, export, finetune
from prelar_ray.config import RunConfig, load_config
from prelar_ray.storage.addresses import without_places


@pytest.fixture(scope="module")
def exported(finetuned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fine-tuning run, as others get it; read only."""
    out = tmp_path_factory.mktemp("export") / "policy"
    assert export.main([str(finetuned), "--to", str(out), "--licence", "CC-BY-4.0"]) == 0
    return out


def test_weights_settings_and_counters_come_back(finetuned: Path, exported: Path) -> None:
    assert {path.name for path in exported.iterdir()} == {"model.safetensors", "meta.json", "config.yaml", "README.md"}
    assert [path.name for path in exported.parent.iterdir()] == ["policy"], "nothing unfinished is left"
    before, after = load_checkpoint(finetuned), load_checkpoint(exported)
    assert after.state.keys() == {"model", "actor_critic"}
    for part, tensors in after.state.items():
        assert tensors.keys() == before.state[part].keys()
        assert all(torch.equal(tensor, before.state[part][name]) for name, tensor in tensors.items())
    assert (after.phase, after.update, after.counters) == (before.phase, before.update, before.counters)
    assert after.config.world_model == before.config.world_model


def test_the_policy_of_an_export_acts_as_that_of_its_run(
    finetuned: Path, exported: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prelar_ray.envs.point_reach.EPISODE_STEPS", 20)
    said = []
    for folder in (finetuned, exported):
        assert evaluate.main([str(folder), "--episodes", "2"]) == 0
        said.append(capsys.readouterr().out.splitlines()[1:])
    assert said[0] == said[1]
    agents = [prelar_ray.load_run(folder).agent(seed=1) for folder in (finetuned, exported)]
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    one, other = (agent.act({"image": image}) for agent in agents)
    np.testing.assert_array_equal(one, other)


def test_a_pretraining_that_was_exported_is_started_from(
    settings: str, pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prelar_ray.envs.point_reach.EPISODE_STEPS", 20)
    assert export.main([str(pretrained), "--to", str(tmp_path / "videos")]) == 0
    assert load_checkpoint(pretrained).config.video.path.startswith("/"), "what is to be left out"
    told = "".join((tmp_path / "videos" / name).read_text() for name in ("README.md", "config.yaml", "meta.json"))
    assert str(pretrained.parent) not in told
    assert load_checkpoint(pretrained).config.video.path not in told
    words = ["--config", settings, "--init", str(tmp_path / "videos"), "--out", str(tmp_path / "run")]
    assert finetune.main(words) == 0


def test_the_page_says_what_it_is_and_nothing_of_this_machine(finetuned: Path, exported: Path) -> None:
    card = (exported / "README.md").read_text()
    for part in ("# prelar, finetune", "`prelar/point-reach`", "CC-BY-4.0", "| commit |", "torch 2.", "## Scores"):
        assert part in card
    assert re.search(r"\| \d+ \| 2 \| -?\d+\.\d \[.*\] \| ", card), "an evaluation with its interval"
    told = "".join((exported / name).read_text() for name in ("README.md", "config.yaml", "meta.json"))
    assert str(finetuned.parent) not in told
    assert "/tmp" not in told


def test_stores_of_one_name_stay_apart(minute_config: RunConfig) -> None:
    config = load_config(None, None, ["video.path=[/a/films,/b/films,s3://c/films/]"], base=minute_config)
    assert without_places(config).video.paths == ("films", "films-1", "films-2")


def test_damage_and_what_is_no_run_are_refused_and_nothing_is_overwritten(
    exported: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    assert "exists already" in refused(export.main, exported, "--to", exported, code=2)
    assert "not a checkpoint" in refused(export.main, tmp_path, "--to", tmp_path / "new", code=2)
    assert not (tmp_path / "new").exists()
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in exported.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    (broken / "model.safetensors").write_bytes((exported / "model.safetensors").read_bytes()[:-1])
    assert "model.safetensors: checksum differs" in refused(evaluate.main, broken, code=2)
    before = sorted(path.stat().st_mtime_ns for path in exported.iterdir())
    assert str(exported) in refused(finetune.main, "--resume", "--out", exported, code=2)
    assert sorted(path.stat().st_mtime_ns for path in exported.iterdir()) == before
