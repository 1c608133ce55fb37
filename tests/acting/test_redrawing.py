"""Frames of an episode in another size than the policy saw."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from prelar_ray.acting.collector import Collector
from prelar_ray.acting.redrawing import redrawn
from prelar_ray.config import RunConfig, load_config
from prelar_ray.errors import ConfigError, DataError
from prelar_ray.seeding import derive_seed
from prelar_ray.types import Episode

SEED = 3
BLIND = (
    *("world_model.latent_action_source=none", "world_model.action_input=raw", "finetune.bonus.weight=0"),
    *("env.image_size=0", "env.vector_key=observation", "env.vector_size=1", "collect.envs_per_collector=1"),
)


def collected(base: RunConfig, *settings: str) -> tuple[RunConfig, int, Episode]:
    """Configuration, seed and first episode of a collector that acts at random."""
    config = load_config(None, None, [*settings, f"seed={SEED}"], base=base)
    collector = Collector(config, 0, [0])
    try:
        _, episodes = collector.collect(30, random=True, version=0, weights=None)
    finally:
        collector.close()
    return config, derive_seed(SEED, "env", 0, 0), episodes[0]


@pytest.mark.usefixtures("short_episodes")
def test_an_episode_is_drawn_again_as_it_was_and_larger(minute_config: RunConfig) -> None:
    config, seed, episode = collected(minute_config, "env.task=prelar/point-reach", "collect.envs_per_collector=1")
    np.testing.assert_array_equal(redrawn(config.env, seed, episode, 64), episode.image)
    large = redrawn(config.env, seed, episode, 128)
    assert large.shape == (len(episode), 128, 128, 3)
    halved = large.reshape(len(episode), 64, 2, 64, 2, 3).mean((2, 4))
    assert np.abs(halved - episode.image).mean() < 5  # of 255


def test_what_a_policy_of_vectors_did_can_be_drawn(minute_config: RunConfig) -> None:
    config, seed, episode = collected(minute_config, *BLIND, "env.task=gym/tests.envs.own_world:Track-v0")
    assert episode.image.size == 0
    frames = redrawn(config.env, seed, episode, 64)
    column = frames[:, 0, :, 0].argmax(1) / 64 * 4 - 2  # of the bright column: the place on the line
    np.testing.assert_allclose(column, episode.vector[:, 0].clip(-2, 2), atol=0.15)


def test_another_seed_or_other_actions_are_noticed(minute_config: RunConfig) -> None:
    config, seed, episode = collected(minute_config, *BLIND, "env.task=gym/tests.envs.own_world:Track-v0")
    for other, changed in ((seed + 1, episode), (seed, replace(episode, action=-episode.action))):
        with pytest.raises(DataError, match=r"Track-v0: does not repeat an episode .* leave out --film-size$"):
            redrawn(config.env, other, changed, 64)


def test_an_environment_that_cannot_be_drawn_is_named(minute_config: RunConfig) -> None:
    config, seed, episode = collected(minute_config, *BLIND, "env.task=gym/tests.envs.own_world:Blind-v0")
    with pytest.raises(ConfigError, match="own_world:Blind-v0"):
        redrawn(config.env, seed, episode, 64)
