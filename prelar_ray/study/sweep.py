"""The sweep file: one YAML that describes a study, read as a whole before anything starts."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from prelar_ray.config import Component, yaml_text
from prelar_ray.errors import ConfigError, DataError
from prelar_ray.storage.reading import read_bytes
from prelar_ray.wording import printable

__all__ = ["FinetuneStage", "PretrainStage", "Space", "Sweep", "Variant", "read_sweep"]


class Range(Component):
    """Where a searched value is drawn from; one of these."""

    uniform: tuple[float, float] | None = None
    """Low and high, any number between."""
    log_uniform: tuple[float, float] | None = None
    """Low and high, above 0; every power of ten is as likely."""
    integers: tuple[int, int] | None = None
    """Low and high, both included."""
    choice: tuple[Any, ...] | None = None
    """One of these."""

    @model_validator(mode="after")
    def _one(self) -> Range:
        given = {name: value for name, value in self if value is not None}
        if len(given) != 1:
            raise ValueError(f"give one of uniform, log_uniform, integers, choice; given: {', '.join(given) or 'none'}")
        name, value = next(iter(given.items()))
        if name == "choice" and not value:
            raise ValueError("choice has no values")
        if name != "choice" and not value[0] < value[1]:
            raise ValueError(f"{name}={list(value)}: the first must be below the second")
        if name == "log_uniform" and value[0] <= 0:
            raise ValueError(f"log_uniform={list(value)}: both must be above 0")
        return self


def _flat(tree: Any, prefix: str = "") -> Any:
    """Settings may be nested or dotted: bring both to dotted paths."""
    if not isinstance(tree, Mapping):
        return tree
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        nested = _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
        for path, inner in nested.items():
            if path in flat:
                raise ValueError(f"{path} is given twice, dotted and nested")
            flat[path] = inner
    return flat


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str | int) and not isinstance(value, bool) else value


Settings = Annotated[dict[str, Any], BeforeValidator(_flat)]
Space = dict[str, tuple[Any, ...] | Range]
Names = Annotated[tuple[str, ...], BeforeValidator(_listed), Field(min_length=1)]
Seeds = Annotated[tuple[int, ...], BeforeValidator(_listed), Field(min_length=1)]


class Variant(Component):
    """A method with settings of its own, compared under a name."""

    method: str
    """Of `prelar_ray/config/methods`."""
    settings: Settings = Field(default_factory=dict)
    """On top of all others; what pre-training reads of them makes a pre-training of its own."""


class PretrainStage(Component):
    """Pre-trainings; each that differs is made once, whoever starts from it."""

    methods: Names = ("prelar",)
    """Whose pre-trainings, where there is no fine-tuning to say so."""
    videos: dict[str, str | Settings] = Field(min_length=1)
    """Data sets by name: the folder of a video store, or settings to record one with (record.*)."""
    seeds: Seeds = (0,)
    """A pre-training each, from which every seed of fine-tuning starts."""
    paired_seeds: bool = False
    """Instead, a pre-training for each seed of fine-tuning, which alone starts from it."""
    settings: Settings = Field(default_factory=dict)
    """Changed for pre-training, and for what starts from it."""
    space: Space = Field(default_factory=dict)
    """Values to try, by dotted key: a list, or a range to draw from."""


class FinetuneStage(Component):
    """Fine-tunings: methods x tasks x seeds x space, from every pre-training of their method."""

    methods: Names = ("prelar",)
    """Of `prelar_ray/config/methods`."""
    variants: dict[str, Variant] = Field(default_factory=dict)
    """Instead of methods, what is compared by name: an ablation."""
    tasks: Names = ("metaworld/reach-v3",)
    """Environments."""
    seeds: Seeds = (0, 1, 2, 3, 4)
    """A run each."""
    init: dict[str, str] = Field(default_factory=dict)
    """By method, the run folder of a finished pre-training to start from, instead of one of this study."""
    settings: Settings = Field(default_factory=dict)
    """Changed for fine-tuning."""
    space: Space = Field(default_factory=dict)
    """Values to try, by dotted key: a list, or a range to draw from."""

    @model_validator(mode="after")
    def _methods_or_variants(self) -> FinetuneStage:
        if self.variants and "methods" in self.model_fields_set:
            raise ValueError("give methods or variants; a variant names its method")
        return self

    @property
    def compared(self) -> dict[str, Variant]:
        """What is compared: the variants, or each method as one without settings."""
        return self.variants or {method: Variant(method=method) for method in self.methods}


class Search(Component):
    """How values come from a space."""

    kind: Literal["grid", "random", "optuna"] = "grid"
    """Every combination of lists; random draws; or Optuna's proposals after what came before (fine-tuning only)."""
    samples: PositiveInt = 1
    """Draws or proposals per method and task; a grid needs none."""
    seed: int = 0
    """Of the draws."""


class Scheduler(Component):
    """Whether runs may be stopped early."""

    kind: Literal["fifo", "asha", "median"] = "fifo"
    """No run; those not among the best at growing numbers of steps; or those below the median of the others."""
    metric: str = "evaluation/return_mean"
    """What is compared, larger is better; of fine-tunings, at equal env_steps."""
    grace_env_steps: PositiveInt = 10_000
    """Steps that every run gets."""
    reduction: Annotated[int, Field(ge=2)] = 3
    """asha: one of so many continues."""


class Failures(Component):
    """What happens to runs that fail."""

    retries: Annotated[int, Field(ge=0)] = 2
    """Times that a run resumes from its last checkpoint before it counts as failed; the others continue in any case."""


class Budget(Component):
    """When the study stops, whatever is missing; --resume continues it."""

    hours: PositiveFloat | None = None
    """Of wall time."""


class Rates(Component):
    """Seconds per update, to estimate what the study costs; --measure measures them here instead."""

    pretrain: PositiveFloat | None = None
    """Of a pre-training update."""
    finetune: PositiveFloat | None = None
    """Of a fine-tuning update, with collecting beside it."""


class Sweep(Component):
    """A study."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """Of the study, and of its folder below runs/."""
    preset: str = "paper"
    """Settings that all runs start from."""
    settings: Settings = Field(default_factory=dict)
    """Changed for all runs; resources too (learner.gpus, learner.ranks, collect.collectors, collect.cpus, ...)."""
    pretrain: PretrainStage | None = None
    """Pre-trainings; without, methods start from scratch or from `finetune.init`."""
    finetune: FinetuneStage | None = None
    """Fine-tunings; without, the study ends with its pre-trainings."""
    search: Search = Search()
    """Values from spaces."""
    scheduler: Scheduler = Scheduler()
    """Early stopping."""
    concurrent: PositiveInt | None = None
    """Runs at once; each gets an equal part of every node. Without: as many as have a place."""
    failures: Failures = Failures()
    """Failed runs."""
    budget: Budget = Budget()
    """Limits."""
    update_seconds: Rates = Rates()
    """For the estimate."""
    mirror: str = ""
    """Address for pyarrow.fs, such as s3://bucket/studies, below which a copy of every run is kept."""
    loggers: tuple[Literal["wandb", "mlflow"], ...] = ()
    """Besides TensorBoard, CSV and JSON, which are always there; optional extras."""

    @model_validator(mode="after")
    def _consistent(self) -> Sweep:
        if self.pretrain is None and self.finetune is None:
            raise ValueError("a study needs a pretrain section, a finetune section, or both")
        if self.pretrain and self.pretrain.paired_seeds:
            if self.finetune is None:
                raise ValueError("pretrain.paired_seeds: there is no finetune section whose seeds could be paired")
            if "seeds" in self.pretrain.model_fields_set:
                raise ValueError("give pretrain.seeds or pretrain.paired_seeds, which takes those of finetune.seeds")
        if self.search.kind == "grid":
            for stage in ("pretrain", "finetune"):
                for key, values in (getattr(self, stage).space if getattr(self, stage) else {}).items():
                    if isinstance(values, Range):
                        raise ValueError(
                            f"{stage}.space.{key}: a range has no grid; give a list, or search.kind=random"
                        )
        if self.scheduler.kind != "fifo" and (self.finetune is None or len(self.finetune.tasks) > 1):
            raise ValueError(
                f"scheduler.kind={self.scheduler.kind} compares runs with each other, which tells nothing across "
                "tasks; name one task in finetune.tasks, or use fifo"
            )
        if self.search.kind == "optuna" and (self.finetune is None or not self.finetune.space):
            raise ValueError("search.kind=optuna needs a finetune.space to search")
        return self


def read_sweep(path: Path) -> Sweep:
    """Read a sweep file.

    Raises:
        ConfigError: it cannot be read, or something in it is wrong; one line per mistake, beginning with its key.
    """
    try:
        tree = yaml_text.parse(read_bytes(path, "correct the path"))
    except DataError as error:
        if not path.exists():
            raise ConfigError(f"{path}: no such sweep file; tune_configs/ holds some to start from") from error
        raise ConfigError(str(error)) from error
    except ValueError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: must be a mapping of keys such as `name: study`")
    tree.setdefault("name", path.stem)
    try:
        return Sweep.model_validate(tree, strict=True)
    except ValidationError as error:
        lines = [f"{path}: {_describe(dict(mistake))}" for mistake in error.errors()]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from error


def _describe(mistake: Mapping[str, Any]) -> str:
    """One line for one of pydantic's errors."""
    # Parts of a union show in the location as names of types.
    location = [
        str(part) for part in mistake["loc"] if not str(part).startswith(("tuple", "function", "Range", "dict"))
    ]
    path = ".".join(location)
    if mistake["type"] == "value_error":
        text = str(mistake["ctx"]["error"])
        return f"{path}: {text}" if path else text
    if mistake["type"] == "extra_forbidden":
        known = _keys(location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1)
        return f"{path}: unknown key; " + (f"nearest: {near[0]}" if near else f"known: {', '.join(known)}")
    if mistake["type"] == "missing":
        return f"{path}: missing"
    return f"{path}={printable(repr(mistake['input']))}: {mistake['msg']}"


def _keys(location: list[str]) -> list[str]:
    """Keys of the section at a location."""
    kind: Any = Sweep
    for name in location:
        field = getattr(kind, "model_fields", {}).get(name)
        if field is None:
            kind = Range
            break
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        kind = next((k for k in kinds if hasattr(k, "model_fields")), Range)
    return list(kind.model_fields)
