"""The policy of an RLlib module; no Ray is started."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID

from prelar_ray.acting.evaluator import evaluate_policy
from prelar_ray.acting.policy import ActingNoise
from prelar_ray.action_space import ActionSpace
from prelar_ray.baselines.algorithm import algorithm_config, check_algorithm_acts
from prelar_ray.baselines.environment import as_floats, native_space
from prelar_ray.baselines.policy import ModulePolicy
from prelar_ray.config import RunConfig
from prelar_ray.errors import ConfigError

NO_NOISE = ActingNoise(None, None)
TWO = ActionSpace.continuous(2)
FRAMES = gym.spaces.Box(0, 1, (64, 64, 3), np.float32)


def module(config: RunConfig, actions: ActionSpace = TWO) -> Any:
    torch.manual_seed(0)
    spaces = {DEFAULT_MODULE_ID: (FRAMES, native_space(actions))}
    spec = algorithm_config(config, actions=actions).get_rl_module_spec(spaces=spaces, inference_only=True)
    return spec.build()


def frames(n: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (n, 64, 64, 3), dtype=np.uint8)


def test_ppo_acts_with_the_clipped_mean_of_its_gaussian(ppo: RunConfig) -> None:
    network = module(ppo)
    with torch.no_grad():
        network.pi.net.mlp[-1].bias[:2] = torch.tensor([0.3, 7.0])  # means; the rest are logarithms of deviations
    policy = ModulePolicy(network, TWO, version=3, seed=0)
    image = frames(3)
    actions, state = policy.act(image, np.ones(3, np.bool_), policy.initial(3), NO_NOISE)
    out = network.forward_inference({"obs": torch.from_numpy(as_floats(image, 0.0))})
    np.testing.assert_allclose(actions, out["action_dist_inputs"][:, :2].detach().clamp(-1, 1).numpy(), rtol=1e-6)
    assert (actions[:, 1] == 1).all()
    assert (actions.dtype, actions.shape, policy.version) == (np.float32, (3, 2), 3)
    assert state.memory == {}


def test_dreamer_s_memory_continues_and_starts_again_where_an_episode_does(dreamer: RunConfig) -> None:
    network = module(dreamer)
    image = frames(2)
    before = torch.get_rng_state()

    def act(first: list[bool], state: Any) -> Any:
        policy = ModulePolicy(network, TWO, version=0, seed=1)
        fresh = policy.initial(2)  # draws
        return policy.act(image, np.array(first), state or fresh, NO_NOISE)

    begun, memory = act([True, True], None)
    assert (np.abs(begun) <= 1).all()
    assert set(memory.memory) == {"h", "z", "a"}
    again, _ = act([True, True], memory)  # whatever was before is ignored
    np.testing.assert_array_equal(again, begun)
    later, _ = act([False, True], memory)
    np.testing.assert_array_equal(later[1], begun[1])
    assert not np.array_equal(later[0], begun[0])
    (alone,) = memory.at([1]).memory["h"]
    torch.testing.assert_close(alone, memory.memory["h"][1])
    torch.testing.assert_close(torch.get_rng_state(), before)  # training draws on as if nobody had acted


@pytest.mark.usefixtures("short_episodes")
@pytest.mark.parametrize("name", ["ppo", "dreamer"])
def test_evaluation_takes_it_as_any_policy(name: str, request: pytest.FixtureRequest) -> None:
    config: RunConfig = request.getfixturevalue(name)
    network = module(config)
    results = [
        evaluate_policy(config, lambda action: ModulePolicy(network, action, 0, seed=5), 3, round_=1) for _ in range(2)
    ]
    assert results[0] == results[1]
    assert results[0].lengths == (20, 20, 20)


@pytest.mark.parametrize(
    ("name", "actions"),
    [
        ("ppo", ActionSpace.discrete(3)),
        ("ppo", ActionSpace.discrete(3, 2)),
        ("dreamer", ActionSpace.discrete(3)),
    ],
)
def test_choices_reach_environments_as_one_hot_vectors(
    name: str, actions: ActionSpace, request: pytest.FixtureRequest
) -> None:
    policy = ModulePolicy(module(request.getfixturevalue(name), actions), actions, version=0, seed=0)
    chosen, state = policy.act(frames(4), np.ones(4, np.bool_), policy.initial(4), NO_NOISE)
    assert chosen.shape == tuple(state.action.shape) == (4, actions.size)
    np.testing.assert_array_equal(chosen, actions.one_hot(actions.indices(chosen)))


def test_several_choices_at_once_are_refused_by_an_algorithm_that_takes_one(dreamer: RunConfig, ppo: RunConfig) -> None:
    check_algorithm_acts(ppo, ActionSpace.discrete(3, 2))
    check_algorithm_acts(dreamer, ActionSpace.discrete(3))
    with pytest.raises(ConfigError, match=r"takes one choice, and .* a choice of 3 and one of 2; use"):
        check_algorithm_acts(dreamer, ActionSpace.discrete(3, 2))
