from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import settings

from prelar_ray.config import RunConfig, load_config, to_yaml
from prelar_ray.errors import PrelarError
from prelar_ray.types import Episode

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

settings.register_profile("repeatable", deadline=None, derandomize=True)  # the same examples, however slow the machine
settings.load_profile("repeatable")

MINUTE = """
    cluster=none device=cpu threads=1
    world_model.encoder.depth=2 world_model.encoder.layers=1 world_model.encoder.stacks=1
    world_model.decoder.depth=2 world_model.decoder.layers=1 world_model.decoder.stacks=1
    world_model.inverse_dynamics.depth=2 world_model.inverse_dynamics.layers=1
    world_model.inverse_dynamics.stacks=1
    world_model.inverse_dynamics_head.hidden=8 world_model.action_encoder.hidden=8 world_model.latent_action=4
    world_model.rssm.deter=8 world_model.rssm.hidden=8 world_model.rssm.stoch=2 world_model.rssm.classes=3
    world_model.reward_head.layers=1 world_model.reward_head.units=8
    behaviour.horizon=3 behaviour.actor.layers=1 behaviour.actor.units=8
    behaviour.critic.layers=1 behaviour.critic.units=8
    pretrain.updates=5 pretrain.batch_size=2 pretrain.segment_length=5
    finetune.env_steps=80 finetune.random_steps=60 finetune.env_steps_per_update=5 finetune.initial_updates=2
    finetune.batch_size=2 finetune.segment_length=5
    finetune.bonus.window=2 finetune.bonus.projection=4 finetune.bonus.queue=32 finetune.bonus.neighbours=3
    env.task=prelar/point-reach
    record.tasks=[prelar/point-reach] record.episodes_per_task=3 record.frames_per_episode=8 record.shard_frames=10
    record.workers=1
    replay.capacity_steps=1000 replay.tolerance_updates=2
    collect.envs_per_collector=2 collect.request_steps=5 collect.publish_every_updates=1
    evaluation.episodes=2 evaluation.envs=2 evaluation.every_env_steps=1000
    checkpoint.every_updates=2 telemetry.every_updates=1
"""


def pytest_configure(config: pytest.Config) -> None:
    """Only tests marked ``gpu`` see one: all others expect the CPU's bits, also where ``device=auto`` is a GPU."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Skip what needs DeepMind Control where it cannot be installed: with Python 3.13."""
    try:
        yield
    except (PrelarError, AssertionError) as error:
        if "-ray[dmc]'" in str(error) and importlib.util.find_spec("dm_control") is None:
            pytest.skip("DeepMind Control is not installed")
        raise


@pytest.fixture(autouse=True)
def _ctrl_c_interrupts() -> Iterator[None]:
    """Each test takes Ctrl-C as in a terminal.

    Shells start background jobs with SIGINT ignored, and a study of Ray Tune leaves a handler that swallows the next.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def minute_config() -> RunConfig:
    """A whole run, pre-training and fine-tuning, of a few updates of minute networks in one process and thread."""
    return load_config(None, None, MINUTE.split())


@pytest.fixture(scope="session")
def videos(minute_config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of three videos of eight frames; read only."""
    from prelar_ray.video.recorder import record

    path = tmp_path_factory.mktemp("videos") / "store"
    record(minute_config, path, lambda frames: None)
    return path


@pytest.fixture(scope="session")
def pretrained(minute_config: RunConfig, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished pre-training run on :func:`videos`; read only."""
    from prelar_ray.storage.run_folder import RunFolder
    from prelar_ray.training.pretraining import pretrain

    config = load_config(None, None, [f"video.path={videos}"], base=minute_config)
    run = RunFolder.create(tmp_path_factory.mktemp("pretrained") / "run", to_yaml(config), "pretrain")
    pretrain(config, run, resume=False)
    return run.path


@pytest.fixture(scope="session")
def shared_ray() -> Iterator[Cluster]:
    """A Ray of four CPUs for tests that join one by its address; those about its start or end have their own."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": False})
    yield cluster
    cluster.shutdown()


@pytest.fixture
def short_episodes(monkeypatch: pytest.MonkeyPatch) -> int:
    """Episodes of point-reach take this many steps instead of 100."""
    monkeypatch.setattr("prelar_ray.envs.point_reach.EPISODE_STEPS", 20)
    return 20


@pytest.fixture(scope="session")
def make_episode() -> Callable[..., Episode]:
    """Episodes whose numbers say where they come from: ``reward[t]`` is ``1000 * number + t``."""

    def make(number: int, length: int = 8, env_index: int = 0) -> Episode:
        steps = np.arange(length)
        return Episode(
            image=np.broadcast_to(steps[:, None, None, None].astype(np.uint8), (length, 64, 64, 3)),
            action=np.stack([np.full(length, number), steps], axis=1).astype(np.float32),
            reward=(1000 * number + steps).astype(np.float32),
            is_first=steps == 0,
            is_terminal=steps == length - 1,
            success=steps > length // 2,
            env_index=env_index,
            number=number,
            weight_version=number,
        )

    return make
