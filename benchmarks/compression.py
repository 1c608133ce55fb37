"""Compression of frames in the replay: bytes saved, and the time to decompress a batch.

``unpack a batch`` decompresses 50 x 50 single frames, because a segment may begin anywhere; ``gather`` is sampling
without compression.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch

from benchmarks.measuring import Result, Row, report_options, show, timed
from prelar_ray.config import load_config
from prelar_ray.envs import make_env
from prelar_ray.types import Frames

CPU = torch.device("cpu")
COLUMNS = {"seconds": ".4g", "seconds_min": ".4g", "seconds_max": ".4g", "of_size": ".1%", "gb_per_s": ".2f"}
BATCH = 50 * 50


def episode_frames(task: str, steps: int) -> Frames:
    """Return frames of random steps."""
    env = make_env(load_config("tiny", None, [f"env.task={task}", "env.render_quality=fast"]).env, 0)
    frames = [env.reset(seed=0)[0]["image"]]
    while len(frames) < steps:
        observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
        frames.append(observation["image"])
        if terminated or truncated:
            env.reset()
    env.close()
    return np.stack(frames)


def measure(task: str, steps: int, repeats: int) -> list[Row]:
    """Return the rows of one task."""
    frames = episode_frames(task, steps)
    size = frames[0].nbytes
    chosen = np.random.default_rng(0).integers(len(frames), size=BATCH)
    gather = timed(lambda: frames[chosen], CPU, repeats)
    rows: list[Row] = [
        {"name": f"{task}: gather", **gather.as_row(), "of_size": 1.0, "gb_per_s": BATCH * size / gather.median / 1e9}
    ]
    for codec in ("lz4", "zstd"):
        packed = [pa.compress(frame.tobytes(), codec=codec, asbytes=True) for frame in frames]
        out = np.empty((BATCH, size), np.uint8)

        def unpack(packed: list[bytes] = packed, out: np.ndarray = out, codec: str = codec) -> None:
            for row, index in enumerate(chosen):
                out[row] = np.frombuffer(pa.decompress(packed[index], size, codec=codec), np.uint8)

        timing = timed(unpack, CPU, repeats)
        share = sum(map(len, packed)) / frames.nbytes
        speed = BATCH * size / timing.median / 1e9
        name = f"{task}: unpack a batch, {codec}"
        rows.append({"name": name, **timing.as_row(), "of_size": share, "gb_per_s": speed})
    return rows


def main(argv: Sequence[str]) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks compression", description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=["prelar/point-reach", "metaworld/reach-v3"])
    parser.add_argument("--steps", type=int, default=200, help="frames to draw from")
    parser.add_argument("--repeats", type=int, default=7)
    report_options(parser)
    args = parser.parse_args(argv)
    rows = [row for task in args.tasks for row in measure(task, args.steps, args.repeats)]
    settings = {key: value for key, value in vars(args).items() if key not in ("json", "compare")}
    show(Result("compression", settings, {"device": "cpu"}, rows), COLUMNS, args)
    return 0
