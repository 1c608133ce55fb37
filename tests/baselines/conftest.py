from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import ray

from prelar_ray.baselines.cluster import RLlibCluster
from prelar_ray.config import RunConfig, load_config, to_yaml
from prelar_ray.distributed.local_ray import start_local_ray
from prelar_ray.distributed.resources import Resources
from prelar_ray.storage.run_folder import RunFolder

COMMON = """
    dashboard=false threads=1 env.task=prelar/point-reach finetune.env_steps=160
    collect.envs_per_collector=2 evaluation.episodes=2 evaluation.envs=2 evaluation.every_env_steps=80
    checkpoint.every_updates=1 telemetry.every_updates=1
"""
PPO = """
    method=rllib/PPO rllib.training.train_batch_size_per_learner=40 rllib.training.minibatch_size=20
    rllib.training.num_epochs=1 rllib.model.conv_filters=[[2,8,8]] rllib.model.fcnet_hiddens=[8]
"""
DREAMER = """
    method=rllib/DreamerV3 rllib.training.model_size=nano rllib.training.batch_size_B=2 rllib.training.batch_length_T=8
    rllib.training.horizon_H=3 rllib.training.training_ratio=0.4
"""
"""An update of 2 x 8 for every 40 agent steps."""


class RunningCluster(RLlibCluster):
    """A Ray that is there already and stays; remembers what is reported."""

    def __init__(self) -> None:
        self.algorithm = self.env_runner = Resources(1.0, 0.0)
        self.reported: list[Mapping[str, float]] = []

    def report(self, values: Mapping[str, float]) -> None:
        self.reported.append(values)

    def close(self) -> None: ...


@pytest.fixture
def cluster() -> RLlibCluster:
    return RunningCluster()


@pytest.fixture(scope="session")
def ppo() -> RunConfig:
    """Four iterations of a minute PPO with episodes of 20 steps."""
    return load_config("tiny", None, [*COMMON.split(), *PPO.split()])


@pytest.fixture(scope="session")
def dreamer() -> RunConfig:
    """Four iterations of a minute DreamerV3 with episodes of 20 steps."""
    return load_config("tiny", None, [*COMMON.split(), *DREAMER.split()])


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    no_back_end_chosen = {"env_vars": {"MUJOCO_GL": ""}}  # in its processes, as on the nodes of a cluster
    start_local_ray(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=no_back_end_chosen)
    yield
    ray.shutdown()


@pytest.fixture
def open_run(tmp_path: Path) -> Callable[..., RunFolder]:
    def open_(config: RunConfig, name: str = "run", resume: bool = False) -> RunFolder:
        return RunFolder.create(tmp_path / name, to_yaml(config), "finetune", resume)

    return open_
