"""Acting: from uint8 frames to actions, both on the host, for one frame and batches; seconds and calls per second.

On a GPU a policy replays a CUDA graph; ``eager`` is the same without.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.measuring import Result, Row, report_options, show, timed
from prelar_ray.acting.policy import ActingNoise, Policy, PolicyState
from prelar_ray.config import load_config
from prelar_ray.learning.device import resolve_device
from prelar_ray.types import IMAGE_SIZE

ACTION = 4
Act = Callable[[Any, Any, PolicyState, ActingNoise], tuple[Any, PolicyState]]
COLUMNS = {
    "seconds": ".4g",
    "seconds_min": ".4g",
    "seconds_max": ".4g",
    "calls_per_s": ".1f",
    "frames_per_s": ".1f",
}


def measure(preset: str, n: int, device_name: str, repeats: int) -> list[Row]:
    """Time a policy of ``preset`` acting in ``n`` environments; latent and action are sampled, as in training."""
    device = resolve_device(device_name)
    policy = Policy(load_config(None if preset == "paper" else preset), ACTION).to(device)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (n, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    sampled = (n, policy.rssm.groups, policy.rssm.classes)
    noise = ActingNoise(rng.gumbel(size=sampled).astype(np.float32), rng.uniform(size=(n, ACTION)).astype(np.float32))
    first = np.zeros(n, np.bool_)
    name = f"{preset}, {n} {'frame' if n == 1 else 'frames'}, {device.type}"
    kinds = {name: policy.act} if device.type == "cpu" else {name: policy.act, f"{name}, eager": policy.act_eagerly}
    rows = []
    for kind, act in kinds.items():
        states = [policy.initial(n)]

        def step(act: Act = act, states: list[PolicyState] = states) -> None:
            states[0] = act(image, first, states[0], noise)[1]

        timing = timed(step, device, repeats, warmup=10)
        speed = {"calls_per_s": 1 / timing.median, "frames_per_s": n / timing.median}
        rows.append({"name": kind, **timing.as_row(), **speed})
    return rows


def main(argv: Sequence[str]) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks acting", description=__doc__)
    parser.add_argument("--presets", nargs="+", default=["paper"])
    parser.add_argument("--frames", nargs="+", type=int, default=[1, 8, 32], help="environments acted in together")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--repeats", type=int, default=100)
    report_options(parser)
    args = parser.parse_args(argv)
    measured = [measure(preset, n, args.device, args.repeats) for preset in args.presets for n in args.frames]
    rows = [row for rows in measured for row in rows]
    settings = {key: value for key, value in vars(args).items() if key not in ("json", "compare")}
    show(Result("acting", settings, {"device": str(resolve_device(args.device))}, rows), COLUMNS, args)
    return 0
