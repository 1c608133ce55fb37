"""Checkpoints of an RLlib algorithm: ``checkpoints/000001000/{rllib.json, algorithm/}``.

``algorithm/`` is what RLlib's ``save_to_path`` writes. It holds pickles, and reading them runs whatever they say. So
only a run that resumes reads them, from its own folder, after their checksums have been compared with those in
``rllib.json``: that finds damage, it is no protection from somebody who can write there. A folder that was fetched is
refused until the user says that its pickles are trusted. ``rllib.json`` holds counters and configuration besides.
A replay buffer is in none of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from prelar_ray.checkpoint.compatibility import newest_resumable
from prelar_ray.checkpoint.store import CheckpointFolders, read_meta, saved_config
from prelar_ray.config import RunConfig
from prelar_ray.errors import CheckpointError, DataError
from prelar_ray.storage.arrow import checksum
from prelar_ray.storage.files import write_json
from prelar_ray.storage.names import is_inside
from prelar_ray.storage.reading import parse_record
from prelar_ray.storage.records import RLLIB_META, Count, FileName
from prelar_ray.storage.run_folder import RunFolder

__all__ = ["ALGORITHM_FOLDER", "AlgorithmCheckpoint", "Counters", "is_whole", "load", "resumable", "save"]

FORMAT = 1
ALGORITHM_FOLDER = "algorithm"
"""Folder of RLlib's part."""


@dataclass(frozen=True)
class Counters:
    """How far a run is."""

    update: int = 0  # calls of the learner
    agent_steps: int = 0  # of all environments
    episodes: int = 0  # finished
    evaluations: int = 0
    evaluated_at: int = 0  # environment steps at the last evaluation


class _Counters(BaseModel):
    model_config = ConfigDict(extra="forbid")

    update: Count
    agent_steps: Count
    episodes: Count
    evaluations: Count
    evaluated_at: Count


class _Meta(BaseModel):
    """Content of ``rllib.json``."""

    counters: _Counters
    files: dict[FileName, str]
    lines: dict[str, Count] = {}


@dataclass(frozen=True)
class AlgorithmCheckpoint:
    """A checkpoint whose files are whole; RLlib's part is not read yet."""

    path: Path
    config: RunConfig  # of the run that wrote it
    counters: Counters
    lines: Mapping[str, int] = field(default_factory=dict)  # of metrics and evaluations, when it was written

    @property
    def env_steps(self) -> int:
        """Environment steps so far, action repeat counted."""
        return self.counters.agent_steps * self.config.env.action_repeat


def save(
    folders: CheckpointFolders,
    config: RunConfig,
    counters: Counters,
    write_algorithm: Callable[[str], Any],
    lines: Mapping[str, int] | None = None,
) -> Path:
    """Write a checkpoint; ``write_algorithm`` is RLlib's ``save_to_path``, ``lines`` those of the run's files.

    Raises:
        CheckpointError: see :meth:`CheckpointFolders.writing`.
    """
    with folders.writing(counters.update) as folder:
        write_algorithm(str((folder / ALGORITHM_FOLDER).absolute()))
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        for path in files:
            _flush(path)
        meta = {
            "format": FORMAT,
            "counters": asdict(counters),
            "lines": dict(lines or {}),
            "files": {str(path.relative_to(folder)): checksum(path) for path in files},
            "config": config.model_dump(mode="json"),
        }
        write_json(folder / RLLIB_META, meta, indent=1)
    return folders.path(counters.update)


def load(path: Path) -> AlgorithmCheckpoint:
    """Look at a checkpoint.

    Raises:
        CheckpointError: missing, damaged or of another version; names the file.
    """
    meta_path = path / RLLIB_META
    if not meta_path.is_file():
        raise CheckpointError(f"{meta_path}: cannot be read (No such file or directory); use an earlier one")
    meta = read_meta(meta_path, FORMAT)
    try:
        found, config = parse_record(_Meta, meta), saved_config(meta)
    except ValueError as error:
        raise CheckpointError(f"{meta_path}: damaged or of another version ({error})") from error
    for name, expected in found.files.items():
        file = path / name
        if not file.is_file() or not is_inside(file, path) or checksum(file) != expected:
            raise CheckpointError(f"{file}: missing, or not what {RLLIB_META} says; use an earlier one")
    there = (file.relative_to(path).as_posix() for file in (path / ALGORITHM_FOLDER).rglob("*") if file.is_file())
    if unknown := [name for name in there if name not in found.files]:
        raise CheckpointError(f"{path / unknown[0]}: not among the files of {RLLIB_META}; use an earlier one")
    return AlgorithmCheckpoint(path, config, Counters(**found.counters.model_dump()), found.lines)


def is_whole(path: Path) -> bool:
    """Whether a checkpoint can be resumed from, as far as its checksums tell."""
    try:
        load(path)
    except (CheckpointError, DataError):
        return False
    return True


def resumable(folders: CheckpointFolders, config: RunConfig) -> AlgorithmCheckpoint:
    """Return the last checkpoint of a run, after checking that ``config`` can resume it.

    Raises:
        CheckpointError: there is none, or ``config`` describes another algorithm or other networks; or the run was
            fetched, and nobody said that its pickles may be executed.
    """
    run = folders.folder.parent
    fetched = RunFolder(run, {}).fetched
    if fetched and not fetched.trusted:
        raise CheckpointError(
            f"{run}: fetched from {fetched.address}, and its checkpoints hold pickles: resuming executes what whoever "
            "could write there put in; add --trust-pickles if you trust them"
        )
    checkpoint = newest_resumable(folders, load, config)
    theirs = checkpoint.config
    for key, one, two in (
        ("env.image_size", theirs.env.image_size, config.env.image_size),
        ("rllib.model", theirs.rllib.model, config.rllib.model),
        ("rllib.training.model_size", _model_size(theirs), _model_size(config)),
    ):
        if one != two:
            raise CheckpointError(
                f"{checkpoint.path}: made with {key}={one} (here {two}); leave it out, or start a new --out"
            )
    return checkpoint


def _model_size(config: RunConfig) -> Any:
    return config.rllib.training.get("model_size")


def _flush(path: Path) -> None:
    """Make sure that a file is on disk, as RLlib does not."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
