"""Learners with layer norm, uniform mix, two-hot heads, normalised returns and an averaged slow critic together."""

from __future__ import annotations

import io
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from prelar_ray.acting.policy import ActingNoise, Policy
from prelar_ray.errors import CheckpointError
from prelar_ray.learning.behaviour import imagine
from prelar_ray.learning.learner import FinetuneLearner, PretrainLearner
from prelar_ray.models.noise import Deterministic
from prelar_ray.models.preprocess import preprocess_image
from prelar_ray.telemetry.metrics import METRICS
from tests.learning.device_rule import only_on_device
from tests.tiny import ACTION, ROBUST, inputs_of, tiny_batch, tiny_clips, tiny_config

# Every part of the state matters within a few updates.
RESUMED = (*ROBUST, "behaviour.return_momentum=0.5", "finetune.initial_updates=3")


def finetune_learner(*overrides: str) -> FinetuneLearner:
    return FinetuneLearner(tiny_config(*ROBUST, *overrides), ACTION)


def leaves(tree: Any) -> list[Tensor]:
    found = torch.utils._pytree.tree_leaves(tree)
    return [torch.as_tensor(leaf).clone() for leaf in found if leaf is not None]


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    restored: dict[str, Any] = torch.load(file, weights_only=True)
    return restored


@pytest.mark.parametrize(
    ("method", "precision"), [("prelar", "float32"), ("apv", "bfloat16"), ("contextwm", "float16")]
)
def test_both_phases_learn_with_finite_and_documented_metrics(method: str, precision: str) -> None:
    config = tiny_config(f"method={method}", f"precision={precision}", *ROBUST)
    learners = PretrainLearner(config), FinetuneLearner(config, ACTION)
    learners[1].load_pretrained(learners[0].model.state_dict())
    for learner in learners:
        if precision == "float16":  # as large as fits from the first update on, so that none is skipped
            learner.precision.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        seen = []
        for _ in range(4):
            if isinstance(learner, PretrainLearner):
                learner.update(tiny_clips(0))
            else:
                learner.update(tiny_batch(0))
            seen.append(learner.metrics())
        assert all(np.isfinite(list(metrics.values())).all() for metrics in seen)
        assert seen[0].keys() <= METRICS.keys()
        assert seen[-1]["loss/image"] < seen[0]["loss/image"]
    assert "behaviour/return_range" in seen[0]
    assert seen[-1]["loss/reward"] < seen[0]["loss/reward"] == pytest.approx(np.log(255), rel=1e-5)


def test_a_restored_run_continues_bit_for_bit() -> None:
    learner = finetune_learner(*RESUMED)
    for i in range(2):
        learner.update(tiny_batch(i))
    learner.metrics()
    state = through_a_file(learner.state_dict())
    other = finetune_learner("seed=1", *RESUMED)
    other.load_state_dict(state)
    for i in range(2, 5):
        learner.update(tiny_batch(i))
        other.update(tiny_batch(i))
    ours, theirs = leaves(learner.state_dict()), leaves(other.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert learner.metrics() == other.metrics()
    assert learner.behaviour.return_range is not None
    assert learner.behaviour.return_range.range > 0


def test_without_these_settings_a_checkpoint_holds_nothing_new_and_one_without_a_range_is_refused() -> None:
    plain = FinetuneLearner(tiny_config(), ACTION)
    assert plain.behaviour.state_dict().keys() == {
        *("actor_optimizer", "critic_optimizer", "reward_normaliser", "updates")
    }
    other = FinetuneLearner(tiny_config("behaviour.return_normalisation=percentiles"), ACTION)
    with pytest.raises(CheckpointError, match=r"lacks return_range\.range"):
        other.load_state_dict(plain.state_dict())
    with pytest.raises(CheckpointError, match=r"model\.reward\.out\.weight has shape \(1, 6\).* and \(255, 6\)"):
        FinetuneLearner(tiny_config("world_model.reward_distribution=two_hot"), ACTION).load_state_dict(
            plain.state_dict()
        )


@pytest.mark.parametrize(("method", "precision"), [("prelar", "float32"), ("apv", "bfloat16")])
def test_updates_stay_on_the_device(method: str, precision: str) -> None:
    config = tiny_config(f"method={method}", f"precision={precision}", *ROBUST)
    finetune = FinetuneLearner(config, ACTION)
    inputs = {PretrainLearner(config): [torch.from_numpy(tiny_clips(0))], finetune: inputs_of(tiny_batch(0))}
    for learner, arrays in inputs.items():
        learner._compute(*arrays)  # makes the optimisers' moments
        with only_on_device():
            learner._compute(*arrays)


@pytest.mark.nightly
def test_traced_updates_equal_eager_ones_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    eager, traced = (finetune_learner(f"compile={x}") for x in ("false", "true"))
    for seed in range(3):
        eager.update(tiny_batch(seed))
        traced.update(tiny_batch(seed))
    assert traced.metrics() == eager.metrics()
    ours, theirs = leaves(eager.model.state_dict()), leaves(traced.model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("method", ["prelar", "apv"])
def test_the_policy_acts_on_the_states_that_the_learner_infers(method: str) -> None:
    learner = finetune_learner(f"method={method}")
    learner.update(tiny_batch(0))
    policy = Policy(tiny_config(f"method={method}", *ROBUST), ACTION)
    policy.load_weights(learner.policy_weights(), 1)
    batch, state, rssm = tiny_batch(1), policy.initial(3), learner.model.rssm
    chosen = []
    for t in range(3):
        action, state = policy.act(batch.image[:, t], batch.is_first[:, t], state, ActingNoise(None, None))
        chosen.append(torch.from_numpy(action))
    with torch.no_grad():
        image = preprocess_image(torch.from_numpy(np.array(batch.image[:, :3])), torch.float32)
        before = torch.stack([torch.zeros_like(chosen[0]), *chosen[:-1]], dim=1)
        first = torch.from_numpy(batch.is_first[:, :3]).float()
        posterior = rssm.filter(learner.model.encoder(image), learner.model.action_encoder(before), first)
        wanted = learner.actor_critic.actor(posterior.feature).sample(None)
    torch.testing.assert_close(torch.stack(chosen, dim=1), wanted)
    torch.testing.assert_close(state.latent.logits, posterior.logits[:, -1])
    assert state.latent.logits.softmax(-1).min() >= 0.01 / rssm.classes - 1e-7


def test_imagined_rewards_and_values_are_scalars_with_a_gradient_to_the_actor() -> None:
    learner = finetune_learner("precision=bfloat16")
    for seed in range(2):
        learner.update(tiny_batch(seed))
    model, parts = learner.behaviour.model, learner.actor_critic
    start = learner.model.rssm.initial(4)
    model.refresh()
    with learner.precision.autocast():
        feature = imagine(model, parts.actor, start, 3, Deterministic()).feature
        values = model.reward(feature), parts.slow_critic(feature)
    for value in values:
        assert (value.shape, value.dtype) == ((4, 4), torch.float32)
        (gradient,) = torch.autograd.grad(value.sum(), parts.actor.mean.weight, retain_graph=True)
        assert gradient.isfinite().all()
        assert gradient.any()
    assert all(p.grad is None for p in learner.model.parameters())
