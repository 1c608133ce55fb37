"""Vectors beside images: from the environment through replay to the networks, and the policy acts on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prelar_ray.acting.collector import Collector
from prelar_ray.acting.policy import ActingNoise, Policy
from prelar_ray.config import EnvConfig, RunConfig, load_config
from prelar_ray.envs import make_env
from prelar_ray.errors import ConfigError
from prelar_ray.learning.learner import FinetuneLearner, PretrainLearner
from prelar_ray.replay.buffer import ReplayBuffer
from prelar_ray.replay.segments import EpisodeStore
from prelar_ray.types import Episode, SequenceBatch

TRACK = "gym/tests.envs.own_world:Track-v0"
MODE = ActingNoise(None, None)


@pytest.fixture
def config(minute_config: RunConfig) -> RunConfig:
    """A run on the track, whose state is its place on the line."""
    settings = [f"env.task={TRACK}", "env.kwargs.observation=dict", "env.vector_key=state", "env.vector_size=1"]
    return load_config(
        None, None, [*settings, "collect.synchronous=true", "collect.envs_per_collector=1"], base=minute_config
    )


def collected(config: RunConfig) -> Episode:
    collector = Collector(config, 0, [0])
    try:
        summary, episodes = collector.collect(30, random=True, version=0, weights=None)
    finally:
        collector.close()
    assert not summary.failures
    return episodes[0]


def batch_of(episode: Episode) -> SequenceBatch:
    buffer = ReplayBuffer(1000, 5, np.random.default_rng(0))
    buffer.add(episode)
    return buffer.sample(2)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_episode_holds_the_vector_of_every_step_whoever_steps_it(config: RunConfig, workers: int) -> None:
    config = load_config(None, None, [f"collect.workers={workers}"], base=config)
    episode = collected(config)
    assert episode.vector.shape == (31, 1)
    np.testing.assert_allclose(np.diff(episode.vector[:, 0]), 0.2 * episode.action[1:, 0], atol=1e-6)


def test_replay_keeps_vectors_on_disk_and_samples_them_with_their_rewards(config: RunConfig, tmp_path: Path) -> None:
    episode = collected(config)
    EpisodeStore(tmp_path).append(episode)
    (loaded,) = EpisodeStore(tmp_path).load_all()
    np.testing.assert_array_equal(loaded.vector, episode.vector)
    batch = batch_of(loaded)
    later = ~batch.is_first  # the reward of a step is the place, but of a reset
    np.testing.assert_allclose(batch.vector[..., 0][later], batch.reward[later], atol=1e-6)


def test_an_episode_without_vectors_has_none_and_is_stored_as_before(config: RunConfig, tmp_path: Path) -> None:
    plain = config.model_copy(update={"env": EnvConfig(task=TRACK)})
    episode = collected(plain)
    assert episode.vector.shape == (31, 0)
    store = EpisodeStore(tmp_path)
    store.append(episode)
    assert b"vector" not in next(tmp_path.glob("*.arrow")).read_bytes()
    assert store.load(episode.key).vector.shape == (31, 0)


def test_the_vector_is_learnt_to_be_predicted(config: RunConfig) -> None:
    learner, batch = FinetuneLearner(config, 2), batch_of(collected(config))
    losses = []
    for _ in range(60):
        learner.update(batch)
        losses.append(learner.metrics()["loss/vector"])
    assert np.mean(losses[-5:]) < 0.5 * losses[0]
    assert learner.predict(batch, 2).true.shape == (5, 64, 64, 3)


def test_the_policy_acts_on_the_vector_alike_in_rows_and_in_a_batch(config: RunConfig) -> None:
    learner = FinetuneLearner(config, 2)
    with torch.no_grad():
        for parameter in (*learner.model.parameters(), *learner.actor_critic.parameters()):
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    weights = learner.policy_weights()
    images, first = np.full((2, 64, 64, 3), 90, np.uint8), np.ones(2, np.bool_)
    vectors = np.array([[-1.0], [200.0]], np.float32)
    actions = []
    for one_by_one in (False, True):
        policy = Policy(config, 2, one_by_one)
        policy.load_weights(weights, 0)
        noise = ActingNoise(np.zeros((2, *policy.noise_shape), np.float32), None)
        _, state = policy.act(images, first, policy.initial(2), noise, vectors)
        assert not torch.equal(state.latent.logits[0], state.latent.logits[1])  # equal images
        actions.append(policy.act(images, ~first, state, noise, vectors)[0])
    np.testing.assert_allclose(actions[0], actions[1], atol=1e-5)


def test_a_pretrained_model_starts_as_it_was_and_then_takes_the_vector_in(config: RunConfig) -> None:
    pretrained = PretrainLearner(config).state_dict()["model"]
    learner = FinetuneLearner(config, 2)
    learner.load_pretrained(pretrained)
    own = learner.model.rssm.posterior.weight  # type: ignore[union-attr]
    before = pretrained["rssm.posterior.weight"]
    assert own.shape[1] == before.shape[1] + config.world_model.vector.units
    torch.testing.assert_close(own[:, : before.shape[1]], before, rtol=0, atol=0)
    assert not own[:, before.shape[1] :].any()
    batch = batch_of(collected(config))
    for _ in range(config.finetune.initial_updates + 1):  # frozen until then
        learner.update(batch)
    assert own[:, before.shape[1] :].any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["env.vector_size=3"], "env.vector_size=3: state of .* has 1 numbers; set env.vector_size=1"),
        (["env.vector_key=pixels"], r"env.vector_key=pixels: no vector in the observations .* there are state \(Box"),
        (["env.task=prelar/point-reach"], "env.vector_key=state: prelar/point-reach has images alone; leave it empty"),
        (["finetune.rehearsal.share=0.5", "finetune.batch_size=4"], "env.vector_key=state: videos have no vectors"),
        (["env.vector_key="], "env.vector_size=1: of which vector"),
    ],
)
def test_what_has_no_such_vector_is_refused_by_name(config: RunConfig, settings: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_env(load_config(None, None, settings, base=config).env, 0)


@pytest.mark.parametrize("method", ["rllib/PPO", "apv"])
def test_methods_that_see_images_alone_refuse_vectors(method: str) -> None:
    with pytest.raises(ConfigError, match=r"^env\.vector_key=state: .* images alone"):
        load_config(None, None, [f"method={method}", "env.vector_key=state"])


@pytest.mark.render
@pytest.mark.parametrize(
    ("task", "key", "size"),
    [
        ("metaworld/reach-v3", "proprioception", 4),
        ("metaworld/reach-v3", "observation", 39),
        ("dmc/walker-walk", "velocity", 9),
        ("dmc/walker-walk", "observation", 24),
    ],
)
def test_simulators_have_vectors_that_follow_the_body(task: str, key: str, size: int) -> None:
    env = make_env(EnvConfig(task=task, vector_key=key, vector_size=size, render_quality="fast"), 0)
    first = env.reset()[0]["vector"]
    later = env.step(np.ones(env.action_space.shape, np.float32))[0]["vector"]  # type: ignore[arg-type]
    env.close()
    assert first.shape == later.shape == (size,)
    assert first.dtype == np.float32
    assert not np.array_equal(first, later)
    with pytest.raises(ConfigError, match=rf"env.vector_key=nothing: {task} has no such .* it has .*{key}"):
        make_env(EnvConfig(task=task, vector_key="nothing"), 0)
