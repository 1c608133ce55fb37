"""Whole runs of minute algorithms on a real local Ray."""

from __future__ import annotations

import itertools
import json
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.ppo import PPO

from prelar_ray.acting.evaluator import Evaluator
from prelar_ray.baselines import training
from prelar_ray.baselines.checkpoints import resumable
from prelar_ray.baselines.training import iterate_rllib
from prelar_ray.checkpoint.store import CheckpointFolders
from prelar_ray.config import RunConfig, load_config
from prelar_ray.envs.point_reach import PointReach
from prelar_ray.errors import ConfigError, EnvironmentFailure, NonFiniteError
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.telemetry.metrics import METRICS
from prelar_ray.telemetry.writers import read_metrics
from tests.baselines.conftest import RunningCluster

OpenRun = Callable[..., RunFolder]

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("short_episodes", "local_ray")]


def changed(config: RunConfig, *overrides: str) -> RunConfig:
    return load_config(None, None, overrides, base=config)


def train(config: RunConfig, run: RunFolder, resume: bool = False) -> RunFolder:
    for _ in iterate_rllib(config, run, RunningCluster, resume):
        pass
    return run


def weights(algorithm: Algorithm) -> dict[str, torch.Tensor]:
    module: Any = algorithm.get_module()
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("name", ["ppo", "dreamer"])
def test_a_run_leaves_what_fine_tuning_leaves(name: str, open_run: OpenRun, request: pytest.FixtureRequest) -> None:
    config: RunConfig = request.getfixturevalue(name)
    run = train(config, open_run(config))
    rows = read_metrics(run.metrics_path)
    for row in rows:
        assert row.keys() - {"time", "update", "env_steps"} <= METRICS.keys()
    logged = [row for row in rows if "rllib/total_loss" in row]
    assert [row["env_steps"] for row in logged] == [40, 80, 120, 160]
    assert [row["update"] for row in logged] == [1, 2, 3, 4]
    assert {"rate/updates_per_second", "rate/env_steps_per_second", "memory/process", "rllib/entropy"} <= logged[
        -1
    ].keys()
    assert "time/collectors_paused" not in logged[-1]
    finished = [row for row in logged if "train/episode_return" in row]
    assert {row["train/episode_steps"] for row in finished} == {20}
    assert all(0 < (row["train/episode_return"] or 0) <= 200 for row in finished)  # without rllib.reward_scale
    assert any(run.tensorboard.iterdir())

    evaluations = run.evaluations()
    assert [row.env_steps for row in evaluations] == [80, 160]
    for row in evaluations:
        assert (row.task, row.success_rule, row.policy) == ("prelar/point-reach", "any step", "mode")
        assert len(row.returns) == len(row.successes) == 2
    told = [row["evaluation/return_mean"] for row in rows if "evaluation/return_mean" in row]
    assert told == pytest.approx([np.mean(row.returns) for row in evaluations])

    info = json.loads((run.path / "run.json").read_text())
    assert (info["phase"], info["status"]) == ("finetune", "finished")
    assert info["summary"].keys() == {"updates", "env_steps", "episodes", "return", "success"}
    assert (info["summary"]["updates"], info["summary"]["env_steps"]) == (4, 160)
    assert info["summary"]["episodes"] == pytest.approx(8, abs=2)
    assert info["timings"]["finetune"] > 0
    saved = CheckpointFolders(run.checkpoints, 3).paths()
    assert [int(path.name) for path in saved][-3:] == [2, 3, 4]
    assert (saved[-1] / "score.json").exists()


def test_lines_are_yielded_and_reported_as_they_are_written(ppo: RunConfig, open_run: OpenRun) -> None:
    cluster, run = RunningCluster(), open_run(ppo)
    lines = list(iterate_rllib(ppo, run, lambda: cluster, resume=False))
    written = [{k: v for k, v in row.items() if k != "time"} for row in read_metrics(run.metrics_path)]
    reported = [values for values in cluster.reported if "progress" not in values]
    assert lines == reported == written
    assert len(lines) == 6


def test_evaluations_see_the_episodes_that_those_of_other_methods_see(
    ppo: RunConfig, minute_config: RunConfig, open_run: OpenRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int | None] = []
    reset = PointReach.reset

    def noting(self: PointReach, *, seed: int | None = None, options: Any = None) -> Any:
        seeds.append(seed)
        return reset(self, seed=seed, options=options)

    monkeypatch.setattr(PointReach, "reset", noting)
    settings = ["seed=5", "evaluation.episodes=3", "evaluation.envs=2"]
    native = changed(minute_config, *settings)
    for round_ in (1, 2):
        Evaluator(native).evaluate(None, 3, round_)
    expected, seeds[:] = set(seeds), []
    evaluated = changed(ppo, *settings)
    train(evaluated, open_run(evaluated))
    assert len(expected) == 6
    assert expected <= set(seeds)


def test_environment_steps_count_the_action_repeat(ppo: RunConfig, open_run: OpenRun) -> None:
    repeated = changed(ppo, "env.action_repeat=2", "finetune.env_steps_per_update=2", "finetune.env_steps=240")
    run = train(repeated, open_run(repeated))
    rows = [row for row in read_metrics(run.metrics_path) if "rllib/total_loss" in row]
    assert [row["env_steps"] for row in rows] == [80, 160, 240]
    assert {row["train/episode_steps"] for row in rows if "train/episode_steps" in row} == {10}


@pytest.mark.nightly
@pytest.mark.render
@pytest.mark.timeout(600)
def test_env_runners_in_processes_of_their_own_draw_the_simulators(ppo: RunConfig, open_run: OpenRun) -> None:
    """RLlib imports the simulators by itself, before anyone could choose the back end in a process of RLlib's."""
    settings = [
        "env.task=metaworld/reach-v3",
        "env.render_quality=fast",
        "rllib.env_runners=1",
        "finetune.env_steps=40",
    ]
    config = changed(ppo, *settings, "evaluation.episodes=1")
    run = train(config, open_run(config))
    assert run.info["summary"]["env_steps"] == 40
    assert run.evaluations()[-1].task == "metaworld/reach-v3"


# Stopping and going on


@pytest.mark.parametrize("name", ["ppo", "dreamer"])
def test_a_resumed_run_continues_with_weights_and_counters(
    name: str, open_run: OpenRun, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    config: RunConfig = request.getfixturevalue(name)
    begun: list[dict[str, torch.Tensor]] = []
    ended: list[dict[str, torch.Tensor]] = []
    step = Algorithm.step

    def watching(self: Algorithm) -> Any:
        begun.append(weights(self))
        result = step(self)
        ended.append(weights(self))
        return result

    monkeypatch.setattr(Algorithm, "step", watching)
    first = train(config, open_run(config))
    episodes = first.info["summary"]["episodes"]
    longer = changed(config, "finetune.env_steps=240")
    run = train(longer, open_run(longer, resume=True), resume=True)
    for key, value in begun[4].items():
        torch.testing.assert_close(value, ended[3][key], rtol=0, atol=0)
    assert any(not torch.equal(value, begun[0][key]) for key, value in begun[4].items())
    rows = [row for row in read_metrics(run.metrics_path) if "rllib/total_loss" in row]
    assert [row["update"] for row in rows] == list(range(1, len(rows) + 1))
    assert [row["env_steps"] for row in rows][:6] == [40, 80, 120, 160, 200, 240]
    assert [row.env_steps for row in run.evaluations()] == [80, 160, 240]
    assert run.info["summary"]["episodes"] > episodes
    assert len(run.info["resumed"]) == 1
    train(longer, open_run(longer, resume=True), resume=True)  # a finished run stays as it is
    assert len(run.evaluations()) == 3


def test_ctrl_c_lets_the_iteration_end_and_leaves_a_checkpoint_of_it(
    ppo: RunConfig, open_run: OpenRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = itertools.count(1)
    step = PPO.training_step

    def interrupted(self: PPO) -> Any:
        if next(counted) == 3:
            signal.raise_signal(signal.SIGINT)
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(PPO, "training_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(ppo, open_run(ppo))
    run = open_run(ppo, resume=True)
    assert run.info["status"] == "interrupted"
    assert resumable(CheckpointFolders(run.checkpoints, 3), ppo).counters.update == 3
    assert run.last_checkpoint() == run.checkpoints / "000000003"
    train(ppo, run, resume=True)
    assert run.info["status"] == "finished"
    assert [row.env_steps for row in run.evaluations()] == [80, 160]
    learnt = [row["update"] for row in read_metrics(run.metrics_path) if "rllib/total_loss" in row]
    assert learnt == [1, 2, 3, 4]


def test_an_interrupt_thrown_in_between_two_lines_leaves_a_checkpoint(ppo: RunConfig, open_run: OpenRun) -> None:
    run = open_run(ppo)
    lines = iterate_rllib(changed(ppo, "checkpoint.every_updates=100"), run, RunningCluster, resume=False)
    next(lines)
    with pytest.raises(KeyboardInterrupt):
        lines.throw(KeyboardInterrupt())
    assert run.last_checkpoint() == run.checkpoints / "000000001"
    assert run.info["status"] == "interrupted"


def test_an_evaluation_that_was_interrupted_is_made_when_the_run_resumes(
    ppo: RunConfig, open_run: OpenRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "evaluate_policy", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(ppo, open_run(ppo))
    run = train(ppo, open_run(ppo, resume=True), resume=True)
    evaluations = [row.env_steps for row in run.evaluations()]
    assert len(evaluations) == 2
    assert evaluations[-1] == 160


def test_an_environment_that_fails_ends_the_run_by_its_own_name(
    ppo: RunConfig, open_run: OpenRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: PointReach, action: Any) -> Any:
        raise ValueError("it exploded")

    monkeypatch.setattr(PointReach, "_advance", broken)
    with pytest.raises(EnvironmentFailure, match="environment 0, episode 0, step 1: ValueError: it exploded"):
        train(ppo, open_run(ppo))


def test_a_setting_that_only_an_environment_can_check_is_refused_as_all_others_are(
    ppo: RunConfig, open_run: OpenRun
) -> None:
    config = changed(ppo, "env.camera=corner", "rllib.env_runners=1")
    with pytest.raises(ConfigError, match="^env.camera=corner: prelar/point-reach has no cameras"):
        train(config, open_run(config))


def test_numbers_that_are_not_finite_end_the_run(
    ppo: RunConfig, open_run: OpenRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "learner_metrics", lambda result: {"rllib/total_loss": float("nan")})
    with pytest.raises(NonFiniteError, match="rllib/total_loss is nan at update 1; lower the learning rate"):
        train(ppo, open_run(ppo))


def test_training_draws_the_same_whether_it_is_evaluated_or_not(ppo: RunConfig, open_run: OpenRun) -> None:
    often = changed(ppo, "evaluation.every_env_steps=40")
    runs = [train(config, open_run(config, name)) for config, name in ((ppo, "seldom"), (often, "often"))]
    losses = [
        [row["rllib/total_loss"] for row in read_metrics(run.metrics_path) if "rllib/total_loss" in row] for run in runs
    ]
    assert losses[0] == losses[1]
    assert len(runs[1].evaluations()) == 4
