"""Whole learners at tiny widths."""

from __future__ import annotations

import dataclasses
import io
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from prelar_ray.acting.policy import Policy
from prelar_ray.errors import CheckpointError, ConfigError, NonFiniteError, ResourceError
from prelar_ray.learning.device import resolve_device
from prelar_ray.learning.learner import FinetuneLearner, PretrainLearner
from prelar_ray.models.resnet import fold_norms
from prelar_ray.telemetry.metrics import METRICS
from prelar_ray.types import SequenceBatch
from tests.tiny import ACTION, tiny_batch, tiny_clips, tiny_config

# Every part of the state matters within a few updates.
RESUMED = ("behaviour.slow_critic_every=3", "behaviour.reward_momentum=0.5", "finetune.initial_updates=3")


def pretrain_learner(*overrides: str) -> PretrainLearner:
    return PretrainLearner(tiny_config(*overrides))


def finetune_learner(*overrides: str) -> FinetuneLearner:
    return FinetuneLearner(tiny_config(*overrides), ACTION)


def tensors(tree: Any) -> list[torch.Tensor]:
    """All tensors of a state, in order, copied."""
    leaves = torch.utils._pytree.tree_leaves(tree)
    return [torch.as_tensor(leaf).clone() for leaf in leaves if leaf is not None]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    restored: dict[str, Any] = torch.load(file, weights_only=True)
    return restored


def snapshot(*modules: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for module in modules for parameter in module.parameters()]


def with_reward(batch: SequenceBatch, value: float) -> SequenceBatch:
    reward = batch.reward.copy()
    reward[1, 2] = value
    return dataclasses.replace(batch, reward=reward)


def test_restored_pretraining_continues_bit_for_bit() -> None:
    learner = pretrain_learner()
    for i in range(2):
        learner.update(tiny_clips(i))
    learner.metrics()
    state = through_a_file(learner.state_dict())
    other = pretrain_learner("seed=1")
    assert not same(tensors(other.state_dict()), tensors(state))
    other.load_state_dict(state)
    assert other.updates == 2
    for i in range(2, 4):
        learner.update(tiny_clips(i))
        other.update(tiny_clips(i))
    assert same(tensors(learner.state_dict()), tensors(other.state_dict()))
    assert learner.metrics() == other.metrics()


def test_restored_finetuning_continues_bit_for_bit() -> None:
    learner = finetune_learner(*RESUMED)
    for i in range(2):
        learner.update(tiny_batch(i))
    learner.metrics()
    state = through_a_file(learner.state_dict())
    other = finetune_learner("seed=1", *RESUMED)
    assert not same(tensors(other.state_dict()), tensors(state))
    other.load_state_dict(state)
    assert other.updates == 2
    for i in range(2, 5):
        learner.update(tiny_batch(i))
        other.update(tiny_batch(i))
    assert same(tensors(learner.state_dict()), tensors(other.state_dict()))
    assert learner.metrics() == other.metrics()


@pytest.mark.parametrize("make", [pretrain_learner, finetune_learner])
def test_a_checkpoint_of_other_widths_is_refused_by_name(make: Any) -> None:
    state = make().state_dict()
    with pytest.raises(CheckpointError, match=r"model\.rssm\..* has shape \(8, 7\).* and \(8, 9\)"):
        make("world_model.latent_action=5").load_state_dict(state)


def test_same_seed_same_run_and_another_seed_another_one() -> None:
    runs = []
    for seed in (0, 0, 1):
        learner = pretrain_learner(f"seed={seed}")
        learner.update(tiny_clips(0))
        runs.append(tensors(learner.state_dict()))
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


def test_an_update_changes_all_parameters_of_both_phases() -> None:
    pretrain, finetune = pretrain_learner(), finetune_learner()
    finetune.update(tiny_batch(0))  # after it the critic differs from the slow one
    modules = [pretrain.model, finetune.model, finetune.actor_critic.actor, finetune.actor_critic.critic]
    before = snapshot(*modules)
    pretrain.update(tiny_clips(0))
    finetune.update(tiny_batch(1))
    after = snapshot(*modules)
    names = [name for module in modules for name, _ in module.named_parameters()]
    assert [name for name, old, new in zip(names, before, after, strict=True) if torch.equal(old, new)] == []


def test_frozen_start_keeps_encoder_and_rssm_for_the_initial_updates_while_the_rest_learns() -> None:
    learner = finetune_learner("finetune.initial_updates=2")
    parts = dict([*learner.model.named_children(), *learner.actor_critic.named_children()])
    del parts["slow_critic"]
    for update in range(4):
        before = {name: snapshot(part) for name, part in parts.items()}
        learner.update(tiny_batch(update))
        moved = {name for name, part in parts.items() if not same(before[name], snapshot(part))}
        assert moved == parts.keys() - (set() if update >= 2 else {"encoder", "rssm"})


def test_the_weight_of_the_action_kl_rises_from_nothing_and_a_resumed_run_continues_there() -> None:
    alone = [f"loss.{name}_weight=0" for name in ("image", "dynamics_kl", "consistency")]
    beta = ["loss.action_kl_weight=2", "loss.action_kl_warmup_updates=2"]
    learner = pretrain_learner(*alone, *beta)
    factors = []
    for update in range(4):
        learner.update(tiny_clips(update))
        found = learner.metrics()
        factors.append(found["loss/total"] / found["loss/action_kl"])
    assert factors == pytest.approx([0, 1, 2, 2])
    begun, resumed = pretrain_learner(*alone, *beta), pretrain_learner(*alone, *beta)
    begun.update(tiny_clips(0))
    resumed.load_state_dict(begun.state_dict())
    resumed.update(tiny_clips(1))
    found = resumed.metrics()
    assert found["loss/total"] / found["loss/action_kl"] == pytest.approx(1)


def test_a_captured_update_follows_the_rising_weight_without_being_captured_again() -> None:
    learner = pretrain_learner("loss.action_kl_warmup_updates=3")
    place = learner._action_kl_scale.data_ptr()
    for update in range(4):
        assert learner._action_kl_scale.item() == pytest.approx(min(1, update / 3))
        learner.update(tiny_clips(update))
    learner.load_state_dict(learner.state_dict())
    assert learner._action_kl_scale.data_ptr() == place  # a graph reads a tensor where it is


def test_world_model_is_in_evaluation_between_updates() -> None:
    pretrain, finetune = pretrain_learner(), finetune_learner()
    pretrain.update(tiny_clips(0))
    finetune.update(tiny_batch(0))
    assert not any(module.training for module in [*pretrain.model.modules(), *finetune.model.modules()])


def test_pretrained_encoder_rssm_and_decoder_are_taken_over_with_their_statistics_and_nothing_else() -> None:
    pretrain, finetune = pretrain_learner(), finetune_learner("seed=1")
    pretrain.update(tiny_clips(0))
    others = [part for name, part in finetune.model.named_children() if name not in finetune.model.pretrained]
    before = snapshot(*others)
    finetune.load_pretrained(pretrain.model.state_dict())
    for part in ("encoder", "rssm", "decoder"):
        theirs, ours = getattr(pretrain.model, part).state_dict(), getattr(finetune.model, part).state_dict()
        assert same(tensors(theirs), tensors(ours))
    assert same(before, snapshot(*others))


def test_a_pretrained_model_of_other_widths_is_refused_by_name() -> None:
    pretrained = pretrain_learner("world_model.decoder.depth=4").model.state_dict()
    with pytest.raises(CheckpointError, match=r"decoder\.linear_in\.weight"):
        finetune_learner().load_pretrained(pretrained)
    with pytest.raises(CheckpointError, match=r"lacks rssm\."):
        finetune_learner().load_pretrained({k: v for k, v in pretrained.items() if k.startswith("encoder.")})


def test_nan_in_a_reward_is_reported_with_update_and_metric() -> None:
    learner = finetune_learner()
    learner.update(tiny_batch(0))
    learner.metrics()
    learner.update(tiny_batch(1))
    learner.check_finite()
    learner.update(with_reward(tiny_batch(2), float("nan")))
    learner.update(tiny_batch(3))
    for ask in (learner.check_finite, learner.metrics):
        with pytest.raises(NonFiniteError, match=r"update 3: loss/reward is not finite"):
            ask()


def test_every_metric_of_both_phases_is_documented_and_finite() -> None:
    pretrain, finetune = pretrain_learner(), finetune_learner()
    pretrain.update(tiny_clips(0))
    finetune.update(tiny_batch(0))
    for metrics in (pretrain.metrics(), finetune.metrics()):
        assert metrics.keys() <= METRICS.keys()
        assert np.isfinite(list(metrics.values())).all()
    assert pretrain.metrics() == {}, "reading starts them again"


def test_arrays_from_shared_memory_are_read_and_left_alone() -> None:
    clips, batch = tiny_clips(0), tiny_batch(0)
    arrays = [clips, *vars(batch).values()]
    copies = [array.copy() for array in arrays]
    for array in arrays:
        array.setflags(write=False)
    learners = pretrain_learner(), finetune_learner()
    torch.set_warn_always(True)  # torch warns about a tensor on read-only memory, but once in a process
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            learners[0].update(clips)
            learners[1].update(batch)
    finally:
        torch.set_warn_always(False)
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_published_weights_are_what_a_policy_loads_and_no_view_of_the_learner() -> None:
    learner = finetune_learner()
    learner.update(tiny_batch(0))
    weights = learner.policy_weights()
    policy = Policy(tiny_config(), ACTION)
    policy.load_weights(weights, 7)
    assert policy.version == 7
    for name in ("rssm", "action_encoder"):
        assert same(tensors(getattr(policy, name).state_dict()), tensors(getattr(learner.model, name).state_dict()))
    folded = fold_norms(learner.model.encoder.state_dict())
    assert folded.keys() == policy.encoder.state_dict().keys()
    assert all(torch.equal(value, folded[key]) for key, value in policy.encoder.state_dict().items())
    assert same(tensors(policy.actor.state_dict()), tensors(learner.actor_critic.actor.state_dict()))
    kept = {key: value.copy() for key, value in weights.items()}
    learner.update(tiny_batch(1))
    assert all(np.array_equal(weights[key], kept[key]) for key in kept)


def test_without_bonus_the_learner_runs_and_resumes() -> None:
    learner = finetune_learner("finetune.bonus.weight=0")
    learner.update(tiny_batch(0))
    assert not any(name.startswith("bonus/") for name in learner.metrics())
    other = finetune_learner("finetune.bonus.weight=0", "seed=1")
    other.load_state_dict(through_a_file(learner.state_dict()))
    assert same(tensors(learner.state_dict()), tensors(other.state_dict()))


def test_a_checkpoint_of_another_kind_of_device_continues_with_new_random_numbers() -> None:
    learner, other = pretrain_learner(), pretrain_learner("seed=1")
    learner.update(tiny_clips(0))
    state = through_a_file(learner.state_dict())
    state["noise"] = {key: torch.zeros(16, dtype=torch.uint8) for key in state["noise"]}  # as of a GPU's generator
    other.load_state_dict(state)
    before = other.noise.generator.get_state()
    other.load_state_dict(state)
    assert torch.equal(other.noise.generator.get_state(), before)
    other.update(tiny_clips(1))
    assert other.updates == 2


def test_pretraining_learns_to_reconstruct_what_it_sees() -> None:
    learner = pretrain_learner("pretrain.optimizer.learning_rate=0.01")
    clips = np.repeat(np.repeat(tiny_clips(0)[:, :, :2, :2], 32, axis=2), 32, axis=3)  # four squares of one colour
    losses = []
    for _ in range(25):
        learner.update(clips)
        losses.append(learner.metrics()["loss/image"])
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize(
    ("override", "why"),
    [("precision=float32", "has no GPU"), ("precision=float16", "loss scale, which needs the host")],
)
def test_a_graph_that_cannot_be_is_refused(override: str, why: str) -> None:
    with pytest.raises(ConfigError, match=f"^learner.graph=always: .*{why}"):
        pretrain_learner("learner.graph=always", override)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ResourceError, match="device=cuda"):
        resolve_device("cuda")
    with pytest.raises(ResourceError, match=r"^learner\.gpus=1: no GPU is visible to PyTorch; use learner\.gpus=0"):
        resolve_device("auto", gpus=1.0)
    assert resolve_device("auto") == resolve_device("cpu") == torch.device("cpu")
