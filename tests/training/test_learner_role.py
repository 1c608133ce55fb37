from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prelar_ray.checkpoint.store import CheckpointStore, load_checkpoint
from prelar_ray.config import LearnerConfig, RunConfig, load_config
from prelar_ray.errors import CheckpointError, NonFiniteError, ResourceError
from prelar_ray.learning.learner import PretrainLearner
from prelar_ray.learning.ranks import Ranks
from prelar_ray.telemetry.metrics import METRICS
from prelar_ray.training.learner_role import FinetuneLearnerRole
from prelar_ray.types import SequenceBatch


def batch(seed: int = 0) -> SequenceBatch:
    rng = np.random.default_rng(seed)
    first = np.zeros((2, 5), dtype=np.bool_)
    first[:, 0] = True
    return SequenceBatch(
        image=rng.integers(0, 256, (2, 5, 64, 64, 3), dtype=np.uint8),
        action=rng.uniform(-1, 1, (2, 5, 2)).astype(np.float32),
        reward=rng.random((2, 5), dtype=np.float32),
        is_first=first,
        is_terminal=np.zeros((2, 5), dtype=np.bool_),
    )


def wider(config: RunConfig) -> RunConfig:
    return load_config(None, None, ["world_model.rssm.deter=12"], base=config)


@pytest.fixture
def pretrained(minute_config: RunConfig, tmp_path: Path) -> Path:
    learner = PretrainLearner(minute_config.model_copy(update={"seed": 9}))
    return CheckpointStore(tmp_path / "pretrained", 1).save("pretrain", minute_config, 3, learner.state_dict(), {})


def test_updates_are_counted_timed_and_measured(minute_config: RunConfig, tmp_path: Path) -> None:
    role = FinetuneLearnerRole(minute_config, 2, tmp_path)
    assert [role.update([batch(seed)]) for seed in range(3)] == [1, 2, 3]
    values = role.metrics()
    assert {"loss/total", "behaviour/critic_loss", "grad_norm/actor", "time/update"} <= values.keys() <= METRICS.keys()
    assert values["time/update"] > 0
    assert values["time/wait_for_data"] >= 0
    assert role.metrics() == {}
    role.update([batch(4)])
    assert role.metrics()["time/wait_for_data"] == 0  # what lies between two reads is not waiting


def test_a_call_of_several_updates_makes_them_in_order(minute_config: RunConfig, tmp_path: Path) -> None:
    at_once, one_by_one = (FinetuneLearnerRole(minute_config, 2, tmp_path) for _ in range(2))
    batches = [batch(seed) for seed in range(3)]
    assert at_once.update(batches) == 3
    assert [one_by_one.update([each]) for each in batches] == [1, 2, 3]
    first, second = at_once.learner.policy_weights(), one_by_one.learner.policy_weights()
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_pretrained_parts_are_taken_over_and_others_are_not(
    minute_config: RunConfig, tmp_path: Path, pretrained: Path
) -> None:
    role, fresh = (FinetuneLearnerRole(minute_config, 2, tmp_path) for _ in range(2))
    role.initialise(pretrained)
    source = load_checkpoint(pretrained).state["model"]
    own, before = role.learner.model.state_dict(), fresh.learner.model.state_dict()
    for key, value in own.items():
        taken = key.startswith(("encoder.", "rssm.", "decoder."))
        torch.testing.assert_close(value, source[key] if taken else before[key], rtol=0, atol=0)
    assert any(not torch.equal(own[key], before[key]) for key in own)


def test_a_run_folder_stands_for_its_last_checkpoint(
    minute_config: RunConfig, tmp_path: Path, pretrained: Path
) -> None:
    (tmp_path / "run").mkdir()
    pretrained.parent.rename(tmp_path / "run" / "checkpoints")
    FinetuneLearnerRole(minute_config, 2, tmp_path / "own").initialise(tmp_path / "run")


def test_a_pretraining_checkpoint_of_other_sizes_is_refused_by_key_and_both_shapes(
    minute_config: RunConfig, tmp_path: Path, pretrained: Path
) -> None:
    role = FinetuneLearnerRole(wider(minute_config), 2, tmp_path)
    with pytest.raises(
        CheckpointError,
        match=r"000000003: rssm\.\S+ has shape \(24, 16\) in the checkpoint and \(36, 20\) in this configuration; use",
    ):
        role.initialise(pretrained)


def test_a_finetuning_checkpoint_is_nothing_to_begin_with(minute_config: RunConfig, tmp_path: Path) -> None:
    role = FinetuneLearnerRole(minute_config, 2, tmp_path)
    role.save({})
    role.saved()
    with pytest.raises(CheckpointError, match=r"000000000: a finetune checkpoint; --init takes a pretrain one"):
        role.initialise(tmp_path / "000000000")


def test_a_restored_learner_continues_as_if_nothing_had_happened(minute_config: RunConfig, tmp_path: Path) -> None:
    whole = FinetuneLearnerRole(minute_config, 2, tmp_path / "whole")
    role = FinetuneLearnerRole(minute_config, 2, tmp_path / "cut")
    for seed in range(3):
        whole.update([batch(seed)])
        role.update([batch(seed)])
    assert role.save({"a": 1}) == 3
    role.saved()
    resumed = FinetuneLearnerRole(minute_config.model_copy(update={"seed": 5}), 2, tmp_path / "cut")
    resumed.restore(tmp_path / "cut" / "000000003")
    for seed in (3, 4):
        assert whole.update([batch(seed)]) == resumed.update([batch(seed)])
    expected, found = whole.policy_weights(), resumed.policy_weights()
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value)
    assert whole.save({}) == resumed.save({}) == 5
    whole.saved()
    resumed.saved()
    one, two = (load_checkpoint(tmp_path / name / "000000005") for name in ("whole", "cut"))
    for part in ("model", "actor_critic", "bonus"):
        for key, value in one.state[part].items():
            torch.testing.assert_close(two.state[part][key], value, rtol=0, atol=0)


def test_a_checkpoint_holds_its_moment_though_learning_continues_while_it_is_written(
    minute_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    role = FinetuneLearnerRole(minute_config, 2, tmp_path)
    may_write = threading.Event()
    save = CheckpointStore.save

    def slowly(self: CheckpointStore, *args: Any) -> Path:
        may_write.wait()
        return save(self, *args)

    monkeypatch.setattr(CheckpointStore, "save", slowly)
    before = {key: value.clone() for key, value in role.learner.actor_critic.state_dict().items()}
    assert role.save({}) == 0
    role.update([batch(0)])
    assert not list(tmp_path.glob("[0-9]*"))
    may_write.set()
    role.saved()
    stored = CheckpointStore(tmp_path, 1).latest()
    assert stored.update == 0
    assert all(torch.equal(value, stored.state["actor_critic"][key]) for key, value in before.items())
    assert not torch.equal(role.learner.actor_critic.state_dict()["actor.mean.bias"], before["actor.mean.bias"])


@pytest.mark.parametrize("asked", ["saved", "metrics", "save"])
def test_a_checkpoint_that_could_not_be_written_is_heard_of(
    minute_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    def full(*_: Any) -> Path:
        raise CheckpointError("no space left")

    role = FinetuneLearnerRole(minute_config, 2, tmp_path)
    monkeypatch.setattr(CheckpointStore, "save", full)
    role.save({})
    role._writer.shutdown()
    with pytest.raises(CheckpointError, match="no space left"):
        role.save({}) if asked == "save" else getattr(role, asked)()


def test_a_checkpoint_of_another_configuration_is_refused_by_key_and_both_shapes(
    minute_config: RunConfig, tmp_path: Path
) -> None:
    role = FinetuneLearnerRole(minute_config, 2, tmp_path)
    role.save({})
    role.saved()
    with pytest.raises(
        CheckpointError, match=r"/000000000: model\.rssm\.\S+ has shape \(24, 16\) in the checkpoint and \(36, 20\)"
    ):
        FinetuneLearnerRole(wider(minute_config), 2, tmp_path).restore(tmp_path / "000000000")


def test_a_checkpoint_of_a_task_with_other_actions_is_refused_by_their_sizes(
    minute_config: RunConfig, tmp_path: Path
) -> None:
    role = FinetuneLearnerRole(minute_config, 2, tmp_path)
    role.save({})
    role.saved()
    expected = r"/000000000: its policy has actions of size 2, env\.task=prelar/point-reach takes size 4; choose"
    with pytest.raises(CheckpointError, match=expected):
        FinetuneLearnerRole(minute_config, 4, tmp_path).restore(tmp_path / "000000000")


def test_weights_that_are_not_finite_are_neither_saved_nor_published(minute_config: RunConfig, tmp_path: Path) -> None:
    role = FinetuneLearnerRole(minute_config, 2, tmp_path)
    role.update([batch(0)])
    role.save({})
    broken = batch(1)
    broken.reward[1, 2] = np.nan
    role.update([broken])
    for attempt in (role.policy_weights, lambda: role.save({}), role.metrics):
        with pytest.raises(NonFiniteError, match=r"^update 2: \w+/\w+ is not finite\. The last checkpoint is intact"):
            attempt()
    role.saved()
    assert [path.name for path in tmp_path.iterdir()] == ["000000001"]
    for value in load_checkpoint(tmp_path / "000000001").state["model"].values():
        assert value.isfinite().all()


def test_a_prediction_shows_the_first_segment(minute_config: RunConfig, tmp_path: Path) -> None:
    example = batch(3)
    prediction = FinetuneLearnerRole(minute_config, 2, tmp_path).predict(example)
    np.testing.assert_array_equal(prediction.true, example.image[0])
    assert prediction.open_loop.shape == prediction.reconstructed.shape == (5, 64, 64, 3)
    assert prediction.context == 1
    np.testing.assert_array_equal(prediction.open_loop[:1], prediction.reconstructed[:1])


def test_ranks_that_do_not_meet_say_where_they_waited(minute_config: RunConfig, tmp_path: Path) -> None:
    pair = minute_config.model_copy(update={"learner": LearnerConfig(ranks=2)})
    role = FinetuneLearnerRole(pair, 2, tmp_path, rank=1)
    join = Ranks.join
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ranks, "join", lambda *args: join(*args, timeout=1.0))
        with pytest.raises(ResourceError, match=r"learner\.ranks=2: rank 1 did not meet the others at 127\.0\.0\.1:9 "):
            role.join("127.0.0.1:9")
