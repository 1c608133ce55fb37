from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from prelar_ray.acting.policy import ActingNoise, Policy, PolicyState, acting_device
from prelar_ray.config import RunConfig, load_config
from prelar_ray.errors import CheckpointError
from prelar_ray.learning.learner import FinetuneLearner
from prelar_ray.models.preprocess import preprocess_image
from prelar_ray.models.rssm import State
from prelar_ray.types import Frames

Weights = dict[str, npt.NDArray[Any]]
N, T = 3, 6
MODE = ActingNoise(None, None)


def frames(*shape: int, seed: int = 0) -> Frames:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 64, 64, 3), dtype=np.uint8)


def first(*flags: bool) -> npt.NDArray[np.bool_]:
    return np.array(flags)


def test_acting_step_by_step_reaches_the_states_that_the_world_model_observes(
    learner: FinetuneLearner, policy: Policy
) -> None:
    """Episodes begin at different times; index t of the model's actions led to frame t."""
    rng = np.random.default_rng(1)
    images = frames(N, T)
    is_first = np.zeros((N, T), dtype=np.bool_)
    is_first[:, 0] = is_first[1, 3] = is_first[2, 4] = True
    gumbel = rng.gumbel(size=(N, T, 2, 3)).astype(np.float32)
    uniform = rng.random((N, T, 2), dtype=np.float32)

    state, latents, actions = policy.initial(N), [], []
    for t in range(T):
        action, state = policy.act(images[:, t], is_first[:, t], state, ActingNoise(gumbel[:, t], uniform[:, t]))
        latents.append(state.latent)
        actions.append(action)
    led_here = torch.from_numpy(np.stack([np.zeros_like(actions[0]), *actions[:-1]], axis=1))

    model = learner.model
    with torch.no_grad():
        embed = model.encoder(preprocess_image(torch.from_numpy(images), torch.float32))
        observed, _ = model.rssm.observe(
            embed, model.action_encoder(led_here), torch.from_numpy(is_first), None, torch.from_numpy(gumbel)
        )
        expected = learner.actor_critic.actor(observed.feature).sample(torch.from_numpy(uniform))
    for part in ("stoch", "deter", "logits"):
        stepped = torch.stack([getattr(latent, part) for latent in latents], dim=1)
        torch.testing.assert_close(stepped, getattr(observed, part), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.stack(actions, axis=1), expected.numpy(), rtol=1e-4, atol=1e-5)
    assert len(observed.stoch.flatten(0, 1).unique(dim=0)) > 3  # the states do differ


def test_the_state_before_a_first_step_is_ignored(policy: Policy) -> None:
    images = frames(2)
    initial = policy.initial(2)
    junk = PolicyState(State(*(part + 3 for part in initial.latent[:3])), initial.action - 1)
    begun, _ = policy.act(images, first(True, True), initial, MODE)
    ignored, _ = policy.act(images, first(True, True), junk, MODE)
    used, _ = policy.act(images, first(True, False), junk, MODE)
    np.testing.assert_array_equal(ignored, begun)
    np.testing.assert_allclose(used[0], begun[0], atol=1e-6)
    assert np.abs(used[1] - begun[1]).max() > 1e-3


def test_actions_lie_in_the_box_and_are_remembered(policy: Policy) -> None:
    noise = ActingNoise(None, np.array([[0.0, 1.0], [1e-9, 1 - 1e-9], [0.5, 0.5]], dtype=np.float32))
    action, state = policy.act(frames(3), first(True, True, True), policy.initial(3), noise)
    assert action.dtype == np.float32
    assert action.shape == (3, 2)
    assert np.abs(action).max() <= 1
    np.testing.assert_array_equal(state.action.numpy(), action)


def test_without_noise_the_mode_of_the_action_is_taken(learner: FinetuneLearner, policy: Policy) -> None:
    one, state = policy.act(frames(2), first(True, True), policy.initial(2), MODE)
    two, _ = policy.act(frames(2), first(True, True), policy.initial(2), MODE)
    np.testing.assert_array_equal(one, two)
    with torch.no_grad():
        mode = learner.actor_critic.actor(state.latent.feature.clone()).mode
    np.testing.assert_allclose(one, mode.numpy(), atol=1e-6)


@pytest.mark.parametrize(("gpus", "there", "device"), [(0, True, "cpu"), (0.5, True, "cuda"), (0.5, False, "cpu")])
def test_a_policy_acts_on_a_gpu_where_it_has_a_share_of_one(
    monkeypatch: pytest.MonkeyPatch, gpus: float, there: bool, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert acting_device(gpus) == torch.device(device)


def test_rows_do_not_see_each_other(policy: Policy) -> None:
    images = frames(4)
    together, _ = policy.act(images, first(*[True] * 4), policy.initial(4), MODE)
    for row in range(4):
        alone, _ = policy.act(images[row : row + 1], first(True), policy.initial(1), MODE)
        np.testing.assert_allclose(alone[0], together[row], atol=1e-6)


def test_weights_are_copied_with_their_version(minute_config: RunConfig, weights: Weights, policy: Policy) -> None:
    fresh = Policy(minute_config, 2)
    assert fresh.version == -1
    fresh.load_weights(weights, version=7)
    assert fresh.version == 7
    own = {key: value.copy() for key, value in weights.items()}
    fresh.load_weights(own, version=8)
    for value in own.values():
        value *= 0
    action, _ = fresh.act(frames(1), first(True), fresh.initial(1), MODE)
    expected, _ = policy.act(frames(1), first(True), policy.initial(1), MODE)
    np.testing.assert_array_equal(action, expected)


def test_weights_are_loaded_in_place_where_a_captured_step_reads_them(policy: Policy, weights: Weights) -> None:
    places = [value.data_ptr() for value in policy.state_dict().values()]
    policy.load_weights(weights, version=9)
    assert [value.data_ptr() for value in policy.state_dict().values()] == places


def test_weights_from_read_only_memory_are_taken(minute_config: RunConfig, weights: Weights) -> None:
    read_only = {key: value.copy() for key, value in weights.items()}
    for value in read_only.values():
        value.flags.writeable = False
    Policy(minute_config, 2).load_weights(read_only, version=0)


def test_weights_of_other_sizes_are_refused_by_key_and_shapes(minute_config: RunConfig, weights: Weights) -> None:
    wider = Policy(load_config(None, None, ["world_model.rssm.deter=12"], base=minute_config), 2)
    with pytest.raises(CheckpointError, match=r"policy\.rssm\.\S+ has shape \(24, 16\) .* and \(36, 20\) in this conf"):
        wider.load_weights(weights, version=0)
    assert wider.version == -1
    incomplete = {key: value for key, value in weights.items() if key != "actor.mean.bias"}
    with pytest.raises(CheckpointError, match=r"lacks policy\.actor\.mean\.bias, expected shape \(2,\)"):
        Policy(minute_config, 2).load_weights(incomplete, version=0)
