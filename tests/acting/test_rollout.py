from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pytest

from prelar_ray.acting.policy import Policy
from prelar_ray.acting.rollout import Rollout
from prelar_ray.config import EnvConfig
from prelar_ray.errors import EnvironmentFailure
from prelar_ray.seeding import derive_seed, generator
from prelar_ray.types import Episode

Same = Callable[..., None]
EXACT_ENOUGH = 1e-5  # the same arithmetic in batches of other sizes


def seeds(env_index: int, number: int) -> tuple[int, np.random.Generator]:
    return derive_seed(0, "env", env_index, number), generator(0, "acting", env_index, number)


@pytest.fixture
def rollout(random_length: Any) -> Callable[..., Rollout]:
    def make(*indices: int, first_numbers: list[int] | None = None) -> Rollout:
        numbers = first_numbers or [0] * len(indices)
        return Rollout(random_length, EnvConfig(), list(indices), numbers, seeds, failures_allowed=0, timeout=60)

    return make


def run(rollout: Rollout, policy: Policy, steps: int, random: bool = False, **options: Any) -> dict[str, Episode]:
    """Episodes of so many steps, by key."""
    found = {}
    for _ in range(steps):
        for position, episode in rollout.step(policy, random, **{"sample": True, **options}):
            assert rollout.indices[position] == episode.env_index
            found[episode.key] = episode
    return found


def of_env(episodes: dict[str, Episode], index: int) -> list[Episode]:
    return [episode for episode in episodes.values() if episode.env_index == index]


def test_an_episode_follows_the_time_convention(rollout: Callable[..., Rollout], policy: Policy) -> None:
    episodes = run(rollout(0, 1), policy, 40)
    assert {episode.steps % 2 for episode in episodes.values()} == {0, 1}
    for episode in episodes.values():
        length = len(episode)
        assert episode.image.shape == (length, 64, 64, 3)
        assert not episode.action[0].any()
        assert episode.reward[0] == 0
        np.testing.assert_allclose(episode.reward, episode.action.sum(axis=1), atol=1e-6)
        assert episode.is_first.tolist() == [True] + [False] * (length - 1)
        terminated = bool(episode.steps % 2)  # the others were truncated
        assert episode.is_terminal.tolist() == [False] * (length - 1) + [terminated]
        assert episode.success.tolist() == [False] * (length - 1) + [True]
        assert episode.weight_version == policy.version == 5
        episode.validate()


def test_frames_of_a_row_are_those_the_environment_showed(
    rollout: Callable[..., Rollout], policy: Policy, random_length: Any
) -> None:
    (episode, *_) = run(rollout(3), policy, 12).values()
    env = random_length(EnvConfig(), 0)
    shown = [env.reset(seed=seeds(3, 0)[0])[0]["image"]]
    shown += [env.step(action)[0]["image"] for action in episode.action[1:]]
    np.testing.assert_array_equal(episode.image, np.stack(shown))


def test_every_environment_counts_its_episodes(rollout: Callable[..., Rollout], policy: Policy) -> None:
    lockstep = rollout(4, 7, first_numbers=[2, 9])
    episodes = run(lockstep, policy, 30)
    for index, first in ((4, 2), (7, 9)):
        numbers = [episode.number for episode in of_env(episodes, index)]
        assert numbers == list(range(first, first + len(numbers)))
    assert lockstep.numbers == [2 + len(of_env(episodes, 4)), 9 + len(of_env(episodes, 7))]


def test_an_episode_starts_where_its_number_says(
    rollout: Callable[..., Rollout], policy: Policy, assert_same_episode: Same
) -> None:
    whole = run(rollout(1), policy, 40)
    later = run(rollout(1, first_numbers=[2]), policy, 10)
    key = "env0001-episode000002"
    assert_same_episode(later[key], whole[key])


@pytest.mark.parametrize("random", [True, False])
def test_an_episode_does_not_depend_on_its_neighbours(
    rollout: Callable[..., Rollout], policy: Policy, assert_same_episode: Same, random: bool
) -> None:
    together = run(rollout(0, 1, 2, 3), policy, 40, random)
    for index in range(4):
        alone = of_env(run(rollout(index), policy, 40, random), index)
        assert len(alone) >= 4
        for one, two in zip(alone, of_env(together, index), strict=True):
            assert_same_episode(one, two, tolerance=0 if random else EXACT_ENOUGH)


def test_acting_one_by_one_an_episode_is_the_same_to_the_bit_whatever_its_neighbours(
    random_length: Any, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "one_by_one", True)

    def episodes(*indices: int) -> dict[str, Episode]:
        rollout = Rollout(random_length, EnvConfig(), list(indices), [0] * len(indices), seeds, 0, 60)
        return run(rollout, policy, 25)

    together, apart = episodes(0, 1, 2), episodes(0) | episodes(1) | episodes(2)
    assert together.keys() == apart.keys()
    assert len(together) > 6
    for key, episode in together.items():
        np.testing.assert_array_equal(episode.image, apart[key].image)
        np.testing.assert_array_equal(episode.action, apart[key].action)


def test_random_episodes_stay_random_to_their_end_whatever_their_neighbours_do(
    rollout: Callable[..., Rollout], policy: Policy, assert_same_episode: Same
) -> None:
    """The policy takes over while all are within an episode, and these end at different times."""
    random = run(rollout(0, 1, 2, 3), policy, 12, random=True)
    mixed_rollout = rollout(0, 1, 2, 3)
    mixed = run(mixed_rollout, policy, 2, random=True) | run(mixed_rollout, policy, 38, random=False)
    assert len({len(of_env(random, index)[0]) for index in range(4)}) > 1
    for index in range(4):
        first, *others = of_env(mixed, index)
        assert_same_episode(first, of_env(random, index)[0])
        assert first.weight_version == -1
        assert {episode.weight_version for episode in others} == {5}
    alone = run(rollout(0), policy, 40)
    second = "env0000-episode000001"  # acts with the policy from its start, with random neighbours
    assert_same_episode(mixed[second], alone[second], tolerance=EXACT_ENOUGH)


def test_policy_states_stay_with_their_environment_when_others_stop(
    rollout: Callable[..., Rollout], policy: Policy, assert_same_episode: Same
) -> None:
    lockstep = rollout(0, 1, 2)
    run(lockstep, policy, 2)
    lockstep.stop(1)
    assert lockstep.open == [0, 2]
    episodes = run(lockstep, policy, 1)
    lockstep.stop(0)
    episodes |= run(lockstep, policy, 30)
    assert not of_env(episodes, 1)
    alone = of_env(run(rollout(2), policy, 33), 2)
    for one, two in zip(alone, of_env(episodes, 2), strict=True):
        assert_same_episode(one, two, tolerance=EXACT_ENOUGH)


def test_random_actions_cover_the_box(rollout: Callable[..., Rollout], policy: Policy) -> None:
    episodes = run(rollout(0, 1, 2), policy, 100, random=True)
    actions = np.concatenate([episode.action[1:] for episode in episodes.values()])
    assert actions.dtype == np.float32
    assert actions.min() < -0.95
    assert actions.max() > 0.95
    assert abs(actions.mean()) < 0.1
    assert actions.std() == pytest.approx(1 / np.sqrt(3), abs=0.05)


def test_sampling_is_random_by_the_episode_and_the_mode_is_not(
    rollout: Callable[..., Rollout], policy: Policy, assert_same_episode: Same
) -> None:
    sampled, again, mode = (run(rollout(0), policy, 12, sample=sample) for sample in (True, True, False))
    key = "env0000-episode000000"
    assert_same_episode(sampled[key], again[key])
    assert np.abs(sampled[key].action - mode[key].action).max() > 0.05


class ZeroExponential(np.random.Generator):
    """Draws an exponential of 0, as one of single precision is now and then."""

    def standard_exponential(self, size: Any = None, dtype: Any = np.float64, *others: Any) -> Any:
        return np.zeros(size, dtype)


@pytest.mark.filterwarnings("error")
def test_noise_of_categoricals_is_finite(random_length: Any, policy: Policy) -> None:
    acting = Rollout(
        random_length, EnvConfig(), [0], [0], lambda i, n: (n, ZeroExponential(np.random.PCG64(0))), 0, timeout=60
    )
    with mock.patch.object(policy, "act", wraps=policy.act) as act:
        run(acting, policy, 2)
    assert all(np.isfinite(call.args[3].gumbel).all() for call in act.call_args_list)


def test_exploration_noise_is_added_within_the_box_and_remembered_by_the_policy(
    rollout: Callable[..., Rollout], policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    remembered = []
    act = Policy.act

    def spy(self: Policy, image: Any, is_first: Any, state: Any, noise: Any, *vector: Any) -> Any:
        remembered.append(state.action.numpy().copy())
        return act(self, image, is_first, state, noise, *vector)

    monkeypatch.setattr(Policy, "act", spy)
    calm = run(rollout(0), policy, 12)["env0000-episode000000"]
    remembered.clear()
    noisy = run(rollout(0), policy, 12, expl_noise=2.0)["env0000-episode000000"]
    assert np.abs(noisy.action).max() == 1
    assert np.abs(noisy.action[1] - calm.action[1]).max() > 0.1
    np.testing.assert_array_equal(np.concatenate(remembered)[1 : len(noisy) - 1], noisy.action[1:-1])


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (0, "environment 5, episode 3, reset: RuntimeError: no simulator"),
        (2, "environment 5, episode 3, step 2: RuntimeError: it exploded"),
    ],
)
def test_an_environment_that_raises_is_named_with_episode_and_step(
    random_length: Any, policy: Policy, step: int, message: str
) -> None:
    made = []

    def make_env(config: EnvConfig, seed: int) -> Any:
        made.append(random_length(config, seed))
        return made[-1]

    lockstep = Rollout(make_env, EnvConfig(), [4, 5], [0, 3], seeds, failures_allowed=0, timeout=60)
    made[1].fails_at = step
    with pytest.raises(EnvironmentFailure) as failure:
        run(lockstep, policy, 5)
    assert str(failure.value) == f"{message}; mend the environment, or correct env.task and env.kwargs"
    lockstep.close()
    assert all(env.closed for env in made)


def one_that_cannot_be_made(random_length: Any, times: int, hang: float = 0.0) -> Callable[[EnvConfig, int], Any]:
    """Its first environment fails in its second step; the next attempts to make one fail, so many times."""
    made = []

    def make_env(config: EnvConfig, seed: int) -> Any:
        made.append(seed)
        if 1 < len(made) <= 1 + times:
            if hang:
                time.sleep(hang)
            raise RuntimeError("no licence left")
        env = random_length(config, seed)
        env.fails_at = 2 if len(made) == 1 else None
        return env

    return make_env


def test_an_environment_that_cannot_be_made_again_at_once_is_tried_again(random_length: Any, policy: Policy) -> None:
    lockstep = Rollout(one_that_cannot_be_made(random_length, 2), EnvConfig(), [5], [3], seeds, 3, timeout=60)
    episodes = run(lockstep, policy, 15)
    assert lockstep.failures == [
        "environment 5, episode 3, step 2: RuntimeError: it exploded",
        "environment 5, episode 4, making it: RuntimeError: no licence left",
        "environment 5, episode 5, making it: RuntimeError: no licence left",
    ]
    assert min(episode.number for episode in episodes.values()) == 6


def test_an_environment_that_can_never_be_made_again_ends_as_one_that_always_fails(
    random_length: Any, policy: Policy
) -> None:
    lockstep = Rollout(one_that_cannot_be_made(random_length, 99), EnvConfig(), [5], [3], seeds, 3, timeout=60)
    with pytest.raises(
        EnvironmentFailure, match=r"^environment 5, episode 6, making it: RuntimeError: no licence left; mend"
    ):
        run(lockstep, policy, 15)
    lockstep.close()


def test_making_an_environment_again_may_not_take_longer_than_a_step(random_length: Any, policy: Policy) -> None:
    make_env = one_that_cannot_be_made(random_length, 1, hang=30)
    lockstep = Rollout(make_env, EnvConfig(), [5], [3], seeds, 3, timeout=0.1)
    run(lockstep, policy, 15)
    assert lockstep.failures[1:] == ["environment 5, episode 4, making it: TimeoutError: no answer for 0.1 s"]


def test_an_environment_that_cannot_be_closed_does_not_keep_the_others_open(random_length: Any) -> None:
    made = []

    class Broken(random_length):  # type: ignore[misc]
        def close(self) -> None:
            if len(made) == 2 and self is made[0]:
                raise RuntimeError("broken")
            super().close()

    def make_env(config: EnvConfig, seed: int) -> Any:
        made.append(Broken(config, seed))
        return made[-1]

    Rollout(make_env, EnvConfig(), [0, 1], [0, 0], seeds, 0, timeout=60).close()
    assert made[1].closed
