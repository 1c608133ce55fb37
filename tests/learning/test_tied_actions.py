"""The latent action of fine-tuning, tied to the real one."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

from prelar_ray.config import LossConfig, RunConfig
from prelar_ray.errors import CheckpointError, ConfigError
from prelar_ray.learning.learner import FinetuneLearner, PretrainLearner
from prelar_ray.learning.tied_actions import action_decoder_loss, decoded_variance, tie_loss
from prelar_ray.learning.world_model_loss import Experience, WorldModelLoss, finetune_loss
from prelar_ray.models.latent_action import CategoricalAction, DeterministicAction, GaussianAction
from prelar_ray.models.noise import Noise
from prelar_ray.models.preprocess import preprocess_image
from prelar_ray.models.world_model import FinetuneWorldModel
from tests.learning.device_rule import only_on_device
from tests.tiny import ACTION, inputs_of, tiny_batch, tiny_clips, tiny_config

TIE, BOTH, DECODE = "loss.tie_weight=1", "loss.tie_gradient=both", "loss.action_decoder_weight=1"
ONLY_THESE = [f"loss.{name}_weight=0" for name in ("image", "dynamics_kl", "reward", "aux_reward")]


def finetuning(*overrides: str) -> tuple[FinetuneWorldModel, WorldModelLoss]:
    config = tiny_config(*overrides)
    torch.manual_seed(0)
    model = FinetuneWorldModel.of_run(config, ACTION)
    batch = tiny_batch(0)
    arrays = [torch.from_numpy(x).float() for x in (batch.action, batch.reward, batch.is_first)]
    image = preprocess_image(torch.from_numpy(batch.image))
    return model, finetune_loss(model, config.loss, None, Experience(image, *arrays), Noise(0))


def reached(model: torch.nn.Module, loss: WorldModelLoss) -> set[str]:
    loss.total.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {name.split(".")[0] for name, grad in gradients.items() if grad is not None and grad.any()}


def copy(module: torch.nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}


# The losses


def test_the_tie_is_half_the_squared_distance_to_the_mean_in_units_of_the_prior() -> None:
    mean = torch.tensor([[[1.0, 0.0], [9.0, 9.0]]])  # the second pair is across a reset
    latent = GaussianAction(mean, torch.full_like(mean, 0.1))
    encoded = torch.tensor([[[7.0, 7.0], [3.0, 2.0], [5.0, 5.0]]])
    is_first = torch.tensor([[1.0, 0.0, 1.0]])
    assert tie_loss(latent, encoded, is_first, LossConfig()) == 0.5 * (4 + 4)
    assert tie_loss(latent, encoded, is_first, LossConfig(action_prior_std=2.0)) == 0.5 * (4 + 4) / 4


def test_the_tie_of_classes_is_to_their_probabilities() -> None:
    logits = torch.tensor([[[[0.0, 0.0], [50.0, 0.0]]]])
    encoded = torch.tensor([[[0.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]]])
    loss = tie_loss(CategoricalAction(logits), encoded, torch.tensor([[1.0, 0.0]]), LossConfig())
    assert loss == 0.5  # the uniform group is met, of the sure one a whole class is missed


def test_the_tie_of_deterministic_latent_actions_does_not_depend_on_their_scale() -> None:
    torch.manual_seed(0)
    point, encoded = torch.randn(3, 5, 4), torch.randn(3, 6, 4)
    is_first = torch.zeros(3, 6)
    one, other = (tie_loss(DeterministicAction(s * point), s * encoded, is_first, LossConfig()) for s in (1.0, 30.0))
    torch.testing.assert_close(one, other)
    square = point.square().mean()
    torch.testing.assert_close(one, 0.5 * ((encoded[:, 1:] - point) ** 2).sum(-1).mean() / square)
    assert tie_loss(DeterministicAction(0 * point), 0 * encoded, is_first, LossConfig()) == 0


def test_steps_that_begin_an_episode_matter_to_no_term() -> None:
    torch.manual_seed(0)
    mean, encoded, action = torch.randn(2, 4, 3), torch.randn(2, 5, 3), torch.randn(2, 5, 2)
    told, is_first = torch.randn(2, 4, 2), torch.zeros(2, 5)
    is_first[:, 0] = is_first[1, 3] = 1

    def terms() -> list[Tensor]:
        tie = tie_loss(GaussianAction(mean, mean.exp()), encoded, is_first, LossConfig())
        return [tie, action_decoder_loss(told, action, is_first), decoded_variance(told, action, is_first)]

    before = terms()
    mean[1, 2], encoded[1, 3], action[1, 3], told[1, 2] = 99.0, -99.0, 99.0, -99.0
    encoded[:, 0], action[:, 0] = 99.0, 99.0
    assert before == terms()
    mean[1, 3] += 1
    assert before[0] != terms()[0]


def test_a_batch_of_first_steps_alone_gives_zero() -> None:
    ones, x = torch.ones(2, 3), torch.randn(2, 2, 3)
    encoded = torch.randn(2, 3, 3)
    assert tie_loss(GaussianAction(x, x.exp()), encoded, ones, LossConfig()) == 0
    assert action_decoder_loss(x, encoded, ones) == 0
    assert decoded_variance(x, encoded, ones) == 0


def test_decoded_variance_is_one_for_the_actions_and_zero_for_their_mean() -> None:
    torch.manual_seed(0)
    action, is_first = torch.randn(3, 5, 2), torch.zeros(3, 5)
    real = action[:, 1:]
    assert decoded_variance(real, action, is_first) == 1
    mean = real.mean((0, 1)).expand_as(real)
    torch.testing.assert_close(decoded_variance(mean, action, is_first), torch.tensor(0.0), atol=1e-6, rtol=0)
    assert decoded_variance(real + 3, action, is_first) < 0
    constant = torch.full_like(action, 0.3)
    assert decoded_variance(real, constant, is_first) == 0


@pytest.mark.parametrize("gradient", ["action_encoder", "both"])
def test_the_gradient_of_the_tie_is_that_of_finite_differences(gradient: str) -> None:
    torch.manual_seed(0)
    config = LossConfig.model_validate({"tie_gradient": gradient, "action_prior_std": 1.3})
    mean, encoded = torch.randn(2, 3, 2).double(), torch.randn(2, 4, 2).double()
    is_first = torch.tensor([[1, 0, 0, 0], [1, 0, 1, 0]]).double()

    def loss(mean: Tensor, encoded: Tensor) -> Tensor:
        return tie_loss(GaussianAction(mean, torch.ones_like(mean)), encoded, is_first, config)

    torch.autograd.gradcheck(lambda x: loss(mean, x), encoded.requires_grad_())
    if gradient == "both":
        torch.autograd.gradcheck(lambda x: loss(x, encoded), mean.requires_grad_())
    else:
        assert torch.autograd.grad(loss(mean.requires_grad_(), encoded), mean, allow_unused=True) == (None,)


# What they train


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ([TIE], {"action_encoder"}),
        ([TIE, BOTH], {"action_encoder", "inverse_dynamics"}),
        ([DECODE], {"action_decoder", "inverse_dynamics"}),
        ([TIE, DECODE], {"action_encoder", "action_decoder", "inverse_dynamics"}),
    ],
)
@pytest.mark.parametrize("distribution", ["gaussian", "deterministic", "categorical"])
def test_each_term_trains_the_parts_it_exists_for(settings: list[str], parts: set[str], distribution: str) -> None:
    kind = [f"world_model.latent_action_distribution={distribution}", "world_model.latent_action_classes=3"]
    assert reached(*finetuning(*ONLY_THESE, *settings, *kind, "loss.action_kl_weight=0")) == parts


def test_the_action_decoder_trains_the_spread_of_the_latent_action_too() -> None:
    model, loss = finetuning(*ONLY_THESE, DECODE)
    loss.total.backward()
    assert model.inverse_dynamics is not None
    grad = model.inverse_dynamics.out.bias.grad
    assert grad is not None
    assert all(half.any() for half in grad.chunk(2))  # mean, raw standard deviation


def test_the_terms_are_weighted_and_measured() -> None:
    _, loss = finetuning(*ONLY_THESE, "loss.tie_weight=3", "loss.action_decoder_weight=5")
    metrics = loss.metrics
    torch.testing.assert_close(loss.total, 3 * metrics["loss/tie"] + 5 * metrics["loss/action_decoder"])
    assert {"model/action_r2", "model/latent_action_std"} <= metrics.keys()
    assert not any(value.requires_grad for value in metrics.values())


def test_the_tie_leaves_all_other_losses_as_they_are() -> None:
    _, without = finetuning("loss.tie_weight=0")
    model, tied = finetuning(TIE)
    assert model.action_decoder is None
    # Parameters differ, for more are drawn: the same are compared.
    plain = FinetuneWorldModel.of_run(tiny_config(), ACTION)
    plain.load_state_dict({key: x for key, x in model.state_dict().items() if not key.startswith("inverse_dynamics.")})
    batch = tiny_batch(0)
    arrays = [torch.from_numpy(x).float() for x in (batch.action, batch.reward, batch.is_first)]
    image = preprocess_image(torch.from_numpy(batch.image))
    again = finetune_loss(plain, tiny_config().loss, None, Experience(image, *arrays), Noise(0)).metrics
    shared = without.metrics.keys() - {"loss/total"}
    assert {name: again[name] for name in shared} == {name: tied.metrics[name] for name in shared}


# Off


def test_without_weights_a_model_has_no_such_parts_and_learns_the_same_bits() -> None:
    one, other = (FinetuneLearner(tiny_config(*extra), ACTION) for extra in ((), (BOTH,)))
    children = {name for name, part in one.model.named_children() if part is not None}
    assert children == {"encoder", "rssm", "decoder", "action_encoder", "reward", "aux_reward"}
    for seed in range(3):
        for learner in (one, other):
            learner.update(tiny_batch(seed))
    assert not changed(copy(one.model), copy(other.model))
    assert not changed(copy(one.actor_critic), copy(other.actor_critic))
    assert not one.metrics().keys() & {"loss/tie", "loss/action_decoder", "model/action_r2", "model/latent_action_std"}


# Learners


def learner(*overrides: str, **changes: Any) -> FinetuneLearner:
    return FinetuneLearner(tiny_config(*overrides), ACTION, **changes)


def test_pretraining_hands_over_the_inverse_dynamics_encoder() -> None:
    pretrain = PretrainLearner(tiny_config())
    pretrain.update(tiny_clips(0))
    finetune = learner(TIE)
    finetune.load_pretrained(pretrain.model.state_dict())
    theirs = {key: x for key, x in copy(pretrain.model).items() if key.startswith("inverse_dynamics.")}
    ours = copy(finetune.model)
    assert theirs
    for key, value in theirs.items():
        assert torch.equal(value, ours[key]), key
    with pytest.raises(CheckpointError, match=r"lacks inverse_dynamics\.trunk"):
        finetune.load_pretrained({key: x for key, x in copy(pretrain.model).items() if key not in theirs})


def test_the_inverse_dynamics_encoder_is_frozen_with_the_pretrained_parts_and_then_goes_on_learning() -> None:
    tuned = learner(TIE, DECODE, "finetune.initial_updates=1")
    assert tuned.model.inverse_dynamics is not None
    assert tuned.model.action_decoder is not None
    before = [dict(x.named_parameters()) for x in (tuned.model.inverse_dynamics, tuned.model.action_decoder)]
    before = [{key: x.detach().clone() for key, x in part.items()} for part in before]
    now = [dict(x.named_parameters()) for x in (tuned.model.inverse_dynamics, tuned.model.action_decoder)]
    tuned.update(tiny_batch(0))
    assert all(torch.equal(x, now[0][key]) for key, x in before[0].items())
    assert not any(torch.equal(x, now[1][key]) for key, x in before[1].items())
    tuned.update(tiny_batch(1))
    assert not all(torch.equal(x, now[0][key]) for key, x in before[0].items())


@pytest.mark.parametrize("settings", [(TIE,), (TIE, BOTH, DECODE)])
def test_a_restored_learner_continues_bit_for_bit(settings: tuple[str, ...]) -> None:
    original = learner(*settings)
    original.update(tiny_batch(0))
    state = deepcopy(original.state_dict())
    original.update(tiny_batch(1))
    torch.manual_seed(99)
    restored = learner(*settings, "seed=5")
    restored.load_state_dict(state)
    restored.update(tiny_batch(1))
    assert not changed(copy(original.model), copy(restored.model))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("distribution", ["gaussian", "deterministic", "categorical"])
def test_updates_stay_on_the_device(distribution: str, precision: str) -> None:
    kind = [f"world_model.latent_action_distribution={distribution}", "world_model.latent_action_classes=3"]
    tuned = learner(TIE, DECODE, *kind, "loss.action_kl_weight=0", f"precision={precision}")
    inputs = inputs_of(tiny_batch(0))
    tuned._compute(*inputs)
    with only_on_device():
        tuned._compute(*inputs)
    tuned.check_finite()


def test_the_action_is_found_in_frames_that_show_it_and_then_encoded_as_what_was_found() -> None:
    """The brightness of either half of a frame is a component of the action that led to it."""
    config, noise = tiny_config(TIE, DECODE), Noise(0)
    torch.manual_seed(0)
    model = FinetuneWorldModel.of_run(config, ACTION)
    assert model.inverse_dynamics is not None
    assert model.action_decoder is not None
    action, is_first = (torch.from_numpy(x).float() for x in (tiny_batch(0).action, tiny_batch(0).is_first))
    halves = 0.4 * action.repeat_interleave(32, dim=2)  # (B, T, 64)
    image = halves[:, :, None, :, None].expand(-1, -1, 3, -1, 64)
    decoding = torch.optim.Adam([*model.inverse_dynamics.parameters(), *model.action_decoder.parameters()], 2e-2)
    for _ in range(20):
        told = model.action_decoder(model.inverse_dynamics(image).sample(noise))
        decoding.zero_grad()
        action_decoder_loss(told, action, is_first).backward()
        decoding.step()
    assert decoded_variance(told, action, is_first) > 0.5

    tying, ties = torch.optim.Adam(model.action_encoder.parameters(), 2e-2), []
    for _ in range(20):
        with torch.no_grad():
            latent = model.inverse_dynamics(image)
        ties.append(tie_loss(latent, model.action_encoder(action), is_first, config.loss))
        tying.zero_grad()
        ties[-1].backward()
        tying.step()
    assert ties[-1] < 0.5 * ties[0]


# Settings


@pytest.mark.parametrize("setting", [TIE, DECODE, "finetune.rehearsal.share=0.4"])
@pytest.mark.parametrize(
    ("method", "part"), [("apv", "latent_action_source=zeros"), ("dreamerv2", "latent_action_source=none")]
)
def test_methods_that_infer_no_latent_actions_are_refused(setting: str, method: str, part: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"{setting}: .*world_model\.{part}; use world_model\.latent_action_source=i"
    ):
        tiny_config(f"method={method}", setting)


def test_actions_that_are_not_encoded_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"loss\.tie_weight=1: .*action_input=padded; use world_model\.action_input="):
        tiny_config(TIE, "world_model.action_input=padded")


def test_the_settings_say_whether_finetuning_infers_latent_actions() -> None:
    def infers(*overrides: str) -> bool:
        config: RunConfig = tiny_config(*overrides)
        return config.finetunes_inverse_dynamics

    assert [infers(), infers(BOTH), infers(TIE), infers(DECODE)] == [False, False, True, True]
    assert infers("finetune.rehearsal.share=0.4", "loss.consistency_weight=0")
