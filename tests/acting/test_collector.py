from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from prelar_ray.acting.collector import Collected, Collector
from prelar_ray.acting.evaluator import Evaluator
from prelar_ray.action_space import ActionSpace
from prelar_ray.config import RunConfig, load_config
from prelar_ray.errors import EnvironmentFailure
from prelar_ray.types import Episode

Weights = dict[str, npt.NDArray[Any]]
Same = Callable[..., None]


def with_envs(config: RunConfig, envs: int, *overrides: str) -> RunConfig:
    return load_config(None, None, [f"collect.envs_per_collector={envs}", *overrides], base=config)


def collect(
    config: RunConfig, collectors: int, steps: int, random: bool, weights: Weights | None = None
) -> dict[str, Episode]:
    """All episodes of several collectors, by key."""
    k = config.collect.envs_per_collector
    found: list[Episode] = []
    for index in range(collectors):
        collector = Collector(config, index, [0] * k)
        found += collector.collect(steps, random, 1, weights)[1]
        collector.close()
    return {episode.key: episode for episode in found}


@pytest.mark.usefixtures("envs")
@pytest.mark.parametrize("random", [True, False])
def test_episodes_do_not_depend_on_how_environments_are_spread_over_collectors(
    minute_config: RunConfig, weights: Weights, assert_same_episode: Same, random: bool
) -> None:
    one, two = (collect(with_envs(minute_config, k), 4 // k, steps=30, random=random, weights=weights) for k in (4, 2))
    assert one.keys() == two.keys()
    assert {episode.env_index for episode in one.values()} == {0, 1, 2, 3}
    for key, episode in one.items():
        assert_same_episode(episode, two[key], tolerance=0 if random else 1e-5)


@pytest.mark.usefixtures("envs")
def test_synchronous_collectors_bring_the_same_bits(
    minute_config: RunConfig, weights: Weights, assert_same_episode: Same
) -> None:
    turns = "collect.synchronous=true"
    one, two = (
        collect(with_envs(minute_config, k, turns), 4 // k, steps=30, random=False, weights=weights) for k in (4, 1)
    )
    assert one.keys() == two.keys()
    for key, episode in one.items():
        assert_same_episode(episode, two[key], tolerance=0)


@pytest.mark.usefixtures("short_episodes")
def test_the_same_holds_in_a_real_environment(minute_config: RunConfig, assert_same_episode: Same) -> None:
    one, two = (collect(with_envs(minute_config, k), 4 // k, steps=41, random=True) for k in (4, 2))
    assert len(one) == 8
    assert one.keys() == two.keys()
    for key, episode in one.items():
        assert_same_episode(episode, two[key])


@pytest.mark.usefixtures("envs")
def test_how_many_steps_are_asked_for_at_once_does_not_matter(
    minute_config: RunConfig, weights: Weights, assert_same_episode: Same
) -> None:
    whole = Collector(minute_config, 0, [0, 0]).collect(30, False, 1, weights)[1]
    collector = Collector(minute_config, 0, [0, 0])
    parts = [episode for _ in range(10) for episode in collector.collect(3, False, 1, weights)[1]]
    assert len(whole) == len(parts) > 5
    for one, two in zip(whole, parts, strict=True):
        assert_same_episode(one, two)


@pytest.mark.usefixtures("envs")
def test_another_seed_makes_other_episodes(minute_config: RunConfig) -> None:
    one, two = (collect(minute_config.model_copy(update={"seed": seed}), 1, 12, True) for seed in (0, 1))
    key = "env0000-episode000000"
    assert not np.array_equal(one[key].image[0], two[key].image[0])
    assert not np.array_equal(one[key].action[1], two[key].action[1])


@pytest.mark.usefixtures("envs")
def test_the_summary_counts_what_happened(minute_config: RunConfig) -> None:
    collector = Collector(minute_config, 1, [4, 6])
    summary, episodes = collector.collect(25, True, -1, None)
    by_env = {index: [episode for episode in episodes if episode.env_index == index] for index in (2, 3)}
    assert summary == Collected(
        env_steps=50,
        version=-1,
        returns=tuple(float(episode.reward.sum()) for episode in episodes),
        successes=(True,) * len(episodes),
        lengths=tuple(len(episode) - 1 for episode in episodes),
        numbers={2: 4 + len(by_env[2]), 3: 6 + len(by_env[3])},
        failures=(),
    )
    assert [episode.number for episode in by_env[2]] == list(range(4, summary.numbers[2]))


def test_repeated_actions_count_as_environment_steps(minute_config: RunConfig) -> None:
    config = load_config(None, None, ["env.action_repeat=5"], base=minute_config)
    summary, _ = Collector(config, 0, [0, 0]).collect(3, True, -1, None)
    assert summary.env_steps == 3 * 2 * 5


def test_the_actions_are_the_environments(minute_config: RunConfig) -> None:
    assert Collector(minute_config, 0, [0, 0]).actions() == ActionSpace.continuous(2)


def test_the_longest_episode_is_known_before_any_is_collected(minute_config: RunConfig, short_episodes: int) -> None:
    assert Collector(minute_config, 0, [0, 0]).episode_steps() == short_episodes


@pytest.mark.usefixtures("envs")
def test_newer_weights_are_taken_and_older_ones_ignored(minute_config: RunConfig, weights: Weights) -> None:
    other = {key: value + 1 for key, value in weights.items()}
    collector = Collector(minute_config, 0, [0, 0])

    def after(version: int, offered: Weights | None) -> tuple[int, str]:
        summary, episodes = collector.collect(12, False, version, offered)
        assert episodes[-1].weight_version == summary.version  # that of its last step
        bias = collector.policy.actor.mean.bias.numpy()
        known = {"weights": weights, "other": other}
        return summary.version, next((n for n, w in known.items() if (w["actor.mean.bias"] == bias).all()), "none")

    assert after(-1, None) == (-1, "none")
    assert after(0, weights) == (0, "weights")
    assert after(10, other) == (10, "other")
    assert after(10, weights) == (10, "other")
    assert after(9, weights) == (10, "other")
    assert after(12, None) == (10, "other")
    assert after(11, weights) == (11, "weights")


def test_training_and_evaluation_never_share_a_seed(minute_config: RunConfig, envs: list[Any]) -> None:
    Collector(with_envs(minute_config, 3), 0, [0] * 3).collect(200, True, -1, None)
    training = {seed for env in envs for seed in env.seeds}
    envs.clear()
    evaluator = Evaluator(load_config(None, None, ["evaluation.envs=3"], base=minute_config))
    for round_ in range(3):
        evaluator.evaluate(None, 30, round_)
    evaluation = [seed for env in envs for seed in env.seeds]
    assert len(training) > 60
    assert len(set(evaluation)) == len(evaluation) == 90
    assert not training & set(evaluation)


def test_an_environment_that_raises_is_made_again_and_its_episode_left_out(
    minute_config: RunConfig, envs: list[Any]
) -> None:
    undisturbed = Collector(minute_config, 3, [0, 9]).collect(30, True, -1, None)[1]
    envs.clear()
    collector = Collector(minute_config, 3, [0, 8])
    envs[1].fails_at = 2
    summary, episodes = collector.collect(32, True, -1, None)
    assert summary.failures == ("environment 7, episode 8, step 2: RuntimeError: it exploded",)
    assert envs[1].closed
    assert len(envs) == 3
    keys = {episode.key for episode in undisturbed}
    again = {episode.key: episode for episode in episodes}
    assert keys <= again.keys(), "the others continue, and the next episode of the broken one is unchanged"
    for episode in undisturbed:
        np.testing.assert_array_equal(episode.image, again[episode.key].image)
        np.testing.assert_array_equal(episode.action, again[episode.key].action)
    assert collector.collect(1, True, -1, None)[0].failures == ()
    collector.close()
    assert all(env.closed for env in envs)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda *rest: time.sleep(60), "TimeoutError: no answer for 0.2 s"),
        (lambda seen, reward, *rest: (seen, float("nan"), *rest), "ValueError: the reward is nan"),
        (lambda seen, *rest: ({"image": seen["image"][:32]}, *rest), "DataError: image: frames .* 32, 64, 3"),
        (lambda seen, *rest: ({"image": seen["image"] / 255}, *rest), "DataError: image: .* float64"),
        (lambda seen, *rest: ({}, *rest), "KeyError: 'image'"),
    ],
)
def test_an_environment_that_hangs_or_answers_nonsense_is_made_again_by_itself(
    minute_config: RunConfig, envs: list[Any], answer: Callable[..., Any], reason: str
) -> None:
    config = load_config(None, None, ["env.timeout=0.2"], base=minute_config)
    collector = Collector(config, 0, [0, 0])
    step = envs[1].step
    envs[1].step = lambda action: answer(*step(action))
    summary, episodes = collector.collect(24, True, -1, None)
    (failure,) = summary.failures
    assert re.fullmatch(f"environment 1, episode 0, step 1: {reason}.*", failure)
    assert {episode.number for episode in episodes if episode.env_index == 0} >= {0, 1}
    assert min(episode.number for episode in episodes if episode.env_index == 1) == 1
    assert [env.closed for env in envs] == [False, True, False]
    collector.close()


@pytest.mark.parametrize(
    ("fails_at", "where"), [(0, "reset: RuntimeError: no sim"), (1, "step 1: RuntimeError: it exp")]
)
def test_an_environment_that_raises_again_and_again_ends_the_run_by_name(
    minute_config: RunConfig, envs: list[Any], monkeypatch: pytest.MonkeyPatch, fails_at: int, where: str
) -> None:
    collector = Collector(minute_config, 3, [0, 8])
    envs[1].fails_at = fails_at  # this one and all to come
    monkeypatch.setattr(type(envs[0]), "__init__", _healthy_but_for(type(envs[0]), fails_at))
    with pytest.raises(EnvironmentFailure, match=f"^environment 7, episode 11, {where}"):
        collector.collect(9, True, -1, None)


def _healthy_but_for(kind: Any, fails_at: int) -> Any:
    made = kind.__init__

    def init(self: Any, *args: Any) -> None:
        made(self, *args)
        self.fails_at = fails_at

    return init


@pytest.mark.usefixtures("envs")
def test_exploration_noise_reaches_training_actions(minute_config: RunConfig, weights: Weights) -> None:
    noisy = load_config(None, None, ["collect.expl_noise=0.5"], base=minute_config)
    one, two = (Collector(config, 0, [0, 0]).collect(12, False, 1, weights)[1][0] for config in (minute_config, noisy))
    assert replace(one, action=two.action, reward=two.reward).key == two.key
    assert not np.allclose(one.action, two.action)
