from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from prelar_ray.checkpoint.store import load_checkpoint
from prelar_ray.replay.segments import EpisodeStore
from prelar_ray.telemetry.metrics import METRICS
from prelar_ray.telemetry.progress import Phase
from prelar_ray.telemetry.writers import read_metrics
from prelar_ray.training.local_backend import LocalBackend
from tests.training.runs import Run, assert_every_episode_once, logged

pytestmark = pytest.mark.usefixtures("short_episodes")


def test_the_replay_ratio_is_never_negative_while_the_initial_updates_are_made(run: Run) -> None:
    folder = run("run", "finetune.initial_updates=6", "replay.tolerance_updates=20", "finetune.env_steps=90")
    name = "replay/updates_per_env_step"
    ratios = [row[name] for row in read_metrics(folder.metrics_path) if row.get(name) is not None]
    assert ratios[0] == 0
    assert ratios[-1] == pytest.approx(1 / 5)
    assert min(ratios) >= 0


@pytest.mark.parametrize("synchronous", ["true", "false"])
def test_progress_is_complete_only_when_the_updates_are_done_too(
    run: Run, monkeypatch: pytest.MonkeyPatch, synchronous: str
) -> None:
    shown: list[tuple[float, float]] = []  # env steps so far, updates
    advance = Phase.advance

    def watching(self: Phase, n: float = 1, **values: float) -> None:
        shown.append(((shown[-1][0] if shown else 0) + n, values["updates"]))
        assert n >= 0
        advance(self, n, **values)

    monkeypatch.setattr(Phase, "advance", watching)
    run("run", f"collect.synchronous={synchronous}")
    assert shown[-1] == (80, 6)
    assert all(updates == 6 for steps, updates in shown if steps >= 80)
    assert any(steps < 80 for steps, _ in shown)


def test_who_watches_the_cluster_is_told_how_far_the_run_is(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, float]] = []
    monkeypatch.setattr(LocalBackend, "report", lambda self, values: told.append(dict(values)))
    began = time.time()
    run("run")
    progress = [values["progress"] for values in told if "progress" in values]
    assert progress == sorted(progress)
    assert (progress[0] < 1, progress[-1]) == (True, 1)
    assert all(began <= values["last_line"] <= time.time() for values in told if "last_line" in values)
    assert sum("update" in values for values in told) == len(progress), "with every line of metrics"


@pytest.mark.parametrize("synchronous", ["true", "false"])
def test_a_run_leaves_everything_that_was_promised(run: Run, pretrained: Path, synchronous: str) -> None:
    folder = run("run", f"collect.synchronous={synchronous}", init=pretrained)
    last = load_checkpoint(folder.path)
    assert (last.phase, last.update) == ("finetune", 6)
    assert last.env_steps == 80
    assert {int(env): number for env, number in last.counters["numbers"].items()} == {0: 2, 1: 2}
    rows = logged(folder)  # asynchronously, what is in flight to the learner is measured along
    updates, steps = ([row[key] for row in rows] for key in ("update", "env_steps"))
    assert updates == sorted(set(updates))
    assert read_metrics(folder.metrics_path)[-1]["update"] == 6
    assert steps == sorted(steps)
    for row in read_metrics(folder.metrics_path):
        assert row.keys() - {"time", "update", "env_steps"} <= METRICS.keys()
    assert {"loss/reward", "behaviour/entropy", "replay/steps", "rate/env_steps_per_second"} <= rows[-1].keys()
    assert any("train/episode_return" in row for row in rows)
    ratios = [row.get("replay/updates_per_env_step") for row in read_metrics(folder.metrics_path)]
    assert [ratio for ratio in ratios if ratio is not None][-1] == pytest.approx(1 / 5)
    assert any(folder.tensorboard.iterdir())
    (evaluation,) = folder.evaluations()
    assert (evaluation.update, evaluation.env_steps, evaluation.task) == (6, 80, "prelar/point-reach")
    assert len(evaluation.returns) == len(evaluation.successes) == 2
    assert (evaluation.success_rule, evaluation.policy) == ("any step", "mode")
    with np.load(folder.frames / "prediction.npz") as frames:
        assert frames["true"].shape == frames["reconstructed"].shape == frames["open_loop"].shape == (5, 64, 64, 3)
    info = json.loads((folder.path / "run.json").read_text())
    assert (info["phase"], info["status"]) == ("finetune", "finished")
    assert info["summary"] == {
        "updates": 6,
        "env_steps": 80,
        "episodes": 4,
        "return": pytest.approx(sum(evaluation.returns) / 2),
        "success": sum(evaluation.successes) / 2,
    }
    assert info["timings"]["finetune"] > 0
    assert_every_episode_once(folder)


def test_the_metrics_since_the_last_line_are_written_at_the_end(run: Run) -> None:
    folder = run("run", "telemetry.every_updates=50")
    assert [row["update"] for row in logged(folder)] == [6]


def test_episodes_that_begin_in_the_random_phase_are_random_and_later_ones_follow_the_policy(run: Run) -> None:
    folder = run("run", "collect.synchronous=true", "finetune.env_steps=130", "finetune.env_steps_per_update=10")
    versions = {episode.key: episode.weight_version for episode in EpisodeStore(folder.replay).iterate()}
    assert [versions[f"env000{env}-episode00000{number}"] for number in (0, 1) for env in (0, 1)] == [-1] * 4
    assert [versions[f"env000{env}-episode000002"] for env in (0, 1)] == [7, 7]  # published at 110 steps


def test_encoder_and_dynamics_come_from_pretraining_and_stay_frozen_at_first(run: Run, pretrained: Path) -> None:
    folder = run("run", "finetune.env_steps=60", "finetune.initial_updates=3", init=pretrained)
    before, after = (load_checkpoint(path).state["model"] for path in (pretrained, folder.path))
    assert load_checkpoint(folder.path).update == 3
    for key in ("encoder.trunk.conv_in.weight", "rssm.input.weight", "rssm.cell.linear.bias"):
        torch.testing.assert_close(after[key], before[key], rtol=0, atol=0)
    assert not torch.equal(after["decoder.conv_out.weight"], before["decoder.conv_out.weight"])


def test_a_synchronous_run_repeats_exactly(run: Run) -> None:
    one, two = (run(name, "collect.synchronous=true") for name in ("one", "two"))
    assert one.evaluations() == two.evaluations()
    states = [load_checkpoint(folder.path).state["actor_critic"] for folder in (one, two)]
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, rtol=0, atol=0)


@pytest.mark.parametrize("collectors", [2, 4])
def test_a_synchronous_run_is_the_same_to_the_bit_whoever_collects(run: Run, collectors: int) -> None:
    settings = ("collect.synchronous=true", "finetune.random_steps=120", "finetune.env_steps=200")
    one, other = (
        run(f"run-{n}", *settings, f"collect.collectors={n}", f"collect.envs_per_collector={4 // n}")
        for n in (1, collectors)
    )
    assert EpisodeStore(one.replay).keys() == EpisodeStore(other.replay).keys()
    expected, found = load_checkpoint(one.path), load_checkpoint(other.path)
    assert expected.update == found.update > 10
    for part in ("model", "actor_critic"):
        for key, value in expected.state[part].items():
            assert torch.equal(value, found.state[part][key]), key
    assert [row.returns for row in one.evaluations()] == [row.returns for row in other.evaluations()]
