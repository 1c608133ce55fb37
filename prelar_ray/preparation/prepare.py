"""Prepares a video store: sources are opened, converted, and written in order."""

from __future__ import annotations

import json
import logging
import os
import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from prelar_ray.errors import ConfigError, DataError, RunFolderError
from prelar_ray.interrupts import interrupts_deferred
from prelar_ray.preparation.conversion import Converter, Piece
from prelar_ray.preparation.ledger import Ledger, named
from prelar_ray.preparation.ordered import Convert, Task, convert_here, convert_in
from prelar_ray.preparation.workers import ConverterPool
from prelar_ray.sources.geometry import Geometry
from prelar_ray.sources.registry import open_source
from prelar_ray.sources.selection import Selection
from prelar_ray.sources.source import Choice, Source
from prelar_ray.storage.arrow import Compression
from prelar_ray.video.actions import ActionWriter, actions_path
from prelar_ray.video.journal import refuse_occupied
from prelar_ray.video.layout import JOURNAL, MANIFEST
from prelar_ray.video.store import VideoWriter, is_complete
from prelar_ray.wording import counted

__all__ = ["Preparation", "Summary", "all_tasks", "check_out", "convert_locally", "open_sources", "prepare"]

log = logging.getLogger(__name__)


class Preparation(BaseModel):
    """What is prepared, and how; the same settings and files give the same store."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: tuple[Path, ...]
    """Files and folders, in the order of the store."""
    format: str = "auto"
    """Name of a reader; auto: whichever recognises a source."""
    choice: Choice = Choice()
    geometry: Geometry = Geometry()
    selection: Selection = Selection()
    shuffle: bool = False
    """Mix the order of all items."""
    seed: int = 0
    """Of that order."""
    skip_bad: bool = False
    """Leave out what cannot be read."""
    shard_frames: Annotated[int, Field(ge=1)] = 10_000
    """A shard is closed with the episode that reaches this many frames."""
    compression: Compression = "none"
    """Of the shards."""

    @model_validator(mode="after")
    def _actions_belong_to_frames(self) -> Self:
        if self.choice.actions and not self.selection.keeps_all:
            raise ValueError("--actions with --fps or --every: an action led over one frame; leave one of them out")
        return self

    def attributes(self, formats: Sequence[str]) -> dict[str, Any]:
        """Return the attributes of the store; a resume must have the same."""
        settings = self.model_dump(mode="json", exclude={"skip_bad", "sources", "format"}, exclude_defaults=True)
        sources = [str(path.absolute()) for path in self.sources]
        return {"sources": sources, "formats": list(formats), "preparation": settings}


@dataclass(frozen=True)
class Summary:
    """What was prepared, earlier runs of a preparation that was resumed included."""

    episodes: int
    frames: int
    seconds: float
    """Wall time of this run."""
    too_short: tuple[str, ...]
    """Items of the episodes left out for their length."""
    left_out: tuple[str, ...]
    """Items, or the rest of items, that could not be read, with the reason."""
    notes: tuple[str, ...]
    """What a user should know, by item."""


def open_sources(preparation: Preparation) -> list[Source]:
    """Open all sources.

    Raises:
        DataError, ConfigError: see :func:`prelar_ray.sources.registry.open_source`.
    """
    return [open_source(path, preparation.choice, preparation.format) for path in preparation.sources]


def all_tasks(preparation: Preparation, sources: Sequence[Source]) -> list[Task]:
    """Return the items of all sources in the order of the store.

    Raises:
        DataError: there are none, or two sources have the same.
    """
    tasks = [(number, item) for number, source in enumerate(sources) for item in source.items()]
    if len(sources) > 1:
        _refuse_twice(preparation, tasks)
    if preparation.shuffle:
        random.Random(preparation.seed).shuffle(tasks)
    if not tasks:
        raise DataError(f"{preparation.sources[0]}: nothing to convert; correct what is chosen of it")
    return tasks


def _refuse_twice(preparation: Preparation, tasks: Sequence[Task]) -> None:
    seen: dict[tuple[str, ...], int] = {}
    for number, item in tasks:
        read = *(os.path.abspath(path) for path in item.files), json.dumps(item.detail)
        if (first := seen.setdefault(read, number)) != number:
            one, other = preparation.sources[first], preparation.sources[number]
            raise DataError(f"{item.key}: in {one} and in {other}; name one of them, so that nothing is taken twice")


def convert_locally(workers: int) -> Convert:
    """Return what converts in so many processes of this machine, 0 for one a core; in this one if one is enough."""

    def convert(converter: Converter, tasks: Sequence[Task]) -> Any:
        size = min(workers or len(os.sched_getaffinity(0)), len(tasks))
        if size <= 1:
            return convert_here(converter, tasks)
        return convert_in(lambda: ConverterPool(converter, size), tasks)

    return convert


def prepare(
    preparation: Preparation,
    out: Path,
    convert: Convert,
    resume: bool = False,
    on_item: Callable[[int, int], None] = lambda items, frames: None,
) -> Summary:
    """Convert all sources to the video store ``out``.

    A kill, a full disk and an item that cannot be read lose nothing that a shard holds; ``resume`` continues from
    there, and the store is the same as without the break.

    Args:
        preparation: what, and how.
        out: new folder of the store; the folder of an earlier call with ``resume``.
        convert: where items are converted.
        resume: continue.
        on_item: called with the number of new items and frames.

    Raises:
        DataError: a source cannot be read and ``skip_bad`` is off, or has changed since; nothing was long enough; the
            disk is full.
        ConfigError: a choice that a source does not have.
        RunFolderError: ``out`` holds something else, or is being written by another process.
    """
    began = time.monotonic()
    sources = open_sources(preparation)
    tasks = all_tasks(preparation, sources)
    attributes = preparation.attributes([source.format for source in sources])
    with ExitStack() as stack:
        ledger, writer = _open_store(preparation, out, attributes, tasks, resume)
        stack.enter_context(writer)
        actions = None
        if preparation.choice.actions:
            if resume and writer.appended == 0:  # a kill came between the first actions and their shard
                actions_path(out).unlink(missing_ok=True)
            actions = ActionWriter(actions_path(out), preparation.shard_frames, resume=writer.appended if resume else 0)
            stack.enter_context(actions)
        on_item(ledger.items, writer.appended_frames)
        converter = Converter(sources, preparation.geometry, preparation.selection)
        _write(preparation, converter, tasks, ledger, writer, actions, convert, on_item)
        if writer.appended == 0:
            raise DataError(
                f"{out}: no episode has {preparation.selection.min_frames} frames or more; see --min-frames"
            )
        if ledger.left_out:
            writer.attributes["left_out"] = ledger.left_out
    seconds = time.monotonic() - began
    too_short, left_out, notes = tuple(ledger.too_short), tuple(ledger.left_out), tuple(ledger.notes)
    return Summary(writer.episodes, writer.frames, seconds, too_short, left_out, notes)


def check_out(out: Path, resume: bool) -> None:
    """Check the folder of a store, before long work starts.

    Raises:
        RunFolderError: it holds something else, an incomplete store without ``resume``, or no store to resume.
    """
    if resume and not (out / MANIFEST).exists():
        raise RunFolderError(f"{out}: no store to continue; leave out --resume, or correct --out")
    if resume or not out.is_dir():
        return
    if (out / JOURNAL).exists() and not is_complete(out):
        raise RunFolderError(
            f"{out} holds a store that is not complete; continue it with --resume (once no other process writes it), "
            "or choose another"
        )
    refuse_occupied(out)


def _open_store(
    preparation: Preparation, out: Path, attributes: dict[str, Any], tasks: Sequence[Task], resume: bool
) -> tuple[Ledger, VideoWriter]:
    """Return what the store holds, and its writer."""
    check_out(out, resume)
    if not resume:
        ledger = Ledger()
        how = preparation.shard_frames, preparation.compression, ledger.note, preparation.geometry.image_size
        return ledger, VideoWriter(out, attributes, *how)
    writer = VideoWriter.resume(out, preparation.shard_frames)
    differs = [key for key in attributes if writer.attributes.get(key) != attributes[key]]
    if differs:
        raise ConfigError(
            f"{out}: was prepared with other {', '.join(differs)}: {writer.attributes.get(differs[0])}, now "
            f"{attributes[differs[0]]}; give the same, or another --out"
        )
    ledger = Ledger(writer.notes, writer.taken_back)
    ledger.check(tasks)
    writer.note = ledger.note
    return ledger, writer


def _write(
    preparation: Preparation,
    converter: Converter,
    tasks: Sequence[Task],
    ledger: Ledger,
    writer: VideoWriter,
    actions: ActionWriter | None,
    convert: Convert,
    on_item: Callable[[int, int], None],
) -> None:
    """Convert what the store lacks and append it."""
    pending = tasks[ledger.items :]
    stored = ledger.pieces  # of the first, which is converted again
    position, new = 0, 0
    with closing(convert(converter, pending)) as converted:
        for found in converted:
            if isinstance(found, ConfigError):
                raise found
            if isinstance(found, Piece):
                new += 1
                if new <= stored:
                    continue
                with interrupts_deferred():  # ledger and store agree at each interrupt
                    ledger.piece()
                    if actions is not None and found.actions is not None:
                        actions.append(found.actions, found.frames, found.name)
                    writer.append(found.frames, found.name)
                on_item(0, len(found.frames))
                continue
            item = pending[position][1]
            if found.failure and not preparation.skip_bad:
                raise DataError(
                    f"{named(item.key, found.failure)}; --resume continues once that is repaired, and with --skip-bad "
                    "leaves out what cannot be read"
                )
            with interrupts_deferred():
                ledger.finish(pending[position], found)
            for note in found.notes:
                log.warning("%s", named(item.key, note))
            if found.failure:
                kept = f", {counted(new, 'episode')} before it kept" if new else ""
                log.warning("left out: %s%s", named(item.key, found.failure), kept)
            on_item(1, 0)
            position, new, stored = position + 1, 0, 0
