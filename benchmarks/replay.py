"""The replay: inserting and sampling compared with a copy of the same bytes, in one process and as a Ray actor.

``of_memcpy`` is the speed relative to a plain copy of the same bytes in the same run. Insertion includes the durable
file of the episode; ``bytes_per_step`` is the memory of a held step, whose frame has 12 288 bytes.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from benchmarks.measuring import Result, Row, Timing, report_options, show, timed
from prelar_ray.config import RunConfig, load_config
from prelar_ray.replay.shard import ReplayShard
from prelar_ray.types import IMAGE_SIZE, Episode

CPU = torch.device("cpu")
ACTION = 4
EPISODES_WEIGHED = 50
FRAME_BYTES = IMAGE_SIZE * IMAGE_SIZE * 3
COLUMNS = {
    "seconds": ".4g",
    "seconds_min": ".4g",
    "seconds_max": ".4g",
    "gb_per_s": ".3g",
    "of_memcpy": ".0%",
    "bytes_per_step": ".0f",
}


def noise(number: int, steps: int) -> Episode:
    """Return an episode of noise with ``steps`` + 1 rows."""
    rng, rows = np.random.default_rng(number), steps + 1
    first = np.zeros(rows, np.bool_)
    first[0] = True
    return Episode(
        image=rng.integers(0, 256, (rows, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8),
        action=rng.uniform(-1, 1, (rows, ACTION)).astype(np.float32),
        reward=rng.random(rows, dtype=np.float32),
        is_first=first,
        is_terminal=np.zeros(rows, np.bool_),
        success=np.zeros(rows, np.bool_),
        env_index=0,
        number=number,
        weight_version=0,
    )


def in_process(config: RunConfig, steps: int, repeats: int) -> list[Row]:
    """Return the rows of inserting, sampling and memory without Ray."""
    episodes = [noise(number, steps) for number in range(repeats + 1)]
    size = episodes[0].image.nbytes
    with tempfile.TemporaryDirectory() as folder:
        replay = ReplayShard(config, Path(folder))
        coming = iter(episodes)
        inserting = timed(lambda: replay.insert([next(coming)]), CPU, repeats, warmup=1)
        held = bytes_per_step(replay, steps, repeats + 1)
        memcpy = _copy(repeats)
        inserted = _row(f"insert, {steps} steps", size, inserting, memcpy) | {"bytes_per_step": held}
        rows, length = config.finetune.batch_size, config.finetune.segment_length
        sampling = timed(lambda: replay.buffer.sample(rows), CPU, repeats)
        sampled = _row(f"sample, {rows} x {length}", rows * length * FRAME_BYTES, sampling, memcpy)
    return [memcpy, inserted, sampled]


def bytes_per_step(replay: ReplayShard, steps: int, first: int) -> float:
    """Return the growth of the process per step that the replay takes in."""
    process = psutil.Process()
    before, held = process.memory_info().rss, replay.buffer.steps
    for number in range(first, first + EPISODES_WEIGHED):
        replay.insert([noise(number, steps)])
    grown: int = process.memory_info().rss - before
    return grown / (replay.buffer.steps - held)


def _copy(repeats: int) -> Row:
    source, target = (np.ones(2**28, np.uint8) for _ in range(2))
    return _row("copy of 256 MiB", source.nbytes, timed(lambda: np.copyto(target, source), CPU, repeats))


def _row(name: str, size: int, timing: Timing, memcpy: Row | None = None) -> Row:
    """Return the row of calls that move ``size`` bytes each."""
    found = {"name": name, **timing.as_row(), "gb_per_s": size / timing.median / 1e9}
    return found if memcpy is None else found | {"of_memcpy": found["gb_per_s"] / memcpy["gb_per_s"]}


class Client:
    """Inserts one episode after another."""

    def __init__(self, index: int, steps: int) -> None:
        self.index, self.steps, self.sent = index, steps, 0
        self.template = noise(index, steps)

    def run(self, replay: Any, until: float) -> int:
        """Insert until the time ``until``; return the number of episodes."""
        import ray

        while time.time() < until:
            self.sent += 1
            one = replace(self.template, env_index=self.index, number=self.sent)
            ray.get(replay.insert.remote([one]))
        return self.sent


class Sampler:
    """Samples like a learner, several batches ahead."""

    def run(self, replay: Any, until: float, config: RunConfig) -> tuple[int, float]:
        """Sample until the time ``until``; return the number of batches and the mean wait for one, seconds."""
        import ray

        count, waited = 0, 0.0
        ahead = [replay.sample.remote(config.finetune.batch_size) for _ in range(config.replay.prefetch)]
        while time.time() < until:
            began = time.perf_counter()
            ray.get(ahead.pop(0))
            waited += time.perf_counter() - began
            ahead.append(replay.sample.remote(config.finetune.batch_size))
            count += 1
        return count, waited / max(count, 1)


def over_ray(config: RunConfig, steps: int, clients: Sequence[int], seconds: float) -> list[Row]:
    """Return GB/s into and out of a replay actor on a local Ray, while clients insert and one learner samples."""
    import ray  # takes seconds

    from prelar_ray.distributed.local_ray import start_local_ray

    def start(kind: Any, *args: Any) -> Any:
        actor = ray.remote(kind).options(num_cpus=0).remote(*args)
        ray.get(actor.__ray_ready__.remote())
        return actor

    rows: list[Row] = []
    start_local_ray(include_dashboard=False, logging_level=logging.WARNING)
    try:
        for count in clients:
            with tempfile.TemporaryDirectory() as folder:
                replay = start(ReplayShard, config, Path(folder))
                ray.get([replay.insert.remote([noise(number, steps)]) for number in range(4)])
                crowd, sampler = [start(Client, index + 1, steps) for index in range(count)], start(Sampler)
                until = time.time() + seconds
                sent = [client.run.remote(replay, until) for client in crowd]
                sampled, wait = ray.get(sampler.run.remote(replay, until, config))
                inserted = sum(ray.get(sent)) * (steps + 1) * FRAME_BYTES
                taken = sampled * config.finetune.batch_size * config.finetune.segment_length * FRAME_BYTES
                name = f"Ray, {count} {'client' if count == 1 else 'clients'}"
                rows.append({"name": f"{name}: insert", "gb_per_s": inserted / seconds / 1e9})
                rows.append({"name": f"{name}: sample, wait", "seconds": wait, "gb_per_s": taken / seconds / 1e9})
                for actor in (*crowd, sampler, replay):
                    ray.kill(actor)
    finally:
        ray.shutdown()
    return rows


def main(argv: Sequence[str]) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks replay", description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings, as for the commands")
    parser.add_argument("--preset", default="paper", help="size of a batch")
    parser.add_argument("--steps", type=int, default=500, help="of an episode (default 500, Meta-World's)")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--clients", nargs="*", type=int, default=[1, 4, 8], help="none leaves Ray out")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each run on Ray (default 10)")
    report_options(parser)
    args = parser.parse_intermixed_args(argv)
    config = load_config(args.preset, None, args.overrides)
    rows = in_process(config, args.steps, args.repeats)
    if args.clients:
        rows += over_ray(config, args.steps, args.clients, args.seconds)
    settings = {key: value for key, value in vars(args).items() if key not in ("json", "compare")}
    show(Result("replay", settings, {"device": "cpu"}, rows), COLUMNS, args)
    return 0
