from __future__ import annotations

import socket

import pytest
from ray import cloudpickle

from prelar_ray.distributed.connection import check_address
from prelar_ray.distributed.ray_backend import labelled
from prelar_ray.errors import ResourceError
from prelar_ray.replay.rate_limiter import RateLimiter


def test_a_role_says_whose_it_is_and_stays_what_it_was() -> None:
    kind = cloudpickle.loads(cloudpickle.dumps(labelled(RateLimiter, "reach/replay-1")))
    role = kind(10, 5, 2)
    assert repr(role) == "reach/replay-1"
    assert isinstance(role, RateLimiter)
    assert kind.__name__ == "RateLimiter", "processes are found by the name of their class"
    assert repr(RateLimiter(10, 5, 2)) != repr(role)


def test_an_address_at_which_nobody_listens_is_refused_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        check_address(f"127.0.0.1:{port}")
        check_address(f"ray://127.0.0.1:{port}")
    with pytest.raises(ResourceError, match=rf"^cluster=127\.0\.0\.1:{port}: cannot connect \(.*refused\); start one"):
        check_address(f"127.0.0.1:{port}")
    check_address("auto")
