"""Checkpoints of an RLlib algorithm: ``checkpoints/000001000/{rllib.json, algorithm/}``.

``algorithm/`` is what RLlib's ``save_to_path`` writes. It holds pickles, and reading them runs whatever they say. So
only a run that resumes reads them, from its own folder, after their checksums have been compared with those in
``rllib.json``: that finds damage, it is no protection from somebody who can write there. ``rllib.json`` holds
counters and configuration besides. A replay buffer is in none of it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from prelar_ray.checkpoint.compatibility import check_length, newest_resumable
from prelar_ray.checkpoint.store import CheckpointFolders
from prelar_ray.config import RunConfig
from prelar_ray.errors import CheckpointError, DataError
from prelar_ray.storage.arrow import checksum
from prelar_ray.storage.files import atomic_file
from prelar_ray.storage.records import RLLIB_META

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


@dataclass(frozen=True)
class AlgorithmCheckpoint:
    """A checkpoint whose files are whole; RLlib's part is not read yet."""

    path: Path
    config: RunConfig  # of the run that wrote it
    counters: Counters

    @property
    def env_steps(self) -> int:
        """Environment steps so far, action repeat counted."""
        return self.counters.agent_steps * self.config.env.action_repeat


def save(
    folders: CheckpointFolders, config: RunConfig, counters: Counters, write_algorithm: Callable[[str], Any]
) -> Path:
    """Write a checkpoint; ``write_algorithm`` is RLlib's ``save_to_path``.

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
            "files": {str(path.relative_to(folder)): checksum(path) for path in files},
            "config": config.model_dump(mode="json"),
        }
        with atomic_file(folder / RLLIB_META) as file:
            file.write(json.dumps(meta, indent=1).encode())
    return folders.path(counters.update)


def load(path: Path) -> AlgorithmCheckpoint:
    """Look at a checkpoint.

    Raises:
        CheckpointError: missing, damaged or of another version; names the file.
    """
    meta_path = path / RLLIB_META
    try:
        meta: Mapping[str, Any] = json.loads(meta_path.read_bytes())
        if meta["format"] != FORMAT:
            raise CheckpointError(f"{meta_path}: format {meta['format']}, this version reads {FORMAT}")
        config = RunConfig.model_validate_json(json.dumps(meta["config"]))
        counters, files = Counters(**meta["counters"]), dict(meta["files"])
    except OSError as error:
        raise CheckpointError(f"{meta_path}: cannot be read ({error.strerror}); use an earlier one") from error
    except (ValidationError, ValueError, KeyError, TypeError) as error:
        first = str(error).splitlines()[0]
        raise CheckpointError(f"{meta_path}: damaged or of another version ({first})") from error
    for name, expected in files.items():
        if not (path / name).is_file() or checksum(path / name) != expected:
            raise CheckpointError(f"{path / name}: missing, or not what {RLLIB_META} says; use an earlier one")
    return AlgorithmCheckpoint(path, config, counters)


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
        CheckpointError: there is none, or ``config`` describes another algorithm or other networks.
        UsageError: ``config`` asks for less than the run has done already.
    """
    checkpoint = newest_resumable(folders, load, config)
    theirs = checkpoint.config
    for key, one, two in (
        ("rllib.model", theirs.rllib.model, config.rllib.model),
        ("rllib.training.model_size", _model_size(theirs), _model_size(config)),
    ):
        if one != two:
            raise CheckpointError(
                f"{checkpoint.path}: made with {key}={one} (here {two}); leave it out, or start a new --out"
            )
    asked, before = config.finetune.env_steps, theirs.finetune.env_steps
    check_length(checkpoint.path, "finetune.env_steps", checkpoint.env_steps, asked, before)
    return checkpoint


def _model_size(config: RunConfig) -> Any:
    return config.rllib.training.get("model_size")


def _flush(path: Path) -> None:
    """Make sure that a file is on disk, as RLlib does not."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
