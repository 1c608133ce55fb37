"""Small run folders as training leaves them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prelar_ray.config import load_config, to_yaml
from prelar_ray.run_folder import RunFolder
from prelar_ray.telemetry.writers import MetricWriter


def _make_run(path: Path, phase: str, seed: int = 0, method: str = "prelar") -> RunFolder:
    """Write a finished run: three metric lines, one with a NaN; when fine-tuning, two evaluations."""
    folder = RunFolder.create(path, to_yaml(load_config("tiny", None, [f"seed={seed}", f"method={method}"])), phase)
    steps = 100 if phase == "finetune" else 0
    with folder.track(), folder.timed(phase), MetricWriter(folder.metrics_path, folder.tensorboard) as writer:
        for update in (10, 20, 30):
            loss = float("nan") if update == 20 else 1000.0 / update
            writer.write(update, steps * update, {"loss/total": loss, "rate/updates_per_second": update})
        folder.update(summary={"updates": 30})
        _save_prediction(folder)
        if phase == "finetune":
            for update in (10, 30):
                folder.append_evaluation(_evaluation(update, steps * update))
    return folder


def _evaluation(update: int, env_steps: int) -> dict[str, Any]:
    """Return four episodes, of which one succeeded."""
    return {
        "env_steps": env_steps,
        "update": update,
        "task": "metaworld/reach-v3",
        "returns": [1.0, 2.0, 3.0, 4.0],
        "successes": [False, False, False, True],
        "success_rule": "any step",
        "policy": "mode",
    }


def _save_prediction(folder: RunFolder, length: int = 6, context: int = 2) -> None:
    """Write frames of noise."""
    true, reconstructed, open_loop = np.random.default_rng(0).integers(0, 256, (3, length, 64, 64, 3), dtype=np.uint8)
    folder.save_frames("prediction", true=true, reconstructed=reconstructed, open_loop=open_loop, context=context)


@pytest.fixture(scope="session")
def make_run() -> Callable[..., RunFolder]:
    return _make_run


@pytest.fixture(scope="session")
def evaluation() -> Callable[..., dict[str, Any]]:
    return _evaluation


@pytest.fixture(scope="session")
def save_prediction() -> Callable[..., None]:
    return _save_prediction
