"""What latent actions do to frames, on a world model worked out by hand and on real ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prelar_ray.errors import UsageError
from prelar_ray.learning.latent_sequences import apply_sequences, inferred_sequences, sampled_sequences
from prelar_ray.learning.learner import PretrainLearner
from prelar_ray.models.noise import Noise
from prelar_ray.models.world_model import PretrainWorldModel
from tests.tiny import tiny_clips, tiny_config


def model(*overrides: str) -> PretrainWorldModel:
    return PretrainLearner(tiny_config("world_model.rssm.stoch=8", "world_model.rssm.classes=8", *overrides)).model


def test_sampled_latent_actions_are_of_the_prior_and_held() -> None:
    clips = np.tile(tiny_clips(0, 1, 5), (400, 1, 1, 1, 1))
    for std in (1.0, 2.0):
        drawn = sampled_sequences(model(), clips, Noise(0), std)
        assert drawn.shape == (400, 4, 3)
        assert torch.equal(drawn[:, :1].expand_as(drawn), drawn)
        assert drawn[:, 0].std().item() == pytest.approx(std, rel=0.1)
        assert abs(drawn[:, 0].mean().item()) < 0.15 * std


def test_sampled_categories_are_uniform() -> None:
    categorical = ("world_model.latent_action_distribution=categorical", "world_model.latent_action_classes=3")
    clips = np.tile(tiny_clips(0, 1, 3), (600, 1, 1, 1, 1))
    drawn = sampled_sequences(model(*categorical), clips, Noise(0), 1.0)[:, 0]
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(drawn.sum(1), torch.ones(600))
    np.testing.assert_allclose(drawn.mean(0), 1 / 3, atol=0.08)


def test_a_deterministic_latent_action_has_no_prior() -> None:
    deterministic = ("world_model.latent_action_distribution=deterministic", "loss.action_kl_weight=0")
    with pytest.raises(UsageError, match="no prior to sample from; use --from clips"):
        sampled_sequences(model(*deterministic), tiny_clips(0), Noise(0), 1.0)
    assert inferred_sequences(model(*deterministic), tiny_clips(0)).shape == (3, 5, 3)


def test_rows_start_from_their_frame_and_differ_by_their_sequence() -> None:
    learner = model()
    starts = tiny_clips(0)[:, 0]
    sequences = 30 * torch.randn(3, 5, 3, generator=torch.Generator().manual_seed(0))
    frames = apply_sequences(learner, starts, sequences)
    assert frames.shape == (3, 6, 64, 64, 3)
    assert frames.dtype == np.uint8
    np.testing.assert_array_equal(frames[:, 0], starts)
    later = sequences.clone()
    later[1, 3] += 30
    changed = apply_sequences(learner, starts, later)
    np.testing.assert_array_equal(changed[1, :4], frames[1, :4])
    assert (changed[1, 4] != frames[1, 4]).any()
    np.testing.assert_array_equal(changed[[0, 2]], frames[[0, 2]])
