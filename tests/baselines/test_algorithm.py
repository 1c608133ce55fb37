"""From our settings to RLlib's; no Ray is started."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pytest
import torch
from gymnasium import spaces
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns

from prelar_ray.baselines.algorithm import algorithm_config
from prelar_ray.baselines.cluster import RLlibCluster
from prelar_ray.config import RunConfig, load_config, method_names, native_methods, preset_names
from prelar_ray.distributed.ray_backend import bundles
from prelar_ray.distributed.resources import ALGORITHM, Resources
from prelar_ray.errors import ConfigError
from prelar_ray.kinds import kind_of
from prelar_ray.roles import RoleId

BASELINES = sorted(set(method_names()) - set(native_methods()))


def config(method: str, *overrides: str, preset: str = "tiny") -> RunConfig:
    return load_config(preset, None, [f"method={method}", *overrides])


@pytest.mark.parametrize("preset", preset_names())
@pytest.mark.parametrize("method", BASELINES)
def test_every_baseline_s_settings_are_accepted_with_every_preset(method: str, preset: str) -> None:
    algorithm = algorithm_config(config(method, "env.image_size=64", preset=preset))
    assert algorithm.algo_class is not None
    assert algorithm.algo_class.__name__ == method.removeprefix("rllib/")


def test_settings_reach_the_algorithm(cluster: RLlibCluster) -> None:
    settings = ("seed=3", "collect.envs_per_collector=3", "rllib.env_runners=2", "rllib.reward_scale=0.5")
    algorithm = algorithm_config(
        config("rllib/PPO", *settings, "rllib.training.lr=2e-4", "collect.timeout=7"), cluster, 11
    )
    assert (algorithm.lr, algorithm.num_env_runners, algorithm.num_envs_per_env_runner) == (2e-4, 2, 3)
    assert algorithm.sample_timeout_s == 7
    env = algorithm.env_config
    assert (env["seed"], env["first_number"], env["reward_scale"], env["envs"]) == (3, 11, 0.5, 3)
    assert env["env"]["task"] == "prelar/point-reach"
    assert algorithm.model_config["conv_filters"] == [[16, 8, 4], [32, 4, 2], [64, 4, 2]]
    other = algorithm_config(config("rllib/PPO", "seed=4"))
    assert algorithm.seed != other.seed


class Shares(NamedTuple):
    """What a cluster's plan gives."""

    algorithm: Resources
    env_runner: Resources

    def report(self, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


@pytest.mark.parametrize("nodes", [[Resources(16, 0)], [Resources(16, 2)], [Resources(2, 0)]], ids=str)
def test_the_plan_of_a_cluster_is_what_rllib_itself_would_reserve(nodes: list[Resources]) -> None:
    shared = ["learner.gpus=0.5"] if any(node.gpus for node in nodes) else []
    settings = config("rllib/PPO", "rllib.env_runners=2", "device=auto", *shared)
    plan = kind_of(settings, "finetune").plan(settings, nodes)
    algorithm = algorithm_config(settings, Shares(plan[ALGORITHM], plan[RoleId("env-runner", 0)]))
    assert algorithm.algo_class is not None
    request = algorithm.algo_class.default_resource_request(algorithm)
    assert request.bundles == bundles(plan)


@pytest.mark.parametrize(
    ("method", "override", "message"),
    [
        ("PPO", "rllib.training.leer=1", "rllib.training.leer: PPO of RLlib has no such setting; nearest: lr"),
        ("PPO", "rllib.training.zzz=1", "rllib.training.zzz: PPO of RLlib has no such setting; known: clip_param, "),
        ("PPO", "rllib.training.horizon_H=1", "rllib.training.horizon_H: PPO of RLlib has no such setting"),
        ("DreamerV3", "rllib.training.model={}", "rllib.training.model: DreamerV3 of RLlib has no such setting"),
        ("PPO", "rllib.training.num_epochs=x", "rllib.training.num_epochs=x: PPO of RLlib takes Optional[int]"),
        (
            "PPO",
            "rllib.training.minibatch_size=9999",
            "rllib.training: PPO of RLlib refuses these settings: `minibatch",
        ),
        ("PPO", "rllib.model.fcnet_hidens=[3]", "rllib.model.fcnet_hidens: DefaultModelConfig of RLlib has no such"),
        ("PPO", "rllib.model.fcnet_hiddens=3", "rllib.model.fcnet_hiddens=3: DefaultModelConfig of RLlib takes List"),
        (
            "DreamerV3",
            "rllib.model.fcnet_hiddens=[3]",
            "rllib.model: DreamerV3 of RLlib has networks of its own; see rllib.training.model_size",
        ),
    ],
)
def test_what_rllib_does_not_know_is_refused_by_key_and_algorithm(method: str, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        algorithm_config(config(f"rllib/{method}", override))


@pytest.mark.parametrize(
    ("ratio", "envs", "runners", "fragment"),
    [(16, 1, 0, 8), (16, 4, 0, 2), (16, 2, 2, 2), (128, 1, 0, 1), (999, 4, 0, 1)],
)
def test_dreamer_takes_as_many_steps_as_one_update_pays_for(ratio: int, envs: int, runners: int, fragment: int) -> None:
    """A batch of 8 x 16 = 128 replayed steps at a ratio of 16 is an update for every 8 agent steps."""
    batch = ("rllib.training.batch_size_B=8", "rllib.training.batch_length_T=16")
    cluster = (f"collect.envs_per_collector={envs}", f"rllib.env_runners={runners}")
    made = algorithm_config(config("rllib/DreamerV3", f"rllib.training.training_ratio={ratio}", *batch, *cluster))
    assert made.rollout_fragment_length == fragment


def test_a_replay_is_as_large_as_the_native_one_in_environment_steps() -> None:
    settings = ("replay.capacity_steps=5000", "env.action_repeat=2", "finetune.env_steps_per_update=2")
    assert algorithm_config(config("rllib/DreamerV3", *settings)).replay_buffer_config["capacity"] == 2500
    own = "rllib.training.replay_buffer_config={type: EpisodeReplayBuffer, capacity: 77}"
    assert algorithm_config(config("rllib/DreamerV3", own)).replay_buffer_config["capacity"] == 77


def test_dreamerv3_of_rllib_is_refused_other_image_sizes_and_ppo_takes_them() -> None:
    with pytest.raises(ConfigError, match=r"env\.image_size=128: the networks of RLlib's DreamerV3 are made for 64"):
        config("rllib/DreamerV3", "env.image_size=128")
    algorithm = algorithm_config(config("rllib/PPO", "env.image_size=128"))
    space = spaces.Box(0, 1, (128, 128, 3), np.float32), spaces.Box(-1, 1, (2,), np.float32)
    module = algorithm.get_rl_module_spec(spaces={DEFAULT_MODULE_ID: space}).build()
    out = module.forward_inference({Columns.OBS: torch.zeros(3, 128, 128, 3)})
    assert out[Columns.ACTION_DIST_INPUTS].shape == (3, 4)
