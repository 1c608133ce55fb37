"""Every method is a choice of parts that the same learners, policy and loader take."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch

from prelar_ray.acting.policy import ActingNoise, Policy
from prelar_ray.commands.dry_run import summarise
from prelar_ray.config import RunConfig, load_config, native_methods
from prelar_ray.errors import CheckpointError, ConfigError
from prelar_ray.learning.learner import FinetuneLearner, PretrainLearner
from prelar_ray.models.stacked_rssm import StackedRSSM
from tests.tiny import ACTION, tiny_batch, tiny_clips, tiny_config, tiny_experience, tiny_method

PRETRAINED = sorted(set(native_methods()) - {"dreamerv2"})
ACTION_FREE = {"apv", "apv_naive", "contextwm"}
STACKED = {"apv", "contextwm"}


def method_config(name: str, *overrides: str) -> RunConfig:
    """Tiny widths; the encoder is deep enough for the context's attention heads."""
    widths = [f"world_model.{part}.depth=2" for part in ("encoder", "decoder")]
    return tiny_method(name, *widths, *overrides)


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}


def copy(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def test_all_methods_of_the_benchmark_are_there():
    expected = "apv apv_naive contextwm dreamerv2 prelar prelar_deterministic prelar_naive prelar_no_consistency"
    assert native_methods() == [*expected.split(), "prelar_plus"]


@pytest.mark.parametrize("name", PRETRAINED)
def test_every_method_pretrains_and_fine_tunes_from_it(name: str):
    config = method_config(name)
    pretrain, finetune = PretrainLearner(config), FinetuneLearner(config, ACTION)
    for seed in range(3):
        pretrain.update(tiny_clips(seed))
    metrics = pretrain.metrics()
    assert ("loss/action_kl" in metrics) == (name not in ACTION_FREE)

    finetune.load_pretrained(pretrain.model.state_dict())
    before, actor = copy(finetune.model), copy(finetune.actor_critic.actor)
    for seed in range(3):
        finetune.update(*tiny_experience(config, seed))
    finetune.check_finite()
    trained = {"encoder", "rssm", "decoder", "reward"}
    trained |= {"context_encoder"} if name == "contextwm" else set()
    trained |= set() if name in ACTION_FREE else {"action_encoder"}
    assert changed(before, copy(finetune.model)) - {"aux_reward"} == trained
    assert changed(actor, copy(finetune.actor_critic.actor))
    assert ("bonus/mean" in finetune.metrics()) == (name != "prelar_naive")


def test_dreamerv2_learns_from_scratch_and_says_so():
    config = method_config("dreamerv2")
    learner = FinetuneLearner(config, ACTION)
    learner.update(tiny_batch(0))
    learner.check_finite()
    assert learner.model.rssm.initial(1).below is None
    assert learner.model.action_encoder.size == ACTION
    with pytest.raises(ConfigError, match="learns from scratch"):
        PretrainLearner(config)
    with pytest.raises(CheckpointError, match="dreamerv2 learns from scratch"):
        learner.load_pretrained({})


@pytest.mark.parametrize("name", native_methods())
def test_the_policy_of_every_method_acts_and_agrees_with_the_learner(name: str):
    config = method_config(name)
    learner = FinetuneLearner(config, ACTION)
    learner.update(*tiny_experience(config, 0))
    policy = Policy(config, ACTION)
    policy.load_weights(learner.policy_weights(), 1)
    batch = tiny_batch(1)
    state, actions = policy.initial(3), []
    for t in range(batch.image.shape[1]):
        state = state._replace(action=torch.from_numpy(batch.action[:, t]))
        action, state = policy.act(batch.image[:, t], batch.is_first[:, t], state, ActingNoise(None, None))
        actions.append(action)

    with torch.no_grad():
        image = torch.from_numpy(batch.image).movedim(-1, 2) / 255 - 0.5
        embed, latent = learner.model.encoder(image), learner.model.action_encoder(torch.from_numpy(batch.action))
        posterior, _ = learner.model.rssm.observe(embed, latent, torch.from_numpy(batch.is_first))
        expected = learner.actor_critic.actor(posterior.feature).mode
    np.testing.assert_allclose(np.stack(actions, 1), expected.numpy(), atol=1e-4)


@pytest.mark.parametrize("name", native_methods())
def test_a_restored_learner_of_every_method_continues_bit_for_bit(name: str):
    config = method_config(name)
    original = FinetuneLearner(config, ACTION)
    original.update(*tiny_experience(config, 0))
    state = deepcopy(original.state_dict())
    original.update(*tiny_experience(config, 1))
    torch.manual_seed(99)  # whatever else drew numbers in between
    restored = FinetuneLearner(method_config(name, "seed=5"), ACTION)
    restored.load_state_dict(state)
    restored.update(*tiny_experience(config, 1))
    assert not changed(copy(original.model), copy(restored.model))


@pytest.mark.parametrize("name", sorted(STACKED))
def test_stacked_methods_keep_the_pretrained_model_action_free(name: str):
    config = method_config(name)
    learner = FinetuneLearner(config, ACTION)
    rssm = learner.model.rssm
    assert isinstance(rssm, StackedRSSM)
    batch = tiny_batch(0)
    embed = torch.randn(3, 6, learner.model.encoder.size)
    is_first = torch.from_numpy(batch.is_first)
    latent = learner.model.action_encoder(torch.from_numpy(batch.action))
    one, _ = rssm.observe(embed, latent, is_first)
    other, _ = rssm.observe(embed, -latent, is_first)
    assert one.below is not None
    assert other.below is not None
    assert torch.equal(one.below.feature, other.below.feature)
    assert not torch.equal(one.deter, other.deter)


def test_initial_updates_freeze_what_was_pretrained_and_not_the_rssm_on_top():
    learner = FinetuneLearner(method_config("contextwm", "finetune.initial_updates=1"), ACTION)
    rssm = learner.model.rssm
    assert isinstance(rssm, StackedRSSM)
    below, above = copy(rssm.below), copy(rssm.above)
    context = [p.detach().clone() for p in learner.model.pretrained["context_encoder"].parameters()]
    learner.update(tiny_batch(0))
    assert not changed(below, copy(rssm.below))
    assert changed(above, copy(rssm.above))
    after = list(learner.model.pretrained["context_encoder"].parameters())
    assert all(torch.equal(a, b) for a, b in zip(context, after, strict=True))


# One of each kind of networks every time: one RSSM, two with a context, one that nothing was pre-trained for.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("prelar", "contextwm", "dreamerv2") else pytest.mark.nightly)
        for name in native_methods()
    ],
)
def test_memory_and_parameters_of_every_method_can_be_estimated_at_full_size(name: str):
    summary = summarise(load_config("paper", None, [f"method={name}"]))
    assert ("pretrain" in summary.parameters) == (name != "dreamerv2")
    assert 20e6 < sum(summary.parameters["finetune"].values()) < 60e6


@pytest.mark.parametrize("distribution", ["deterministic", "categorical"])
@pytest.mark.parametrize("frames", ["pair", "difference"])
def test_other_latent_actions_are_settings(distribution: str, frames: str):
    settings = (
        f"world_model.latent_action_distribution={distribution}",
        f"world_model.inverse_dynamics_input={frames}",
    )
    weights = ("loss.action_kl_weight=0", "world_model.latent_action=4", "world_model.latent_action_classes=2")
    learner = PretrainLearner(tiny_config(*settings, *weights))
    before = copy(learner.model)
    learner.update(tiny_clips(0))
    learner.check_finite()
    assert "inverse_dynamics" in changed(before, copy(learner.model))
    learner.predict(tiny_clips(0)[0], 2)
