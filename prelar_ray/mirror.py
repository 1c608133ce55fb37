"""A copy of a run folder at any address that ``pyarrow.fs`` knows, brought up to date with every checkpoint."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from prelar_ray.errors import ConfigError, DataError
from prelar_ray.run_folder import require_new

__all__ = ["Mirror", "fetch", "mirrored"]

POLL_SECONDS = 2.0
"""Between two looks for a new checkpoint."""

IMMUTABLE = ("checkpoints", "replay")
"""Folders of which files are written once: a copy that is there is not made again, and goes when the file goes."""

FAILURES = (OSError, pa.ArrowException)

log = logging.getLogger(__name__)


class Mirror:
    """Copies one run folder to ``uri``/name of the folder."""

    def __init__(self, folder: Path, uri: str) -> None:
        """Make the folder there.

        Raises:
            ConfigError: the address cannot be used.
        """
        self.folder, self.uri = folder, uri
        try:
            self._fs, base = _open(uri)
            self._base = f"{base}/{folder.absolute().name}"
            self._fs.create_dir(self._base)
        except FAILURES as error:
            raise ConfigError(
                f"checkpoint.mirror={uri}: {_reason(error)}; give an address such as s3://bucket/runs or file:///mnt/runs"
            ) from error

    def sync(self) -> None:
        """Copy what is new, episodes before the checkpoints that need them; then remove what is gone here.

        Every file appears there whole or not at all, and a checkpoint's ``meta.json`` after its tensors.

        Raises:
            OSError, pyarrow.ArrowException: the other side does not answer; what is there stays usable.
        """
        there = {
            info.path.removeprefix(f"{self._base}/"): info.size
            for info in self._fs.get_file_info(fs.FileSelector(self._base, recursive=True))
            if info.is_file
        }
        here = sorted(self._files(), key=_order)
        for name in here:
            path = self.folder / name
            try:
                if not name.startswith(IMMUTABLE) or there.get(name) != path.stat().st_size:
                    self._copy(path, f"{self._base}/{name}")
            except FileNotFoundError:  # pruned meanwhile
                continue
        for name in set(there) - set(here):
            if name.startswith(IMMUTABLE):
                with suppress(FileNotFoundError):  # the beginning of a file that has come whole since
                    self._fs.delete_file(f"{self._base}/{name}")

    def _files(self) -> list[str]:
        """Of the run folder, without what is being written."""
        paths = (path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file())
        return [path.as_posix() for path in paths if not _unfinished(path)]

    def _copy(self, path: Path, target: str) -> None:
        self._fs.create_dir(target.rpartition("/")[0])
        with path.open("rb") as source, self._fs.open_output_stream(f"{target}.part") as sink:
            shutil.copyfileobj(source, sink, 2**20)
        self._fs.move(f"{target}.part", target)


@contextmanager
def mirrored(folder: Path, uri: str) -> Iterator[None]:
    """Keep a copy of a run folder at ``uri`` up to date in a thread; without an address nothing happens.

    Nobody waits for the copy, except once at the end. Where it fails, that is said, and tried again at the next
    checkpoint.

    Raises:
        ConfigError: see :class:`Mirror`.
    """
    if not uri:
        yield
        return
    mirror, done = Mirror(folder, uri), threading.Event()

    def keep() -> None:
        copied: set[str] = set()
        while not done.wait(POLL_SECONDS):
            present = {path.name for path in (folder / "checkpoints").glob("[0-9]*")}
            if present - copied:
                copied = present
                _try(mirror)

    thread = threading.Thread(target=keep, name="mirror", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        _try(mirror)


def fetch(uri: str, out: Path) -> None:
    """Copy a run folder from ``uri`` into the new folder ``out``; it appears whole or not at all.

    Raises:
        RunFolderError: ``out`` exists.
        DataError: there is no run at that address.
    """
    require_new(out)
    partial = out.with_name(f".{out.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        source, base = _open(uri)
        if not source.get_file_info(f"{base}/run.json").is_file:
            raise DataError(f"{uri}: no run folder, it holds no run.json; name one as RUN below checkpoint.mirror")
        partial.mkdir(parents=True)
        fs.copy_files(base, str(partial), source_filesystem=source, destination_filesystem=fs.LocalFileSystem())
        for unfinished in partial.rglob("*.part"):
            unfinished.unlink()
        partial.rename(out)
    except FAILURES as error:
        raise DataError(f"{uri}: cannot be copied to {out} ({_reason(error)})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _open(uri: str) -> tuple[fs.FileSystem, str]:
    filesystem, base = fs.FileSystem.from_uri(uri)
    return filesystem, base.rstrip("/")


def _try(mirror: Mirror) -> None:
    try:
        mirror.sync()
    except FAILURES as error:
        log.warning("checkpoint.mirror=%s: not up to date (%s); the run folder itself is", mirror.uri, _reason(error))


def _order(name: str) -> tuple[int, bool, str]:
    """Episodes, then records, then checkpoints with their tensors before what makes them whole."""
    top = name.partition("/")[0]
    return ("replay", "", "checkpoints").index(top if top in IMMUTABLE else ""), not name.endswith("state.pt"), name


def _unfinished(path: Path) -> bool:
    return any(part.startswith(".") or part.endswith(".tmp") for part in path.parts)


def _reason(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
