"""What a sweep file comes to: every run by name, with its configuration, and what it starts from."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from prelar_ray.config import RunConfig, load_config
from prelar_ray.config.compare import same_pretraining
from prelar_ray.envs import check_task
from prelar_ray.errors import ConfigError, UsageError
from prelar_ray.study.sweep import FinetuneStage, PretrainStage, Range, Space, Sweep

__all__ = ["PlannedRun", "changed", "plan_runs", "recording", "video_stores"]

APART = ("seed", "cluster", "dashboard", "telemetry", "checkpoint", "learner", "threads", "device")
"""Sections that leave a run the same run: they are in no name."""

PRETRAINING = ("world_model", "loss", "pretrain", "video", "precision")
"""Sections that pre-training reads."""


@dataclass(frozen=True)
class PlannedRun:
    """A run of the study."""

    name: str
    """Of its folder below ``runs/``."""
    phase: str
    method: str
    task: str
    """Empty for pre-trainings."""
    seed: int
    config: RunConfig = field(repr=False)
    labels: Mapping[str, Any] = field(default_factory=dict)
    """What was chosen from the spaces, for this run and for the pre-training it starts from."""
    init: str | None = None
    """Name of the pre-training of this study that it starts from."""
    init_path: Path | None = None
    """Run folder of another pre-training that it starts from."""
    slot: int | None = None
    """Which of Optuna's proposals it is; its labels come when it begins."""


def plan_runs(sweep: Sweep, folder: Path) -> list[PlannedRun]:
    """Return every run, pre-trainings first.

    Args:
        folder: of the study; videos that it records lie there.

    Raises:
        ConfigError: an unknown key, method, task or value, two settings that contradict each other, a fine-tuning that
            starts from a checkpoint nobody makes; begins with where in the file.
    """
    pretrainings: list[PlannedRun] = []
    runs: list[PlannedRun] = []
    tune = sweep.finetune
    if sweep.pretrain:
        for given in sweep.pretrain.videos.values():
            if not isinstance(given, str):
                recording(sweep, given)
        pretrainings = _pretrainings(sweep, sweep.pretrain, video_stores(sweep, folder))
    if tune:
        for task in tune.tasks:
            with _at("finetune.tasks"):
                check_task(task, "task")
        for method in tune.methods:
            runs += _finetunings(sweep, tune, method, pretrainings)
    return [*pretrainings, *runs]


def changed(run: PlannedRun, point: Mapping[str, Any]) -> PlannedRun:
    """The run with values that were proposed for it.

    Raises:
        ConfigError: one of them is not allowed.
    """
    config = load_config(None, None, [f"{key}={_text(value)}" for key, value in point.items()], base=run.config)
    return replace(run, config=config, labels={**run.labels, **point})


def video_stores(sweep: Sweep, folder: Path) -> dict[str, Path]:
    """Where each data set is or will be, by name."""
    if not sweep.pretrain:
        return {}
    return {
        name: Path(given).absolute() if isinstance(given, str) else folder.absolute() / "videos" / name
        for name, given in sweep.pretrain.videos.items()
    }


def recording(sweep: Sweep, settings: Mapping[str, Any]) -> RunConfig:
    """Configuration to record a data set with.

    Raises:
        ConfigError: a setting is wrong.
    """
    with _at("pretrain.videos"):
        return _config(sweep, {**sweep.settings, **settings}, 0)


def _pretrainings(sweep: Sweep, stage: PretrainStage, stores: Mapping[str, Path]) -> list[PlannedRun]:
    found: dict[str, PlannedRun] = {}
    for method in _pretrained_methods(sweep, stage):
        for point, (data, store), seed in itertools.product(
            _points(sweep, stage.space, f"pretrain/{method}"), stores.items(), stage.seeds
        ):
            settings = {"method": method, **sweep.settings, **stage.settings}
            with _at("pretrain"):
                config = _config(sweep, {**settings, **point}, seed)
            given = stage.videos[data]  # not where the store lies: a study keeps its names wherever its folder is
            digest = _digest({name: getattr(config, name) for name in PRETRAINING}, method, given)
            config = config.model_copy(update={"video": config.video.model_copy(update={"path": str(store)})})
            name = f"pretrain/{method}/{digest}/seed-{seed}"
            labels = dict(point) | ({"videos": data} if len(stores) > 1 else {})
            labels |= {"pretrain.seed": seed} if len(stage.seeds) > 1 else {}
            found.setdefault(name, PlannedRun(name, "pretrain", method, "", seed, config, labels))
    return list(found.values())


def _pretrained_methods(sweep: Sweep, stage: PretrainStage) -> list[str]:
    """Methods to pre-train, one for all that pre-train alike."""
    asked = stage.methods
    if sweep.finetune:
        asked = tuple(m for m in sweep.finetune.methods if _needs_pretraining(m) and m not in sweep.finetune.init)
    chosen: list[str] = []
    for method in asked:
        with _at("pretrain.methods"):
            if not _needs_pretraining(method):
                raise ConfigError(f"{method} learns from scratch, there is nothing to pre-train")
        if not any(same_pretraining(method, other) for other in chosen):
            chosen.append(method)
    return chosen


def _needs_pretraining(method: str) -> bool:
    with _at("finetune.methods"):
        config = load_config(None, None, [f"method={method}"])
    return config.world_model.latent_action_source != "none" and not config.algorithm


def _finetunings(
    sweep: Sweep, stage: FinetuneStage, method: str, pretrainings: Sequence[PlannedRun]
) -> Iterator[PlannedRun]:
    for init, task, (slot, point), seed in itertools.product(
        _starts(stage, method, pretrainings), stage.tasks, _proposals(sweep, stage, method), stage.seeds
    ):
        inherited: Mapping[str, Any] = {}
        if sweep.pretrain and isinstance(init, PlannedRun):
            chosen = {key: value for key, value in init.labels.items() if key in sweep.pretrain.space}
            inherited = {**sweep.pretrain.settings, **chosen}
        settings = {"method": method, **sweep.settings, **inherited, **stage.settings, "env.task": task}
        with _at("finetune"):
            config = _config(sweep, {**settings, **point}, seed)
        start = init.name if isinstance(init, PlannedRun) else str(init or "")
        whole = {name: value for name, value in config if name not in (*APART, "method", "video", "record", "pretrain")}
        digest = _digest(whole, start + (f"#{slot}" if slot is not None else ""))
        run = PlannedRun(
            f"finetune/{method.replace('/', '-')}/{task.replace('/', '-')}/{digest}/seed-{seed}",
            "finetune",
            method,
            task,
            seed,
            config,
            point,
            slot=slot,
        )
        if isinstance(init, PlannedRun):
            run = replace(run, init=init.name, labels={**init.labels, **point})
        yield replace(run, init_path=init) if isinstance(init, Path) else run


def _starts(
    stage: FinetuneStage, method: str, pretrainings: Sequence[PlannedRun]
) -> Sequence[PlannedRun | Path | None]:
    if not _needs_pretraining(method):
        return [None]
    if method in stage.init:
        return [Path(stage.init[method]).absolute()]
    alike = [run for run in pretrainings if same_pretraining(run.method, method)]
    if not alike:
        raise ConfigError(
            f"finetune.methods: {method} starts from a pre-training, and nobody makes one; add a pretrain section, "
            f"name a finished one in finetune.init.{method}, or choose methods that learn from scratch (dreamerv2)"
        )
    return alike


def _proposals(sweep: Sweep, stage: FinetuneStage, method: str) -> list[tuple[int | None, dict[str, Any]]]:
    if sweep.search.kind == "optuna":
        return [(slot, {}) for slot in range(sweep.search.samples)]
    return [(None, point) for point in _points(sweep, stage.space, f"finetune/{method}")]


def _points(sweep: Sweep, space: Space, name: str) -> list[dict[str, Any]]:
    """Values chosen from a space: every combination, or random draws that depend on the search's seed alone."""
    if not space or sweep.search.kind == "grid":
        values = [value if isinstance(value, tuple) else () for value in space.values()]
        return [dict(zip(space, chosen, strict=True)) for chosen in itertools.product(*values)]
    entropy = int.from_bytes(hashlib.sha256(f"{sweep.search.seed}/{name.partition('/')[0]}".encode()).digest()[:8])
    rng = np.random.default_rng(entropy)
    return [{key: _draw(value, rng) for key, value in space.items()} for _ in range(sweep.search.samples)]


def _draw(values: tuple[Any, ...] | Range, rng: np.random.Generator) -> Any:
    if isinstance(values, tuple):
        return values[rng.integers(len(values))]
    if values.choice is not None:
        return values.choice[rng.integers(len(values.choice))]
    if values.integers is not None:
        return int(rng.integers(values.integers[0], values.integers[1] + 1))
    if values.uniform is not None:
        return float(f"{rng.uniform(*values.uniform):.6g}")
    assert values.log_uniform is not None
    low, high = np.log(values.log_uniform)
    return float(f"{np.exp(rng.uniform(low, high)):.6g}")


def _config(sweep: Sweep, settings: Mapping[str, Any], seed: int) -> RunConfig:
    chosen = {**settings, "seed": seed}
    return load_config(sweep.preset, None, [f"{key}={_text(value)}" for key, value in chosen.items()])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _digest(*parts: Any) -> str:
    def plain(value: Any) -> Any:
        return value.model_dump(mode="json") if hasattr(value, "model_dump") else value

    tree = [{k: plain(v) for k, v in part.items()} if isinstance(part, Mapping) else part for part in parts]
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:8]


@contextmanager
def _at(where: str) -> Iterator[None]:
    """Say where in the sweep file a mistake is."""
    try:
        yield
    except (ConfigError, UsageError) as error:
        raise ConfigError("\n".join(f"{where}: {line}" for line in str(error).splitlines())) from error
