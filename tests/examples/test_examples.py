from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import prelar_ray
from examples import act, latent_actions, own_environment, own_videos
from prelar_ray.config import RunConfig
from tests.conftest import MINUTE

ROOT = Path(__file__).parents[2]


def test_act_runs_an_episode_of_the_run_s_task(
    minute_config: RunConfig, pretrained: Path, tmp_path: Path, short_episodes: int
) -> None:
    list(prelar_ray.finetune(minute_config, tmp_path / "run", init=pretrained))
    total = act.episode_return(str(tmp_path / "run"))
    assert np.isfinite(total)
    assert act.episode_return(str(tmp_path / "run")) == total


def test_own_videos_writes_a_store_of_balls_that_move_and_stay_inside(tmp_path: Path) -> None:
    own_videos.write(str(tmp_path / "balls"), videos=3, steps=40)
    store = prelar_ray.VideoStore(tmp_path / "balls")
    assert store.lengths.tolist() == [40, 40, 40]
    for episode in range(3):
        frames = store.read(episode, 0, 40)
        ball = (frames[..., 0] == 250).sum((1, 2))
        assert ball.min() > 0.8 * ball.max() > 0
        assert (frames[1:] != frames[:-1]).any((1, 2, 3)).all()


def test_latent_actions_has_one_between_every_two_frames(pretrained: Path, videos: Path) -> None:
    found = latent_actions.infer(str(pretrained), str(videos))
    lengths = prelar_ray.VideoStore(videos).lengths
    assert len(found["latent_action"]) == sum(lengths - 1)
    assert np.bincount(found["episode"]).tolist() == (lengths - 1).tolist()
    run = prelar_ray.load_run(pretrained)
    clip = prelar_ray.VideoStore(videos).read(1, 0, int(lengths[1]))
    expected = prelar_ray.latents(run, clip).latent_action[0]
    np.testing.assert_array_equal(found["latent_action"][found["episode"] == 1], expected)


def test_own_environment_is_learnt_from(tmp_path: Path) -> None:
    settings = [text for text in MINUTE.split() if not text.startswith(("env.task", "record"))]
    assert 0 < own_environment.learn(str(tmp_path / "run"), *settings) <= 20


@pytest.mark.parametrize("name", ["act", "algorithm1", "latent_actions", "own_environment", "own_videos"])
def test_every_example_says_how_it_is_run(name: str) -> None:
    text = (ROOT / "examples" / f"{name}.py").read_text()
    assert f"``python examples/{name}.py " in text or f"``python -m examples.{name} " in text


def test_own_videos_runs_as_its_text_says(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "examples/own_videos.py", str(tmp_path / "balls")], cwd=ROOT, check=True)
    assert len(prelar_ray.VideoStore(tmp_path / "balls")) == 50
