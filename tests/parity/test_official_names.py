"""Names of the published code's tensors."""

from __future__ import annotations

import pytest

from prelar_ray.checkpoint.official import official_key
from prelar_ray.learning.learner import PretrainLearner
from tests.parity.end_to_end import finetune_learner, finetune_state
from tests.parity.reference import FOLDER, config_from, named_state, parameters

ALIASES = ("wm.af_rssm.", "_expl_behavior.")  # the same tensors once more


def test_every_published_tensor_of_pretraining_has_one_name_here() -> None:
    learner = PretrainLearner(config_from(FOLDER))
    published = parameters(FOLDER, "pretrained")
    ours = named_state(learner.model)
    assert ours.keys() == published.keys()
    assert len(ours) == len(learner.model.state_dict())
    assert {key: value.shape for key, value in ours.items()} == {key: v.shape for key, v in published.items()}


def test_every_published_tensor_of_finetuning_has_one_name_here() -> None:
    learner = finetune_learner(FOLDER)
    published = {key: value for key, value in parameters(FOLDER, "finetuned").items() if not key.startswith(ALIASES)}
    ours = finetune_state(learner)
    assert ours.keys() == published.keys()
    assert {key: value.shape for key, value in ours.items()} == {key: v.shape for key, v in published.items()}


def test_unknown_part_has_no_published_name() -> None:
    with pytest.raises(KeyError):
        official_key("discriminator.weight")
