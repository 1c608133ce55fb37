from __future__ import annotations

from ray import cloudpickle

from prelar_ray.distributed.ray_backend import labelled
from prelar_ray.replay.rate_limiter import RateLimiter


def test_a_role_says_whose_it_is_and_stays_what_it_was() -> None:
    kind = cloudpickle.loads(cloudpickle.dumps(labelled(RateLimiter, "reach/replay-1")))
    role = kind(10, 5, 2)
    assert repr(role) == "reach/replay-1"
    assert isinstance(role, RateLimiter)
    assert kind.__name__ == "RateLimiter", "processes are found by the name of their class"
    assert repr(RateLimiter(10, 5, 2)) != repr(role)
