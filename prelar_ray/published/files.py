"""Files of published checkpoints: read without executing code, and written as the published code does.

Pre-training writes ``variables.pt``, the whole agent, and a file per part whose keys lack the part's prefix;
fine-tuning writes ``variables.pt``. Tensors that an agent holds under several names are read once and written under
all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from prelar_ray.checkpoint.store import write_state
from prelar_ray.checkpoint.tensors import UnsafeFile, UnusableFile, load_tensors
from prelar_ray.errors import OfficialCheckpointError
from prelar_ray.published.names import ALIASES, PART_FILES
from prelar_ray.storage.files import cannot_write, new_folder
from prelar_ray.wording import printable

__all__ = ["Published", "read_published", "write_published"]

WHOLE = "variables.pt"


@dataclass(frozen=True)
class Published:
    """Content of a published checkpoint."""

    tensors: dict[str, Tensor]  # by published key, each once
    aliases: dict[str, int]  # number of tensors that are held a second time, by prefix
    files: tuple[str, ...]  # names of the files read


def read_published(path: Path) -> Published:
    """Read a published checkpoint: a folder of pre-training or fine-tuning, or its ``variables.pt`` of any name.

    Raises:
        OfficialCheckpointError: it is not such a checkpoint; it contains code or other objects than tensors; its files,
            or copies of one tensor, disagree.
    """
    if not path.is_dir():
        tensors, files = _read_file(path), [path.name]
    else:
        found = [name for name in (WHOLE, *PART_FILES) if (path / name).is_file()]
        if not found:
            raise OfficialCheckpointError(
                f"{path}: holds neither {WHOLE} nor {', '.join(PART_FILES)}; name the folder or the file that the "
                "published code wrote"
            )
        tensors, files = _read_folder(path, found), found
    if not any(key.startswith("wm.") for key in tensors):
        raise OfficialCheckpointError(
            f"{path}: no key starts with wm., the first is {_shown(tensors)}; name the whole agent's {WHOLE}, or the "
            f"folder where {', '.join(PART_FILES)} lie"
        )
    aliases = _take_aliases(path, tensors)
    return Published(tensors, aliases, tuple(files))


def write_published(folder: Path, tensors: Mapping[str, Tensor], aliases: tuple[str, ...], parts: bool) -> list[str]:
    """Write ``variables.pt`` to a new folder, which appears atomically; return the names of the files.

    Args:
        tensors: by published key.
        aliases: prefixes of :data:`prelar_ray.published.names.ALIASES` under which tensors are written a second time.
        parts: write the files of the parts too, as pre-training does.

    Raises:
        DataError: it cannot be written.
    """
    whole = dict(tensors)
    for alias in aliases:
        home = ALIASES[alias]
        whole |= {alias + key.removeprefix(home): value for key, value in tensors.items() if key.startswith(home)}
    contents = {WHOLE: whole}
    for name, prefix in PART_FILES.items() if parts else ():
        part = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        if part:
            contents[name] = part
    try:
        with new_folder(folder) as temporary:
            for name, content in contents.items():
                write_state(temporary / name, content)
    except OSError as error:
        raise cannot_write(folder, error) from error
    return list(contents)


def _read_folder(path: Path, found: list[str]) -> dict[str, Tensor]:
    """Read the whole agent and compare the files of its parts with it, or assemble it from them."""
    tensors = _read_file(path / WHOLE) if WHOLE in found else {}
    for name in found:
        if name == WHOLE:
            continue
        for key, value in _read_file(path / name).items():
            whole = PART_FILES[name] + key
            if WHOLE not in found:
                tensors[whole] = value
            elif whole not in tensors or not _equal(tensors[whole], value):
                raise OfficialCheckpointError(
                    f"{path / name}: {key} of shape {tuple(value.shape)} is not equal to {whole} of {WHOLE}; the files "
                    "are of different checkpoints, name the right one alone"
                )
    return tensors


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        known = _is_torch_file(path)
        if not known:
            raise OfficialCheckpointError(f"{path}: not a checkpoint of PyTorch; nothing of it was run")
        content = load_tensors(path, compare=True)
    except OSError as error:
        raise OfficialCheckpointError(f"{path}: cannot read: {error.strerror or error}") from error
    except UnsafeFile as error:
        raise OfficialCheckpointError(f"{path}: {error}") from error
    except UnusableFile as error:
        raise OfficialCheckpointError(f"{path}: truncated or damaged ({error}); copy it again") from error
    if not isinstance(content, dict) or not content:
        kind = f"a {type(content).__name__}" if not isinstance(content, dict) else "an empty dictionary"
        raise OfficialCheckpointError(f"{path}: holds {kind}, expected tensors by key as the published code writes")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise OfficialCheckpointError(
                f"{path}: {printable(str(key))} is a {type(value).__name__}, expected nothing but tensors by key as "
                "the published code writes; a run of prelar-ray needs no import"
            )
        if value.is_floating_point() and not value.isfinite().all():
            raise OfficialCheckpointError(
                f"{path}: {printable(key)} holds NaN or infinity; copy it again, or name another"
            )
    return dict(content)


def _is_torch_file(path: Path) -> bool:
    """Whether a file starts like a pickle or an archive, even if it is truncated."""
    with path.open("rb") as file:
        return file.read(2).startswith((b"\x80", b"PK"))


def _take_aliases(path: Path, tensors: dict[str, Tensor]) -> dict[str, int]:
    """Remove tensors that are held a second time under another name, and return their number by prefix.

    The two RSSMs of a stacked model have the same pair of names but differ; an action encoder shows that the model is
    not stacked, and then the two must agree.
    """
    unstacked = any(key.startswith("wm.action_encoder.") for key in tensors)
    aliases: dict[str, int] = {}
    for alias, home in ALIASES.items():
        names = {key: home + key.removeprefix(alias) for key in tensors if key.startswith(alias)}
        if not names:
            continue
        names |= {alias + key.removeprefix(home): key for key in tensors if key.startswith(home)}
        mistakes = [mistake for key, name in names.items() if (mistake := _not_an_alias(tensors, key, name))]
        if mistakes and alias == "wm.af_rssm." and not unstacked:
            continue
        if mistakes:
            raise OfficialCheckpointError(f"{path}: {mistakes[0]}")
        for key in names:
            del tensors[key]
        aliases[alias] = len(names)
    return aliases


def _not_an_alias(tensors: Mapping[str, Tensor], alias: str, name: str) -> str | None:
    """Return why ``alias`` is not another name of ``name``, or None."""
    shapes = {key: f"{key} of shape {tuple(tensors[key].shape)}" for key in (alias, name) if key in tensors}
    if name not in shapes:
        return f"lacks {name}, of which {shapes[alias]} is another name"
    if alias not in shapes:
        return f"lacks {alias}, another name of {shapes[name]}"
    if not _equal(tensors[alias], tensors[name]):
        return f"{shapes[alias]} should be another name of {shapes[name]}, but they are not equal"
    return None


def _equal(one: Tensor, two: Tensor) -> bool:
    return one.dtype == two.dtype and torch.equal(one, two)


def _shown(tensors: Mapping[str, Tensor]) -> str:
    key, value = next(iter(tensors.items()))
    return f"{key} of shape {tuple(value.shape)}"
