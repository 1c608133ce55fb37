"""Workers that step environments end with the process whose they are, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil
import pytest

from prelar_ray.config import RunConfig, load_config
from tests.faults.runs import gone

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

pytestmark = pytest.mark.faults

# Steps two environments in a worker each, until it is ended from outside; both break at step 5 if they are to.
PARENT = """
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np

from prelar_ray.acting.rollout import Rollout
from prelar_ray.config import EnvConfig
from tests.acting.breaking import make_breaking

fault = {"fault": sys.argv[1], "seed_at_fault": 0} if sys.argv[1] else {}
seeds = lambda index, number: (0, np.random.default_rng(0))
policy = SimpleNamespace(noise_shape=(1, 1), version=0)
rollout = Rollout(partial(make_breaking, **fault), EnvConfig(), [0, 1], [0, 0], seeds, 3, 600, workers=2)
print("ready", flush=True)
while True:
    rollout.step(policy, True, sample=True)
"""


def start(fault: str = "") -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """The parent, a moment after its first step, and its workers."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", PARENT, fault]
    parent = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    workers = psutil.Process(parent.pid).children(recursive=True)
    assert len(workers) == 2
    time.sleep(0.5)
    return parent, workers


@pytest.mark.nightly
@pytest.mark.parametrize("fault", ["", "hangs in native code"])
def test_workers_end_when_their_parent_is_killed(fault: str) -> None:
    parent, workers = start(fault)
    parent.kill()
    parent.wait()
    left = not gone(workers, seconds=10)
    for worker in workers:
        with suppress(psutil.NoSuchProcess):
            worker.kill()
    parent.communicate()
    assert not left


@pytest.mark.nightly
def test_ctrl_c_in_a_terminal_ends_parent_and_workers_with_one_traceback() -> None:
    parent, workers = start()
    os.killpg(parent.pid, signal.SIGINT)
    _, errors = parent.communicate(timeout=30)
    assert gone(workers, seconds=10)
    assert errors.count("Traceback") == 1
    assert errors.rstrip().endswith("KeyboardInterrupt")


@pytest.mark.nightly
@pytest.mark.cluster
def test_workers_end_with_the_actor_that_they_are_of(shared_ray: Cluster, minute_config: RunConfig) -> None:
    import ray

    from prelar_ray.acting.collector import Collector

    config = load_config(None, None, ["collect.workers=2"], base=minute_config)
    ray.init(address=shared_ray.address)
    try:
        actor = ray.remote(Collector).options(num_cpus=0).remote(config, 0, [0, 0])
        assert ray.get(actor.actions.remote()).size == 2
        pid = ray.get(actor.__ray_call__.remote(lambda collector: os.getpid()))
        workers = psutil.Process(pid).children(recursive=True)
        assert len(workers) == 2
        ray.kill(actor)
        assert gone(workers, seconds=30)
    finally:
        ray.shutdown()
