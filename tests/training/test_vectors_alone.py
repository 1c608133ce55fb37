"""Whole runs that observe a vector and nothing else, in an environment that cannot be drawn."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prelar_ray.acting.environment_check import survey
from prelar_ray.checkpoint.compatibility import check_evaluable
from prelar_ray.checkpoint.store import load_checkpoint
from prelar_ray.config import RunConfig, load_config
from prelar_ray.envs import make_env
from prelar_ray.errors import CheckpointError, ConfigError
from prelar_ray.replay.segments import EpisodeStore
from prelar_ray.reporting.read import read_run
from prelar_ray.reporting.run_report import write_report
from prelar_ray.telemetry.writers import read_metrics
from tests.training.runs import Run, crash, never

VECTOR = ("env.image_size=0", "env.vector_key=observation", "env.vector_size=1")
ALONE = (
    *("world_model.latent_action_source=none", "world_model.action_input=raw", "loss.aux_reward_weight=0"),
    *("finetune.bonus.weight=0", "finetune.freeze_pretrained=false", *VECTOR),
)
WORLD = (
    *("env.task=gym/tests.envs.own_world:Blind-v0", "env.time_limit=20"),
    *("collect.synchronous=true", "evaluation.every_env_steps=30"),
)


@pytest.fixture
def alone(minute_config: RunConfig) -> Callable[..., RunConfig]:
    """The configuration of a run of vectors alone, with changes."""
    return lambda *changes: load_config(None, None, [*ALONE, *WORLD, *changes], base=minute_config)


def test_a_run_of_vectors_alone_draws_stores_and_decodes_no_frame(run: Run, tmp_path: Path) -> None:
    folder = run("run", *ALONE, *WORLD)
    for file in folder.replay.glob("*.arrow"):
        assert b"image" not in file.read_bytes()
    for episode in EpisodeStore(folder.replay).load_all():
        assert (episode.image.shape, episode.vector.shape) == ((len(episode), 0, 0, 3), (len(episode), 1))
    last = [row for row in read_metrics(folder.metrics_path) if "loss/total" in row][-1]
    assert all(math.isfinite(last[f"loss/{name}"]) for name in ("vector", "reward", "dynamics_kl", "discount"))
    assert "loss/image" not in last
    parts = {key.partition(".")[0] for key in load_checkpoint(folder.path).state["model"]}
    assert "vector_encoder" in parts
    assert not parts & {"encoder", "decoder"}
    assert len(folder.evaluations()) >= 2
    write_report([folder.path], tmp_path / "report.html")
    assert not folder.frames.exists()
    assert read_run(folder.path).missing == {}


def test_episodes_of_vectors_alone_are_the_same_whoever_steps_the_environments(run: Run) -> None:
    folders = [run(f"workers-{n}", *ALONE, *WORLD, f"collect.workers={n}") for n in (0, 2)]
    for episode, twin in zip(*(EpisodeStore(folder.replay).load_all() for folder in folders), strict=True):
        np.testing.assert_array_equal(episode.vector, twin.vector)
        np.testing.assert_array_equal(episode.action, twin.action)


def test_a_run_of_vectors_alone_that_was_broken_off_resumes_to_its_end(run: Run, during_update: Any) -> None:
    during_update(5, crash)
    with pytest.raises(RuntimeError, match="power cut"):
        run("run", *ALONE, *WORLD)
    during_update(0, never)
    folder = run("run", *ALONE, *WORLD, resume=True)
    assert (folder.info["status"], len(folder.info["resumed"])) == ("finished", 1)
    assert folder.info["summary"]["updates"] == 2 + (folder.info["summary"]["env_steps"] - 60) // 5


def test_a_policy_of_vectors_alone_is_not_evaluated_or_resumed_on_images(
    run: Run, alone: Callable[..., RunConfig]
) -> None:
    checkpoint = load_checkpoint(run("run", *ALONE, *WORLD).path)
    check_evaluable(checkpoint, alone())
    with pytest.raises(CheckpointError, match=r"made with env\.image_size=0 \(here 64\)"):
        check_evaluable(checkpoint, alone("env.image_size=64"))


def test_an_environment_that_cannot_be_drawn_is_sound_without_images_and_refused_with_them(
    alone: Callable[..., RunConfig],
) -> None:
    findings, frames = survey(alone("finetune.segment_length=5"))
    assert frames is None
    assert all(finding.status != "FAIL" for finding in findings)
    with pytest.raises(ConfigError, match="no uint8 image is in its observations"):
        make_env(alone("env.image_size=64").env, 0)


@pytest.mark.parametrize("task", ["gym/Pendulum-v1", "gym/CartPole-v1"])
def test_environments_of_gymnasium_are_seen_as_their_box_without_rendering(
    alone: Callable[..., RunConfig], task: str
) -> None:
    size = {"gym/Pendulum-v1": 3, "gym/CartPole-v1": 4}[task]
    settings = f"env.task={task}", f"env.vector_size={size}"
    env = make_env(alone(*settings).env, 0)
    observation, _ = env.reset(seed=0)
    assert {key: value.shape for key, value in observation.items()} == {"vector": (size,)}
    assert env.observation_space.contains(observation)
    assert env.wrapped is not None
    assert env.wrapped.render_mode is None
    with pytest.raises(ConfigError, match=rf"has {size} numbers; set env\.vector_size={size}"):
        make_env(alone(*settings, "env.vector_size=7").env, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["env.vector_key=", "env.vector_size=0"],
            "env.image_size=0: without images a vector has to be observed; name it",
        ),
        (["env.image_key=pixels"], "env.image_key=pixels: env.image_size=0 observes no images; leave it empty"),
        (["finetune.bonus.weight=1"], "env.image_size=0: there are no images for the intrinsic bonus"),
        (["world_model.context.enabled=true"], "env.image_size=0: there are no images for the context"),
        (["finetune.rehearsal.share=0.5"], "finetune.rehearsal.share=0.5: fine-tuning has no latent actions"),
        (["loss.tie_weight=1"], "loss.tie_weight=1: fine-tuning has no latent actions"),
    ],
)
def test_what_needs_images_is_refused_by_name(settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(None, None, ["method=dreamerv2", *VECTOR, *settings])


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("prelar", "there are no images for method=prelar, which pre-trains on videos; use method=dreamerv2"),
        ("prelar_plus", "there are no images for method=prelar_plus, which pre-trains on videos"),
        ("apv", "the lower of two stacked RSSMs sees images alone"),
        ("contextwm", "the lower of two stacked RSSMs sees images alone"),
        ("rllib/PPO", "PPO of RLlib sees images alone"),
    ],
)
def test_methods_that_learn_from_images_are_refused_by_name(method: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(None, None, [f"method={method}", *VECTOR])
