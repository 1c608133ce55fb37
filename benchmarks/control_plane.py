"""The loop and Ray without computation: many collectors and learner ranks that sleep, driven as in training.

The result is the cost of driver, replay and Ray's messages: calls per second, the driver's share of a core, and the
delay between one update and the next. Messages have the sizes that the driver sees; batches and episodes bypass it as
references.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import psutil

from benchmarks.measuring import Result, Row, report_options, show
from prelar_ray.action_space import ActionSpace
from prelar_ray.config import RunConfig, load_config, to_yaml
from prelar_ray.replay.shard import ShardStatus

COLUMNS = {
    "seconds": ".3g",
    "calls_per_s": ".0f",
    "driver_cores": ".2f",
    "env_steps_per_s": ".0f",
    "updates_per_s": ".1f",
    "update_seconds": ".4f",
    "learner_waits": ".1%",
}


class Asleep(NamedTuple):
    """Durations of the omitted computations, seconds."""

    env_step: float
    update: float


class Collector:
    """Steps nothing."""

    def __init__(self, asleep: Asleep, config: RunConfig, index: int, first_numbers: list[int]) -> None:
        k = config.collect.envs_per_collector
        self.asleep, self.envs = asleep, range(index * k, (index + 1) * k)
        self.numbers = dict(zip(self.envs, first_numbers, strict=True))

    def actions(self) -> ActionSpace:
        return ActionSpace.continuous(4)

    def terminates(self) -> bool:
        return False

    def episode_steps(self) -> int:
        return 500

    def collect(self, steps: int, random: bool, version: int, weights: Any) -> tuple[Any, Any]:
        time.sleep(steps * self.asleep.env_step)
        summary = SimpleNamespace(
            env_steps=steps * len(self.envs), version=version, returns=(), successes=(), lengths=(), failures=()
        )
        summary.numbers = self.numbers
        return summary, []


class ReplayShard:
    """An empty shard that always reports enough experience."""

    def __init__(self, config: RunConfig, folder: Path, shard: int) -> None:
        pass

    def insert(self, *parts: Any) -> ShardStatus:
        return ShardStatus(episodes=1)

    def sample(self, counts: Sequence[int]) -> Any:
        return [np.zeros(1) for _ in counts]

    def sample_shares(self, counts: Sequence[Sequence[int]]) -> Any:
        return tuple([np.zeros(1) for _ in counts] for _ in counts[0])

    def peek(self) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {}


class Learner:
    """Sleeps instead of updating, and measures its waiting time."""

    def __init__(self, asleep: Asleep, config: RunConfig, actions: Any, checkpoints: Path, rank: int, _: bool) -> None:
        self.asleep, self.folder = asleep, checkpoints
        self.updates, self.waited, self.count, self.idle_since = 0, 0.0, 0, 0.0

    def join(self, address: str) -> None:
        pass

    def update(self, batches: Sequence[Any]) -> int:
        if self.idle_since:
            self.waited += time.monotonic() - self.idle_since
        time.sleep(self.asleep.update * len(batches))
        self.updates, self.count = self.updates + len(batches), self.count + len(batches)
        self.idle_since = time.monotonic()
        return self.updates

    def metrics(self) -> dict[str, float]:
        values = {"time/update": self.asleep.update, "time/wait_for_data": self.waited / max(1, self.count)}
        self.waited, self.count, self.idle_since = 0.0, 0, 0.0
        return values

    def policy_weights(self) -> Any:
        return np.zeros(1)

    def save(self, counters: Any) -> int:
        (self.folder / f"{self.updates:09d}").mkdir(parents=True, exist_ok=True)
        return self.updates

    def saved(self) -> None:
        pass

    def predict(self, batch: Any) -> Any:
        return SimpleNamespace(_asdict=dict)


class Evaluator:
    """Evaluates nothing."""

    def __init__(self, config: RunConfig) -> None:
        pass

    def evaluate(self, weights: Any, episodes: int, round_: int) -> Any:
        return SimpleNamespace(returns=(0.0,), successes=(False,))


def measure(collectors: int, ranks: int, asleep: Asleep, seconds: float) -> Row:
    """Run the loop for about ``seconds``."""
    from prelar_ray.distributed.ray_backend import RayBackend, _RayRole
    from prelar_ray.kinds import kind_of
    from prelar_ray.storage.run_folder import RunFolder
    from prelar_ray.training.finetuning import iterate_finetuning

    per_second = collectors / asleep.env_step
    pace = max(1, round(per_second * asleep.update))  # collecting and learning equally fast
    config = load_config(
        "paper",
        None,
        [
            f"collect.collectors={collectors}",
            f"learner.ranks={ranks}",
            f"finetune.batch_size={8 * ranks}",
            f"pretrain.batch_size={2 * ranks}",
            f"finetune.env_steps_per_update={pace}",
            f"finetune.env_steps={int(per_second * seconds) + collectors * 500}",
            f"finetune.random_steps={collectors * 500}",
            "finetune.initial_updates=0",
            "evaluation.every_env_steps=1000000000",
            "checkpoint.every_updates=1000000",
            f"telemetry.every_updates={max(10, round(2 / asleep.update))}",
            "dashboard=false",
        ],
    )
    counts = [0]

    remote = _RayRole._remote

    def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
        counts[0] += 1
        return remote(self, *args, **kwargs)

    names = {
        "prelar_ray.distributed.ray_backend._RayRole._remote": counting,
        "prelar_ray.training.replays.ReplayShard": ReplayShard,
        "prelar_ray.training.learners.FinetuneLearnerRole": _actor(Learner, asleep),
        "prelar_ray.training.collectors.Collector": _actor(Collector, asleep),
        "prelar_ray.training.finetuning.Collector": _actor(Collector, asleep),
        "prelar_ray.training.evaluations.Evaluator": Evaluator,
    }
    lines: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder, _replaced(names):
        run = RunFolder.create(Path(folder) / "run", to_yaml(config), "finetune")
        process = psutil.Process()
        for line in iterate_finetuning(
            config,
            run,
            lambda: RayBackend(config, partial(kind_of(config, "finetune").plan, config)),
            None,
            resume=False,
        ):
            if "time/update" in line:
                cpu = sum(process.cpu_times()[:2])
                lines.append({**line, "calls": counts[0], "cpu": cpu, "now": time.monotonic()})
    first, last = lines[1], lines[-2]  # all roles were busy in between
    took = last["now"] - first["now"]
    waits = float(np.mean([line["time/wait_for_data"] for line in lines[2:-1]]))
    return {
        "name": f"{collectors} collectors, {ranks} ranks",
        "seconds": took,
        "calls_per_s": (last["calls"] - first["calls"]) / took,
        "driver_cores": (last["cpu"] - first["cpu"]) / took,
        "env_steps_per_s": (last["env_steps"] - first["env_steps"]) / took,
        "updates_per_s": (last["update"] - first["update"]) / took,
        "update_seconds": asleep.update,
        "learner_waits": waits / (waits + asleep.update),
    }


def _actor(kind: Any, asleep: Asleep) -> Any:
    """Return a class for a Ray actor, with ``asleep`` as its first argument."""
    return type(kind.__name__, (kind,), {"__init__": lambda self, *args: kind.__init__(self, asleep, *args)})


def _replaced(names: dict[str, Any]) -> Any:
    stack = ExitStack()
    for name, replacement in names.items():
        stack.enter_context(mock.patch(name, replacement))
    return stack


def main(argv: Sequence[str]) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks control_plane", description=__doc__)
    parser.add_argument("--collectors", nargs="+", type=int, default=[1, 8, 64])
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 8, 8], help="one for each number of collectors")
    parser.add_argument("--env-step-ms", type=float, default=10.0, help="of one collector's step (default 10)")
    parser.add_argument("--update-ms", type=float, default=73.0, help="default 73: eight RTX 3090 by the cost model")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each run (default 60)")
    report_options(parser)
    args = parser.parse_args(argv)
    if len(args.ranks) != len(args.collectors):
        parser.error("--ranks: as many as --collectors")
    asleep = Asleep(args.env_step_ms / 1e3, args.update_ms / 1e3)
    rows = [measure(c, r, asleep, args.seconds) for c, r in zip(args.collectors, args.ranks, strict=True)]
    settings = {key: value for key, value in vars(args).items() if key not in ("json", "compare")}
    show(Result("control_plane", settings, {}, rows), COLUMNS, args)
    return 0
