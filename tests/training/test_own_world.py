"""Whole runs in somebody else's environment: choices, termination, no success."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from prelar_ray.acting.evaluator import Evaluator
from prelar_ray.checkpoint.store import load_checkpoint
from prelar_ray.checkpoint.transfer import policy_weights
from prelar_ray.config import RunConfig, load_config
from prelar_ray.errors import CheckpointError, ConfigError
from prelar_ray.replay.segments import EpisodeStore
from prelar_ray.telemetry.writers import read_metrics
from tests.training.runs import Run, crash, never

WORLD = (
    *("env.task=gym/tests.envs.own_world:Track-v0", "env.time_limit=20", "env.kwargs.actions=discrete"),
    *("collect.synchronous=true", "evaluation.every_env_steps=30"),
)
NO_SUCCESS = "env.kwargs.success="


def episodes(folder: Any) -> list[Any]:
    return EpisodeStore(folder.replay).load_all()


@pytest.mark.parametrize(("actions", "factors"), [("discrete", 1), ("several", 2)])
def test_choices_are_collected_learnt_and_evaluated(run: Run, actions: str, factors: int) -> None:
    folder = run("run", *WORLD, f"env.kwargs.actions={actions}")
    for episode in episodes(folder):
        assert set(np.unique(episode.action)) <= {0.0, 1.0}
        assert (episode.action[1:].sum(axis=1) == factors).all()
    last = [row for row in read_metrics(folder.metrics_path) if "loss/total" in row][-1]
    assert math.isfinite(last["loss/discount"])
    assert 0 < last["behaviour/continue"] < 1
    assert last["behaviour/entropy"] > 0
    assert len(folder.evaluations()) >= 2


def test_a_run_of_choices_that_was_broken_off_resumes_to_its_end(run: Run, during_update: Any) -> None:
    during_update(5, crash)
    with pytest.raises(RuntimeError, match="power cut"):
        run("run", *WORLD)
    during_update(0, never)
    folder = run("run", *WORLD, resume=True)
    assert (folder.info["status"], len(folder.info["resumed"])) == ("finished", 1)
    assert folder.info["summary"]["updates"] == 2 + (folder.info["summary"]["env_steps"] - 60) // 5
    assert load_checkpoint(folder.path).state["actor_critic"]["actor.sizes"].tolist() == [3]


def test_vectors_choices_and_terminations_are_learnt_together_whoever_steps_the_environments(run: Run) -> None:
    world = (*WORLD, "env.kwargs.actions=several", "env.kwargs.observation=dict", "env.vector_key=state")
    folders = [run(f"workers-{n}", *world, "env.vector_size=1", f"collect.workers={n}") for n in (0, 2)]
    for episode, twin in zip(*map(episodes, folders), strict=True):
        assert episode.vector.shape == (len(episode), 1)
        assert np.array_equal(episode.vector, twin.vector)
        assert np.array_equal(episode.action, twin.action)
    last = [row for row in read_metrics(folders[0].metrics_path) if "loss/total" in row][-1]
    assert all(math.isfinite(last[f"loss/{name}"]) for name in ("vector", "discount", "reward"))
    assert {"vector_encoder.", "discount."} <= {
        f"{key.partition('.')[0]}." for key in load_checkpoint(folders[0].path).state["model"]
    }


def test_without_success_none_is_recorded_and_no_rate_is_told(run: Run) -> None:
    folder = run("run", *WORLD, NO_SUCCESS)
    assert all(row.successes == () and row.success_rule == "none" for row in folder.evaluations())
    assert all(len(row.returns) == 2 and row.success_rate is None for row in folder.evaluations())
    rows = read_metrics(folder.metrics_path)
    assert any("evaluation/return_mean" in row for row in rows)
    assert any("train/episode_return" in row for row in rows)
    assert not any("success" in name for row in rows for name in row)
    assert "return" in folder.info["summary"]
    assert "success" not in folder.info["summary"]


def test_returns_are_told_unscaled(run: Run) -> None:
    plain, scaled = (run(f"run{scale}", *WORLD, f"env.reward_scale={scale}") for scale in (1, 100))
    first = [folder.evaluations()[0].returns for folder in (plain, scaled)]
    assert all(abs(value) < 100 for returns in first for value in returns)
    rewards = [np.concatenate([episode.reward for episode in episodes(folder)[:2]]) for folder in (plain, scaled)]
    np.testing.assert_array_equal(*rewards)  # the random phase


def test_noise_on_choices_is_refused_before_anything_is_collected(run: Run) -> None:
    with pytest.raises(ConfigError, match=r"^collect\.expl_noise=0\.3: the actions of gym/.* are choices, to which no"):
        run("run", *WORLD, "collect.expl_noise=0.3")


def test_a_policy_of_choices_is_refused_where_actions_are_others(run: Run, minute_config: RunConfig) -> None:
    folder = run("run", *WORLD)
    weights = policy_weights(load_checkpoint(folder.path))
    for kind, theirs in (("box", "size 2"), ("several", "a choice of 3 and one of 2")):
        config = load_config(None, None, [*WORLD, f"env.kwargs.actions={kind}"], base=minute_config)
        with pytest.raises(CheckpointError, match=rf"has actions of a choice of 3, env\.task=gym/.* takes {theirs}; "):
            Evaluator(config).evaluate(weights, 1)
    meta = json.loads((load_checkpoint(folder.path).path / "meta.json").read_text())
    assert meta["config"]["env"]["kwargs"]["actions"] == "discrete"


def test_a_checkpoint_with_or_without_a_discount_head_is_refused_as_the_other(run: Run) -> None:
    run("run", *WORLD, "behaviour.discount_head=never")
    with pytest.raises(CheckpointError, match=r"made without a discount head; use behaviour\.discount_head=never"):
        run("run", *WORLD, "finetune.env_steps=90", resume=True)
