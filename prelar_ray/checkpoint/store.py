"""Checkpoint folders: ``checkpoints/000001000/{state.pt, meta.json}``, one folder per saved update.

``state.pt`` holds tensors and plain containers and is loaded with ``weights_only=True``, which refuses files that
contain code. ``meta.json`` holds the configuration, the counters, and the checksum of ``state.pt``.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prelar_ray.checkpoint.tensors import UnsafeFile, UnusableFile, load_tensors
from prelar_ray.checkpoint.weights import WEIGHTS, read_weights
from prelar_ray.config import RunConfig
from prelar_ray.errors import CheckpointError, DataError
from prelar_ray.storage.arrow import checksum
from prelar_ray.storage.files import cannot_write, write_json
from prelar_ray.storage.reading import first_mistake, parse_record, read_json, read_record, validated
from prelar_ray.storage.records import CHECKPOINT_META, RLLIB_META, Count, Finite

__all__ = [
    "Checkpoint",
    "CheckpointFolders",
    "CheckpointStore",
    "is_whole",
    "load_checkpoint",
    "read_meta",
    "saved_config",
    "snapshot",
    "write_meta",
]

T = TypeVar("T")

FORMAT = 1
_STATE = "state.pt"

SCORE = "score.json"

log = logging.getLogger(__name__)


class _Score(BaseModel):
    """Content of ``score.json``."""

    evaluation_return: Finite


class _Record(BaseModel):
    """Unknown keys are ignored, so that later versions can add some."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class _Shard(_Record):
    env_steps: Count = 0
    episodes: Count = 0
    appended: Count = 0
    buffer: dict[str, Any] = {}
    shares: dict[str, Any] = {}


class _Pending(_Record):
    update: Count
    env_steps: Count
    round: Count


class _Counters(_Record):
    """What loops read of the counters, where it is there."""

    replay: list[_Shard] | dict[str, Any] = []
    """Versions without shards had one dictionary."""
    numbers: dict[Annotated[str, Field(pattern=r"^\d{1,9}$")], Count] = {}
    evaluations: Count = 0
    evaluations_owed: list[_Pending] = []
    lines: dict[str, Count] = {}
    held_out: list[Count] = []
    shards: dict[str, list[Count]] = {}
    sampler: dict[str, Any] = {}
    published: dict[str, Any] = {}


class _Meta(_Record):
    """Content of ``meta.json``."""

    phase: Literal["pretrain", "finetune"]
    update: Count
    sha256: str
    counters: _Counters
    config: dict[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint."""

    path: Path
    phase: str  # pretrain or finetune
    config: RunConfig  # of the run that wrote it
    update: int
    state: dict[str, Any]  # the learner's state_dict, on the CPU
    counters: dict[str, Any]  # all other state that a resume needs

    @property
    def env_steps(self) -> int:
        """Environment steps of the run so far; 0 for pre-training."""
        return int(self.counters["replay"][0]["env_steps"]) if self.phase == "finetune" else 0


class CheckpointFolders:
    """The checkpoint folders of one run, independent of their content."""

    def __init__(self, folder: Path, keep_last: int) -> None:
        self.folder = folder
        self.keep_last = keep_last
        self.needed: Collection[int] = ()
        """Updates whose checkpoints are not pruned: evaluations of them are pending."""
        self._warned: set[Path] = set()  # checkpoints whose score cannot be read

    @contextmanager
    def writing(self, update: int) -> Iterator[Path]:
        """Yield an empty folder to fill; it becomes the checkpoint atomically when the block ends.

        Older checkpoints are pruned afterwards. Only one process writes, so leftovers of a killed one are removed.

        Raises:
            CheckpointError: the disk is full or the folder cannot be written; earlier checkpoints are intact.
        """
        target = self.path(update)
        temporary = self.folder / f".{target.name}.tmp"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for left in (*self.folder.glob(".[0-9]*.tmp"), *self.folder.glob(".[0-9]*.old")):
                _remove(left)
            temporary.mkdir()
            yield temporary
            _move(temporary, target)
        except (OSError, DataError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            reason = cannot_write(target, error) if isinstance(error, OSError) else error
            raise CheckpointError(f"{reason}; earlier checkpoints are intact") from error
        except Exception:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        self._prune(target)

    def set_score(self, update: int, score: float) -> None:
        """Record the evaluation return of a checkpoint; the best one is never pruned."""
        path = self.path(update)
        if path.exists():
            write_json(path / SCORE, {"evaluation_return": score})
            self._prune(path)

    def path(self, update: int) -> Path:
        """Folder of an update's checkpoint, whether it exists or not."""
        return self.folder / f"{update:09d}"

    def paths(self) -> list[Path]:
        """Checkpoint folders, oldest first."""
        return sorted(path for path in self.folder.glob("[0-9]*") if path.is_dir())

    def best(self) -> Path | None:
        """Return the checkpoint with the highest evaluation return, if any was evaluated."""
        scores = {path: score for path in self.paths() if (score := self._score(path)) is not None}
        return max(scores, key=lambda path: scores[path], default=None)

    def _score(self, path: Path) -> float | None:
        """Return the evaluation return of a checkpoint; one that cannot be read is none, with a warning."""
        try:
            return read_record(_Score, path / SCORE).evaluation_return if (path / SCORE).exists() else None
        except DataError as error:
            if path not in self._warned:
                self._warned.add(path)
                log.warning("%s; the checkpoint counts as not evaluated", error)
            return None

    def newest_whole(self, load: Callable[[Path], T]) -> T:
        """Load the newest intact checkpoint; damaged ones are skipped with a warning.

        Raises:
            CheckpointError: there is none.
        """
        for path in reversed(self.paths()):
            try:
                return load(path)
            except CheckpointError as error:
                log.warning("%s; trying the one before", error)
        raise CheckpointError(f"{self.folder}: holds no usable checkpoint to resume from; start again in a new --out")

    def _prune(self, reached: Path) -> None:
        """Remove all but the best, the needed and the last ``keep_last`` up to ``reached``, just saved or scored.

        Checkpoints after ``reached`` are kept, so that the newest intact one is never removed: after a save they are
        damaged ones that the run did not resume from, after a score they are newer ones.
        """
        older = [path for path in self.paths() if path <= reached]
        keep = {*older[-self.keep_last :], self.best(), *map(self.path, self.needed)}
        for path in older:
            if path not in keep:
                shutil.rmtree(path)


class CheckpointStore(CheckpointFolders):
    """The checkpoints of one run of this package's methods."""

    def save(self, phase: str, config: RunConfig, update: int, state: dict[str, Any], counters: dict[str, Any]) -> Path:
        """Write a checkpoint.

        Raises:
            CheckpointError: see :meth:`writing`.
        """
        self.needed = [pending["update"] for pending in counters.get("evaluations_owed", ())]
        with self.writing(update) as folder:
            write_state(folder / _STATE, state)
            write_meta(folder, folder / _STATE, phase, update, counters, config)
        return self.path(update)

    def latest(self) -> Checkpoint:
        """Load the newest intact checkpoint.

        Raises:
            CheckpointError: there is none.
        """
        return self.newest_whole(load_checkpoint)


def write_meta(
    folder: Path, state: Path, phase: str, update: int, counters: Mapping[str, Any], config: RunConfig
) -> None:
    """Write what describes a checkpoint beside its tensors, which are in the file ``state``.

    Raises:
        DataError: it cannot be written.
    """
    meta = {
        "format": FORMAT,
        "phase": phase,
        "update": update,
        "sha256": checksum(state),
        "counters": counters,
        "config": config.model_dump(mode="json"),
    }
    write_json(folder / CHECKPOINT_META, meta, indent=1)


def snapshot(state: Any) -> Any:
    """Copy a state to host memory, so that learning can continue while the copy is written."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: snapshot(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(snapshot(value) for value in state)
    return state


def load_checkpoint(path: Path) -> Checkpoint:
    """Load a checkpoint folder, the newest one of a run folder, or an exported folder, which holds weights alone.

    Raises:
        CheckpointError: it is missing, truncated, damaged, of a newer format, contains code, or is of an RLlib
            algorithm; names the file.
    """
    if foreign := [*path.glob(RLLIB_META), *path.glob(f"checkpoints/*/{RLLIB_META}")]:
        raise CheckpointError(
            f"{foreign[0].parent}: of an RLlib algorithm, which only `prelar-ray finetune --resume` can resume; its "
            "evaluations are in the run's evaluations.jsonl and `prelar-ray report`"
        )
    if (path / "checkpoints").is_dir():
        return CheckpointStore(path / "checkpoints", keep_last=1).latest()
    meta_path, state_path = path / CHECKPOINT_META, path / _STATE
    if (path / WEIGHTS).is_file():  # exported
        state_path = path / WEIGHTS
    if not path.exists():
        raise CheckpointError(f"{path}: no such folder; name a run folder or one of its checkpoints")
    if not meta_path.is_file() or not state_path.is_file():
        raise CheckpointError(
            f"{path}: not a checkpoint, expected {_STATE} and {CHECKPOINT_META} in it; name a run folder or one of its "
            "checkpoints/NNNNNNNNN"
        )
    meta = read_meta(meta_path, FORMAT)
    try:
        found, config = parse_record(_Meta, meta), saved_config(meta)
    except ValueError as error:
        raise CheckpointError(f"{meta_path}: damaged or of another version ({error})") from error
    if checksum(state_path) != found.sha256:
        raise CheckpointError(
            f"{state_path}: checksum differs from {CHECKPOINT_META}: truncated or damaged; use an earlier one"
        )
    return Checkpoint(path, found.phase, config, found.update, _read_state(state_path), meta["counters"])


def read_meta(path: Path, known: int) -> dict[str, Any]:
    """Return what describes a checkpoint, if it is of the format ``known``.

    Raises:
        CheckpointError: it is damaged, or of another format.
    """
    try:
        meta = read_json(path, "use an earlier one")
    except DataError as error:
        raise CheckpointError(
            f"{path}: damaged or of another version ({str(error).removeprefix(f'{path}: ')})"
        ) from error
    version = meta.get("format") if isinstance(meta, dict) else None
    if not isinstance(version, int):
        raise CheckpointError(f"{path}: damaged or of another version (its format is missing); use an earlier one")
    if version != known:
        raise CheckpointError(f"{path}: format {version}, this version reads {known}; update prelar-ray")
    return dict(meta)


def saved_config(meta: Mapping[str, Any]) -> RunConfig:
    """Return the configuration in what describes a checkpoint; text does not count as a number or truth.

    Raises:
        ValueError: a key is missing, unknown or of another type; names the first.
    """
    try:
        return validated(RunConfig, meta.get("config"))
    except ValidationError as error:
        raise ValueError(".".join(("config", first_mistake(error)))) from error


def is_whole(path: Path) -> bool:
    """Whether a checkpoint's tensors match their checksum; they are not loaded."""
    try:
        return bool(checksum(path / _STATE) == read_json(path / CHECKPOINT_META)["sha256"])
    except (DataError, KeyError, TypeError):
        return False


def _remove(left: Path) -> None:
    """Remove a folder, or a link in its place but nothing behind it."""
    if left.is_symlink():
        left.unlink()
    else:
        shutil.rmtree(left, ignore_errors=True)


def _move(folder: Path, target: Path) -> None:
    """Rename ``folder`` to ``target``; an existing ``target`` is deleted last."""
    outdated = folder.with_suffix(".old")
    shutil.rmtree(outdated, ignore_errors=True)
    if target.exists():
        os.replace(target, outdated)
    try:
        os.replace(folder, target)
    except OSError:
        if outdated.exists():
            os.replace(outdated, target)
        raise
    shutil.rmtree(outdated, ignore_errors=True)


def write_state(path: Path, state: dict[str, Any]) -> None:
    with path.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # torch's report of a full disk in the middle of its archive
            raise OSError(28, f"torch could not write the archive: {error}") from error
        file.flush()
        os.fsync(file.fileno())


def _read_state(path: Path) -> dict[str, Any]:
    if path.name == WEIGHTS:
        return read_weights(path)
    try:
        state = load_tensors(path)
    except UnsafeFile as error:
        raise CheckpointError(
            f"{path}: holds objects other than tensors and plain containers; refused, nothing was run"
        ) from error
    except (UnusableFile, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read as a checkpoint ({error}); use an earlier one") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: holds a {type(state).__name__}, expected a dictionary")
    return state
