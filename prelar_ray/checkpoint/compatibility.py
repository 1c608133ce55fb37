"""Compatibility of a checkpoint with a configuration, checked before anything is started or written."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from prelar_ray.checkpoint.store import Checkpoint, CheckpointFolders, CheckpointStore, load_checkpoint
from prelar_ray.config import RunConfig
from prelar_ray.config.compare import (
    IDENTITY,
    INVERSE_DYNAMICS,
    NETWORKS,
    POLICY,
    REHEARSED,
    TAKEN_OVER,
    all_differences,
    differences,
    same_pretraining,
)
from prelar_ray.errors import CheckpointError, UsageError
from prelar_ray.storage.run_folder import RunFolder

__all__ = [
    "check_evaluable",
    "check_not_shorter",
    "check_same_experiment",
    "naming",
    "newest_resumable",
    "pretrained_checkpoint",
    "require_pretraining",
    "resumable_checkpoint",
]

log = logging.getLogger(__name__)

SHOWN = 2
"""Number of differing settings that a message names; more would not fit on a line."""

OWN_SETTINGS = "leave --preset, --config and changed keys out, as --resume reads the run's own settings"
"""What nearly always helps where a resume is refused for what it asks for."""


def pretrained_checkpoint(init: Path, config: RunConfig) -> Path:
    """Return the checkpoint that ``--init`` names, after checking that ``config`` can start from it.

    Raises:
        CheckpointError: it is damaged, not of pre-training, or of other networks; names the differing settings and the
            option to add.
        UsageError: the method learns from scratch.
    """
    if config.world_model.latent_action_source == "none":
        raise UsageError(f"--init {init}: method {config.method} learns from scratch; leave --init out")
    checkpoint = load_checkpoint(init)
    require_pretraining(checkpoint)
    theirs = checkpoint.config.method
    if not same_pretraining(theirs, config.method):
        raise CheckpointError(
            f"--init {init}: a pre-training of method {theirs}, this is {config.method}; add --method {theirs}"
        )
    settings = checkpoint.path.parent.parent / "config.yaml"
    # The file names its own method, so it cannot be combined with another one.
    known = checkpoint.path.parent.name == "checkpoints" and settings.is_file() and theirs == config.method
    taken_over = (
        *TAKEN_OVER,
        *(INVERSE_DYNAMICS if config.finetunes_inverse_dynamics else ()),
        *(REHEARSED if config.finetune.clip_rows else ()),
    )
    found = differences(checkpoint.config, config, taken_over)
    advice = _how_to_start(shlex.quote(str(settings)) if known else None, found)
    _check_networks(f"--init {init}", checkpoint, config, taken_over, advice)
    _warn_of_another_pace(f"--init {init}", checkpoint.config, config)
    return checkpoint.path


def _how_to_start(settings: str | None, found: Mapping[str, tuple[Any, Any]]) -> str:
    """Return what to do about settings that differ; a key of one's own wins over the file, so it has to go as well."""
    (key, (_, ours)), alone = next(iter(found.items()), ("", ("", ""))), len(found) == 1
    here = f"{key}={_text(ours)}" if alone else "these"
    if settings is None:
        return f"give the settings it was made with, or pre-train with {here}"
    return f"use --config {settings} and leave {key if alone else 'these keys'} out, or pre-train with {here}"


def _warn_of_another_pace(name: str, theirs: RunConfig, ours: RunConfig) -> None:
    """Warn if a step of the pre-trained dynamics, k frames of its videos, is not one action of the agent.

    Videos are taken to be recorded with the pre-training's own ``env.action_repeat``.
    """
    stride, steps = theirs.pretrain.stride, theirs.pretrain.stride * theirs.env.action_repeat
    if stride > 1 and steps != ours.env.action_repeat:
        log.warning(
            "%s: made with pretrain.stride=%d, so its dynamics step over %d environment steps, and an action lasts %d "
            "here; env.action_repeat=%d keeps the pace",
            *(name, stride, steps, ours.env.action_repeat, steps),
        )


def require_pretraining(checkpoint: Checkpoint) -> None:
    """Check that a checkpoint is of pre-training.

    Raises:
        CheckpointError: it is of another phase.
    """
    if checkpoint.phase != "pretrain":
        raise CheckpointError(f"{checkpoint.path}: a {checkpoint.phase} checkpoint; --init takes a pretrain one")


def resumable_checkpoint(checkpoints: CheckpointStore, config: RunConfig) -> Checkpoint:
    """Load the last checkpoint of a run, after checking that the networks of ``config`` can continue from it.

    :func:`check_same_experiment` follows.

    Raises:
        CheckpointError: there is none, or ``config`` describes other networks or another number of replay shards.
    """
    checkpoint = newest_resumable(checkpoints, load_checkpoint, config)
    advice = f"{OWN_SETTINGS}, or start a new --out"
    _check_networks(str(checkpoint.path), checkpoint, config, NETWORKS[checkpoint.phase], advice)
    if checkpoint.phase == "finetune":
        _check_shards(checkpoint, config)
    return checkpoint


def check_same_experiment(
    run: RunFolder, checkpoint: _Resumable, config: RunConfig, data: tuple[str, str] | None = None
) -> None:
    """Check that a resume continues the experiment that the run is, to no less than it has done.

    The run's record then says what is changed.

    What an earlier resume was allowed to change, and had no checkpoint of before it ended, is no change.

    Args:
        run: to resume; :attr:`RunFolder.accepts_changes` allows any change.
        checkpoint: that it resumes from.
        config: that it is to continue with.
        data: the videos before and now, in words, where they are others.

    Raises:
        CheckpointError: task, seed, camera or another part of the experiment's identity would change; names each with
            its value before and now.
        UsageError: ``config`` asks for less than the run has done already.
    """
    changed, allowed = all_differences(checkpoint.config, config), run.changed_to
    found = differences(checkpoint.config, config, IDENTITY[run.info["phase"]])
    if data:
        changed["videos"] = found["videos"] = data
    found = {key: pair for key, pair in found.items() if key not in allowed or allowed[key] != pair[1]}
    if found and not run.accepts_changes:
        remedies = [OWN_SETTINGS] if set(found) - {"videos"} else []
        remedies += ["name the videos of then"] if data else []
        raise CheckpointError(
            f"{checkpoint.path}: made with {_listed(found, len(found))}; this would be another experiment under the "
            f"same name: {' and '.join(remedies)}, or start a new --out; only if it is meant to change, add "
            "--accept-changes, which run.json and the report then say"
        )
    check_not_shorter(run.info["phase"], checkpoint, config)
    if changed:
        said = log.warning if found else log.info
        said("%s: continues with other settings than it was made with: %s", checkpoint.path, _listed(changed))
    run.change(int(checkpoint.path.name), changed)


class _Resumable(Protocol):
    """What every kind of checkpoint says of itself."""

    @property
    def path(self) -> Path:
        """Its folder."""

    @property
    def config(self) -> RunConfig:
        """Of the run that wrote it."""

    @property
    def env_steps(self) -> int:
        """Environment steps of the run so far."""


C = TypeVar("C", bound=_Resumable)


def newest_resumable(folders: CheckpointFolders, load: Callable[[Path], C], config: RunConfig) -> C:
    """Load the newest checkpoint of a run that is whole, if the run is of the same method.

    Raises:
        CheckpointError: there is none, or it is of another method.
    """
    if not folders.paths():
        raise CheckpointError(
            f"{folders.folder}: holds no usable checkpoint, the run ended before its first; "
            "leave --resume out to start again, or choose a new --out"
        )
    checkpoint = folders.newest_whole(load)
    theirs = checkpoint.config.method
    if theirs != config.method:
        raise CheckpointError(
            f"{checkpoint.path}: a run of method {theirs}, which cannot be resumed as {config.method}; {OWN_SETTINGS}, "
            "or start a new --out"
        )
    return checkpoint


def check_not_shorter(phase: str, checkpoint: _Resumable, config: RunConfig) -> None:
    """Refuse a length that the run has already passed, unless it is the length of a finished run.

    Raises:
        UsageError: ``config`` asks for less than the run has done.
    """
    if phase == "pretrain":
        key, reached = "pretrain.updates", int(checkpoint.path.name)
        asked, before = config.pretrain.updates, checkpoint.config.pretrain.updates
    else:
        key, reached = "finetune.env_steps", checkpoint.env_steps
        asked, before = config.finetune.env_steps, checkpoint.config.finetune.env_steps
    if asked < reached and asked != before:
        raise UsageError(
            f"{key}={asked}: {checkpoint.path} has done {reached} already; ask for more, or {OWN_SETTINGS}"
        )


def check_evaluable(checkpoint: Checkpoint, config: RunConfig) -> None:
    """Check that ``config`` describes the networks of a checkpoint's policy.

    Raises:
        CheckpointError: it does not; names the settings that differ.
    """
    _check_networks(str(checkpoint.path), checkpoint, config, POLICY, "leave these keys out")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Prefix the message of a CheckpointError with the checkpoint's path."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _check_networks(name: str, checkpoint: Checkpoint, config: RunConfig, sections: Sequence[str], advice: str) -> None:
    found = differences(checkpoint.config, config, sections)
    if not found:
        return
    raise CheckpointError(f"{name}: made with {_listed(found)}; {advice}")


def _listed(found: Mapping[str, tuple[Any, Any]], most: int = SHOWN) -> str:
    """Return the first settings that differ, with the value of the checkpoint and of this configuration."""
    shown = list(found.items())[:most]
    some = ", ".join(f"{path}={_text(theirs)} (here {_text(ours)})" for path, (theirs, ours) in shown)
    return some + (f" and {len(found) - most} more that differ" if len(found) > most else "")


def _text(value: Any) -> str:
    """Return a value in command-line syntax."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _check_shards(checkpoint: Checkpoint, config: RunConfig) -> None:
    if not isinstance(checkpoint.counters["replay"], list):
        raise CheckpointError(f"{checkpoint.path}: of a version whose replay had no shards; start a new --out")
    theirs, ours = checkpoint.config.replay.shards, config.replay.shards
    if theirs != ours:
        raise CheckpointError(
            f"{checkpoint.path}: made with replay.shards={theirs} (here {ours}), and its episodes lie in as many "
            f"folders; use replay.shards={theirs}, or start a new --out"
        )
