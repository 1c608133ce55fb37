from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from prelar_ray.learning.learner import FinetuneLearner, PretrainLearner
from prelar_ray.learning.prediction import Prediction, context_frames
from tests.tiny import ACTION, tiny_batch, tiny_clips, tiny_config


def check(prediction: Prediction, clip: np.ndarray, context: int) -> None:
    assert prediction.context == context
    np.testing.assert_array_equal(prediction.true, clip)
    for frames in (prediction.reconstructed, prediction.open_loop):
        assert frames.dtype == np.uint8
        assert frames.shape == clip.shape
    np.testing.assert_array_equal(prediction.open_loop[:context], prediction.reconstructed[:context])
    assert (prediction.open_loop[context:] != prediction.reconstructed[context:]).any()


def test_pretraining_predicts_a_clip_from_its_first_frames() -> None:
    learner = PretrainLearner(tiny_config())
    learner.update(tiny_clips(0))
    before = {key: value.clone() for key, value in learner.model.state_dict().items()}
    clip = tiny_clips(1)[0]
    check(learner.predict(clip, 2), clip, 2)
    assert all(torch.equal(value, before[key]) for key, value in learner.model.state_dict().items())


def test_finetuning_predicts_from_context_and_actions_without_seeing_later_frames() -> None:
    learner = FinetuneLearner(tiny_config("world_model.rssm.stoch=8", "world_model.rssm.classes=8"), ACTION)
    batch = tiny_batch(0)
    learner.update(batch)
    prediction = learner.predict(batch, 2)
    check(prediction, batch.image[0], 2)

    image, action = batch.image.copy(), batch.action.copy()
    image[0, 2:] = 255 - image[0, 2:]
    unseen = learner.predict(dataclasses.replace(batch, image=image), 2)
    np.testing.assert_array_equal(unseen.open_loop, prediction.open_loop)
    assert (unseen.reconstructed[2:] != prediction.reconstructed[2:]).any()

    action[0, 2:] = -5 * action[0, 2:]
    other = learner.predict(dataclasses.replace(batch, action=action), 2)
    np.testing.assert_array_equal(other.open_loop[:2], prediction.open_loop[:2])
    assert (other.open_loop[2:] != prediction.open_loop[2:]).any()


def test_each_action_moves_the_predicted_frame_it_leads_to_and_none_before_it() -> None:
    learner = FinetuneLearner(tiny_config("world_model.rssm.stoch=8", "world_model.rssm.classes=8"), ACTION)
    batch = tiny_batch(0)
    before = learner.predict(batch, 2).open_loop
    for t in range(2, len(before)):
        action = batch.action.copy()
        action[0, t] += 30
        after = learner.predict(dataclasses.replace(batch, action=action), 2).open_loop
        np.testing.assert_array_equal(after[:t], before[:t])
        assert (after[t] != before[t]).any()


@pytest.mark.parametrize(("length", "context"), [(2, 1), (3, 1), (8, 2), (20, 5), (50, 5)])
def test_context_is_a_quarter_of_the_clip_and_at_most_five_frames(length: int, context: int) -> None:
    assert context_frames(length) == context


def test_a_segment_of_short_episodes_is_predicted_to_the_end_of_its_first() -> None:
    learner, batch = FinetuneLearner(tiny_config(), ACTION), tiny_batch(0)
    is_first = batch.is_first.copy()
    is_first[0, 2] = True
    prediction = learner.predict(dataclasses.replace(batch, is_first=is_first), 4)
    assert (prediction.context, len(prediction.open_loop)) == (1, 2)
    np.testing.assert_array_equal(prediction.true, batch.image[0, :2])
