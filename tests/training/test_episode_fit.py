from __future__ import annotations

import logging

import pytest

from prelar_ray.config import RunConfig, load_config
from prelar_ray.errors import ConfigError
from prelar_ray.training.episode_fit import check_episodes_fit

EPISODE = 20  # environment steps; 21 rows


def check(base: RunConfig, *overrides: str) -> None:
    check_episodes_fit(load_config(None, None, overrides, base=base), EPISODE)


def test_a_pace_that_fits_passes_without_a_word(minute_config: RunConfig, caplog: pytest.LogCaptureFixture) -> None:
    check(minute_config, "finetune.segment_length=21", "finetune.random_steps=40", "replay.capacity_steps=40")
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["finetune.segment_length=22"],
            r"^finetune\.segment_length=22: an episode of \S+ has 21 steps; set it to 21 or",
        ),
        (["env.action_repeat=5", "finetune.segment_length=6"], "has 5 steps; set it to 5 or less"),
        (
            ["replay.capacity_steps=20", "finetune.random_steps=20"],
            r"^replay\.capacity_steps=20: an episode of \S+ has 21; set it to 21 or more$",
        ),
        (
            ["replay.capacity_steps=60", "replay.shards=3"],
            r"^replay\.capacity_steps=60: each of replay\.shards=3 holds 20 .* has 21; set it to 63 or more$",
        ),
        (
            ["collect.collectors=3"],
            r"^finetune\.env_steps=80: too few .* in each of 6 environments; set it to 120 or mor",
        ),
    ],
)
def test_what_can_never_be_is_refused_by_its_key(minute_config: RunConfig, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(minute_config, *overrides)


def test_a_shard_may_hold_a_single_episode(minute_config: RunConfig) -> None:
    check(minute_config, "replay.capacity_steps=63", "replay.shards=3")


def test_an_action_that_is_cut_off_at_the_end_counts_whole(minute_config: RunConfig) -> None:
    settings = ["env.action_repeat=3", "finetune.env_steps_per_update=3", "collect.collectors=2"]
    check(minute_config, *settings, "finetune.env_steps=84")
    with pytest.raises(ConfigError, match="set it to 84 or more"):
        check(minute_config, *settings, "finetune.env_steps=83")


def test_a_random_phase_shorter_than_the_first_episodes_is_mentioned(
    minute_config: RunConfig, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        check(minute_config, "finetune.random_steps=39")
    assert "finetune.random_steps=39 ends before the first episodes" in caplog.text
    assert "learning begins after 40 steps" in caplog.text
