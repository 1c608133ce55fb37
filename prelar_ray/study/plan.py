"""What a sweep file comes to: every run by name, with its configuration, and what it starts from."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from prelar_ray.config import RunConfig, load_config, native_methods
from prelar_ray.config.compare import same_pretraining
from prelar_ray.envs import check_task
from prelar_ray.errors import ConfigError, UsageError
from prelar_ray.kinds import kind_of
from prelar_ray.storage.addresses import is_address
from prelar_ray.storage.records import PlanEntry
from prelar_ray.study.identity import path_identities
from prelar_ray.study.sweep import FinetuneStage, PretrainStage, Range, Space, Sweep, Variant

__all__ = ["PlannedRun", "changed", "plan_runs", "recording", "video_stores"]

NOT_IN_NAME = ("seed", "cluster", "dashboard", "telemetry", "checkpoint", "learner", "threads", "device")
"""Sections that leave a run the same run: they are in no name, unless a space varies them."""

PRETRAINING = ("world_model", "loss", "pretrain", "video", "precision")
"""Sections that pre-training reads and that make it what it is."""

FINETUNING_ALONE = (
    *("env.", "finetune.", "behaviour.", "replay.", "collect.", "evaluation."),
    *("loss.reward_weight", "loss.aux_reward_weight", "loss.tie_", "loss.action_decoder_weight"),
    *("world_model.reward_", "world_model.action_encoder", "world_model.action_input", "world_model.dynamics"),
)
"""Beginnings of settings that pre-training does not read."""

OWN_KEYS = {"seed": "pretrain.seeds and finetune.seeds", "method": "finetune.methods", "env.task": "finetune.tasks"}
"""Settings of a run that are no settings of a study, and where it has them."""


@dataclass(frozen=True)
class PlannedRun:
    """A run of the study."""

    name: str
    """Of its folder below ``runs/``."""
    phase: Literal["pretrain", "finetune"]
    method: str
    task: str
    """Empty for pre-trainings."""
    seed: int
    config: RunConfig = field(repr=False)
    labels: Mapping[str, Any] = field(default_factory=dict)
    """What was chosen from the spaces, for this run and for the pre-training it starts from."""
    init: str | None = None
    """Name of the pre-training of this study that it starts from."""
    variants: tuple[str, ...] = ()
    """Names of those that this pre-training is made for; none: for all of its method."""
    init_path: Path | None = None
    """Run folder of another pre-training that it starts from."""
    slot: int | None = None
    """Which of Optuna's proposals it is; its labels come when it starts."""

    @property
    def entry(self) -> PlanEntry:
        """The record of it in the study's plan."""
        return PlanEntry(
            name=self.name,
            phase=self.phase,
            method=self.method,
            task=self.task,
            seed=self.seed,
            labels=dict(self.labels),
            init=self.init or (str(self.init_path) if self.init_path else None),
        )


def plan_runs(sweep: Sweep, folder: Path, identities: Mapping[str, str] | None = None) -> list[PlannedRun]:
    """Return every run in the order in which they start.

    That is by seed, so that a study which ends early has compared everything on fewer seeds; pre-trainings come first.
    Where Optuna proposes, the seeds of a proposal stay together: their results come before it proposes again.

    Args:
        folder: of the study; videos that it records lie there.
        identities: of video stores and pre-trainings that the file names, see :mod:`prelar_ray.study.identity`;
            without, their paths.

    Raises:
        ConfigError: an unknown key, method, task or value, two settings that contradict each other, a fine-tuning that
            starts from a checkpoint nobody makes; the message starts with where in the file.
    """
    pretrainings: list[PlannedRun] = []
    runs: list[PlannedRun] = []
    tune = sweep.finetune
    identities = path_identities(sweep) if identities is None else identities
    _check_own_keys(sweep)
    if sweep.pretrain:
        for given in sweep.pretrain.videos.values():
            if not isinstance(given, str):
                recording(sweep, given)
        pretrainings = _pretrainings(sweep, sweep.pretrain, video_stores(sweep, folder), identities)
    if tune:
        for task in tune.tasks:
            with _at("finetune.tasks"):
                check_task(task, "task")
        _check_init(tune)
        for name, variant in tune.compared.items():
            runs += _finetunings(sweep, tune, name if tune.variants else "", variant, pretrainings, identities)
        if sweep.search.kind == "optuna":
            for run in {run.method: run for run in runs}.values():
                _check_space(run, tune.space)
    found = {run.name: run for run in [*pretrainings, *runs]}  # draws from few values, and seeds given twice, repeat
    if tune is None or sweep.search.kind == "optuna":
        return list(found.values())
    turns = {seed: turn for turn, seed in reversed(list(enumerate(tune.seeds)))}
    paired = sweep.pretrain is not None and sweep.pretrain.paired_seeds
    return sorted(found.values(), key=lambda run: turns[run.seed] if paired or run.phase == "finetune" else 0)


def _check_own_keys(sweep: Sweep) -> None:
    """Refuse settings that the sweep file has keys of its own for, which would win or be overruled unseen."""
    given = {"settings": sweep.settings}
    for name, stage in (("pretrain", sweep.pretrain), ("finetune", sweep.finetune)):
        if stage:
            given |= {f"{name}.settings": stage.settings, f"{name}.space": dict(stage.space)}
    for name, variant in (sweep.finetune.variants if sweep.finetune else {}).items():
        given[f"finetune.variants.{name}.settings"] = variant.settings
    for where, settings in given.items():
        for key in settings:
            if key in OWN_KEYS:
                raise ConfigError(f"{where}.{key}: a study gives it in {OWN_KEYS[key]}")


def changed(run: PlannedRun, point: Mapping[str, Any]) -> PlannedRun:
    """The run with values that were proposed for it.

    Raises:
        ConfigError: one of them is not allowed.
    """
    config = load_config(None, None, [f"{key}={_text(value)}" for key, value in point.items()], base=run.config)
    return replace(run, config=config, labels={**run.labels, **point})


def video_stores(sweep: Sweep, folder: Path) -> dict[str, str]:
    """Path or address where each data set is or will be, by name; recorded with other settings, it is another."""
    if not sweep.pretrain:
        return {}
    videos, found = folder.absolute() / "videos", {}
    for name, given in sweep.pretrain.videos.items():
        if isinstance(given, str):
            found[name] = given if is_address(given) else str(Path(given).absolute())
        else:
            found[name] = str(videos / f"{name}-{_recorded(sweep, given)}")
    return found


def _recorded(sweep: Sweep, settings: Mapping[str, Any]) -> str:
    config = recording(sweep, settings)
    record = config.record.model_dump(mode="json", exclude={"workers"})  # who records changes nothing in the data
    return _digest({"record": record, "env": config.env, "seed": config.seed})


def recording(sweep: Sweep, settings: Mapping[str, Any]) -> RunConfig:
    """Configuration to record a data set with.

    Raises:
        ConfigError: a setting is wrong.
    """
    with _at("pretrain.videos"):
        return _config(sweep, {**sweep.settings, **settings}, settings.get("seed", 0))


def _pretrainings(
    sweep: Sweep, stage: PretrainStage, stores: Mapping[str, str], identities: Mapping[str, str]
) -> list[PlannedRun]:
    seeds = sweep.finetune.seeds if sweep.finetune and stage.paired_seeds else stage.seeds
    found: dict[str, PlannedRun] = {}
    for method in _pretrained_methods(sweep, stage):
        for (variants, own), point, (data, store), seed in itertools.product(
            _pretrained_variants(sweep, method),
            _points(sweep, stage.space, f"pretrain/{method}"),
            stores.items(),
            seeds,
        ):
            settings = {"method": method, **sweep.settings, **stage.settings, **own}
            with _at("pretrain"):
                config = _config(sweep, {**settings, **point}, seed)
            given = stage.videos[data]  # not where the store lies: a study keeps its names wherever its folder is
            parts = {name: getattr(config, name) for name in PRETRAINING}
            content = identities[f"videos.{data}"] if isinstance(given, str) else _recorded(sweep, given)
            digest = _digest(parts | _not_in_name(point, "pretrain", PRETRAINING), method, content)
            config = config.model_copy(update={"video": config.video.model_copy(update={"path": store})})
            name = f"pretrain/{method}/{digest}/seed-{seed}"
            labels = dict(point) | ({"videos": data} if len(stores) > 1 else {})
            labels |= {"pretrain.seed": seed} if len(seeds) > 1 and not stage.paired_seeds else {}
            run = found.setdefault(name, PlannedRun(name, "pretrain", method, "", seed, config, labels))
            found[name] = replace(run, variants=(*run.variants, *variants))
    return list(found.values())


def _pretrained_variants(sweep: Sweep, method: str) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    """Return which variants are pre-trained as ``method``, and what pre-training reads of their settings."""
    variants = sweep.finetune.variants if sweep.finetune else {}
    found: list[tuple[tuple[str, ...], dict[str, Any]]] = [
        ((name,), {key: value for key, value in variant.settings.items() if not key.startswith(FINETUNING_ALONE)})
        for name, variant in variants.items()
        if same_pretraining(variant.method, method)
    ]
    return found or [((), {})]


def _not_in_name(point: Mapping[str, Any], stage: str, read: Sequence[str]) -> dict[str, Any]:
    """Those values of a space that no section in a run's name holds.

    Raises:
        ConfigError: what a space varies makes no difference to the run.
    """
    for key in point:
        if key.partition(".")[0] not in (*read, *NOT_IN_NAME):
            other = "finetune" if stage == "pretrain" else "pretrain"
            raise ConfigError(f"{stage}.space.{key}: this stage does not read it; vary it in {other}.space")
    return {key: value for key, value in point.items() if key.partition(".")[0] in NOT_IN_NAME}


def _pretrained_methods(sweep: Sweep, stage: PretrainStage) -> list[str]:
    """Methods to pre-train, one for all that pre-train alike: always the same, whichever of them the study names."""
    asked = stage.methods
    if sweep.finetune:
        compared = dict.fromkeys(variant.method for variant in sweep.finetune.compared.values())
        asked = tuple(m for m in compared if _needs_pretraining(m) and m not in sweep.finetune.init)
    chosen: list[str] = []
    for method in asked:
        with _at("pretrain.methods"):
            if not _needs_pretraining(method):
                raise ConfigError(f"{method} learns from scratch, there is nothing to pre-train")
        first = next(other for other in native_methods() if same_pretraining(other, method))
        if first not in chosen:
            chosen.append(first)
    return chosen


def _check_init(stage: FinetuneStage) -> None:
    methods = dict.fromkeys(variant.method for variant in stage.compared.values())
    for method in stage.init:
        if method not in methods or not _needs_pretraining(method):
            usable = [name for name in methods if _needs_pretraining(name)]
            raise ConfigError(
                f"finetune.init.{method}: names no method of finetune.methods that starts from a pre-training; "
                f"those are: {', '.join(usable) or 'none'}"
            )


def _check_space(run: PlannedRun, space: Space) -> None:
    """Make sure that proposals will be values that the run can have: ends of ranges and choices, one key at a time.

    Raises:
        ConfigError: one is not.
    """
    for key, values in space.items():
        ends = values
        if isinstance(values, Range):
            ends = values.choice or values.integers or values.uniform or values.log_uniform or ()
        assert isinstance(ends, tuple)
        for value in ends:
            with _at("finetune.space"):
                changed(run, {key: value})


def _needs_pretraining(method: str) -> bool:
    with _at("finetune.methods"):
        config = load_config(None, None, [f"method={method}"])
    return config.world_model.latent_action_source != "none" and kind_of(config, "finetune").own_networks


def _finetunings(
    sweep: Sweep,
    stage: FinetuneStage,
    name: str,
    variant: Variant,
    pretrainings: Sequence[PlannedRun],
    identities: Mapping[str, str],
) -> Iterator[PlannedRun]:
    method = variant.method
    starts = _starts(stage, name, method, pretrainings)
    for init, task, (slot, point), seed in itertools.product(
        starts, stage.tasks, _proposals(sweep, stage, method), stage.seeds
    ):
        inherited: Mapping[str, Any] = {}
        if sweep.pretrain and isinstance(init, PlannedRun):
            if sweep.pretrain.paired_seeds and init.seed != seed:
                continue
            chosen = {key: value for key, value in init.labels.items() if key in sweep.pretrain.space}
            inherited = {**sweep.pretrain.settings, **chosen}
        settings = {"method": method, **sweep.settings, **inherited, **stage.settings, **variant.settings}
        settings["env.task"] = task
        with _at("finetune"):
            config = _config(sweep, {**settings, **point}, seed)
            if isinstance(init, PlannedRun) and init.config.env.image_size != config.env.image_size:
                raise ConfigError(
                    f"env.image_size={config.env.image_size}: the pre-training of {method} has "
                    f"{init.config.env.image_size}; set it for all runs, in the settings of the study"
                )
        start = init.name if isinstance(init, PlannedRun) else identities[f"init.{method}"] if init else ""
        whole = {
            name: value for name, value in config if name not in (*NOT_IN_NAME, "method", "video", "record", "pretrain")
        }
        whole |= _not_in_name(point, "finetune", list(whole))
        if isinstance(init, PlannedRun) and config.finetune.clip_rows:
            config = config.model_copy(update={"video": init.config.video})
        digest = _digest(whole, start + (f"#{slot}" if slot is not None else ""))
        run = PlannedRun(
            f"finetune/{method.replace('/', '-')}/{task.replace('/', '-')}/{digest}/seed-{seed}",
            "finetune",
            method,
            task,
            seed,
            config,
            {"variant": name, **point} if name else point,
            slot=slot,
        )
        if isinstance(init, PlannedRun):
            run = replace(run, init=init.name, labels={**init.labels, **run.labels})
        yield replace(run, init_path=init) if isinstance(init, Path) else run


def _starts(
    stage: FinetuneStage, variant: str, method: str, pretrainings: Sequence[PlannedRun]
) -> Sequence[PlannedRun | Path | None]:
    if not _needs_pretraining(method):
        return [None]
    if method in stage.init:
        return [Path(stage.init[method]).absolute()]
    alike = [
        run for run in pretrainings if same_pretraining(run.method, method) and (not variant or variant in run.variants)
    ]
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
