"""From a run's configuration to RLlib's."""

from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, get_type_hints

import ray.rllib  # makes its algorithms known to the registry of Tune
from pydantic import TypeAdapter, ValidationError
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.utils.from_config import NotProvided
from ray.tune.registry import get_trainable_cls

from prelar_ray.action_space import ActionSpace
from prelar_ray.baselines.cluster import RLlibCluster
from prelar_ray.baselines.env_runner import FrameEnvRunner
from prelar_ray.baselines.environment import ENVIRONMENT, environment_config
from prelar_ray.baselines.episodes import NoteFinishedEpisodes
from prelar_ray.config import RunConfig
from prelar_ray.errors import ConfigError
from prelar_ray.seeding import derive_seed

__all__ = ["algorithm_config", "check_algorithm_acts"]

SHOWN = 10
"""Settings that a message names where none resembles what was given."""

assert ray.rllib

OWN_NETWORKS = {"DreamerV3": "rllib.training.model_size"}
"""Algorithms that do not read ``rllib.model``, and what they read instead."""

ONE_CHOICE = ("DreamerV3",)
"""Algorithms that take one choice, and not several at once."""

NOT_PLAIN = {"learner_class", "learner_connector", "learner_config_dict", "add_default_connectors_to_learner_pipeline"}
OF_THE_OLD_STACK = {"model", "optimizer"}
"""Keywords that the algorithms run here would silently ignore."""


def algorithm_config(
    config: RunConfig,
    cluster: RLlibCluster | None = None,
    first_number: int = 0,
    actions: ActionSpace | None = None,
) -> AlgorithmConfig:
    """Return what builds the algorithm that ``config.method`` names; it is complete and checked, not frozen.

    Args:
        config: of the run.
        cluster: what its processes may use; None to see whether the settings are right.
        first_number: number of the first episode of every environment.
        actions: of the task; None to see whether the settings are right.

    Raises:
        ConfigError: a setting that RLlib does not know or accept, or one that its algorithms cannot follow.
    """
    name = config.algorithm
    logging.getLogger("ray.rllib").setLevel(logging.ERROR)  # every algorithm warns that it is on the new API
    algorithm: AlgorithmConfig = get_trainable_cls(name).get_default_config()
    algorithm.framework("torch")
    algorithm.environment(ENVIRONMENT, env_config=environment_config(config, first_number))
    algorithm.callbacks(NoteFinishedEpisodes)
    algorithm.debugging(seed=derive_seed(config.seed, "rllib") % 2**31, log_level="ERROR")
    # An iteration is one turn: collect, learn, publish.
    algorithm.reporting(min_time_s_per_iteration=0, min_sample_timesteps_per_iteration=0)
    _train(algorithm, config)
    _network(algorithm, config, actions)
    algorithm.env_runners(
        env_runner_cls=FrameEnvRunner,
        num_env_runners=config.rllib.env_runners,
        num_envs_per_env_runner=config.collect.envs_per_collector,
        rollout_fragment_length=_fragment(algorithm, config),
        sample_timeout_s=config.collect.timeout,
    )
    algorithm.learners(num_learners=0)
    if cluster:
        _use(algorithm, cluster)
    with _refusals(name):
        algorithm.copy(copy_frozen=False).validate()
    return algorithm


def check_algorithm_acts(config: RunConfig, actions: ActionSpace) -> None:
    """Make sure that an algorithm can act as a task wants it to.

    Raises:
        ConfigError: it cannot.
    """
    if actions.is_discrete and len(actions.sizes) > 1 and config.algorithm in ONE_CHOICE:
        raise ConfigError(
            f"method={config.method}: {config.algorithm} of RLlib takes one choice, and {config.env.task} has actions "
            f"of {actions}; use method=rllib/PPO, or a method of this package"
        )


def _use(algorithm: AlgorithmConfig, cluster: RLlibCluster) -> None:
    here, there = cluster.algorithm, cluster.env_runner
    # Ray takes shares of a CPU, whatever these signatures say.
    main: dict[str, Any] = {"num_cpus_for_main_process": here.cpus}
    runner: dict[str, Any] = {"num_cpus_per_env_runner": there.cpus, "num_gpus_per_env_runner": there.gpus}
    algorithm.resources(**main)
    algorithm.env_runners(**runner)
    algorithm.learners(num_cpus_per_learner=here.cpus, num_gpus_per_learner=here.gpus)


def _train(algorithm: AlgorithmConfig, config: RunConfig) -> None:
    name, given = config.algorithm, config.rllib.training
    known = _keywords(type(algorithm))
    _check("rllib.training", f"{name} of RLlib", given, known)
    settings: dict[str, Any] = dict(given)
    if "replay_buffer_config" in known and "replay_buffer_config" not in given:
        settings["replay_buffer_config"] = {"capacity": config.replay.capacity_steps // config.env.action_repeat}
    with _refusals(name):
        algorithm.training(**settings)


def _network(algorithm: AlgorithmConfig, config: RunConfig, actions: ActionSpace | None) -> None:
    name, given = config.algorithm, config.rllib.model
    if not given:
        return
    if name in OWN_NETWORKS:
        raise ConfigError(f"rllib.model: {name} of RLlib has networks of its own; see {OWN_NETWORKS[name]}")
    _check("rllib.model", "DefaultModelConfig of RLlib", given, get_type_hints(DefaultModelConfig))
    settings: dict[str, Any] = dict(given)
    if actions and actions.is_discrete:
        settings.pop("free_log_std", None)  # choices have no deviation, and RLlib refuses the setting for them
    algorithm.rl_module(model_config=DefaultModelConfig(**settings))


def _check(section: str, who: str, given: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Look for names and types that ``who`` does not take."""
    for key, value in given.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            more = f" and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
            hint = f"nearest: {near[0]}" if near else f"known: {', '.join(sorted(known)[:SHOWN])}{more}"
            raise ConfigError(f"{section}.{key}: {who} has no such setting; {hint}")
        try:
            TypeAdapter(known[key]).validate_python(value)
        except ValidationError as error:
            wanted = str(known[key]).replace("typing.", "")
            raise ConfigError(f"{section}.{key}={value}: {who} takes {wanted}") from error


def _fragment(algorithm: Any, config: RunConfig) -> int | str:
    """Agent steps that an environment takes before the algorithm learns; RLlib's own number but for DreamerV3.

    DreamerV3 learns at least once after every sample, which a training ratio below the size of a batch does not allow
    where the samples are single steps. As many steps as one update pays for keep the ratio.
    """
    fragment: int | str = algorithm.rollout_fragment_length
    if config.algorithm == "DreamerV3":
        steps = algorithm.batch_size_B * algorithm.batch_length_T / algorithm.training_ratio
        envs = config.collect.envs_per_collector * max(1, config.rllib.env_runners)
        fragment = max(1, round(steps / envs))
    return fragment


def _keywords(kind: type[AlgorithmConfig]) -> Mapping[str, Any]:
    """Names and types of what ``training()`` takes and a plain value can say, those of the classes above included."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if method := base.__dict__.get("training"):
            parameters = inspect.signature(method).parameters.values()
            found |= {x.name: x.annotation for x in parameters if x.default is NotProvided}
    return {key: value for key, value in found.items() if key not in NOT_PLAIN | OF_THE_OLD_STACK}


@contextmanager
def _refusals(name: str) -> Iterator[None]:
    """Turn what RLlib refuses into one line."""
    try:
        yield
    except (TypeError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise ConfigError(f"rllib.training: {name} of RLlib refuses these settings: {first}") from error
