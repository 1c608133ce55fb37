"""A block that takes too long ends its process; any other leaves no trace."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil
import pytest

from prelar_ray.envs.watchdog import HUNG, ended_after


def in_child(body: str) -> subprocess.CompletedProcess[str]:
    """Run a program in which ``ended_after`` is imported."""
    program = f"import os, signal, time\nfrom prelar_ray.envs.watchdog import ended_after\n{body}"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)


def test_a_block_that_takes_too_long_ends_the_process_with_the_reason() -> None:
    done = in_child("with ended_after(0.2, 'the driver hangs'):\n    time.sleep(30)")
    assert (done.returncode, done.stderr) == (-HUNG, "error: the driver hangs\n")


def test_a_block_that_ends_in_time_leaves_nothing_behind() -> None:
    before = set(psutil.Process().children())
    with ended_after(5, "never"):
        (watchdog,) = set(psutil.Process().children()) - before
    assert not watchdog.is_running()


def test_an_exception_passes_through() -> None:
    before = set(psutil.Process().children())
    with pytest.raises(ValueError, match="no device"), ended_after(30, "never"):
        raise ValueError("no device")
    assert set(psutil.Process().children()) == before


def test_a_process_that_dies_by_itself_takes_its_watchdog_along() -> None:
    done = in_child(
        "import subprocess, psutil\n"
        "with ended_after(30, 'never'):\n"
        "    print(psutil.Process().children()[0].pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert done.returncode == -9
    deadline = time.monotonic() + 10
    while psutil.pid_exists(int(done.stdout)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
