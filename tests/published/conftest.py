from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from prelar_ray.checkpoint.store import CheckpointStore
from prelar_ray.learning.learner import FinetuneLearner, PretrainLearner
from prelar_ray.published.convert import export_state
from prelar_ray.published.files import write_published

Publish = Callable[..., Path]


@pytest.fixture
def publish(tmp_path: Path) -> Publish:
    """Write a learner's checkpoint as the published code would, and return the folder."""

    def publish(learner: PretrainLearner | FinetuneLearner, layout: str = "prelar", name: str = "published") -> Path:
        phase = "pretrain" if isinstance(learner, PretrainLearner) else "finetune"
        store = CheckpointStore(tmp_path / f"{name}-store", keep_last=1)
        store.save(phase, learner.config, learner.updates, learner.state_dict(), {})
        export = export_state(store.latest(), layout)
        write_published(tmp_path / name, export.tensors, export.aliases, export.parts)
        return tmp_path / name

    return publish
