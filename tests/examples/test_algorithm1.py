from __future__ import annotations

from pathlib import Path

import torch

from examples import algorithm1
from prelar_ray.checkpoint.store import load_checkpoint
from prelar_ray.config import RunConfig, load_config, to_yaml
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.training.finetuning import finetune
from prelar_ray.training.local_backend import LocalBackend
from prelar_ray.training.pretraining import pretrain


def test_the_example_gives_the_bits_of_a_synchronous_run(
    minute_config: RunConfig, videos: Path, tmp_path: Path, short_episodes: int
) -> None:
    overrides = [f"video.path={videos}", "collect.synchronous=true", "finetune.env_steps=120"]
    config = load_config(None, None, overrides, base=minute_config)
    runs = [RunFolder.create(tmp_path / phase, to_yaml(config), phase) for phase in ("pretrain", "finetune")]
    pretrained = pretrain(config, runs[0], resume=False)
    finetune(config, runs[1], LocalBackend, pretrained, resume=False)
    model = algorithm1.pretrain(config)
    learner = algorithm1.finetune(config, model)
    assert learner.updates == load_checkpoint(runs[1].path).update > 10
    for example, run in ((model, runs[0]), (learner, runs[1])):
        state, expected = example.state_dict(), load_checkpoint(run.path).state
        for part in ("model", "actor_critic"):
            for key, value in expected.get(part, {}).items():
                assert torch.equal(state[part][key], value), key


def test_the_example_fits_on_two_screens() -> None:
    assert len(Path(algorithm1.__file__).read_text().splitlines()) <= 80
