from __future__ import annotations

import functools
import itertools
import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prelar_ray.acting.collector import Collector
from prelar_ray.acting.evaluator import Evaluator
from prelar_ray.checkpoint.store import CheckpointStore, load_checkpoint
from prelar_ray.config import RunConfig, load_config, to_yaml
from prelar_ray.envs.point_reach import PointReach
from prelar_ray.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    EnvironmentFailure,
    NonFiniteError,
    PrelarError,
    RoleDied,
    UsageError,
)
from prelar_ray.learning.learner import FinetuneLearner
from prelar_ray.replay.replay import Replay
from prelar_ray.replay.segments import EpisodeStore
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.telemetry.metrics import METRICS
from prelar_ray.telemetry.progress import Phase
from prelar_ray.telemetry.writers import read_metrics
from prelar_ray.training.backend import LocalBackend
from prelar_ray.training.finetuning import Finetuning, finetune
from prelar_ray.training.learner_role import FinetuneLearnerRole

Run = Callable[..., RunFolder]
Events = list[tuple[str, int, int]]

pytestmark = pytest.mark.usefixtures("short_episodes")


@pytest.fixture
def run(minute_config: RunConfig, tmp_path: Path) -> Run:
    """Fine-tune for 80 steps, 60 of them random, and 2 + 4 updates; return the run folder."""

    def run(
        name: str = "run",
        *overrides: str,
        resume: bool = False,
        init: Path | None = None,
        backend: Callable[[], LocalBackend] = LocalBackend,
    ) -> RunFolder:
        config = load_config(None, None, overrides, base=minute_config)
        folder = RunFolder.create(tmp_path / name, to_yaml(config), "finetune", resume)
        finetune(config, folder, backend, init, resume)
        return folder

    return run


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Events:
    """What the replay was asked for, with the environment steps and updates it had counted afterwards."""
    seen: Events = []
    count, plan = Replay.count, Replay.plan

    def inserting(self: Replay, *args: Any) -> Any:
        result = count(self, *args)
        seen.append(("insert", self.limiter.env_steps, self.limiter.updates))
        return result

    def sampling(self: Replay, ranks: int) -> Any:
        result = plan(self, ranks)
        seen.append(("sample", self.limiter.env_steps, self.limiter.updates))
        return result

    monkeypatch.setattr(Replay, "count", inserting)
    monkeypatch.setattr(Replay, "plan", sampling)
    return seen


@pytest.fixture
def during_update(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """Do something in the middle of one update, between world model and behaviour."""
    from prelar_ray.learning.behaviour import BehaviourLearner

    original = BehaviourLearner.update

    def at(number: int, act: Callable[[], None]) -> None:
        counted = itertools.count(1)

        def updating(self: BehaviourLearner, *args: Any) -> Any:
            if next(counted) == number:
                act()
            return original(self, *args)

        monkeypatch.setattr(BehaviourLearner, "update", updating)

    return at


def crash() -> None:
    raise RuntimeError("power cut")


def ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def never() -> None:
    pytest.fail("not to be called")


def checkpoints(folder: RunFolder) -> list[int]:
    return [int(path.name) for path in CheckpointStore(folder.checkpoints, 9).paths()]


def logged(folder: RunFolder) -> list[dict[str, Any]]:
    """Lines of training metrics; evaluations have lines of their own."""
    return [row for row in read_metrics(folder.metrics_path) if "loss/total" in row]


def numbers_by_env(folder: RunFolder) -> dict[str, list[int]]:
    """Numbers of the stored episodes in order of insertion."""
    found: dict[str, list[int]] = {}
    for key in EpisodeStore(folder.replay).keys():
        env, number = key.split("-")
        found.setdefault(env, []).append(int(number.removeprefix("episode")))
    return found


def assert_every_episode_once(folder: RunFolder) -> None:
    for numbers in numbers_by_env(folder).values():
        assert numbers == list(range(len(numbers)))


# What a run leaves


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


@pytest.mark.parametrize("synchronous", ["true", "false"])
def test_a_run_leaves_everything_that_was_promised(run: Run, pretrained: Path, synchronous: str) -> None:
    folder = run("run", f"collect.synchronous={synchronous}", init=pretrained)
    last = load_checkpoint(folder.path)
    assert (last.phase, last.update) == ("finetune", 6)
    assert last.counters["replay"][0]["env_steps"] == 80
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


def test_evaluations_come_every_so_many_steps_and_each_evaluates_a_checkpoint(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = []
    evaluate = Evaluator.evaluate

    def noting(self: Evaluator, weights: Any, episodes: int, round_: int) -> Any:
        rounds.append((round_, {key: value.copy() for key, value in weights.items()}))
        return evaluate(self, weights, episodes, round_)

    monkeypatch.setattr(Evaluator, "evaluate", noting)
    folder = run(
        "run",
        "collect.synchronous=true",
        "evaluation.every_env_steps=10",
        "evaluation.episodes=1",
        "checkpoint.keep_last=9",
        "checkpoint.every_updates=100",
    )
    rows = folder.evaluations()
    assert [row.env_steps // 10 for row in rows] == [6, 7, 8]
    first, *evaluated = checkpoints(folder)
    assert first == 0  # saved before anything is learnt
    assert [row.update for row in rows] == evaluated  # the last is not evaluated a second time
    assert [round_ for round_, _ in rounds] == [1, 2, 3]
    for update, (_, weights) in zip(evaluated, rounds, strict=True):
        model = load_checkpoint(folder.checkpoints / f"{update:09d}").state["model"]
        np.testing.assert_array_equal(model["rssm.input.weight"].numpy(), weights["rssm.input.weight"])
    best = CheckpointStore(folder.checkpoints, 9).best()
    assert best is not None
    assert int(best.name) == max(rows, key=lambda row: row.returns[0]).update
    lines = [row for row in read_metrics(folder.metrics_path) if "evaluation/return_mean" in row]
    assert [row["evaluation/return_mean"] for row in lines] == [row.returns[0] for row in rows]


def test_asynchronous_evaluations_are_of_checkpoints_too(run: Run) -> None:
    settings = ["evaluation.every_env_steps=10", "evaluation.episodes=1", "checkpoint.keep_last=9"]
    folder = run("run", *settings, "finetune.env_steps=90")
    evaluated = [row.update for row in folder.evaluations()]
    assert len(evaluated) > 2
    assert set(evaluated) <= set(checkpoints(folder))


class SlowEvaluator(LocalBackend):
    """An evaluation comes to its end when somebody waits for it, and not before."""

    def __init__(self) -> None:
        super().__init__()
        self.updates = 0
        self.waited: list[int] = []  # updates that were done when somebody began to wait

    def wait(self, futures: Any, timeout: float) -> list[Any]:
        if any(future.call.method.__name__ == "evaluate" for future in futures):
            if not timeout:
                return [future for future in futures if future.done]
            self.waited.append(self.updates)
        return super().wait(futures, timeout)

    def _run_next(self) -> None:
        while self._queue[0].method.__name__ == "evaluate" and any(
            call.method.__name__ != "evaluate" for call in self._queue
        ):
            self._queue.rotate(-1)
        self.updates += self._queue[0].method.__name__ == "update"
        super()._run_next()


def test_nobody_waits_for_a_long_evaluation_and_those_due_meanwhile_are_of_the_moment_at_which_they_were(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    evaluate = Evaluator.evaluate

    @functools.wraps(evaluate)
    def noting(self: Evaluator, weights: Any, *args: Any) -> Any:
        given.append({key: value.copy() for key, value in weights.items()})
        return evaluate(self, weights, *args)

    monkeypatch.setattr(Evaluator, "evaluate", noting)
    backend = SlowEvaluator()
    settings = ["evaluation.every_env_steps=10", "evaluation.episodes=1", "checkpoint.keep_last=9"]
    folder = run("run", *settings, "finetune.env_steps=90", backend=lambda: backend)
    assert set(backend.waited) == {8}
    rows = folder.evaluations()
    assert [row.env_steps // 10 for row in rows if row.update < 8] == [7, 8, 9]
    for row, weights in zip(rows, given, strict=True):
        model = load_checkpoint(folder.checkpoints / f"{row.update:09d}").state["model"]
        np.testing.assert_array_equal(model["rssm.input.weight"].numpy(), weights["rssm.input.weight"])


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


# Pace


def paid(env_steps: int, config: list[int]) -> int:
    random_steps, per_update, initial = config
    return initial + (env_steps - random_steps) // per_update if env_steps >= random_steps else 0


@pytest.mark.parametrize(
    ("collectors", "envs", "repeat", "per_update"), [(1, 1, 1, 5), (2, 3, 1, 4), (1, 2, 2, 8), (2, 1, 1, 1)]
)
def test_synchronous_mode_makes_exactly_the_updates_that_are_paid_for_after_every_turn(
    run: Run, events: Events, collectors: int, envs: int, repeat: int, per_update: int
) -> None:
    folder = run(
        "run",
        "collect.synchronous=true",
        "collect.request_steps=4",
        f"collect.collectors={collectors}",
        f"collect.envs_per_collector={envs}",
        f"env.action_repeat={repeat}",
        "finetune.random_steps=130",
        f"finetune.env_steps={130 + 4 * per_update}",
        f"finetune.env_steps_per_update={per_update}",
        "evaluation.episodes=1",
    )
    config = [130, per_update, 2]
    can_sample = False
    for index, (kind, env_steps, updates) in enumerate(events):
        assert updates <= paid(env_steps, config)
        can_sample |= kind == "sample"
        turn_ends = kind == "sample" and events[index + 1 : index + 2] != [] and events[index + 1][0] == "insert"
        if turn_ends or (can_sample and index + 1 == len(events)):
            assert updates == paid(env_steps, config)
    assert can_sample
    info = RunFolder.open(folder.path).info["summary"]
    assert info["env_steps"] >= 130 + 4 * per_update
    assert info["updates"] == paid(info["env_steps"], config)
    assert all(row["weights/age_updates"] == 0 for row in logged(folder) if "weights/age_updates" in row)


@pytest.mark.parametrize(
    ("collectors", "tolerance", "request_steps", "per_update"),
    [(1, 1, 3, 4), (2, 1, 3, 4), (2, 4, 3, 4), (1, 3, 10, 2)],
)
def test_asynchronous_mode_keeps_the_ratio_within_its_tolerance_and_ends_at_it(
    run: Run, events: Events, collectors: int, tolerance: int, request_steps: int, per_update: int
) -> None:
    env_steps = 90 + (40 if per_update == 4 else 80)
    folder = run(
        "run",
        f"collect.request_steps={request_steps}",
        f"collect.collectors={collectors}",
        f"replay.tolerance_updates={tolerance}",
        "finetune.random_steps=90",
        f"finetune.env_steps={env_steps}",
        f"finetune.env_steps_per_update={per_update}",
        "evaluation.episodes=1",
        "checkpoint.every_updates=10",
    )
    config = [90, per_update, 2]
    lags = [paid(steps, config) - updates for _, steps, updates in events]
    in_flight = 1 + collectors * 2 * request_steps // per_update  # asked for before the tolerance was exceeded
    assert min(lags) >= 0
    assert max(lags) <= tolerance + in_flight
    info = RunFolder.open(folder.path).info["summary"]
    assert info["env_steps"] == env_steps
    assert info["updates"] == events[-1][2] == paid(env_steps, config)


def test_an_older_answer_of_the_replay_takes_no_environment_step_back(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SecondFirst(LocalBackend):
        """The second collector answers before the first, and the replay takes both in before anyone looks."""

        def wait(self, futures: Any, timeout: float) -> list[Any]:
            super().wait(futures, timeout)
            while self._queue and sum(future.call.method.__name__ == "count" for future in futures) == 2:
                self._run_next()
            return [future for future in futures if future.done]

        def _run_next(self) -> None:
            collecting = [call for call in self._queue if call.method.__name__ == "collect"]
            if len(collecting) == 2 and self._queue[0] is collecting[0]:
                self._queue.rotate(-1)
            super()._run_next()

    seen = []
    inserted = Finetuning._inserted

    def watching(self: Finetuning, index: int) -> None:
        inserted(self, index)
        seen.append(self.status.env_steps)

    monkeypatch.setattr(Finetuning, "_inserted", watching)
    settings = ("collect.collectors=2", "collect.envs_per_collector=1", "collect.request_steps=7")
    folder = run("run", *settings, backend=SecondFirst)
    assert seen == sorted(seen)
    assert folder.info["summary"]["env_steps"] == 80


def test_a_synchronous_run_repeats_exactly(run: Run) -> None:
    one, two = (run(name, "collect.synchronous=true") for name in ("one", "two"))
    assert one.evaluations() == two.evaluations()
    states = [load_checkpoint(folder.path).state["actor_critic"] for folder in (one, two)]
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, rtol=0, atol=0)


# Stopping and going on


@pytest.mark.parametrize("synchronous", ["true", "false"])
def test_a_crashed_run_goes_on_from_its_last_checkpoint(
    run: Run, tmp_path: Path, during_update: Any, synchronous: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [f"collect.synchronous={synchronous}", "finetune.env_steps=130", "evaluation.every_env_steps=15"]
    during_update(9, crash)
    with pytest.raises(RuntimeError, match="power cut"):
        run("run", *settings)
    folder = RunFolder.open(tmp_path / "run")
    assert (folder.info["status"], folder.info["error"]) == ("failed", "RuntimeError: power cut")
    reached = load_checkpoint(folder.path)
    assert 2 <= reached.update <= 8
    rows = logged(folder)
    evaluations = folder.evaluations()
    assert evaluations

    restored = []
    restore = Replay.restore

    def restoring(self: Replay, *args: Any) -> Any:
        status = restore(self, *args)
        restored.append((status, [episode.key for episode in self.buffer]))
        return status

    monkeypatch.setattr(Replay, "restore", restoring)
    during_update(0, never)
    run("run", *settings, resume=True)
    ((status, keys),) = restored
    assert status.env_steps == reached.counters["replay"][0]["env_steps"]
    assert status.updates == reached.update
    assert len(keys) == sum(reached.counters["numbers"].values())

    folder = RunFolder.open(folder.path)
    assert (folder.info["status"], folder.info["error"], len(folder.info["resumed"])) == ("finished", None, 1)
    assert folder.info["summary"]["updates"] == 2 + (folder.info["summary"]["env_steps"] - 60) // 5
    assert load_checkpoint(folder.path).update == folder.info["summary"]["updates"]
    again = logged(folder)
    updates = [row["update"] for row in again]
    assert updates == sorted(set(updates))
    kept = [row for row in rows if row["update"] <= reached.update]
    assert again[: len(kept)] == kept
    measured = [row for row in evaluations if row.update <= reached.update]
    assert folder.evaluations()[: len(measured)] == measured
    steps = [row.env_steps for row in folder.evaluations()]
    assert steps == sorted(set(steps))
    assert_every_episode_once(folder)


@pytest.mark.parametrize("synchronous", ["true", "false"])
def test_ctrl_c_within_an_update_leaves_a_checkpoint_of_whole_updates(
    run: Run, tmp_path: Path, during_update: Any, synchronous: str
) -> None:
    during_update(3, ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        run("run", f"collect.synchronous={synchronous}", "checkpoint.every_updates=100")
    folder = RunFolder.open(tmp_path / "run")
    assert folder.info["status"] == "interrupted"
    reached = load_checkpoint(folder.path)
    assert reached.update >= 3
    adam = [reached.state[name]["updates"] for name in ("dynamics_optimizer", "optimizer")]
    assert adam == [reached.update] * 2
    during_update(0, never)
    run("run", f"collect.synchronous={synchronous}", resume=True)
    assert load_checkpoint(folder.path).update == 6
    assert_every_episode_once(folder)


def test_ctrl_c_ends_the_run_also_when_the_learner_is_dead(
    run: Run,
    tmp_path: Path,
    during_update: Any,
    learner_dies: Callable[[type], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def interrupt() -> None:
        learner_dies(FinetuneLearnerRole)
        ctrl_c()

    during_update(3, interrupt)
    with pytest.raises(KeyboardInterrupt):
        run("run", "checkpoint.every_updates=100")
    assert "learner died: killed; the last checkpoint stands" in caplog.text
    assert RunFolder.open(tmp_path / "run").info["status"] == "interrupted"
    assert load_checkpoint(tmp_path / "run").update == 0


def test_ctrl_c_before_the_first_update_keeps_the_random_experience(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect = Collector.collect
    calls = itertools.count(1)

    def interrupted(self: Collector, *args: Any) -> Any:
        if next(calls) == 5:
            ctrl_c()
        return collect(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Collector, "collect", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run("run")
    reached = load_checkpoint(tmp_path / "run")
    assert reached.update == 0
    assert reached.counters["replay"][0]["env_steps"] == 40
    folder = run("run", resume=True)
    assert RunFolder.open(folder.path).info["summary"]["updates"] == 6
    assert_every_episode_once(folder)


def test_resuming_a_finished_run_changes_nothing(run: Run) -> None:
    first = run("run")
    before = first.info["summary"], checkpoints(first), read_metrics(first.metrics_path), first.evaluations()
    again = run("run", resume=True)
    assert (again.info["summary"], checkpoints(again), read_metrics(again.metrics_path), again.evaluations()) == before


def test_an_evaluation_that_an_interrupt_cut_off_is_made_when_the_run_goes_on(
    run: Run, tmp_path: Path, during_update: Any
) -> None:
    settings = ["collect.synchronous=true", "evaluation.every_env_steps=10", "evaluation.episodes=1"]
    expected = run("whole", *settings).evaluations()
    during_update(3, ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        run("cut", *settings, backend=SlowEvaluator)
    folder = RunFolder.open(tmp_path / "cut")
    assert folder.evaluations() == []
    assert load_checkpoint(folder.path).update == 3
    during_update(0, never)
    found = run("cut", *settings, resume=True).evaluations()
    assert found[0] == expected[0]  # of update 2, though the run went on from update 3
    assert [row.update for row in found] == [row.update for row in expected]


def test_checkpoints_that_do_not_say_which_evaluations_are_owed_can_be_gone_on_from(run: Run) -> None:
    folder = run("run", "finetune.env_steps=70")
    meta = folder.checkpoints / "000000004" / "meta.json"
    content = json.loads(meta.read_text())
    del content["counters"]["evaluations_owed"]
    meta.write_text(json.dumps(content))
    assert [row.update for row in run("run", resume=True).evaluations()] == [4, 6]


def test_evaluations_beyond_the_checkpoint_are_forgotten(run: Run) -> None:
    settings = ["collect.synchronous=true", "evaluation.every_env_steps=10", "evaluation.episodes=1"]
    folder = run("run", *settings)
    before = folder.evaluations()
    (folder.checkpoints / f"{before[-1].update:09d}" / "state.pt").write_bytes(b"damaged")
    reached = load_checkpoint(folder.path).update
    assert reached < before[-1].update
    again = run("run", *settings, resume=True).evaluations()
    assert again[:-1] == before[:-1]
    assert [row.update for row in again] == [row.update for row in before]


def test_a_run_lost_before_its_first_update_can_be_resumed(run: Run, during_update: Any) -> None:
    during_update(1, crash)
    with pytest.raises(RuntimeError, match="power cut"):
        run("run")
    assert run("run", resume=True).info["status"] == "finished"


def test_without_a_checkpoint_there_is_nothing_to_resume(run: Run, tmp_path: Path) -> None:
    shutil.rmtree(run("run").checkpoints)
    with pytest.raises(CheckpointError, match="checkpoints: holds no usable checkpoint"):
        run("run", resume=True)
    assert RunFolder.open(tmp_path / "run").info["status"] == "finished"


def everything(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        (
            "behaviour.actor.units=12",
            CheckpointError,
            r"/000000006: made with behaviour\.actor\.units=8 \(here 12\); lea",
        ),
        ("loss.aux_reward_weight=0", CheckpointError, r"made with loss\.aux_reward_weight=1 \(here 0\); leave"),
        (
            "finetune.env_steps=70",
            UsageError,
            r"^finetune\.env_steps=70: .*/000000006 has done 80 already; ask for more",
        ),
    ],
)
def test_a_resume_that_does_not_fit_is_refused_before_anything_starts_or_changes(
    run: Run, tmp_path: Path, override: str, error: type[PrelarError], message: str
) -> None:
    before = everything(run("run").path)
    with pytest.raises(error, match=message):
        run("run", override, resume=True, backend=lambda: pytest.fail("started"))
    assert everything(tmp_path / "run") == before


def test_a_resume_that_fails_while_roles_start_leaves_the_record_as_it_was(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("run")
    before = everything(tmp_path / "run")
    monkeypatch.setattr(Replay, "restore", lambda *_: crash())
    with pytest.raises(RuntimeError, match="power cut"):
        run("run", "seed=5", resume=True)
    assert everything(tmp_path / "run") == before


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


def test_the_learner_waits_for_a_collector_whose_weights_are_too_old(run: Run) -> None:
    class SlowCollectors(LocalBackend):
        """Whatever else is asked for is done first."""

        def _run_next(self) -> None:
            others = [call for call in self._queue if call.method.__name__ != "collect"]
            if others and self._queue[0] is not others[0]:
                self._queue.remove(others[0])
                self._queue.appendleft(others[0])
            super()._run_next()

    folder = run(
        "run",
        "collect.collectors=2",
        "collect.envs_per_collector=1",
        "collect.publish_every_updates=1",
        "collect.max_age_updates=4",
        "finetune.env_steps_per_update=1",
        "finetune.env_steps=160",
        "telemetry.every_updates=1",
        "replay.tolerance_updates=64",
        backend=SlowCollectors,
    )
    rows = read_metrics(folder.metrics_path)
    assert max(filter(None, (row.get("weights/age_largest") for row in rows))) == 4


# Roles that die


class Mortal(LocalBackend):
    """The first role of a name dies at the n-th call of a method; who waits for that call hears of it."""

    def __init__(self, name: str, method: str, number: int = 1) -> None:
        super().__init__()
        self.victim, self.method, self.number = name, method, number
        self.started: list[str] = []
        self.stopped: list[str] = []

    def start(self, name: str, factory: Any, *args: Any) -> Any:
        role = super().start(name, factory, *args)
        if name == self.victim and name not in self.started:
            self._mark(role)
        self.started.append(name)
        return role

    def _mark(self, role: Any) -> None:
        call, calls = role.call, itertools.count(1)

        def calling(method: str, *args: Any, returns: int = 1) -> Any:
            if method == self.method and next(calls) == self.number:
                return _Dead() if returns == 1 else [_Dead()] * returns
            return call(method, *args, returns=returns)

        role.call = calling

    def wait(self, futures: Any, timeout: float) -> list[Any]:
        dead = [future for future in futures if isinstance(future, _Dead)]
        return dead or super().wait(futures, timeout)

    def get(self, future: Any) -> Any:
        if isinstance(future, _Dead):
            raise RoleDied(self.victim, "killed")
        return super().get(future)

    def stop(self, role: Any) -> None:
        self.stopped.append(role.name)
        super().stop(role)


class _Dead:
    """A future of a dead role."""


@pytest.mark.parametrize("synchronous", ["true", "false"])
def test_a_collector_that_dies_is_replaced_and_costs_its_open_episodes_only(
    run: Run, caplog: pytest.LogCaptureFixture, synchronous: str
) -> None:
    backend = Mortal("collector-0", "collect", 3)
    folder = run(
        "run",
        f"collect.synchronous={synchronous}",
        "collect.collectors=2",
        "finetune.random_steps=120",
        "finetune.env_steps=160",
        backend=lambda: backend,
    )
    assert backend.stopped == ["collector-0"]
    assert backend.started.count("collector-0") == 2
    assert "collector-0 died: killed; another takes its place" in caplog.text
    summary = RunFolder.open(folder.path).info["summary"]
    assert summary["env_steps"] >= 160
    assert summary["updates"] == 2 + (summary["env_steps"] - 120) // 5
    assert_every_episode_once(folder)
    assert numbers_by_env(folder).keys() == {"env0000", "env0001", "env0002", "env0003"}


def test_a_collector_that_hangs_while_it_makes_its_environments_is_replaced(
    run: Run, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hanging(Mortal):
        """The first collector never answers; the others are processes too."""

        parallel = True

        def wait(self, futures: Any, timeout: float) -> list[Any]:
            rest = [future for future in futures if not isinstance(future, _Dead)]
            return LocalBackend.wait(self, rest, timeout) if rest else []

        def get(self, future: Any) -> Any:
            assert not isinstance(future, _Dead), "nobody waits for it without an end"
            return super().get(future)

    monkeypatch.setattr("prelar_ray.training.collectors.time.monotonic", itertools.count(step=20).__next__)
    backend = Hanging("collector-0", "episode_steps")
    folder = run("run", "collect.timeout=50", "evaluation.timeout=100000", backend=lambda: backend)
    assert "waiting for collector-0, which makes its environments" in caplog.text
    wanted = "collector-0 died: no answer for 170 s while it made its environments (collect.timeout); another"
    assert wanted in caplog.text
    assert backend.stopped[0] == "collector-0"
    assert folder.info["status"] == "finished"


def test_an_evaluator_that_dies_is_replaced_and_only_its_evaluation_is_missing(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    backend = Mortal("evaluator", "evaluate")
    folder = run("run", "collect.synchronous=true", "evaluation.every_env_steps=70", backend=lambda: backend)
    assert backend.stopped == ["evaluator"]
    assert "evaluator died: killed; this evaluation is left out" in caplog.text
    assert [row.update for row in folder.evaluations()] == [6]


def test_an_evaluation_that_takes_too_long_is_left_out(
    run: Run, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Elsewhere(LocalBackend):
        """Evaluators are processes of their own that do not answer."""

        parallel = True

        def wait(self, futures: Any, timeout: float) -> list[Any]:
            rest = [future for future in futures if not future.call.method.__name__ == "evaluate"]
            return super().wait(rest, timeout) if rest else []

    monkeypatch.setattr("prelar_ray.training.finetuning.time.monotonic", itertools.count().__next__)
    folder = run("run", "evaluation.timeout=100", backend=Elsewhere)
    assert "evaluator died: no answer for evaluation.timeout=100 s; this evaluation is left out" in caplog.text
    assert folder.info["status"] == "finished"
    assert folder.evaluations() == []


def test_a_run_without_any_evaluation_ends_all_the_same(run: Run) -> None:
    folder = run("run", backend=lambda: Mortal("evaluator", "evaluate"))
    info = RunFolder.open(folder.path).info
    assert info["status"] == "finished"
    assert info["summary"] == {"updates": 6, "env_steps": 80, "episodes": 4}


def test_without_its_learner_a_run_fails(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RoleDied, match="learner died"):
        run("run", "collect.synchronous=true", backend=lambda: Mortal("learner", "update", 4))
    assert RunFolder.open(tmp_path / "run").info["status"] == "failed"


# Bad input


def test_a_reward_that_is_not_finite_costs_its_episode_and_is_said(
    run: Run, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = PointReach._advance
    steps = itertools.count(1)

    def poisoned(self: PointReach, action: Any) -> Any:
        reward, *rest = advance(self, action)
        return (float("nan") if next(steps) == 50 else reward, *rest)

    monkeypatch.setattr(PointReach, "_advance", poisoned)
    folder = run("run", "finetune.env_steps=140", "evaluation.every_env_steps=1000")
    assert folder.info["status"] == "finished"
    assert re.search(r"environment \d, episode 1, step 5: ValueError: the reward is nan; its episode", caplog.text)
    assert sorted(numbers_by_env(folder).values()) == [[0, 1, 2], [0, 2, 3]]
    assert sum(row.get("train/env_failures") or 0 for row in read_metrics(folder.metrics_path)) == 1


def test_a_loss_that_is_not_finite_stops_the_run_by_name_and_keeps_the_last_checkpoint(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = FinetuneLearner.update

    def poisoned(self: FinetuneLearner, batch: Any) -> None:
        if self.updates == 4:
            with torch.no_grad():
                self.actor_critic.actor.mean.bias[0] = torch.nan
        update(self, batch)

    monkeypatch.setattr(FinetuneLearner, "update", poisoned)
    with pytest.raises(NonFiniteError, match=r"^update 5: \w+/\w+ is not finite\. The last checkpoint is intact"):
        run("run", "collect.synchronous=true", "telemetry.every_updates=50", "collect.publish_every_updates=50")
    folder = RunFolder.open(tmp_path / "run")
    assert folder.info["status"] == "failed"
    reached = load_checkpoint(folder.path)
    assert reached.update == max(checkpoints(folder)) <= 4
    for part in ("model", "actor_critic"):
        assert all(value.isfinite().all() for value in reached.state[part].values())


def test_environments_that_raise_again_and_again_fail_the_run_and_all_are_closed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = []
    monkeypatch.setattr(PointReach, "close", lambda self: closed.append(self))

    def fail(self: PointReach, action: Any) -> Any:
        raise ZeroDivisionError("simulation unstable")

    monkeypatch.setattr(PointReach, "_advance", fail)
    with pytest.raises(EnvironmentFailure, match="environment 0, episode 3, step 1: ZeroDivisionError: simulation uns"):
        run("run")
    assert len(set(map(id, closed))) == len(closed) == 2 + 2 * 3
    assert RunFolder.open(tmp_path / "run").info["status"] == "failed"


def test_episodes_that_end_sooner_than_a_segment_are_no_experience(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Collector, "episode_steps", lambda self: 60)  # at the latest; these end after 20
    with pytest.raises(DataError, match=r"no episode has finetune\.segment_length=25 steps \(longest: 21\)"):
        run("run", "finetune.segment_length=25", "finetune.env_steps=130")


def test_a_pace_at_which_no_episode_can_end_is_refused_before_anything_is_collected(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Collector, "collect", lambda *_: never())
    with pytest.raises(ConfigError, match=r"^finetune\.env_steps=80: too few for one episode .* in each of 5 envir"):
        run("run", "collect.envs_per_collector=5")


def test_a_start_from_a_finetuning_run_or_other_sizes_is_refused(run: Run, pretrained: Path, tmp_path: Path) -> None:
    finished = run("first")
    with pytest.raises(CheckpointError, match="000000006: a finetune checkpoint; --init takes a pretrain one"):
        run("second", init=finished.path)
    with pytest.raises(CheckpointError, match=r"000000005: rssm\.\S+ has shape \(24, 16\) .* and \(36, 20\) in this"):
        run("third", "world_model.rssm.deter=12", init=pretrained)
    assert RunFolder.open(tmp_path / "third").info["status"] == "failed"
