from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from prelar_ray.acting.policy import Policy
from prelar_ray.checkpoint.store import CheckpointStore
from prelar_ray.checkpoint.transfer import policy_weights
from prelar_ray.config import RunConfig
from prelar_ray.errors import CheckpointError
from prelar_ray.learning.learner import FinetuneLearner, PretrainLearner


def test_the_policy_of_a_checkpoint_is_that_of_its_learner(minute_config: RunConfig, tmp_path: Path) -> None:
    learner = FinetuneLearner(minute_config, 2)
    store = CheckpointStore(tmp_path, keep_last=1)
    store.save("finetune", minute_config, 0, learner.state_dict(), {})
    weights, expected = policy_weights(store.latest()), learner.policy_weights()
    assert weights.keys() == expected.keys()
    for key, value in expected.items():
        assert weights[key].dtype == value.dtype
        np.testing.assert_array_equal(weights[key], value)
    Policy(minute_config, 2).load_weights(weights, version=0)


def test_a_pretraining_checkpoint_has_no_policy(minute_config: RunConfig, tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=1)
    path = store.save("pretrain", minute_config, 3, PretrainLearner(minute_config).state_dict(), {})
    with pytest.raises(CheckpointError, match=r"000000003: a pretrain checkpoint has no policy; fine-tune it first"):
        policy_weights(store.latest())
    assert path.exists()
