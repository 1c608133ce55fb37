from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import pytest
import torch

from prelar_ray.acting.policy import Policy
from prelar_ray.action_space import ActionSpace
from prelar_ray.config import EnvConfig, RunConfig
from prelar_ray.learning.learner import FinetuneLearner
from prelar_ray.types import Episode

ACTION = 2


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


class RandomLength(gym.Env[Any, Any]):
    """Episodes of 3 to 10 steps with random pictures, all from the seed; terminates where the length is odd.

    The reward is the sum of the action; only the last step succeeds.
    """

    def __init__(self, config: EnvConfig, seed: int) -> None:
        self.action_space = gym.spaces.Box(-1, 1, (ACTION,), np.float32)
        self.actions, self.terminates, self.has_success = ActionSpace.continuous(ACTION), True, True
        self.fails_at: int | None = None  # step; 0 is the reset
        self.closed = False
        self.seeds: list[int] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        if self.fails_at == 0:
            raise RuntimeError("no simulator")
        assert seed is not None
        self.seeds.append(seed)
        self.rng, self.t = np.random.default_rng(seed), 0
        self.length = int(self.rng.integers(3, 11))
        return self._observe(), {"success": False}

    def step(self, action: npt.NDArray[np.float32]) -> Any:
        self.t += 1
        if self.t == self.fails_at:
            raise RuntimeError("it exploded")
        over = self.t == self.length
        odd = bool(self.length % 2)
        return self._observe(), float(action.sum()), over and odd, over and not odd, {"success": over}

    def close(self) -> None:
        self.closed = True

    def _observe(self) -> dict[str, npt.NDArray[np.uint8]]:
        return {"image": self.rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)}


@pytest.fixture
def envs(monkeypatch: pytest.MonkeyPatch) -> list[RandomLength]:
    """Collectors and evaluators step :class:`RandomLength`; the list holds all that were made."""
    made: list[RandomLength] = []

    def make_env(config: EnvConfig, seed: int) -> RandomLength:
        made.append(RandomLength(config, seed))
        return made[-1]

    monkeypatch.setattr("prelar_ray.acting.collector.make_env", make_env)
    monkeypatch.setattr("prelar_ray.acting.evaluator.make_env", make_env)
    return made


@pytest.fixture(scope="session")
def random_length() -> type[RandomLength]:
    return RandomLength


@pytest.fixture(scope="session")
def learner(minute_config: RunConfig) -> FinetuneLearner:
    """A learner whose policy has something to say: biases and batch statistics are not those of a new one."""
    learner = FinetuneLearner(minute_config, ACTION)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for module in (learner.model, learner.actor_critic):
            for key, value in module.state_dict().items():
                if key.endswith(("bias", "running_mean")):
                    value += 0.5 * torch.randn(value.shape, generator=generator)
    return learner


@pytest.fixture(scope="session")
def weights(learner: FinetuneLearner) -> dict[str, npt.NDArray[Any]]:
    return learner.policy_weights()


@pytest.fixture
def policy(minute_config: RunConfig, weights: dict[str, npt.NDArray[Any]]) -> Policy:
    policy = Policy(minute_config, ACTION)
    policy.load_weights(weights, version=5)
    return policy


@pytest.fixture(scope="session")
def assert_same_episode() -> Callable[..., None]:
    """Equal in all fields; ``tolerance`` is for what a policy's arithmetic touches, in batches of another size."""

    def check(one: Episode, two: Episode, tolerance: float = 0.0) -> None:
        for field in fields(Episode):
            left, right = getattr(one, field.name), getattr(two, field.name)
            if field.name in ("action", "reward"):
                assert left.dtype == right.dtype == np.float32
                np.testing.assert_allclose(left, right, rtol=0, atol=tolerance)
            else:
                np.testing.assert_array_equal(left, right)

    return check
