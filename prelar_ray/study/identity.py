"""What a study starts from, by content: however a path is spelt, and wherever it leads.

Names of runs are made from the identity of their videos or pre-training. It is the checksums of a store's shards, or of
a checkpoint's tensors. A study records it, so that it continues when the files are gone that its finished runs read.
Studies of versions that made names from the paths as they were spelt keep those names.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from prelar_ray.config import yaml_text
from prelar_ray.errors import DataError
from prelar_ray.storage.addresses import is_address
from prelar_ray.storage.reading import read_json
from prelar_ray.storage.records import CHECKPOINT_META
from prelar_ray.study.sweep import Sweep
from prelar_ray.video.remote import store_folder
from prelar_ray.video.seen import content_digest

__all__ = ["INPUTS", "Input", "checkpoint_content", "inputs_of", "known_inputs", "path_identities", "to_json"]

INPUTS = "inputs.json"
"""File of a study with what it started from so far."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Input:
    """A video store or a pre-training that a study starts from."""

    key: str
    """``videos.NAME`` or ``init.METHOD``."""
    identity: str
    """What names of runs are made from."""
    content: str | None
    """Checksum; None where it was never read."""


def path_identities(sweep: Sweep) -> dict[str, str]:
    """Return identities for a study that has no folder yet, by key: paths, spelt in one way."""
    return {key: _one_spelling(given) for key, given in _given(sweep)}


def inputs_of(sweep: Sweep, folder: Path) -> dict[str, Input]:
    """Return what a study starts from, by key.

    Args:
        folder: of the study, if it has begun.

    Raises:
        DataError: the record in the folder is damaged.
    """
    known, cache = known_inputs(folder), str(sweep.settings.get("video.cache", ""))
    before = _earlier_version(folder) if not known else None
    found = {}
    for key, given in _given(sweep):
        shards = _shards(given, cache) if key.startswith("videos.") else None
        content = (
            (content_digest(shards) if shards else None) if key.startswith("videos.") else checkpoint_content(given)
        )
        same = _recorded(key, content, known)
        if same is None and before:
            same = before.find(key, given, shards, content)
        if same is None:
            same = Input(key, f"sha256:{content}" if content else _one_spelling(given), content)
        found[key] = replace(same, key=key, content=content or same.content)
    return found


def known_inputs(folder: Path) -> list[Input]:
    """Return what a study started from so far, oldest first.

    Raises:
        DataError: its record is damaged.
    """
    path = folder / INPUTS
    if not path.exists():
        return []
    try:
        inputs = read_json(path)["inputs"]
        return [Input(str(one["key"]), str(one["identity"]), one["content"]) for one in inputs]
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: damaged ({error}); restore it from a copy") from error


def to_json(known: Sequence[Input], now: Mapping[str, Input]) -> list[dict[str, Any]]:
    """Return the record of what a study started from, what it starts from now last."""
    return [asdict(one) for one in known if one not in now.values()] + [asdict(one) for one in now.values()]


def _given(sweep: Sweep) -> Iterator[tuple[str, str]]:
    """Yield every path or address that the sweep file names, by key."""
    for name, given in sweep.pretrain.videos.items() if sweep.pretrain else ():
        if isinstance(given, str):
            yield f"videos.{name}", given
    for method, init in sweep.finetune.init.items() if sweep.finetune else ():
        yield f"init.{method}", init


def _recorded(key: str, content: str | None, known: Sequence[Input]) -> Input | None:
    """Return the record of the same content or, of what cannot be read now or never was, of the same name."""
    for one in reversed(known):
        if content is not None and one.content == content and one.key.partition(".")[0] == key.partition(".")[0]:
            return one
    last = next((one for one in reversed(known) if one.key == key), None)
    if last is None or (content is not None and last.content is not None):
        return None
    if content is None and last.content is not None:
        log.info("%s: cannot be read now; taken for what the study started from, content %s", key, last.content[:8])
    return last


def _one_spelling(given: str) -> str:
    return given.rstrip("/") if is_address(given) else os.path.abspath(given)


def _shards(given: str, cache: str) -> list[str] | None:
    """Return the checksums of a store's shards; None if it cannot be read."""
    with suppress(DataError):
        if is_address(given) or Path(given).is_dir():
            return [shard.sha256 for shard in store_folder(given, cache).contents().shards]
    return None


def checkpoint_content(given: str) -> str | None:
    """Return the checksum of the newest checkpoint of a run folder, or of a checkpoint; None without."""
    path = Path(given)
    for file in [path / CHECKPOINT_META, *sorted(path.glob(f"checkpoints/[0-9]*/{CHECKPOINT_META}"), reverse=True)]:
        with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            return str(json.loads(file.read_bytes())["sha256"])
    return None


@dataclass(frozen=True)
class _EarlierVersion:
    """A study whose names were made from paths as they were spelt."""

    videos: Mapping[str, str]
    init: Mapping[str, str]
    seen: Sequence[set[str]]
    """Shards that its pre-trainings were trained on, of each that has a checkpoint."""

    def find(self, key: str, given: str, shards: Sequence[str] | None, content: str | None) -> Input | None:
        """Return the identity that an input had, if it is the same; None if that is another, or not known."""
        kind, _, name = key.partition(".")
        spelt = (self.videos if kind == "videos" else self.init).get(name)
        if spelt is None:
            return None
        same = _one_spelling(spelt) == _one_spelling(given)
        if kind == "init":
            same = same or (content is not None and checkpoint_content(spelt) == content)
            return Input(key, str(Path(spelt).absolute()), content) if same else None
        if shards is not None and self.seen:
            same = set(shards) in self.seen
        elif shards is None:
            same = True  # of this name the study had one, and none else is there
        return Input(key, spelt, content) if same else None


def _earlier_version(folder: Path) -> _EarlierVersion | None:
    try:
        tree = yaml_text.parse((folder / "study.yaml").read_bytes())
    except (OSError, ValueError):
        return None
    videos, init = (
        _mapping(_mapping(tree, stage), key) for stage, key in (("pretrain", "videos"), ("finetune", "init"))
    )
    seen = []
    for run in sorted(folder.glob("runs/pretrain/*/*/seed-*")) + sorted(folder.glob("runs/pretrain/*/*/*/seed-*")):
        for file in sorted(run.glob(f"checkpoints/[0-9]*/{CHECKPOINT_META}"), reverse=True)[:1]:
            with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
                seen.append(set(json.loads(file.read_bytes())["counters"]["shards"]))
    return _EarlierVersion(
        {name: given for name, given in videos.items() if isinstance(given, str)},
        {name: given for name, given in init.items() if isinstance(given, str)},
        seen,
    )


def _mapping(tree: Any, key: str) -> Mapping[str, Any]:
    found = tree.get(key) if isinstance(tree, Mapping) else None
    return found if isinstance(found, Mapping) else {}
