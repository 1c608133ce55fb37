"""The environments under names that RLlib knows."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from ray import tune

from prelar_ray.envs import register_gymnasium

__all__ = ["register_with_ray"]

FAMILIES = ("point-reach", "arena", "metaworld", "dmc")


def register_with_ray() -> None:
    """Register ``prelar_ray/point-reach``, ``arena``, ``metaworld`` and ``dmc`` with Ray Tune and RLlib.

    RLlib's ``env_config`` becomes the keyword arguments of the environment, for example ``{"task": "reach-v3"}``.
    """
    for family in FAMILIES:
        tune.register_env(f"prelar_ray/{family}", _maker(f"prelar_ray/{family}-v0"))


def _maker(identifier: str) -> Any:
    def make(env_config: dict[str, Any]) -> gym.Env[Any, Any]:
        register_gymnasium()  # in the worker's process, which may be a new one
        return gym.make(identifier, **env_config)

    return make
