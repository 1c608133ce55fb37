"""Environments that raise, hang or answer nonsense in the middle of a run on Ray."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.faults.runs import Command, assert_whole, note

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.timeout(600)]

# Run by every Python process of the run when it starts: the 150th and the 350th step of each process go wrong.
SABOTAGE = """
import itertools, time
try:
    from prelar_ray.envs.pixel_env import PixelEnv
except ImportError:
    pass
else:
    step, steps = PixelEnv.step, itertools.count(1)
    def broken(self, action):
        observation, reward, terminated, truncated, info = step(self, action)
        if next(steps) in (150, 350):
            {fault}
        return observation, reward, terminated, truncated, info
    PixelEnv.step = broken
"""
FAULTS = {
    "raises": ('raise ZeroDivisionError("simulation unstable")', "ZeroDivisionError: simulation unstable"),
    "hangs": ("time.sleep(1000)", "TimeoutError: no answer for 2 s"),
    "returns NaN": ('reward = float("nan")', "ValueError: the reward is nan"),
    "returns a wrong shape": ('observation = {"image": observation["image"][:10]}', "DataError: image"),
}


# One by one in a process of their own; tests/acting/test_rollout.py has them all in a moment.
@pytest.mark.nightly
@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_continues_without_the_episode_of_an_environment_that_fails(tmp_path: Path, fault: str) -> None:
    code, reason = FAULTS[fault]
    sabotage = tmp_path / "site"
    sabotage.mkdir()
    (sabotage / "sitecustomize.py").write_text(SABOTAGE.format(fault=code))
    steps = 1200
    rare = ("evaluation.every_env_steps=100000", f"finetune.env_steps={steps}")
    command = Command(tmp_path, "env.timeout=2", *rare, PYTHONPATH=str(sabotage))
    command.finish()
    log = command.log.read_text()
    told = re.findall(rf"environment \d, episode \d+, step \d+: {reason}.*its episode is left out", log)
    assert 2 <= len(told) <= 5, log
    assert "died" not in log
    assert_whole(command.out, steps)
    note(f"environment {fault}", len(told), None, "that episode", "finished, whole")
