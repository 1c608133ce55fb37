"""Do episodes and actions of a task fit the pace and the settings of a run? Known before anything is collected."""

from __future__ import annotations

import logging

from prelar_ray.action_space import ActionSpace
from prelar_ray.config import RunConfig
from prelar_ray.errors import ConfigError

__all__ = ["check_actions_fit", "check_episodes_fit"]

log = logging.getLogger(__name__)


def check_episodes_fit(config: RunConfig, episode_steps: int) -> None:
    """Make sure that episodes end before the run does, fit the replay buffer and are as long as a segment.

    Where the random phase ends before the first episodes do, only a warning is due: learning begins later.

    Args:
        config: of the run.
        episode_steps: environment steps after which an episode is over at the latest.

    Raises:
        ConfigError: one of these can never be; names the key to change and the value it needs.
    """
    tune, collect, task = config.finetune, config.collect, config.env.task
    actions = -(-episode_steps // config.env.action_repeat)
    rows = actions + 1  # the first holds what the reset showed
    envs = collect.collectors * collect.envs_per_collector
    needed = envs * actions * config.env.action_repeat
    if tune.segment_length > rows:
        raise ConfigError(
            f"finetune.segment_length={tune.segment_length}: an episode of {task} has {rows} steps; "
            f"set it to {rows} or less"
        )
    capacity, shards = config.replay.capacity_steps, config.replay.shards
    if capacity // shards < rows:
        share = f"each of replay.shards={shards} holds {capacity // shards} steps and " if shards > 1 else ""
        raise ConfigError(
            f"replay.capacity_steps={capacity}: {share}an episode of {task} has {rows}; "
            f"set it to {rows * shards} or more"
        )
    if tune.env_steps < needed:
        raise ConfigError(
            f"finetune.env_steps={tune.env_steps}: too few for one episode of {task} ({episode_steps} steps) in each "
            f"of {envs} environments; set it to {needed} or more, or use fewer environments"
        )
    if tune.random_steps < needed:
        log.warning(
            "finetune.random_steps=%d ends before the first episodes of %s do (%d environments of %d steps): "
            "learning begins after %d steps",
            *(tune.random_steps, task, envs, episode_steps, needed),
        )


def check_actions_fit(config: RunConfig, actions: ActionSpace) -> None:
    """Make sure that the noise that a run adds to actions can be added to these.

    Raises:
        ConfigError: it cannot; names the key to change.
    """
    noise = config.collect.expl_noise
    if noise and actions.is_discrete:
        raise ConfigError(
            f"collect.expl_noise={noise:g}: the actions of {config.env.task} are choices, to which no noise can be "
            "added; set it to 0, and raise behaviour.entropy_weight for more exploration"
        )
