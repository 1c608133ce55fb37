from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time

import psutil
import pytest

from prelar_ray.storage.processes import is_gone, this_process


def test_this_process_is_there_and_known_again_from_a_file() -> None:
    process = json.loads(json.dumps(this_process()))
    assert process["pid"] == os.getpid()
    assert not is_gone(process)


@pytest.mark.parametrize(
    ("process", "gone"),
    [
        ({"pid": 2**22 + 1}, True),  # no process has so large a number
        ({"started": 0.0}, True),  # another has its number now
        ({"pid": 2**22 + 1, "host": "elsewhere"}, False),  # nobody can tell
    ],
)
def test_a_process_is_gone_where_that_is_known(process: dict[str, object], gone: bool) -> None:
    assert is_gone({**this_process(), **process}) is gone


def test_a_process_that_ended_and_that_nobody_waited_for_is_gone() -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as ended:
        started = psutil.Process(ended.pid).create_time()
        while psutil.Process(ended.pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        assert is_gone({"host": socket.gethostname(), "pid": ended.pid, "started": started})


@pytest.mark.parametrize("record", [{}, None])
def test_what_is_no_record_of_a_process_is_no_answer(record: object) -> None:
    with pytest.raises((KeyError, TypeError)):
        is_gone(record)  # type: ignore[arg-type]
