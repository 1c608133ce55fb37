"""Learning from vectors alone: no image, no term of its loss, and a policy that acts on what it observes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from prelar_ray.acting.policy import ActingNoise, Policy
from prelar_ray.config import RunConfig
from prelar_ray.errors import ConfigError
from prelar_ray.learning.learner import FinetuneLearner
from prelar_ray.types import SequenceBatch, no_frames
from tests.tiny import ACTION, tiny_batch, tiny_config

ALONE = ("method=dreamerv2", "env.image_size=0", "env.vector_key=observation", "env.vector_size=2")


def config(*overrides: str) -> RunConfig:
    return tiny_config(*ALONE, *overrides)


def batch() -> SequenceBatch:
    """Experience of noise, with the vector in the place of the image."""
    seen = tiny_batch(0)
    vector = np.random.default_rng(1).normal(size=(*seen.shape, 2)).astype(np.float32)
    return replace(seen, image=no_frames(seen.shape[1])[None].repeat(len(vector), axis=0), vector=vector)


def test_what_is_observed_is_learnt_to_be_predicted_without_a_loss_of_images() -> None:
    learner = FinetuneLearner(config(), ACTION)
    losses = []
    for _ in range(80):
        learner.update(batch())
        losses.append(learner.metrics())
    assert losses[-1]["loss/vector"] < 0.7 * losses[0]["loss/vector"]
    assert {name for name in losses[0] if name.startswith("loss/")} == {
        f"loss/{term}" for term in ("dynamics_kl", "reward", "vector", "total")
    }


def test_balanced_losses_have_no_scale_of_images() -> None:
    learner = FinetuneLearner(config("loss.balance=learnt"), ACTION)
    assert set(learner.balance.log_scale) == {"reward", "dynamics_kl"}
    learner.update(batch())
    assert "loss_scale/image" not in learner.metrics()


def test_a_model_that_observes_nothing_is_refused_with_the_setting_that_is_missing() -> None:
    with pytest.raises(ConfigError, match=r"^env\.vector_size=0: without images .* nothing is observed; set it to"):
        FinetuneLearner(config("env.vector_size=0"), ACTION)


def test_novelty_can_be_that_of_the_feature() -> None:
    learner = FinetuneLearner(config("finetune.bonus.weight=1", "finetune.bonus.input=feature"), ACTION)
    learner.update(batch())
    assert learner.metrics()["bonus/mean"] > 0


@pytest.mark.parametrize("one_by_one", [False, True])
def test_the_policy_acts_on_the_vector_that_the_learner_learns_from(one_by_one: bool) -> None:
    learner = FinetuneLearner(config(), ACTION)
    with torch.no_grad():
        for parameter in (*learner.model.parameters(), *learner.actor_critic.parameters()):
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    policy = Policy(config(), ACTION, one_by_one)
    policy.load_weights(learner.policy_weights(), 0)
    vectors = np.array([[-1.0, 0.0], [200.0, 3.0], [-1.0, 0.0]], np.float32)
    noise = ActingNoise(np.zeros((3, *policy.noise_shape), np.float32), None)
    first = np.ones(3, np.bool_)
    actions, state = policy.act(no_frames(3), first, policy.initial(3), noise, vectors)
    np.testing.assert_allclose(actions[0], actions[2], atol=1e-6)
    assert not np.allclose(actions[0], actions[1])
    embed = learner.model.observed(torch.zeros(3, 1, 3, 0, 0), torch.from_numpy(vectors).unsqueeze(1))
    latent_action = torch.zeros(3, 1, learner.model.action_encoder.size)
    gumbel = torch.zeros(3, 1, *policy.noise_shape)
    with torch.no_grad():
        expected = learner.model.rssm.filter(embed, latent_action, torch.ones(3, 1), None, gumbel)
    torch.testing.assert_close(state.latent.logits, expected.logits[:, 0])
