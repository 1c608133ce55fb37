"""Clips of the pre-training videos beside replay in a batch of fine-tuning."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor

from prelar_ray.commands.dry_run import summarise
from prelar_ray.errors import ConfigError
from prelar_ray.learning.intrinsic_bonus import IntrinsicBonus
from prelar_ray.learning.learner import FinetuneLearner
from prelar_ray.learning.rehearsal import with_clips
from prelar_ray.learning.world_model_loss import Experience, WorldModelLoss, finetune_loss, pretrain_loss
from prelar_ray.models.noise import Deterministic, Noise
from prelar_ray.models.preprocess import preprocess_image
from prelar_ray.models.world_model import FinetuneWorldModel, PretrainWorldModel
from tests.learning.device_rule import only_on_device
from tests.tiny import ACTION, inputs_of, tiny_batch, tiny_clips, tiny_config

SHARE = "finetune.rehearsal.share=0.4"
FIVE = ("finetune.batch_size=5", SHARE)
"""Three segments and two clips."""
WITHOUT_NORMS = tuple(f"world_model.{part}.norm=none" for part in ("encoder", "decoder", "inverse_dynamics"))
WEIGHTS = ("image", "dynamics_kl", "reward", "aux_reward", "action_kl", "consistency")


def only(*names: str) -> list[str]:
    return [f"loss.{name}_weight={int(name in names)}" for name in WEIGHTS]


def finetuning(
    *overrides: str, clips: int | None = 7, noise: Noise | None = None
) -> tuple[FinetuneWorldModel, WorldModelLoss]:
    """The loss of three segments and two clips of noise with this seed, if any."""
    config = tiny_config(*FIVE, *overrides)
    torch.manual_seed(0)
    model = FinetuneWorldModel.of_run(config, ACTION)
    bonus = IntrinsicBonus(model.encoder.size, config.finetune.bonus)
    batch = tiny_batch(0)
    arrays = [torch.from_numpy(x).float() for x in (batch.action, batch.reward, batch.is_first)]
    frames = [torch.from_numpy(batch.image)]
    if clips is not None:
        frames.append(torch.from_numpy(tiny_clips(clips, rows=2)))
    image = preprocess_image(torch.cat(frames))
    return model, finetune_loss(model, config.loss, bonus, Experience(image, *arrays), noise or Deterministic())


def reached(model: torch.nn.Module, loss: WorldModelLoss) -> set[str]:
    loss.total.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {name.split(".")[0] for name, grad in gradients.items() if grad is not None and grad.any()}


def copy(module: torch.nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}


# The loss


def test_a_clip_begins_with_its_first_frame_to_which_no_action_led() -> None:
    torch.manual_seed(0)
    latent, inferred = torch.randn(2, 4, 3), torch.randn(1, 3, 3)
    is_first = torch.tensor([[1.0, 0, 0, 0], [1.0, 0, 1, 0]])
    joined, begins = with_clips(latent, is_first, inferred)
    assert torch.equal(joined[:2], latent)
    assert torch.equal(joined[2], torch.cat([torch.zeros(1, 3), inferred[0]]))
    assert torch.equal(begins, torch.cat([is_first, torch.tensor([[1.0, 0, 0, 0]])]))


def test_a_clip_counts_as_a_segment() -> None:
    _, loss = finetuning("loss.image_weight=3", "loss.action_kl_weight=5", "loss.consistency_weight=7")
    metrics = {name.removeprefix("loss/"): value for name, value in loss.metrics.items()}
    of_clips = 2 / 5 * (5 * metrics["action_kl"] + 7 * metrics["consistency"])
    rest = 3 * metrics["image"] + metrics["dynamics_kl"] + metrics["reward"] + metrics["aux_reward"]
    torch.testing.assert_close(metrics["total"], of_clips + rest)

    _, replay = finetuning(*WITHOUT_NORMS, clips=None)
    _, both = finetuning(*WITHOUT_NORMS)
    for name in ("image", "dynamics_kl"):
        alone, together, clips = (
            replay.metrics[f"loss/{name}"],
            both.metrics[f"loss/{name}"],
            both.metrics[f"rehearsal/{name}"],
        )
        torch.testing.assert_close(together, 3 / 5 * alone + 2 / 5 * clips)


def test_on_clips_the_loss_is_that_of_pretraining() -> None:
    model, loss = finetuning(*WITHOUT_NORMS)
    pretrain = PretrainWorldModel(tiny_config(*FIVE, *WITHOUT_NORMS).world_model)
    pretrain.load_state_dict({key: x for key, x in model.state_dict().items() if key in pretrain.state_dict()})
    is_first = torch.zeros(2, 6)
    is_first[:, 0] = 1
    image = preprocess_image(torch.from_numpy(tiny_clips(7, rows=2)))
    expected = pretrain_loss(pretrain, tiny_config().loss, image, is_first, Deterministic()).metrics
    for name, theirs in (
        ("rehearsal/image", "loss/image"),
        ("rehearsal/dynamics_kl", "loss/dynamics_kl"),
        ("loss/action_kl", "loss/action_kl"),
        ("loss/consistency", "loss/consistency"),
    ):
        torch.testing.assert_close(loss.metrics[name], expected[theirs])


@pytest.mark.parametrize(
    ("term", "parts"),
    [
        ("image", {"encoder", "rssm", "decoder", "action_encoder", "inverse_dynamics"}),
        ("dynamics_kl", {"encoder", "rssm", "action_encoder", "inverse_dynamics"}),
        ("reward", {"encoder", "rssm", "action_encoder", "reward"}),
        ("aux_reward", {"encoder", "rssm", "action_encoder", "aux_reward"}),
        ("action_kl", {"inverse_dynamics"}),
        ("consistency", {"inverse_dynamics"}),
    ],
)
def test_each_term_trains_the_parts_it_exists_for(term: str, parts: set[str]) -> None:
    assert reached(*finetuning(*only(term), *WITHOUT_NORMS)) == parts


def test_rewards_bonus_and_the_states_of_imagination_are_those_of_replay() -> None:
    (_, one), (_, other), (_, without) = (finetuning(*WITHOUT_NORMS, clips=seed) for seed in (7, 8, None))
    assert one.metrics["loss/image"] != other.metrics["loss/image"]
    for name in ("loss/reward", "loss/aux_reward", "bonus/mean", "bonus/scale"):
        assert one.metrics[name] == other.metrics[name]
        torch.testing.assert_close(one.metrics[name], without.metrics[name])
    assert one.posterior.deter.shape[:2] == (3, 6)
    assert torch.equal(one.posterior.feature, other.posterior.feature)


def test_batch_norm_has_the_statistics_of_both() -> None:
    (_, one), (_, other) = (finetuning(clips=seed) for seed in (7, 8))
    assert one.metrics["loss/reward"] != other.metrics["loss/reward"]


def test_latent_actions_of_replay_are_inferred_only_where_they_are_tied() -> None:
    seen = []
    for extra in ((), ("loss.tie_weight=1",)):
        config = tiny_config(*FIVE, *extra)
        learner = FinetuneLearner(config, ACTION)
        assert learner.model.inverse_dynamics is not None
        learner.model.inverse_dynamics.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
        learner.update(tiny_batch(0), tiny_clips(7, rows=2))
    assert seen == [2, 5]


# Learners


def test_behaviour_starts_from_states_of_replay_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = FinetuneLearner(tiny_config(*FIVE), ACTION)
    starts = []
    update = learner.behaviour.update
    monkeypatch.setattr(learner.behaviour, "update", lambda start, *rest: starts.append(start) or update(start, *rest))
    learner.update(tiny_batch(0), tiny_clips(7, rows=2))
    assert [len(start.deter) for start in starts] == [3 * 6]
    learner.check_finite()


@pytest.mark.parametrize("distribution", ["gaussian", "deterministic", "categorical"])
def test_every_latent_action_can_be_rehearsed_on_the_device(distribution: str) -> None:
    kind = [f"world_model.latent_action_distribution={distribution}", "world_model.latent_action_classes=3"]
    tied = ("loss.tie_weight=1", "loss.action_decoder_weight=1", "loss.action_kl_weight=0")
    learner = FinetuneLearner(tiny_config(*FIVE, *kind, *tied), ACTION)
    inputs = inputs_of(tiny_batch(0), tiny_clips(7, rows=2))
    metrics = learner._compute(*inputs)
    assert all(value.isfinite() for value in metrics.values())
    with only_on_device():
        learner._compute(*inputs)


def test_a_restored_learner_continues_bit_for_bit() -> None:
    original = FinetuneLearner(tiny_config(*FIVE), ACTION)
    original.update(tiny_batch(0), tiny_clips(7, rows=2))
    state = deepcopy(original.state_dict())
    original.update(tiny_batch(1), tiny_clips(8, rows=2))
    torch.manual_seed(99)
    restored = FinetuneLearner(tiny_config(*FIVE, "seed=5"), ACTION)
    restored.load_state_dict(state)
    restored.update(tiny_batch(1), tiny_clips(8, rows=2))
    assert not changed(copy(original.model), copy(restored.model))
    assert not changed(copy(original.actor_critic), copy(restored.actor_critic))


def test_rehearsal_trains_the_inverse_dynamics_encoder_and_no_head() -> None:
    config = tiny_config(*FIVE, "finetune.freeze_pretrained=false")
    learner = FinetuneLearner(config, ACTION)
    assert learner.model.action_decoder is None
    before = copy(learner.model)
    learner.update(tiny_batch(0), tiny_clips(7, rows=2))
    assert "inverse_dynamics" in changed(before, copy(learner.model))


def test_a_dry_run_counts_the_parts_and_the_rows() -> None:
    plain, rehearsed = (summarise(tiny_config(*extra)) for extra in (FIVE[:1], FIVE))
    parts = rehearsed.parameters["finetune"]
    assert parts["inverse_dynamics"] == rehearsed.parameters["pretrain"]["inverse_dynamics"]
    assert "inverse_dynamics" not in plain.parameters["finetune"]
    key = "finetune: activations of one update"
    assert rehearsed.memory[key] > plain.memory[key]


# Settings


def test_the_share_is_of_the_rows_of_a_batch() -> None:
    tune = tiny_config("finetune.batch_size=50", "finetune.rehearsal.share=0.2").finetune
    assert (tune.clip_rows, tune.replay_rows) == (10, 40)
    assert tiny_config().finetune.replay_rows == tiny_config().finetune.batch_size


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["finetune.rehearsal.share=1"], r"rehearsal\.share=1: must be < 1"),
        (
            ["finetune.batch_size=50", "finetune.rehearsal.share=0.005"],
            r"rehearsal\.share=0\.005 makes 0 of finetune\.batch_size=50 rows clips, and a batch needs both clips",
        ),
        (["finetune.batch_size=3", "finetune.rehearsal.share=0.9"], "makes 3 of finetune.batch_size=3 rows clips, and"),
        (
            ["finetune.batch_size=8", "finetune.rehearsal.share=0.4", "pretrain.batch_size=4", "learner.ranks=2"],
            r"makes 3 of finetune\.batch_size=8 rows clips, not a multiple of learner\.ranks=2, and each rank takes",
        ),
        (
            ["finetune.batch_size=8", "finetune.rehearsal.share=0.25", "pretrain.batch_size=4", "learner.ranks=2"],
            "makes 2 of finetune.batch_size=8 rows clips, which leaves a rank one, and the consistency loss swaps",
        ),
    ],
)
def test_shares_that_rows_and_ranks_cannot_have_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_config(*overrides)


def test_without_the_consistency_loss_one_clip_of_a_rank_is_enough() -> None:
    settings = ("finetune.batch_size=8", "finetune.rehearsal.share=0.25", "pretrain.batch_size=4", "learner.ranks=2")
    assert tiny_config(*settings, "loss.consistency_weight=0").finetune.clip_rows == 2
