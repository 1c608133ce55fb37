"""Acting: from uint8 frames to actions, both on the host, for one frame and batches; seconds and calls per second.

On a GPU a policy replays a CUDA graph; ``eager`` is the same without. ``--served`` also has another process ask for the
actions through Ray, as collectors would ask one policy that serves them all; ``message alone`` answers at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks.measuring import Result, Row, Timing, report_options, show, timed
from prelar_ray.acting.policy import ActingNoise, Policy
from prelar_ray.config import RunConfig, load_config
from prelar_ray.learning.device import resolve_device

ACTION = 4
Act = Callable[[Any, Any], Any]
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
    image, first, name = _frames(preset, n), np.zeros(n, np.bool_), f"{preset}, {_counted(n)}, {device.type}"
    kinds = {name: False} if device.type == "cpu" else {name: False, f"{name}, eager": True}
    rows = []
    for kind, eagerly in kinds.items():
        step = _step(preset, n, device_name, eagerly)
        rows.append(_row(kind, n, timed(partial(step, image, first), device, repeats, warmup=10)))
    return rows


def _ask(actor: Any, image: Any, first: Any) -> None:
    import ray

    ray.get(actor.act.remote(image, first))


def _step(preset: str, n: int, device_name: str, eagerly: bool = False) -> Act:
    """Return a step of a policy that keeps its own state: from frames and flags to actions, on the host."""
    policy = Policy(_config(preset), ACTION).to(resolve_device(device_name))
    rng = np.random.default_rng(0)
    sampled = (n, policy.rssm.groups, policy.rssm.classes)
    noise = ActingNoise(rng.gumbel(size=sampled).astype(np.float32), rng.uniform(size=(n, ACTION)).astype(np.float32))
    state = policy.initial(n)

    def step(image: Any, first: Any) -> Any:
        nonlocal state
        actions, state = (policy.act_eagerly if eagerly else policy.act)(image, first, state, noise)
        return actions

    return step


def _frames(preset: str, n: int) -> Any:
    size = _config(preset).env.image_size
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def _config(preset: str) -> RunConfig:
    return load_config(None if preset == "paper" else preset)


def _counted(n: int) -> str:
    return "1 frame" if n == 1 else f"{n} frames"


def _row(name: str, n: int, timing: Timing) -> Row:
    return {"name": name, **timing.as_row(), "calls_per_s": 1 / timing.median, "frames_per_s": n / timing.median}


def measure_served(preset: str, n: int, device_name: str, repeats: int) -> list[Row]:
    """Time this process asking an actor of Ray for the actions of ``n`` frames."""
    import ray

    class Served:
        """Acts for whoever asks."""

        def __init__(self, with_policy: bool) -> None:
            self._actions = np.zeros((n, ACTION), np.float32)
            self._step = _step(preset, n, device_name) if with_policy else None

        def act(self, image: Any, first: Any) -> Any:
            return self._actions if self._step is None else self._step(image, first)

    image, first = _frames(preset, n), np.zeros(n, np.bool_)
    rows = []
    for name in ("message alone", "served"):
        device = resolve_device(device_name)
        share = 1 if device.type == "cuda" and name == "served" else 0
        actor: Any = ray.remote(num_cpus=0, num_gpus=share)(Served).remote(name == "served")
        timing = timed(partial(_ask, actor, image, first), device, repeats, warmup=10)
        ray.kill(actor)
        rows.append(_row(f"{preset}, {_counted(n)}, {device.type}, {name}", n, timing))
    return rows


def main(argv: Sequence[str]) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks acting", description=__doc__)
    parser.add_argument("--presets", nargs="+", default=["paper"])
    parser.add_argument("--frames", nargs="+", type=int, default=[1, 8, 32], help="environments acted in together")
    parser.add_argument("--served", action="store_true", help="also ask a policy in another process, through Ray")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--repeats", type=int, default=100)
    report_options(parser)
    args = parser.parse_args(argv)
    measures = [measure, measure_served] if args.served else [measure]
    measured = [
        rows_of(preset, n, args.device, args.repeats)
        for preset in args.presets
        for n in args.frames
        for rows_of in measures
    ]
    rows = [row for rows in measured for row in rows]
    settings = {key: value for key, value in vars(args).items() if key not in ("json", "compare")}
    show(Result("acting", settings, {"device": str(resolve_device(args.device))}, rows), COLUMNS, args)
    return 0
