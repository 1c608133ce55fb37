"""One update of each phase at the paper's size, in processes of their own so that the peak memory is theirs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import pytest

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1800)]

PROGRAM = """
import json, resource, sys, time
import numpy as np
from prelar_ray.config import load_config
from prelar_ray.learning.learner import FinetuneLearner, PretrainLearner
from prelar_ray.types import SequenceBatch

config = load_config("paper", None, ["device=cpu"])
rng = np.random.default_rng(0)
frames = lambda b, t: rng.integers(0, 256, (b, t, 64, 64, 3), dtype=np.uint8)
if sys.argv[1] == "pretrain":
    learner = PretrainLearner(config)
    batch = frames(config.pretrain.batch_size, config.pretrain.segment_length)
else:
    learner = FinetuneLearner(config, 4)
    shape = (config.finetune.batch_size, config.finetune.segment_length)
    first = np.zeros(shape, dtype=np.bool_)
    first[:, 0] = True
    action = rng.uniform(-1, 1, (*shape, 4)).astype(np.float32)
    batch = SequenceBatch(frames(*shape), action, np.ones(shape, np.float32), first, np.zeros(shape, np.bool_))
began = time.monotonic()
learner.update(batch)
seconds = time.monotonic() - began
metrics = learner.metrics()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps({"seconds": seconds, "peak_gib": peak, "loss": metrics["loss/total"]}))
"""


@pytest.mark.parametrize("phase", ["pretrain", "finetune"])
def test_one_update_at_full_size_stays_below_20_gib(phase: str, record_property: Callable[[str, object], None]) -> None:
    result = subprocess.run([sys.executable, "-c", PROGRAM, phase], capture_output=True, text=True, check=True)
    measured = json.loads(result.stdout.splitlines()[-1])
    record_property("measured", measured)
    assert measured["peak_gib"] < 20
    assert measured["loss"] == measured["loss"]  # a NaN differs from itself
